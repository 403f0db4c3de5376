"""Structures and their GFN2-xTB labels for a pretrained model.

    pip install 'halberd-md[cpu,reference]'
    python examples/pretrain/make_data.py data --scale 0.002     # try it: a minute
    python examples/pretrain/make_data.py data --workers 8       # six hours of one core

Written in batches; the same command goes on. In the end ``data/train.xyz``, ``valid.xyz`` and ``test.xyz`` hold all
kinds, told apart by their config type. Of every twenty seeds one is for validation and one for the test; liquids that
are kept aside go to the test alone.
"""

from __future__ import annotations

import argparse
import itertools
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import FIRE
from rich.progress import track
from structures import (
    KEPT_ASIDE,
    LIQUIDS,
    donors,
    hydrogen_bonded,
    liquid,
    pair,
    plain,
    qm9,
    rattled,
    solution,
    solvents,
    torsion,
)

#: Frames beyond this are not chemistry any more, eV/angstrom.
LARGEST_FORCE = 20.0
#: Seeds of every kind in a whole set, and of a batch.
SEEDS = {
    "molecule": 8_000,
    "torsion": 1_500,
    "pair": 3_000,
    "cluster": 800,
    "solution": 200,
    "unseen": 60,
    "bonded": 800,
    "relaxed": 400,
}
BATCH = {
    "molecule": 100,
    "torsion": 100,
    "pair": 100,
    "cluster": 4,
    "solution": 4,
    "unseen": 4,
    "bonded": 4,
    "relaxed": 4,
}
#: What the frames of a seed are for, by its remainder; training otherwise.
PART = {0: "valid", 1: "test"}
#: Steps of 1 fs between frames of dynamics, and frames.
STRIDE, FRAMES = 20, 8
TEMPERATURES = (200.0, 300.0, 300.0, 400.0, 600.0, 900.0)


def calculator():
    """GFN2-xTB."""
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", verbosity=0)


