"""Hydrogen bonds that strengthen each other: rings of molecules, relaxed by GFN2-xTB, and what a model says of them.

    python examples/pretrain/rings.py MODEL [MODEL ...]

Prints the binding energy per molecule, meV, of rings of three to six waters, methanols and ethanols, and the mean size
of the differences; the null is the mean over all rings.
"""

from __future__ import annotations

import argparse

import numpy as np
from ase import Atoms
from ase.optimize import FIRE
from make_data import calculator
from structures import bonds, donors, solvents

from halberd.plugins import HalberdCalculator


def axes(origin: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Three directions, rows: towards a point, towards another as far as that is another way, and across."""
    x = (first - origin) / np.linalg.norm(first - origin)
    y = second - origin - x * ((second - origin) @ x)
    y /= np.linalg.norm(y)
    return np.array([x, y, np.cross(x, y)])


def ring(molecule: Atoms, count: int, length: float = 2.75) -> Atoms:
    """Molecules of which each gives a hydrogen bond to the next, their other sides up and down in turn."""
    oxygen, hydrogen = donors(molecule)[0]
    other = next(j if i == oxygen else i for i, j in bonds(molecule) if oxygen in (i, j) and hydrogen not in (i, j))
    own = axes(*molecule.positions[[oxygen, hydrogen, other]])
    angles = 2 * np.pi * np.arange(count) / count
    corners = length / (2 * np.sin(np.pi / count)) * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    whole = Atoms()
    for k, corner in enumerate(corners):
        outside = corner + 0.6 * corner / np.linalg.norm(corner) + np.array([0, 0, 0.8 * (-1) ** k])
        placed = axes(corner, corners[(k + 1) % count], outside)
        moved = (molecule.positions - molecule.positions[oxygen]) @ own.T @ placed + corner
        whole += Atoms(molecule.numbers, moved)
    return whole


def relaxed(atoms: Atoms) -> Atoms:
    """By GFN2-xTB."""
    atoms = atoms.copy()
    atoms.calc = calculator()
    FIRE(atoms, logfile=None).run(fmax=0.03, steps=400)
    return atoms


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    arguments = parser.parse_args()
    models = {name: HalberdCalculator(name) for name in arguments.models}
    print(" | ".join(["ring", "GFN2-xTB", *models]))
    truth, found = [], {name: [] for name in models}
    for name in ("water", "methanol", "ethanol"):
        molecule = relaxed(solvents()[name])
        for count in range(3, 7):
            atoms = relaxed(ring(molecule, count))
            truth.append(1e3 * (molecule.get_potential_energy() - atoms.get_potential_energy() / count))
            for each, model in models.items():
                alone, together = (model.evaluate(own)["energy"] for own in (molecule, atoms))
                found[each].append(1e3 * (alone - together / count))
            print(" | ".join([f"{count} {name}", *(f"{x[-1]:.0f}" for x in (truth, *found.values()))]), flush=True)
    errors = {name: np.abs(np.subtract(values, truth)).mean() for name, values in found.items()}
    null = np.abs(np.subtract(truth, np.mean(truth))).mean()
    print(f"differences: {', '.join(f'{name} {error:.0f}' for name, error in errors.items())}; null {null:.0f} meV")


if __name__ == "__main__":
    main()
