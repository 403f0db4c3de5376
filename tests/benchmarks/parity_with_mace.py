"""Energies, forces and stresses of trained models against mace-torch's own calculator.

    python tests/benchmarks/parity_with_mace.py FOLDER frames.xyz

compares every ``.model`` file in a folder, and all of them together as a committee, on frames of the file, as they are
and squeezed into triclinic cells narrower than twice the cutoff. Printed are the largest deviations: of energies
relative to the total energy, of forces and stresses relative to the largest component in the frame.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import warnings
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from halberd.plugins import HalberdCalculator
from halberd.potentials.loading import import_mace

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


def frames_to_compare(path: Path, count: int) -> list[Atoms]:
    """Evenly spaced frames, then the same in triclinic cells."""
    every = [atoms for atoms in ase.io.read(path, ":") if len(atoms) > 1]
    chosen = [atoms.copy() for atoms in every[:: max(1, len(every) // count)][:count]]
    for atoms in chosen:
        atoms.pbc = False
        atoms.info, atoms.arrays = {}, {k: atoms.arrays[k] for k in ("numbers", "positions")}
    cells = []
    for atoms in chosen:
        cell = atoms.copy()
        size = np.ptp(atoms.positions, axis=0) + 2.2
        cell.set_cell([[size[0], 0, 0], [0.3 * size[1], size[1], 0], [-0.2 * size[2], 0.25 * size[2], size[2]]])
        cell.pbc = True
        cells.append(cell)
    return chosen + cells


def deviations(ours: HalberdCalculator, theirs: object, frames: list[Atoms]) -> tuple[float, float, float]:
    """Largest relative deviation of energy, forces, stress."""
    worst = np.zeros(3)
    for atoms in frames:
        reference = atoms.copy()
        reference.calc = theirs
        found = ours.evaluate(atoms)
        energy, forces = reference.get_potential_energy(), reference.get_forces()
        off = [abs(found["energy"] / energy - 1), np.abs(found["forces"] - forces).max() / np.abs(forces).max(), 0.0]
        if all(atoms.pbc):
            stress = reference.get_stress()
            off[2] = np.abs(found["stress"] - stress).max() / np.abs(stress).max()
        worst = np.maximum(worst, off)
    return float(worst[0]), float(worst[1]), float(worst[2])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--count", type=int, default=8)
    arguments = parser.parse_args()
    import_mace("compare with it")
    from mace.calculators import MACECalculator

    frames = frames_to_compare(arguments.frames, arguments.count)
    files = sorted(arguments.folder.glob("*.model"))
    print("model                          precision    energy    forces    stress")
    for precision, dtype in (("double", "float64"), ("single", "float32")):
        for name, paths in [*((file.stem, [file]) for file in files), ("committee of all", files)]:
            ours = HalberdCalculator(paths if len(paths) > 1 else paths[0], precision=precision)
            with contextlib.redirect_stdout(io.StringIO()):
                theirs = MACECalculator(model_paths=[str(p) for p in paths], device="cpu", default_dtype=dtype)
            energy, forces, stress = deviations(ours, theirs, frames)
            print(f"{name:30} {precision:>9} {energy:9.1e} {forces:9.1e} {stress:9.1e}", flush=True)


if __name__ == "__main__":
    main()
