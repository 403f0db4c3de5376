"""What production costs: PLUMED per step, watching a model's uncertainty, checkpoints.

    python tests/benchmarks/bench_production.py              # all four, some minutes
    python tests/benchmarks/bench_production.py plumed
    python tests/benchmarks/bench_production.py watch --model MODEL.pt   # a committee; one is fitted if none is given

Every number is a ratio to a plain run measured in the same rounds, interleaved, medians over rounds.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import openmm
from ase import Atoms
from ase.build import bulk, molecule
from openmm import app

from halberd.plugins import HalberdCalculator, LearnedPotential, PlumedForce, UncertaintyGuard, topology_from_atoms
from halberd.potentials import Frame, LastLayerFit, lennard_jones, load
from halberd.samplers import MDSettings
from halberd.samplers.md.run import MolecularDynamics
from halberd.samplers.runs.restart import write_checkpoint

SCRIPT = (
    "d: DISTANCE ATOMS=1,2\nMETAD ARG=d SIGMA=0.02 HEIGHT=0.5 PACE=500 FILE=HILLS\nPRINT ARG=d STRIDE=500 FILE=COLVAR"
)


def fluid(n: int, threads: int, plumed: str | None = None) -> tuple[openmm.Context, Any]:
    """Lennard-Jones particles at the density of a liquid, on the CPU platform."""
    system = openmm.System()
    edge = (n / 20.0) ** (1 / 3)
    system.setDefaultPeriodicBoxVectors(*(edge * np.eye(3)))
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(0.9)
    for _ in range(n):
        system.addParticle(39.9)
        force.addParticle(0.0, 0.34, 1.0)
    system.addForce(force)
    bias = None
    if plumed is not None:
        bias = PlumedForce(SCRIPT, system, timestep=0.002, folder=plumed)
        system.addForce(bias)
    platform = openmm.Platform.getPlatformByName("CPU")
    integrator = openmm.LangevinMiddleIntegrator(100, 1, 0.002)
    context = openmm.Context(system, integrator, platform, {"Threads": str(threads)})
    side = int(np.ceil(n ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n] * edge / side
    context.setPositions(grid)
    context.setVelocitiesToTemperature(100, 1)
    return context, bias


def rounds(contexts: dict[str, Any], steps: int, n_rounds: int) -> dict[str, float]:
    """Milliseconds per step, medians of interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in contexts}
    for turn in range(n_rounds + 1):
        for name, step in contexts.items():
            start = time.perf_counter()
            step(steps)
            if turn:
                times[name].append(1e3 * (time.perf_counter() - start) / steps)
    return {name: statistics.median(values) for name, values in times.items()}


def bench_plumed(threads: int) -> None:
    """A metadynamics bias on the distance of two atoms, against the plain fluid."""
    print(f"\nPLUMED, 2-atom variable, Lennard-Jones fluid, CPU platform, {threads} thread(s)")
    print(f"{'atoms':>8} {'plain ms':>9} {'with ms':>9} {'added us':>9} {'ratio':>6}")
    for n, steps in ((1000, 400), (50_000, 8)):
        with tempfile.TemporaryDirectory() as folder:
            plain, _ = fluid(n, threads)
            biased, bias = fluid(n, threads, folder)
            found = rounds({"plain": plain.getIntegrator().step, "biased": biased.getIntegrator().step}, steps, 9)
            bias.close()
        added = 1e3 * (found["biased"] - found["plain"])
        print(
            f"{n:8d} {found['plain']:9.3f} {found['biased']:9.3f} {added:9.0f} {found['biased'] / found['plain']:6.3f}"
        )


def committee(path: str | None) -> Any:
    """A committee of eight on the last layer of the pretrained model, or the one that was given."""
    if path is not None:
        return load(path)
    base, reference = load("gfn2-chnof"), HalberdCalculator("gfn2-chnof")
    frames = []
    for seed in range(4):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.08, seed=seed)
        results = reference.evaluate(atoms)
        frames.append(Frame(atoms, results["energy"], results["forces"], None, "default"))
    fit = LastLayerFit(base)
    fit.add(frames)
    return fit.solve(committee=8, seed=0).model