def drawn(seed: int, generator: np.random.Generator) -> Atoms:
    """A molecule of QM9 that frames of this seed may hold: what is tested on is in no frame that is trained on."""
    molecules = qm9()
    same = [number for number in range(20) if PART.get(number) == PART.get(seed % 20)]
    return molecules[20 * int(generator.integers(len(molecules) // 20)) + int(generator.choice(same))]


def labelled(atoms: Atoms, kind: str) -> Atoms | None:
    """With energy, forces and, of boxes, virial; None if they do not converge or are too far from chemistry."""
    periodic = bool(atoms.pbc.all())
    own = atoms.copy() if periodic else plain(atoms)
    own.calc = calculator()
    try:
        energy, forces = float(own.get_potential_energy()), np.array(own.get_forces())
        if periodic:
            own.info["REF_virial"] = -own.get_volume() * own.get_stress(voigt=False)
    except Exception:  # tblite raises its own types, ASE others; a failed label is a frame less
        return None
    if not np.isfinite(forces).all() or np.abs(forces).max() > LARGEST_FORCE:
        return None
    own.calc = None
    own.info.update(REF_energy=energy, config_type=kind)
    own.arrays["REF_forces"] = forces
    return own


def dynamics(atoms: Atoms, kind: str, generator: np.random.Generator) -> list[Atoms | None]:
    """Frames of a cluster: as it is, half relaxed, and along 160 fs; None for labels that failed."""
    frames = [labelled(atoms, kind)]
    moving = plain(atoms)
    moving.calc = calculator()
    try:
        FIRE(moving, logfile=None, maxstep=0.1).run(fmax=0.5, steps=20)
        frames.append(labelled(moving, kind))
        if np.abs(moving.get_forces()).max() > LARGEST_FORCE:
            return frames
        temperature = float(generator.choice(TEMPERATURES))
        MaxwellBoltzmannDistribution(moving, temperature_K=temperature, rng=generator)
        run = Langevin(moving, 1.0 * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=generator)
        for _ in range(FRAMES):
            run.run(STRIDE)
            frames.append(labelled(moving, kind))
    except Exception:  # no convergence on the way: what is there is good
        pass
    return frames


def wells(atoms: Atoms, kind: str, generator: np.random.Generator) -> list[Atoms | None]:
    """Frames of a cluster near a minimum: on the way there, at its end, and rattled a little; as :func:`dynamics`."""
    moving = plain(atoms)
    moving.calc = calculator()
    frames = []
    try:
        optimiser = FIRE(moving, logfile=None, maxstep=0.1)
        for steps in (40, 60, 60):
            optimiser.run(fmax=0.03, steps=steps)
            frames.append(labelled(moving, kind))
    except Exception:  # no convergence on the way: what is there is good
        pass
    for size in (0.02, 0.05):
        shaken = plain(moving)
        shaken.positions += generator.normal(scale=size, size=shaken.positions.shape)
        frames.append(labelled(shaken, kind))
    return frames


def partners(seed: int, n_atoms: int, generator: np.random.Generator) -> list[Atoms]:
    """Molecules that give hydrogen bonds, and some that only take them."""
    giving = [solvents()[name] for name in ("water", "methanol", "ethanol")]
    taking = [solvents()[name] for name in ("acetone", "acetonitrile")]
    if generator.random() < 0.3:
        while not donors(giving[-1]) or len(giving) < 4:
            giving.append(drawn(seed, generator))
        giving = [giving[-1], giving[generator.integers(3)]]
    elif generator.random() < 0.6:
        giving = [giving[generator.integers(3)]]
    molecules = [giving[0]]
    takes = generator.random() < 0.25
    while True:
        pool = taking if takes and generator.random() < 0.3 else giving
        molecules.append(pool[generator.integers(len(pool))])
        if sum(map(len, molecules)) > n_atoms and len(molecules) > 2:
            return molecules[:-1]


def made(kind: str, seed: int) -> list[Atoms]:
    """All frames of a seed."""
    generator = np.random.default_rng([list(SEEDS).index(kind), seed])
    if kind == "molecule":
        molecule = qm9()[seed]
        frames = [labelled(molecule, kind), *(labelled(rattled(molecule, generator), kind) for _ in range(2))]
    elif kind == "torsion":
        molecule = drawn(seed, generator)
        turned = [torsion(molecule, generator) for _ in range(4)]
        frames = [labelled(atoms, kind) for atoms in turned if atoms is not None]
    elif kind == "pair":
        known = [solvents()[name] for name in LIQUIDS]
        one, other = (
            known[generator.integers(len(known))] if generator.random() < 0.6 else drawn(seed, generator)
            for _ in range(2)
        )
        frames = [labelled(pair(one, other, generator), kind) for _ in range(3)]
    else:
        n_atoms = int(generator.integers(18, 61))
        if kind == "cluster":
            count = int(generator.choice([1, 1, 2]))
            names = tuple(generator.choice(list(LIQUIDS), count, replace=False))
            atoms, _ = liquid(names, n_atoms, generator)
        elif kind == "bonded":
            atoms = hydrogen_bonded(partners(seed, n_atoms, generator), generator)
        elif kind == "relaxed":
            # Of two kinds of molecules at least: those of one kind are what `rings.py` tests.
            molecules = partners(seed, n_atoms * 2 // 3, generator)
            while len({str(molecule.symbols) for molecule in molecules}) < 2:
                molecules = partners(seed, n_atoms * 2 // 3, generator)
            atoms = hydrogen_bonded(molecules, generator)
        elif kind == "unseen":
            atoms, _ = liquid((list(KEPT_ASIDE)[seed % len(KEPT_ASIDE)],), n_atoms, generator)
        else:
            atoms, _ = solution(
                drawn(seed, generator), str(generator.choice(["water", "ethanol", "acetonitrile"])), n_atoms, generator
            )
        frames = (wells if kind == "relaxed" else dynamics)(atoms, kind, generator)
    return [frame for frame in frames if frame is not None]


def batch(kind: str, first: int, last: int, file: Path) -> int:
    """Write the frames of some seeds; how many."""
    if file.exists():
        return 0
    frames = []
    for seed in range(first, last):
        for frame in made(kind, seed):
            frame.info["seed"] = seed
            frames.append(frame)
    write_whole(file, frames)
    return len(frames)


def write_whole(file: Path, frames: list[Atoms]) -> None:
    """Write frames under another name and rename: what has the name is whole."""
    unfinished = file.with_suffix(".part")
    ase.io.write(unfinished, frames, format="extxyz")
    unfinished.replace(file)


def part_of(frame: Atoms) -> str:
    """Training, validation or test."""
    if frame.info["config_type"] == "unseen":
        return "test"
    return PART.get(int(frame.info["seed"]) % 20, "train")


def main() -> None:
    """Make everything, or go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the whole set")
    parser.add_argument("--kinds", nargs="+", default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    folder = arguments.output / "batches"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for kind in arguments.kinds:
        count = max(20, round(SEEDS[kind] * arguments.scale))
        for first in range(0, count, BATCH[kind]):
            last = min(first + BATCH[kind], count)
            jobs.append((kind, first, last, folder / f"{kind}-{first:06d}-{last:06d}.xyz"))
    with ProcessPoolExecutor(arguments.workers) as pool:
        results = pool.map(batch, *zip(*jobs, strict=True))
        for _ in track(results, "GFN2-xTB", total=len(jobs)):
            pass
    frames = list(itertools.chain.from_iterable(ase.io.read(job[3], ":", format="extxyz") for job in jobs))
    for name in ("train", "valid", "test"):
        own = [frame for frame in frames if part_of(frame) == name]
        write_whole(arguments.output / f"{name}.xyz", own)
        print(f"{name}: {len(own)} frames, {sum(map(len, own))} atoms")


if __name__ == "__main__":
    main()
