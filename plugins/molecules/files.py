"""Files of molecules: reading many of them, writing them with properties, and a sheet of pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms

from halberd.plugins.molecules.bonding import atoms_of, canonical_smiles, import_rdkit, without_hydrogens
from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.files import replacing

#: Suffixes that molecules are written to.
WRITTEN = (".sdf", ".xyz", ".extxyz", ".pdb")
_PICTURES = 40
#: Pixels of one formula.
_WIDTH, _HEIGHT = 190, 170


def read_molecules(path: str | os.PathLike[str]) -> list[Atoms]:
    """Read all molecules of a file.

    Parameters
    ----------
    path : path-like
        SDF and MOL are read by RDKit, everything else by ASE. Bonds are not kept.

    Raises
    ------
    DataError
        If the file is missing, empty or cannot be read.
    """
    return [atoms_of(mol) for mol in _read_sdf(path)] if _is_sdf(path) else _read_ase(path)


def read_bonded(path: str | os.PathLike[str]) -> Any:
    """Read the one molecule of an SDF or MOL file with its bonds, all atoms explicit and as they are.

    Raises
    ------
    DataError
        If the file is missing, empty or cannot be read.
    """
    return _read_sdf(path)[0]


def read_bonded_all(path: str | os.PathLike[str]) -> list[Any]:
    """Read all molecules of an SDF or MOL file as :func:`read_bonded` does.

    Raises
    ------
    DataError
        If the file is missing, empty or cannot be read.
    """
    return _read_sdf(path)


def _is_sdf(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() in (".sdf", ".mol")


def _read_sdf(path: str | os.PathLike[str]) -> list[Any]:
    Chem = import_rdkit()
    if not Path(path).is_file():
        raise DataError(f"Molecule file '{path}' does not exist.")
    try:
        molecules = list(Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False))
    except (OSError, RuntimeError) as error:
        raise DataError(f"'{path}' cannot be read as an SDF file: {error}") from error
    bad = [k for k, mol in enumerate(molecules) if mol is None]
    if not molecules or bad:
        which = f"molecule {bad[0] + 1} is damaged" if bad else "it holds no molecule"
        raise DataError(f"'{path}' cannot be read as an SDF file: {which}.")
    return molecules


def _read_ase(path: str | os.PathLike[str]) -> list[Atoms]:
    if not Path(path).is_file():
        raise DataError(f"Molecule file '{path}' does not exist.")
    try:
        frames = ase.io.read(str(path), ":")
    except Exception as error:  # readers raise anything
        raise DataError(f"'{path}' cannot be read as molecules: {type(error).__name__}: {error}") from error
    if not frames or not any(len(atoms) for atoms in frames):
        raise DataError(f"'{path}' holds no atoms.")
    return list(frames)


def check_molecule_file(path: str | os.PathLike[str]) -> None:
    """Refuse suffixes that molecules are not written to.

    Raises
    ------
    ConfigurationError
        Names those that they are.
    """
    if Path(path).suffix.lower() not in WRITTEN:
        raise ConfigurationError(f"Molecules are written to {', '.join(WRITTEN)} files, not to '{path}'.")


def write_molecules(path: str | os.PathLike[str], molecules: Sequence[Any]) -> None:
    """Write RDKit molecules with their properties.

    Parameters
    ----------
    path : path-like
        ``.sdf``, ``.xyz`` or ``.extxyz`` (extended XYZ), or ``.pdb`` (one MODEL per molecule, with bonds).
    molecules : sequence of rdkit.Chem.Mol

    Raises
    ------
    ConfigurationError
        If the suffix is another one.
    OutputError
        If the place cannot be written.
    """
    check_molecule_file(path)
    Chem = import_rdkit()
    suffix = Path(path).suffix.lower()
    with replacing(path) as temporary:
        if suffix == ".sdf":
            with Chem.SDWriter(str(temporary)) as writer:
                for mol in molecules:
                    writer.write(mol)
        elif suffix == ".pdb":
            blocks = [
                f"MODEL     {number:4d}\n{Chem.MolToPDBBlock(mol, flavor=4).removesuffix('END' + chr(10))}ENDMDL\n"
                for number, mol in enumerate(molecules, 1)
            ]
            temporary.write_text("".join(blocks), encoding="utf-8")
        else:
            ase.io.write(temporary, [atoms_of(mol) for mol in molecules], format="extxyz")


def formula_svg(mol: Any) -> str:
    """Draw one structural formula, as SVG.

    Parameters
    ----------
    mol : rdkit.Chem.Mol
    """
    import_rdkit()
    from rdkit.Chem.Draw import rdMolDraw2D

    drawer = rdMolDraw2D.MolDraw2DSVG(_WIDTH, _HEIGHT)
    options: Any = drawer.drawOptions()
    options.clearBackground = False
    drawer.DrawMolecule(_flat(mol))
    drawer.FinishDrawing()
    return str(drawer.GetDrawingText())


def _flat(mol: Any) -> Any:
    """A molecule without hydrogens in two dimensions."""
    from rdkit.Chem import rdDepictor

    copy = without_hydrogens(mol)
    rdDepictor.Compute2DCoords(copy)
    return copy


def draw_molecules(
    path: str | os.PathLike[str], molecules: Sequence[Any], legends: Sequence[str] | None = None
) -> None:
    """Draw a sheet of structural formulas, the first forty.

    Parameters
    ----------
    path : path-like
        PNG.
    molecules : sequence of rdkit.Chem.Mol
    legends : sequence of str, optional
        SMILES if omitted.

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    import_rdkit()
    from rdkit.Chem.Draw import rdMolDraw2D

    shown = list(molecules)[:_PICTURES]
    flat = [_flat(mol) for mol in shown]
    texts = list(legends or [canonical_smiles(mol) for mol in shown])[:_PICTURES]
    columns = min(8, max(1, len(flat)))
    rows = max(1, -(-len(flat) // columns))
    drawer = rdMolDraw2D.MolDraw2DCairo(_WIDTH * columns, _HEIGHT * rows, _WIDTH, _HEIGHT)
    options: Any = drawer.drawOptions()
    options.legendFontSize = 13
    if flat:
        drawer.DrawMolecules(flat, legends=texts)
    drawer.FinishDrawing()
    with replacing(path) as temporary:
        temporary.write_bytes(drawer.GetDrawingText())
