"""What hyperactive learning begins with: frames of the data and labelled boxes, and boxes to start trajectories at.

    python examples/pretrain/hal_inputs.py data first.pt [--initial 160] [--labelled 40] [--starts 48] [--seed 1]

Writes ``data/hal_initial.xyz``, frames of clusters, solutions and pairs at random, with labels, and periodic boxes with
labels of GFN2-xTB, stresses among them; ``boxes_train.xyz``, ``boxes_valid.xyz`` and ``boxes_test.xyz`` there, these
boxes alone, of ten eight, one and one; and ``data/hal_starts.xyz``, boxes of all liquids, pure and mixed. Boxes are
pressed to 0.8 to 1.3 times the density of the liquid and relaxed by the model. Periodic labels do not fit
those in open space: see the README.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.optimize import FIRE
from make_data import labelled, write_whole
from rich.progress import track
from structures import LIQUIDS, box, some_of

from halberd.plugins import HalberdCalculator


def pressed(atoms: Atoms, owner: np.ndarray, factor: float, model: HalberdCalculator) -> Atoms:
    """A box with its density times a factor, in small steps, whole molecules moved and the rest relaxed."""
    atoms = atoms.copy()
    atoms.calc = model
    steps = 12
    for _ in range(steps):
        scale = factor ** (-1 / (3 * steps))
        for molecule in range(owner.max() + 1):
            centre = atoms.positions[owner == molecule].mean(axis=0)
            atoms.positions[owner == molecule] += (scale - 1) * centre
        atoms.set_cell(atoms.cell * scale)
        FIRE(atoms, logfile=None, maxstep=0.05).run(fmax=1.0, steps=15)
    FIRE(atoms, logfile=None, maxstep=0.05).run(fmax=0.5, steps=60)
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model")
    parser.add_argument("--initial", type=int, default=160)
    parser.add_argument("--labelled", type=int, default=40)
    parser.add_argument("--starts", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    generator = np.random.default_rng([arguments.seed, 99])
    frames = ase.io.read(arguments.data / "train.xyz", ":")
    kinds = ("cluster", "solution", "pair")
    chosen = [frame for frame in frames if frame.info["config_type"] in kinds]
    picked = generator.permutation(len(chosen))[: arguments.initial]
    initial = [chosen[n] for n in sorted(picked)]
    model = HalberdCalculator(arguments.model)
    boxes: list[Atoms] = []
    for number in track(range(arguments.starts + arguments.labelled), "boxes"):
        # Every liquid in turn, and mixtures of two.
        first = list(LIQUIDS)[number // 2 % len(LIQUIDS)]
        names = (first,) if number % 2 == 0 else (first, str(generator.choice(list(LIQUIDS))))
        molecules, density = some_of(names, int(generator.integers(30, 73)), generator)
        atoms, owner = box(molecules, 0.5 * density, generator)
        boxes.append(pressed(atoms, owner, 2 * float(generator.uniform(0.8, 1.3)), model))
        if number < arguments.labelled:
            found = labelled(boxes[-1], "box")
            if found is not None:
                initial.append(found)
    write_whole(arguments.data / "hal_initial.xyz", initial)
    labels = [frame for frame in initial if frame.info["config_type"] == "box"]
    for name, places in (("train", range(8)), ("valid", (8,)), ("test", (9,))):
        own = [frame for number, frame in enumerate(labels) if number % 10 in places]
        write_whole(arguments.data / f"boxes_{name}.xyz", own)
    write_whole(arguments.data / "hal_starts.xyz", boxes[arguments.labelled :])


if __name__ == "__main__":
    main()
