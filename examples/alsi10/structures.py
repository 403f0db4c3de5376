"""Cells of 32 atoms of Al-Si to begin hyperactive learning with: strained and rattled fcc with 0 to 7 silicon atoms.

Three silicon atoms are AlSi10; the others are there because a larger cell holds regions that are richer or poorer.

Usage: ``python structures.py initial.xyz [--frames 12] [--seed 0]``
"""

from __future__ import annotations

import argparse

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk


def alsi_cell(
    generator: np.random.Generator,
    silicon: int | None = None,
    rattle: tuple[float, float] = (0.03, 0.12),
    strain: float = 0.02,
) -> Atoms:
    """An fcc cell of 32 atoms with some silicon, strained by a few per cent and rattled.

    Parameters
    ----------
    generator : numpy.random.Generator
    silicon : int
        Atoms of silicon; 0 to 7 at random if omitted.
    rattle : pair of float, angstrom
        Standard deviation of the displacements, drawn between these.
    strain : float
        Standard deviation of the components of the strain, beside a volume change of -3 to +5 per cent in length.
    """
    atoms = bulk("Al", cubic=True, a=4.05) * (2, 2, 2)
    if silicon is None:
        silicon = int(generator.integers(0, 8))
    atoms.numbers[generator.choice(len(atoms), silicon, replace=False)] = 14
    deformation = np.eye(3) * generator.uniform(0.97, 1.05) + generator.normal(scale=strain, size=(3, 3))
    atoms.set_cell(np.array(atoms.cell) @ deformation, scale_atoms=True)
    atoms.positions += generator.normal(scale=generator.uniform(*rattle), size=atoms.positions.shape)
    return atoms


def main() -> None:
    """Write the initial frames, without labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = np.random.default_rng(arguments.seed)
    ase.io.write(arguments.output, [alsi_cell(generator) for _ in range(arguments.frames)])
    print(f"{arguments.frames} frames of Al-Si written to {arguments.output}")


if __name__ == "__main__":
    main()