def ethanols(count: int) -> Atoms:
    """Molecules of ethanol on a grid, far enough apart."""
    atoms = Atoms()
    for k in range(count):
        one = molecule("CH3CH2OH")
        one.translate([6.0 * (k % 3), 6.0 * (k // 3), 0.0])
        atoms += one
    return atoms


def simulation_of(model: Any, count: int) -> app.Simulation:
    """Ethanol, driven by a model in single precision."""
    topology, positions = topology_from_atoms(ethanols(count))
    system = LearnedPotential(model).createSystem(topology, precision="single")
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName("CPU"))
    simulation.context.setPositions(positions)
    simulation.context.setVelocitiesToTemperature(300, 1)
    return simulation


def bench_watch(path: str | None) -> None:
    """A committee run watched at several strides, against the run that is not."""
    model = committee(path).to(dtype=load("gfn2-chnof", precision="single").dtype)
    print("\nwatching, 6 ethanols, committee of 8 on the last layer, single precision")
    print(f"{'quantity':>16} {'stride':>7} {'ms per step':>12} {'ratio':>6}")
    simulations = {("plain", 0): simulation_of(model, 6)}
    for quantity in ("max_f", "sigma_per_atom"):
        for stride in (10, 50, 200):
            simulation = simulation_of(model, 6)
            guard = UncertaintyGuard(model, stride, 1e9, quantity=quantity)
            guard.warm_up(simulation)
            simulation.reporters.append(guard)
            simulations[quantity, stride] = simulation
    found = rounds({str(key): each.step for key, each in simulations.items()}, 200, 3)
    plain = found[str(("plain", 0))]
    for key in simulations:
        print(f"{key[0]:>16} {key[1]:7d} {found[str(key)]:12.3f} {found[str(key)] / plain:6.3f}")


def bench_checkpoint() -> None:
    """Writing a checkpoint, fsync included, and the new Context that a barostat's random stream asks for."""
    print(f"\n{'checkpoint of atoms':>20} {'ms':>8} {'steps of the plain fluid':>25}")
    for n in (1000, 50_000):
        context, _ = fluid(n, 1)
        topology = app.Topology()
        residue = topology.addResidue("X", topology.addChain())
        for _ in range(n):
            topology.addAtom("Ar", app.Element.getBySymbol("Ar"), residue)

        class Simulation:
            """The two things a checkpoint reads."""

            currentStep = 0

        simulation: Any = Simulation()
        simulation.context = context
        step = rounds({"plain": context.getIntegrator().step}, 8, 3)["plain"]
        with tempfile.TemporaryDirectory() as folder:
            times = []
            for _ in range(7):
                start = time.perf_counter()
                write_checkpoint(Path(folder) / "restart.zip", simulation, {}, [])
                times.append(1e3 * (time.perf_counter() - start))
        print(f"{n:20d} {statistics.median(times):8.1f} {statistics.median(times) / step:25.1f}")
    simulation = simulation_of(load("gfn2-chnof"), 6)
    simulation.step(20)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        everything = simulation.context.createCheckpoint()
        simulation.context.reinitialize(preserveState=True)
        for _ in range(3):
            simulation.context.getState(energy=True, forces=True)
        simulation.context.loadCheckpoint(everything)
        times.append(1e3 * (time.perf_counter() - start))
    print(f"a new Context at constant pressure, 6 ethanols: {statistics.median(times):.0f} ms")


class Clock:
    """Adds up the seconds that functions take, by name, without what is measured within them."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._within = [0.0]

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Measure a method of an object or a class."""
        inner = getattr(owner, method)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._within.append(0.0)
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                self.seconds[name] += elapsed - self._within.pop()
                self._within[-1] += elapsed

        setattr(owner, method, timed)


def ethanol_box() -> Atoms:
    """Eight molecules of ethanol, periodic."""
    atoms = ethanols(8)
    atoms.set_cell([18.0] * 3)
    atoms.pbc = True
    return atoms


def argon_box() -> Atoms:
    """864 atoms of solid argon."""
    return bulk("Ar", "fcc", a=5.3, cubic=True) * (6, 6, 6)


def bench_run(n_rounds: int = 5) -> None:
    """What ``halberd md`` adds to the steps of OpenMM with its default settings, in the same run: no clock of another.

    ``steps`` is what the integrator takes, the null row; everything else is a share of it.
    """
    systems = {
        "72 atoms, MACE": (ethanol_box(), "gfn2-chnof", 500),
        "864 atoms, Lennard-Jones": (argon_box(), None, 500),
    }
    parts = ("guards", "rows and frames", "checkpoints", "the rest")
    print("\nhalberd md with its defaults, % of the steps of OpenMM: median (range) over runs")
    print(f"{'system':26s} {'ms a step':>9} " + " ".join(f"{name:>22}" for name in (*parts, "all")))
    for label, (atoms, model, steps) in systems.items():
        found: dict[str, list[float]] = {name: [] for name in ("step", *parts, "all")}
        for seed in range(n_rounds):
            with tempfile.TemporaryDirectory() as folder:
                start = Path(folder) / "start.extxyz"
                ase.io.write(start, atoms, format="extxyz")
                if model is None:
                    lennard_jones([18]).save(Path(folder) / "lj.pt")
                chosen = model or str(Path(folder) / "lj.pt")
                run = MolecularDynamics(
                    MDSettings(str(start), chosen, f"{folder}/run", steps=steps, seed=seed + 1, temperature=100.0)
                )
                measured = shares_of(run)
            for name, value in measured.items():
                found[name].append(value)
        shown = [f"{statistics.median(v):8.2f} ({min(v):5.2f}, {max(v):5.2f})" for v in list(found.values())[1:]]
        print(f"{label:26s} {statistics.median(found['step']):9.2f} " + " ".join(f"{each:>22}" for each in shown))


def shares_of(run: MolecularDynamics) -> dict[str, float]:
    """Make a run; milliseconds of a bare step, and what each part of the loop costs in % of the steps."""
    clock = Clock()
    clock.watch(run.simulation.integrator, "step", "steps")
    clock.watch(run._good, "remember", "guards")
    clock.watch(run, "_checkpoint", "checkpoints")
    clock.watch(run.simulation, "_generate_reports", "rows and frames")
    clock.watch(run, "_loop", "the rest")
    run.run(progress=False)
    seconds = dict(clock.seconds)
    steps = seconds.pop("steps")
    shares = {name: 100.0 * value / steps for name, value in seconds.items()}
    return {"step": 1e3 * steps / run.settings.steps, **shares, "all": sum(shares.values())}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["plumed", "watch", "checkpoint", "run"])
    parser.add_argument("--model", help="committee for 'watch'")
    parser.add_argument("--threads", type=int, default=1, help="of OpenMM's CPU platform for 'plumed'")
    arguments = parser.parse_args()
    if "plumed" in arguments.what:
        bench_plumed(arguments.threads)
    if "watch" in arguments.what:
        bench_watch(arguments.model)
    if "checkpoint" in arguments.what:
        bench_checkpoint()
    if "run" in arguments.what:
        bench_run()


if __name__ == "__main__":
    main()
