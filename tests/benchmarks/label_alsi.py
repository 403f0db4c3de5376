"""Make a training set of Al-Si alloy cells labelled by CHGNet: the size of the published AlSi10 fit, 88 x 32 atoms.

Cells of about 10 % silicon: strained and rattled fcc crystals, and melts made by a short hot run with the labels'
own forces. Needs ``pip install chgnet``. Usage: ``python label_alsi.py alsi.xyz [--frames 88] [--seed 0]``
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from ase import units
from ase.build import bulk
from ase.io import write
from ase.md.langevin import Langevin

warnings.filterwarnings("ignore")


def crystal(generator: np.random.Generator):
    atoms = bulk("Al", cubic=True, a=4.05) * (2, 2, 2)
    chosen = generator.choice(len(atoms), size=int(generator.integers(2, 6)), replace=False)
    atoms.numbers[chosen] = 14
    strain = np.eye(3) + generator.normal(scale=0.02, size=(3, 3))
    atoms.set_cell(np.array(atoms.cell) @ strain * generator.uniform(0.96, 1.06), scale_atoms=True)
    atoms.positions += generator.normal(scale=generator.uniform(0.02, 0.25), size=atoms.positions.shape)
    return atoms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--frames", type=int, default=88)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from chgnet.model.dynamics import CHGNetCalculator

    calculator = CHGNetCalculator(use_device="cpu")
    generator = np.random.default_rng(arguments.seed)
    frames = []
    while len(frames) < arguments.frames:
        atoms = crystal(generator)
        atoms.calc = calculator
        if len(frames) % 4 == 3:  # every fourth is on its way to a melt
            motion = Langevin(
                atoms,
                2 * units.fs,
                temperature_K=2500,
                friction=0.05 / units.fs,
                rng=np.random.RandomState(len(frames)),
            )
            motion.run(40)
        labelled = atoms.copy()
        labelled.info["REF_energy"] = float(atoms.get_potential_energy())
        labelled.arrays["REF_forces"] = atoms.get_forces()
        labelled.info["REF_virial"] = -atoms.get_volume() * atoms.get_stress(voigt=False)
        labelled.info["config_type"] = "melt" if len(frames) % 4 == 3 else "fcc"
        labelled.arrays.pop("momenta", None)
        frames.append(labelled)
        print(f"\r{len(frames)}/{arguments.frames} frames", end="", flush=True)
    write(arguments.output, frames)
    print()


if __name__ == "__main__":
    main()
