"""How good a set of molecules is, judged from geometries alone: bonds a file may hold are not looked at.

Every number is a fraction of what its description says, and is measured by the rule it names; numbers by different
rules, and from different papers, do not compare.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from halberd.plugins.molecules.bonding import (
    canonical_smiles,
    import_rdkit,
    is_valid,
    perceive_molecule,
    unbonded,
    without_hydrogens,
)
from halberd.plugins.molecules.repair import heavy_rmsd
from halberd.potentials.errors import missing_dependency

#: Bond lengths of Hoogeboom et al., *EDM*, ICML 2022, in picometres: pair -> single, double, triple.
_EDM_LENGTHS: dict[tuple[int, int], tuple[int, ...]] = {
    (1, 1): (74,),
    (1, 6): (109,),
    (1, 7): (101,),
    (1, 8): (96,),
    (1, 9): (92,),
    (6, 6): (154, 134, 120),
    (6, 7): (147, 129, 116),
    (6, 8): (143, 120, 113),
    (6, 9): (135,),
    (7, 7): (145, 125, 110),
    (7, 8): (140, 121),
    (7, 9): (136,),
    (8, 8): (148, 121),
    (8, 9): (142,),
    (9, 9): (142,),
}
_EDM_MARGINS = (10, 5, 3)
_EDM_VALENCE = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1}


def edm_stability(numbers: NDArray[np.int64], positions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether every atom's bond orders, read off distances as EDM does, add up to its valence.

    Parameters
    ----------
    numbers : array of int, shape (n,)
        Elements other than H, C, N, O and F are never stable: the published rule does not cover them.
    positions : array, shape (n, 3), angstrom

    Returns
    -------
    array of bool, shape (n,)
    """
    distances = 100 * np.linalg.norm(positions[:, None] - positions[None], axis=2)
    orders = np.zeros(len(numbers), dtype=int)
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            pair = (min(numbers[i], numbers[j]), max(numbers[i], numbers[j]))
            order = 0
            for length, margin in zip(_EDM_LENGTHS.get(pair, ()), _EDM_MARGINS, strict=False):
                if distances[i, j] >= length + margin:
                    break
                order += 1
            orders[[i, j]] += order
    return np.array([_EDM_VALENCE.get(int(z)) == order for z, order in zip(numbers, orders, strict=True)], dtype=bool)


def rdkit_molecule(numbers: NDArray[np.int64], positions: NDArray[np.float64]) -> Any:
    """Bonds by RDKit's ``DetermineBonds`` in place of halberd's own perception; ``None`` where it finds none."""
    Chem = import_rdkit()
    from rdkit.Chem import rdDetermineBonds

    mol = unbonded(numbers, positions)
    try:
        rdDetermineBonds.DetermineBonds(mol, charge=0, embedChiral=False)
        Chem.SanitizeMol(mol)
    except (Chem.MolSanitizeException, ValueError, RuntimeError):
        return None
    return mol


def posebusters_passes(molecules: Sequence[Any], progress: Callable[[float], None] | None = None) -> NDArray[np.bool_]:
    """Whether molecules pass all checks of PoseBusters' set "mol" (Buttenschoen et al., Chem. Sci. 2024).

    ``progress`` is told the part that is done, 0 to 1.

    Raises
    ------
    MissingDependencyError
        If ``posebusters`` is not installed.
    """
    try:
        from posebusters import PoseBusters
    except ImportError:
        raise missing_dependency("posebusters", "molecules", "run PoseBusters") from None
    if not molecules:
        return np.zeros(0, dtype=bool)
    # A molecule that cannot be embedded for comparison is a failed check, not news.
    logging.getLogger("posebusters").setLevel(logging.CRITICAL)
    buster = PoseBusters(config="mol")
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, mol in enumerate(molecules):
            if progress is not None:
                progress(k / len(molecules))
            results.append(bool(buster.bust([mol], None, None, full_report=False).to_numpy(dtype=bool).all()))
    return np.array(results)


def fingerprints(molecules: Sequence[Any]) -> list[Any]:
    """Morgan fingerprints of molecules without hydrogens, radius 2, 2048 bits."""
    import_rdkit()
    from rdkit.Chem import rdFingerprintGenerator

    make = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    return [make.GetFingerprint(mol) for mol in molecules]


def diversity(molecules: Sequence[Any]) -> float:
    """One minus the mean Tanimoto similarity of :func:`fingerprints` over all pairs."""
    import_rdkit()
    from rdkit import DataStructs

    if len(molecules) < 2:
        return 0.0
    prints = fingerprints(molecules)
    total = sum(sum(DataStructs.BulkTanimotoSimilarity(prints[k], prints[:k])) for k in range(1, len(prints)))
    return float(1.0 - total / (len(prints) * (len(prints) - 1) / 2))


def xtb_relaxation(atoms: Atoms, fmax: float = 0.05, steps: int = 200) -> tuple[float, float] | None:
    """Relax with GFN2-xTB: energy released (eV) and heavy-atom RMSD (angstrom); ``None`` if it does not converge.

    Raises
    ------
    MissingDependencyError
        If ``tblite`` is not installed.
    """
    try:
        from tblite.ase import TBLite
    except ImportError:
        raise missing_dependency("tblite", "reference", "relax with GFN2-xTB") from None
    from ase.optimize import LBFGS

    relaxed = atoms.copy()
    relaxed.info = {}
    relaxed.calc = TBLite(method="GFN2-xTB", verbosity=0)
    try:
        before = relaxed.get_potential_energy()
        LBFGS(relaxed, logfile=None).run(fmax=fmax, steps=steps)  # type: ignore[arg-type]
        after = relaxed.get_potential_energy()
    except Exception:  # tblite raises its own types, ASE others; what does not converge is counted by the caller
        return None
    relaxed.calc = None
    return float(before - after), heavy_rmsd(atoms.numbers, atoms.positions, relaxed.positions)


