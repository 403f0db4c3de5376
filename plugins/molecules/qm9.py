"""QM9 out of the ``qm9pack`` wheel: geometries and SMILES of 130,831 molecules, read without importing it."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from halberd.plugins.molecules.bonding import import_rdkit
from halberd.potentials.cache import kept
from halberd.potentials.errors import missing_dependency


def _table(columns: list[str]) -> Any:
    spec = importlib.util.find_spec("qm9pack")  # importing it would need pkg_resources
    if spec is None or spec.origin is None:
        raise missing_dependency("qm9pack", "reference", "read QM9")
    import pandas as pd

    folder = Path(spec.origin).parent / "data"
    tables = [pd.read_csv(folder / f"qm9_part{part}.csv", usecols=columns) for part in (1, 2, 3)]
    return pd.concat(tables, ignore_index=True)


def qm9_smiles() -> list[str]:
    """SMILES of every molecule, as published.

    Raises
    ------
    MissingDependencyError
        If ``qm9pack`` is not installed.
    """
    return [str(smiles) for smiles in _table(["SMILES"])["SMILES"]]


def known_smiles() -> set[str]:
    """Canonical SMILES without stereochemistry of every molecule: what is not novel.

    Worked out once per user (half a minute) and kept in the user's cache folder.

    Raises
    ------
    MissingDependencyError
        If ``qm9pack`` or RDKit is not installed.
    """
    return set(kept("qm9-smiles.txt", _canonical).split())


def _canonical() -> str:
    Chem = import_rdkit()
    molecules = (Chem.MolFromSmiles(smiles) for smiles in qm9_smiles())
    known = {str(Chem.MolToSmiles(mol, isomericSmiles=False)) for mol in molecules if mol is not None}
    return "\n".join(sorted(known))


def draw_qm9(
    count: int, seed: int = 0, *, elements: Iterable[str] | None = None, heavy: range | None = None
) -> list[Atoms]:
    """Draw molecules at random.

    Parameters
    ----------
    count : int
        Fewer are returned if there are not as many.
    seed : int
    elements : iterable of str, optional
        Only molecules of these elements.
    heavy : range, optional
        Only molecules with so many heavy atoms.

    Returns
    -------
    list of ase.Atoms
        With ``info["smiles"]``.

    Raises
    ------
    MissingDependencyError
        If ``qm9pack`` is not installed.
    """
    rows = _table(["SMILES", "Elements", "XYZ_Ang"])
    allowed = None if elements is None else set(elements)
    molecules: list[Atoms] = []
    for place in np.random.default_rng(seed).permutation(len(rows)):
        if len(molecules) == count:
            break
        row = rows.iloc[place]
        symbols = ast.literal_eval(row["Elements"])
        if allowed is not None and not allowed.issuperset(symbols):
            continue
        if heavy is not None and sum(symbol != "H" for symbol in symbols) not in heavy:
            continue
        molecules.append(_molecule(symbols, row["XYZ_Ang"], row["SMILES"]))
    return molecules


def qm9_molecules() -> list[Atoms]:
    """Every molecule, in the order of :func:`qm9_smiles`, with ``info["smiles"]``; half a minute.

    Raises
    ------
    MissingDependencyError
        If ``qm9pack`` is not installed.
    """
    columns = ["SMILES", "Elements", "XYZ_Ang"]
    rows = _table(columns)
    return [
        _molecule(ast.literal_eval(symbols), places, smiles)
        for smiles, symbols, places in zip(*(rows[name] for name in columns), strict=True)
    ]


def _molecule(symbols: list[str], places: str, smiles: str) -> Atoms:
    atoms = Atoms(symbols, positions=np.array(ast.literal_eval(places)).reshape(-1, 3))
    atoms.info["smiles"] = str(smiles)
    return atoms
