"""SevenNet-0 in halberd against SevenNet's own ASE calculator, which runs in a process and an environment of its own.

    pip install --no-deps --target DIR sevenn==0.13.0 e3nn==0.5.6 torch_geometric braceexpand pandas requests ninja \
        aiohttp xxhash psutil fsspec jinja2
    python tests/benchmarks/bench_sevennet.py DIR [--atoms 32 108 256] [--threads 1] [--rounds 5]

Aluminium with a twelfth of silicon, moved a little between two evaluations; milliseconds per evaluation of energy and
forces in single precision, medians of alternating rounds, ratios with their range over rounds. Columns: SevenNet's
calculator, halberd's calculator, a whole step in OpenMM; and the largest difference of forces, eV/A.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

warnings.filterwarnings("ignore")


def alloy(n_atoms: int) -> Atoms:
    """A crystal out of its order."""
    side = max(2, round((n_atoms / 4) ** (1 / 3)))
    atoms = bulk("Al", cubic=True) * (side, side, side)
    atoms.numbers[::12] = 14
    atoms.rattle(0.08, seed=1)
    return atoms


def timed(atoms: Atoms, n: int) -> tuple[float, list[list[float]]]:
    """Seconds per evaluation, and the forces of the first."""
    first: Any = None
    place = atoms.positions.copy()
    generator = np.random.default_rng(2)
    begun = time.perf_counter()
    for _ in range(n):
        forces = atoms.get_forces()
        first = forces if first is None else first
        atoms.positions = place + generator.normal(scale=0.01, size=place.shape)
    seconds = (time.perf_counter() - begun) / n
    atoms.positions = place
    return seconds, np.asarray(first).tolist()


def answer(threads: int) -> None:
    """Be SevenNet: for every line with a number of atoms and one of evaluations, say how long they took."""
    from sevenn.calculator import SevenNetCalculator

    torch.set_num_threads(threads)
    calculator = SevenNetCalculator("7net-0", device="cpu")
    systems: dict[int, Atoms] = {}
    for line in sys.stdin:
        n_atoms, n = json.loads(line)
        atoms = systems.setdefault(n_atoms, alloy(n_atoms))
        atoms.calc = calculator
        print(json.dumps(timed(atoms, n)), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where SevenNet and its e3nn are")
    parser.add_argument("--atoms", type=int, nargs="+", default=[32, 108, 256])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        sys.path.insert(0, arguments.folder)
        answer(arguments.threads)
        return
    from steppers import slow_stepper

    from halberd.plugins import HalberdCalculator, LearnedPotential, topology_from_atoms
    from halberd.potentials import load

    torch.set_num_threads(arguments.threads)
    checkpoint = next(Path(arguments.folder).glob("sevenn/pretrained_potentials/SevenNet_0__11Jul2024/*.pth"))
    model = load(str(checkpoint)).to(torch.float32)
    command = [sys.executable, __file__, arguments.folder, "--answer", "--threads", str(arguments.threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None

        def theirs(n_atoms: int, n: int) -> tuple[float, list[list[float]]]:
            peer.stdin.write(json.dumps([n_atoms, n]) + "\n")  # type: ignore[union-attr]
            peer.stdin.flush()  # type: ignore[union-attr]
            for line in peer.stdout:  # type: ignore[union-attr]
                if line.startswith("[") and line.rstrip().endswith("]"):
                    seconds, forces = json.loads(line)
                    return seconds, forces
            raise SystemExit("SevenNet's process ended")

        for n_atoms in arguments.atoms:
            atoms = alloy(n_atoms)
            topology, positions = topology_from_atoms(atoms)
            step = slow_stepper(LearnedPotential(model).createSystem(topology), positions, "CPU")
            atoms.calc = HalberdCalculator(model)
            apart = np.abs(np.array(theirs(n_atoms, 4)[1]) - np.array(timed(atoms, 4)[1])).max()
            step(6)
            rounds = []
            for _ in range(arguments.rounds):
                begun = time.perf_counter()
                step(10)
                own_step = (time.perf_counter() - begun) / 10
                rounds.append([theirs(n_atoms, 5)[0], timed(atoms, 5)[0], own_step])
            times, ratios = 1e3 * np.median(rounds, axis=0), np.array(rounds)[:, :1] / np.array(rounds)
            said = [
                f"{time_:.1f} [{np.median(ratio):.2f}, {ratio.min():.2f} to {ratio.max():.2f}]"
                for time_, ratio in zip(times[1:], ratios.T[1:], strict=True)
            ]
            print(
                f"{len(atoms)} atoms, {arguments.threads} threads: SevenNet {times[0]:.1f} ms | halberd {said[0]} | "
                f"OpenMM step {said[1]} | forces {apart:.1g}",
                flush=True,
            )
        peer.stdin.close()


if __name__ == "__main__":
    main()