def measure(
    structures: Sequence[Atoms],
    attempts: int | None = None,
    *,
    known: set[str] | None = None,
    posebusters: bool = True,
    xtb: int = 0,
    raw: Sequence[Atoms] | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Measure a set of molecules.

    Parameters
    ----------
    structures : sequence of ase.Atoms
        With hydrogens.
    attempts : int, optional
        What was tried to get them; failures that left no structure count as invalid and unstable. The number of
        structures if omitted.
    known : set of str, optional
        Canonical SMILES (:func:`halberd.plugins.molecules.bonding.canonical_smiles`) that are not novel; novelty is
        ``None`` without.
    posebusters : bool
    xtb : int
        Relax so many valid molecules, evenly spread over the set, with GFN2-xTB.
    raw : sequence of ase.Atoms, optional
        The same molecules before anything was relaxed: as many of them are relaxed as of the others.
    progress : callable, optional
        Told what is being done, and the part of it that is, 0 to 1.

    Returns
    -------
    dict
        ``atom_stability`` (of the atoms), ``molecule_stability``, ``validity``, ``validity_rdkit`` (bonds by RDKit's
        own perception, charges allowed) of the attempts; ``uniqueness`` of the valid; ``novelty`` of the unique;
        ``posebusters`` of the valid; ``diversity`` of the valid; mean ``heavy_atoms``, ``rings``, ``sp3`` (fraction of
        carbon) and ``qed`` of the valid; ``xtb`` with ``molecules``, ``failed``, medians ``strain_eV`` and
        ``rmsd_A``; ``xtb_raw``, the same of ``raw``. Fractions, or ``None`` where there is nothing to divide by or it
        was not asked for.
    """
    Chem = import_rdkit()
    from rdkit.Chem import QED, rdMolDescriptors

    tell = progress or (lambda _what, _part: None)
    total = attempts if attempts is not None else len(structures)
    stable_atoms = n_atoms = stable = rdkit_valid = 0
    valid: list[tuple[Atoms, Any]] = []
    for k, atoms in enumerate(structures):
        tell("reading geometries", k / len(structures))
        stability = edm_stability(atoms.numbers, atoms.positions)
        stable_atoms, n_atoms = stable_atoms + int(stability.sum()), n_atoms + len(atoms)
        stable += bool(stability.all())
        by_rdkit = rdkit_molecule(atoms.numbers, atoms.positions)
        rdkit_valid += by_rdkit is not None and len(Chem.GetMolFrags(by_rdkit)) == 1
        mol = perceive_molecule(atoms.numbers, atoms.positions)
        if is_valid(mol):
            valid.append((atoms, mol))
    molecules = [mol for _, mol in valid]
    heavy = [without_hydrogens(mol) for mol in molecules]
    unique = {canonical_smiles(mol) for mol in molecules}
    result: dict[str, Any] = {
        "molecules": len(structures),
        "attempts": total,
        "atom_stability": _fraction(stable_atoms, n_atoms),
        "molecule_stability": _fraction(stable, total),
        "validity": _fraction(len(valid), total),
        "validity_rdkit": _fraction(rdkit_valid, total),
        "uniqueness": _fraction(len(unique), len(valid)),
        "novelty": None if known is None else _fraction(len(unique - known), len(unique)),
        "posebusters": None,
        "diversity": diversity(heavy),
        "heavy_atoms": _mean([mol.GetNumAtoms() for mol in heavy]),
        "rings": _mean([rdMolDescriptors.CalcNumRings(mol) for mol in heavy]),
        "sp3": _mean([rdMolDescriptors.CalcFractionCSP3(mol) for mol in heavy]),
        "qed": _mean([QED.qed(mol) for mol in heavy]),
    }
    if posebusters:
        passes = posebusters_passes(molecules, lambda part: tell("PoseBusters", part))
        result["posebusters"] = _fraction(int(passes.sum()), len(passes))
    if xtb:
        result["xtb"] = _strains([atoms for atoms, _ in valid], xtb, tell)
        if raw is not None:
            result["xtb_raw"] = _strains(raw, xtb, tell)
    tell("done", 1.0)
    return result


def _strains(structures: Sequence[Atoms], most: int, tell: Callable[[str, float], None]) -> dict[str, Any]:
    """Relax so many structures, evenly spread, with GFN2-xTB."""
    places = np.unique(np.linspace(0, len(structures) - 1, min(most, len(structures))).astype(int))
    relaxations = []
    for k, place in enumerate(places):
        tell("GFN2-xTB", k / len(places))
        relaxations.append(xtb_relaxation(structures[place]))
    done = np.array([each for each in relaxations if each is not None]).reshape(-1, 2)
    return {
        "molecules": len(places),
        "failed": len(places) - len(done),
        "strain_eV": float(np.median(done[:, 0])) if len(done) else None,
        "rmsd_A": float(np.median(done[:, 1])) if len(done) else None,
    }


def _fraction(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None
