"""Acetylacetone beyond the data: its hydrogen passed from oxygen to oxygen, and its arm turned.

    python tests/benchmarks/acac_scans.py ACAC/train_300K.xyz MODEL [MODEL ...] [--out OUT]

The paper's own scans (arXiv 2205.06643) are not among the files people usually have; of them it is known that the
hydrogen's barrier is 14 meV. Here the model's own minimum is the start: the barrier is that of a nudged elastic band,
to be compared with it. The arm is turned with nothing else relaxed, unlike in the paper: look at how smooth the curve
is, where training data end near 30 degrees.
``OUT/acac_scans.png`` shows both, with the spread of models of several seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import matplotlib as mpl
import numpy as np
from ase import Atoms
from ase.mep import NEB
from ase.optimize import BFGS, FIRE

from halberd.plugins import HalberdCalculator
from halberd.potentials import load

mpl.use("Agg")
import matplotlib.pyplot as plt

IMAGES = 15
ANGLES = np.arange(0.0, 181.0, 4.0)


def bonded(atoms: Atoms) -> np.ndarray:
    """Which atoms are bonded; of two oxygens the hydrogen belongs to the nearer."""
    distances = atoms.get_all_distances()
    hydrogens = atoms.numbers == 1
    near = (distances < np.where(hydrogens[:, None] | hydrogens[None], 1.25, 1.7)) & ~np.eye(len(atoms), dtype=bool)
    return near & ~(hydrogens[:, None] & hydrogens[None])


def minimum(frames: list[Atoms], calculator: HalberdCalculator) -> Atoms:
    """The relaxed enol, from the frame of lowest energy."""
    atoms = min(frames, key=lambda frame: frame.get_potential_energy()).copy()
    atoms.pbc = False
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=0.005, steps=500)
    return atoms


def mirrored(atoms: Atoms) -> Atoms:
    """The other tautomer: the same molecule with its halves exchanged, atom for atom in the old order."""
    from scipy.optimize import linear_sum_assignment

    oxygens = np.flatnonzero(atoms.numbers == 8)
    middle = atoms.positions[oxygens].mean(axis=0)
    carbons = atoms.positions[atoms.numbers == 6].mean(axis=0)
    axis = carbons - middle
    axis /= np.linalg.norm(axis)
    across = atoms.positions[oxygens[1]] - atoms.positions[oxygens[0]]
    across -= (across @ axis) * axis
    across /= np.linalg.norm(across)
    moved = atoms.positions - middle
    moved = moved - 2.0 * np.outer(moved @ across, across) + middle
    placed = np.empty_like(moved)
    for number in set(atoms.numbers.tolist()):
        own = np.flatnonzero(atoms.numbers == number)
        cost = np.linalg.norm(atoms.positions[own][:, None] - moved[own][None], axis=2)
        rows, columns = linear_sum_assignment(cost)
        placed[own[rows]] = moved[own[columns]]
    return Atoms(atoms.numbers, placed)


def transfer(start: Atoms, model: object) -> np.ndarray:
    """Energies of a relaxed band between both tautomers, eV."""
    end = mirrored(start)
    end.calc = HalberdCalculator(model)
    BFGS(end, logfile=None).run(fmax=0.005, steps=500)
    images = [start.copy() for _ in range(IMAGES - 1)] + [end.copy()]
    band = NEB(images, climb=True, k=0.1, method="improvedtangent")
    band.interpolate(method="idpp")
    for image in images:
        image.calc = HalberdCalculator(model)
    FIRE(band, logfile=None).run(fmax=0.03, steps=400)
    energies = np.array([image.get_potential_energy() for image in images])
    return energies - energies.min()


def turned(start: Atoms) -> np.ndarray:
    """Energies along the rotation of the arm with the carbonyl group, eV."""
    near = bonded(start)
    carbons = np.flatnonzero(start.numbers == 6)
    oxygens = np.flatnonzero(start.numbers == 8)
    # The carbonyl has no hydrogen on its oxygen.
    oxygen = next(o for o in oxygens if not near[o, start.numbers == 1].any())
    carbonyl = next(c for c in carbons if near[c, oxygen])
    central = next(c for c in carbons if near[c, carbonyl] and near[c, carbons].sum() == 2)
    other = next(c for c in carbons if near[c, central] and c != carbonyl)
    bonds = near.copy()
    bonds[central, carbonyl] = bonds[carbonyl, central] = False
    arm, grown = {int(carbonyl)}, True
    while grown:
        more = {int(j) for i in arm for j in np.flatnonzero(bonds[i])} | arm
        grown, arm = more != arm, more
    mask = [number in arm for number in range(len(start))]
    calculator = start.calc
    first = start.get_dihedral(oxygen, carbonyl, central, other)
    energies = []
    for angle in ANGLES:
        atoms = start.copy()
        atoms.set_dihedral(other, central, carbonyl, oxygen, first + angle, mask=mask)
        energies.append(calculator.evaluate(atoms)["energy"])
    return np.array(energies) - min(energies)


def main() -> None:
    """Scan with every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--out", type=Path, default=Path())
    arguments = parser.parse_args()
    frames = ase.io.read(arguments.frames, ":")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name in arguments.models:
        model = load(name, precision="double")
        start = minimum(frames, HalberdCalculator(model))
        passed, rotated = transfer(start, model), turned(start)
        axes[0].plot(1e3 * passed, "o-", markersize=3)
        axes[1].plot(ANGLES, rotated)
        top = int(rotated.argmax())
        print(
            f"{name}: hydrogen {1e3 * passed.max():.1f} meV (DFT 14.0); arm at most {rotated[top]:.2f} eV, at "
            f"{ANGLES[top]:.0f} degrees"
        )
    axes[0].axhline(14.0, color="0.6", linestyle="--")
    axes[0].set(xlabel="image", ylabel="energy, meV")
    axes[1].set(xlabel="rotation, degrees", ylabel="energy, eV")
    figure.savefig(arguments.out / "acac_scans.png", dpi=150)


if __name__ == "__main__":
    main()
