"""What hyperactive learning begins with: frames of the data, and clusters to start trajectories at.

    python examples/pretrain/hal_inputs.py data [--initial 200] [--starts 40] [--seed 1]

Writes ``data/hal_initial.xyz``, frames of clusters and pairs at random, with labels, and ``data/hal_starts.xyz``, new
clusters of all liquids, pure and mixed, that are in no other set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase.optimize import FIRE
from make_data import calculator, write_whole
from structures import LIQUIDS, liquid, plain


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--initial", type=int, default=200)
    parser.add_argument("--starts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    generator = np.random.default_rng([arguments.seed, 99])
    frames = ase.io.read(arguments.data / "train.xyz", ":")
    chosen = [frame for frame in frames if frame.info["config_type"] in ("cluster", "solution", "pair")]
    picked = generator.permutation(len(chosen))[: arguments.initial]
    write_whole(arguments.data / "hal_initial.xyz", [chosen[n] for n in sorted(picked)])
    starts = []
    for number in range(arguments.starts):
        names = tuple(generator.choice(list(LIQUIDS), 1 + number % 2, replace=False))
        atoms, _ = liquid(names, int(generator.integers(30, 61)), generator)
        atoms.calc = calculator()
        FIRE(atoms, logfile=None, maxstep=0.1).run(fmax=0.5, steps=30)
        starts.append(plain(atoms))
    write_whole(arguments.data / "hal_starts.xyz", starts)


if __name__ == "__main__":
    main()
