"""Chains of polyethylene glycol, HO-(CH2-CH2-O)n-H, in vacuum, and boxes of them.

Usage: ``python chains.py initial.xyz starts.xyz [--seed 0]``: unlabelled conformers of 2 and 3 monomers to begin with,
and of 2 to 8 monomers for walkers to start from.
"""

from __future__ import annotations

import argparse

import ase.io
import numpy as np
from ase import Atoms
from rdkit import Chem
from rdkit.Chem import AllChem


def chain(monomers: int, seed: int, rattle: float = 0.0) -> Atoms:
    """A random conformer, relaxed with a force field, then shaken.

    Parameters
    ----------
    monomers : int
    seed : int
    rattle : float, angstrom
        Standard deviation of random displacements.
    """
    molecule = Chem.AddHs(Chem.MolFromSmiles("O" + "CCO" * monomers))
    if AllChem.EmbedMolecule(molecule, randomSeed=seed + 1, useRandomCoords=True) < 0:
        raise RuntimeError(f"RDKit found no conformer of {monomers} monomers with seed {seed}")
    AllChem.MMFFOptimizeMolecule(molecule, maxIters=2000)
    atoms = Atoms([atom.GetSymbol() for atom in molecule.GetAtoms()], positions=molecule.GetConformer().GetPositions())
    if rattle:
        atoms.positions += np.random.default_rng(seed).normal(scale=rattle, size=atoms.positions.shape)
    return atoms


def box(monomers: int, count: int, density: float, seed: int) -> Atoms:
    """Chains in a periodic cube at a low density, at random places, no two atoms of different chains touching.

    Parameters
    ----------
    monomers, count : int
    density : float, g/cm^3
    seed : int
    """
    generator = np.random.default_rng(seed)
    chains = [chain(monomers, seed + k) for k in range(count)]
    edge = (sum(c.get_masses().sum() for c in chains) / 0.602214 / density) ** (1 / 3)
    packed = Atoms(cell=[edge] * 3, pbc=True)
    for piece in chains:
        for _ in range(5000):
            trial = piece.copy()
            trial.rotate(generator.uniform(0, 360), generator.normal(size=3), center="COM")
            trial.positions += generator.uniform(0, edge, size=3) - trial.get_center_of_mass()
            if not len(packed):
                break
            gaps = trial.positions[:, None] - packed.positions[None]
            gaps -= edge * np.round(gaps / edge)
            if np.linalg.norm(gaps, axis=2).min() > 2.2:
                break
        else:
            raise RuntimeError("the chains do not fit; lower the density")
        packed += trial
    return packed


def main() -> None:
    """Write initial frames and starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("initial")
    parser.add_argument("starts")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--longest", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seed = arguments.seed
    initial = [chain(2 + k % 2, seed + k, 0.03 + 0.01 * (k % 4)) for k in range(arguments.frames)]
    ase.io.write(arguments.initial, initial)
    starts = [chain(2 + k % (arguments.longest - 1), seed + 100 + k) for k in range(2 * (arguments.longest - 1))]
    ase.io.write(arguments.starts, starts)
    print(f"{len(initial)} initial frames, {len(starts)} starts of 2 to {arguments.longest} monomers")


if __name__ == "__main__":
    main()
