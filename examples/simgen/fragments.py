"""Fragments shared by the examples: embedded with RDKit, relaxed with the pretrained model, written with marks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem import AllChem
from scipy.spatial.transform import Rotation

from halberd.potentials import load
from halberd.samplers import relax

RDLogger.DisableLog("rdApp.*")  # RDKit's force field has no type for the marks


def fragment(smiles: str, seed: int = 1) -> Chem.Mol:
    """Embed a fragment; ``*`` marks where new atoms should attach, at the end of a single bond along x."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=seed)
    marks = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() == 0]
    # For the relaxation every mark is a hydrogen; afterwards it is put at the length of a bond between heavy atoms.
    numbers = np.array([max(atom.GetAtomicNum(), 1) for atom in mol.GetAtoms()])
    positions = relax(load("gfn2-chnof@1"), [numbers], [mol.GetConformer().GetPositions()], fmax=0.02).positions[0]
    for mark in marks:
        (neighbor,) = [atom.GetIdx() for atom in mol.GetAtomWithIdx(mark).GetNeighbors()]
        away = positions[mark] - positions[neighbor]
        positions[mark] = positions[neighbor] + 1.5 * away / np.linalg.norm(away)
    if marks:
        (neighbor,) = [atom.GetIdx() for atom in mol.GetAtomWithIdx(marks[0]).GetNeighbors()]
        away = positions[marks[0]] - positions[neighbor]
        turn = Rotation.align_vectors([[1.0, 0.0, 0.0]], [away / np.linalg.norm(away)])[0]
        positions = turn.apply(positions - positions[neighbor])
    mol.GetConformer().SetPositions(np.ascontiguousarray(positions))
    return mol


def moved(mol: Chem.Mol, shift: tuple[float, float, float], turned: bool = False) -> Chem.Mol:
    """A copy elsewhere, turned half around z first if asked."""
    copy = Chem.Mol(mol)
    positions = copy.GetConformer().GetPositions()
    if turned:
        positions = positions * [-1.0, -1.0, 1.0]
    copy.GetConformer().SetPositions(np.ascontiguousarray(positions + np.array(shift)))
    return copy


def write(path: Path, *mols: Chem.Mol) -> Path:
    """Write fragments as one molecule of an SDF file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = mols[0]
    for mol in mols[1:]:
        whole = Chem.CombineMols(whole, mol)
    with Chem.SDWriter(str(path)) as writer:
        writer.write(whole)
    return path


def report(made: object, folder: Path) -> None:
    """Say what came out, and draw it."""
    from halberd.plugins import draw_molecules

    molecules = made.molecules  # type: ignore[attr-defined]
    print(f"{len(molecules)} molecules from {made.attempts} attempts; failures: {made.failures or 'none'}")  # type: ignore[attr-defined]
    for mol in molecules[:8]:
        print("   ", mol.GetProp("smiles"))
    draw_molecules(folder / "molecules.png", molecules)
    print(f"written: {folder / 'molecules.sdf'}, {folder / 'molecules.png'}")
