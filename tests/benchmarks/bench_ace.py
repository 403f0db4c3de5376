"""Time OpenMM steps with a fitted linear ACE on the CPU platform, and ace-jax's calculator beside it if there is one.

Usage: ``python bench_ace.py MODEL [--threads 1] [--sizes 32 500] [--rounds 7] [--ace-jax FILE]`` for a model from
``halberd fit``, or for the ``.yace`` that ``ace-jax export`` made of FILE: then both run one and the same potential.
``--growth`` prints how the time grows with order, degree, elements, members and atoms instead, and ``--large`` the
time of 1,016 functions of one element in a bcc crystal with 74 neighbours in reach, both for models with random
coefficients. Positions and velocities are reset before every round.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import openmm
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers
from openmm import unit

from halberd.plugins import LearnedPotential, topology_from_atoms
from halberd.plugins.forces.options import HAL_TAU
from halberd.potentials import AceSettings, load
from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.compiled_operator import ACE_OPERATOR
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.sites.elements import bond_length
from halberd.potentials.sites.site_model import SiteModel


def alloy(size: int, symbols: tuple[str, ...], fraction: float = 0.1, seed: int = 0) -> Atoms:
    """An fcc crystal of at least ``size`` atoms at 800 K or so, the minority elements at random places."""
    cells = round((size / 4) ** (1 / 3))
    length = bond_length(atomic_numbers[symbols[0]])
    atoms = bulk(symbols[0], "fcc", a=1.01 * np.sqrt(2.0) * length, cubic=True) * (cells, cells, cells)
    generator = np.random.default_rng(seed)
    for symbol in symbols[1:]:
        chosen = generator.choice(len(atoms), size=max(1, int(fraction * len(atoms))), replace=False)
        atoms.symbols[chosen] = symbol
    atoms.rattle(0.12, seed=seed)
    return atoms


def step_timer(model, atoms: Atoms, precision: str, tau: float | None = None):
    """A function that runs steps from the same start every time and returns seconds per step; with tau, biased ones."""
    topology, positions = topology_from_atoms(atoms)
    bias = None if tau is None else "sigma"
    system = LearnedPotential(model).createSystem(topology, precision=precision, bias=bias)
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 1 * unit.femtosecond)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"))
    if tau is not None:
        context.setParameter(HAL_TAU, tau)
    velocities = np.random.default_rng(1).normal(scale=0.3, size=(len(atoms), 3))

    def run(steps: int) -> float:
        context.setPositions(positions)
        context.setVelocities(velocities)
        integrator.step(2)
        start = time.perf_counter()
        integrator.step(steps)
        return (time.perf_counter() - start) / steps

    run(5)
    return run


def jax_timer(path: str, atoms: Atoms):
    """Energy and forces by ace-jax's ASE calculator, positions changed every time."""
    from ace_jax import ACECalculator

    moved = atoms.copy()
    moved.calc = ACECalculator(path)
    moved.get_forces()
    generator = np.random.default_rng(2)

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            moved.positions += generator.normal(scale=1e-3, size=moved.positions.shape)
            moved.get_forces()
        return (time.perf_counter() - start) / steps

    run(3)
    return run


def compare(timers: dict, steps: int, rounds: int) -> dict[str, float]:
    """Median seconds of each, in interleaved rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, run in timers.items():
            seconds[name].append(run(steps))
    return {name: float(np.median(values)) for name, values in seconds.items()}


def table(arguments: argparse.Namespace) -> None:
    model = load(arguments.model)
    print(f"{model!r}; compiled operator: {ACE_OPERATOR.problem() or 'yes'}; {arguments.threads} threads")
    print("| atoms | precision | us/atom and step | other, us/atom | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for size in arguments.sizes:
        atoms = alloy(size, model.symbols)
        timers = {p: step_timer(model, atoms, p) for p in ("double", "single")}
        if arguments.ace_jax:
            timers["ace-jax"] = jax_timer(arguments.ace_jax, atoms)
        medians = compare(timers, max(10, 3000 // len(atoms)), arguments.rounds)
        other = medians.pop("ace-jax", None)
        for precision, seconds in medians.items():
            note = "- | -" if other is None else f"{1e6 * other / len(atoms):.1f} | {other / seconds:.2f}x"
            print(f"| {len(atoms)} | {precision} | {1e6 * seconds / len(atoms):.1f} | {note} |")


def random_model(basis: AceBasis, members: int | None) -> SiteModel:
    """A model that takes as long as a fitted one."""
    values = np.random.default_rng(0).normal(size=(basis.n_functions, members or 1))
    coefficients = 1e-3 * values / basis.smoothness(4.0)[:, None]
    return ace_site_model(basis, coefficients if members else coefficients[:, 0])


def large(arguments: argparse.Namespace) -> None:
    basis = AceBasis(AceSettings(("Mo",), order=3, degree=(25, 21, 17)))
    model = random_model(basis, 8)
    print(f"{basis.n_functions} functions, committee of 8, {arguments.threads} threads, microseconds per atom and step")
    for repeats in ((2, 2, 4), (5, 5, 5)):
        atoms = bulk("Mo", "bcc", a=3.17, cubic=True) * repeats
        atoms.rattle(0.1, seed=1)
        timers = {precision: step_timer(model, atoms, precision) for precision in ("double", "single")}
        medians = compare(timers, max(10, 10000 // len(atoms)), arguments.rounds)
        print(len(atoms), "atoms:", {name: round(1e6 * each / len(atoms), 1) for name, each in medians.items()})


def growth(arguments: argparse.Namespace) -> None:
    base = {"symbols": ("Al", "Si"), "order": 3, "degree": 10, "members": 8, "size": 256}
    changes = [
        {},
        *({"order": order} for order in (2, 4)),
        *({"degree": degree} for degree in (6, 8, 12, 14)),
        *({"symbols": ("Al", "Si", "Cu", "Ni")[:n]} for n in (1, 3, 4)),
        *({"members": k} for k in (0, 32)),
        *({"size": size} for size in (32, 108, 500, 1372)),
    ]
    print("| changed | functions | products | us/atom and step, double |")
    print("| --- | --- | --- | --- |")
    for change in changes:
        case = {**base, **change}
        basis = AceBasis(AceSettings(case["symbols"], order=case["order"], degree=case["degree"], cutoff=5.5))
        atoms = alloy(case["size"], case["symbols"])
        timer = step_timer(random_model(basis, case["members"]), atoms, "double")
        seconds = compare({"": timer}, max(5, 1500 // len(atoms)), arguments.rounds)[""]
        name = ", ".join(f"{k} {len(v) if k == 'symbols' else v}" for k, v in change.items()) or "nothing"
        products = sum(map(len, basis.products))
        print(f"| {name} | {basis.n_functions} | {products} | {1e6 * seconds / len(atoms):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="a halberd .pt or a .yace file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 500])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ace-jax", help="a model file of ace-jax, to time its calculator beside ours")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.growth:
        growth(arguments)
    elif arguments.large:
        large(arguments)
    elif arguments.model:
        table(arguments)
    else:
        parser.error("give a model, --growth or --large")


if __name__ == "__main__":
    main()
