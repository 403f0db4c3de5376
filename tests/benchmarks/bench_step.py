"""Time per step and atom of one MACE model: halberd's TorchForce against its peers, in one run.

Peers
-----
mace-torch
    The ASE calculator that comes with MACE: a neighbour list by matscipy at every call, eager network.
openmm-ml
    ``MLPotential("mace")``: the same, called from an ``openmm.PythonForce``. Skipped with a note if not installed
    (``pip install --no-deps --no-binary openmmml openmmml==1.7``).

Run ``python tests/benchmarks/bench_step.py MODEL.model [--threads 1 2] [--precision single double]``. Every peer and
size is measured in interleaved rounds in one process, so that a machine that drifts drifts for all of them; compare
the ratios. ``share`` is the part of halberd's step that is not the network: neighbour list, unit conversions, engine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet

from halberd.plugins import LearnedPotential, topology_from_atoms
from halberd.potentials.loading import import_mace
from halberd.potentials.sites.verlet_list import NeighborList

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


def liquid(n_atoms: int, seed: int = 0) -> Atoms:
    """Ethanol and water near liquid density, periodic, with the number of atoms asked for (to one molecule)."""
    generator = np.random.default_rng(seed)
    ethanol, water = molecule("CH3CH2OH"), molecule("H2O")
    molecules = [ethanol] * (n_atoms // 9)
    molecules += [water] * ((n_atoms - 9 * len(molecules)) // 3)
    side = int(np.ceil(len(molecules) ** (1 / 3)))
    spacing = 4.55 if side > 1 else 6.5
    atoms = Atoms()
    for index, each in enumerate(molecules):
        copy = each.copy()
        copy.rotate(generator.uniform(0, 360), generator.normal(size=3))
        cell = np.array([index % side, index // side % side, index // side**2])
        copy.translate(spacing * cell - copy.positions.mean(axis=0))
        atoms += copy
    layers = int(np.ceil(len(molecules) / side**2))
    rows = side if layers > 1 else int(np.ceil(len(molecules) / side))
    atoms.set_cell(spacing * np.array([side, rows, layers]))
    atoms.pbc = True
    return atoms


def in_precision(model: str, precision: str) -> str:
    """Write the model in a precision; openmm-ml 1.7 does not convert the ones it reads."""
    dtype = {"single": torch.float32, "double": torch.float64}[precision]
    path = Path(tempfile.mkdtemp()) / f"{precision}.model"
    torch.save(torch.load(model, map_location="cpu", weights_only=False).to(dtype), path)
    return str(path)


def openmm_stepper(
    system: openmm.System,
    positions: np.ndarray,
    platform: str = "CPU",
    timestep: float = 0.0005,
    temperature: float = 300.0,
) -> Callable[[int], None]:
    """Steps, always from the same start; a call returns when they are done."""
    context = openmm.Context(system, openmm.VerletIntegrator(timestep), openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    context.setVelocitiesToTemperature(temperature, 1)
    velocities = context.getState(velocities=True).getVelocities(asNumpy=True)

    def step(n: int) -> None:
        context.setPositions(positions)
        context.setVelocities(velocities)
        context.getIntegrator().step(n)
        context.getState()

    return step


def runners(model: str, atoms: Atoms, precision: str) -> dict:
    """Name -> function that makes n steps from the start.

    Every call starts from the same positions: the model need not be one that keeps this liquid together, and all peers
    must see the same number of neighbours.
    """
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from mace.calculators import MACECalculator

    found = {}
    topology, positions = topology_from_atoms(atoms)
    system = LearnedPotential(model, precision=precision).createSystem(topology)
    found["halberd"] = openmm_stepper(system, positions)
    mover = atoms.copy()
    dtype = {"single": "float32", "double": "float64"}[precision]
    with contextlib.redirect_stdout(io.StringIO()):
        mover.calc = MACECalculator(model_paths=model, device="cpu", default_dtype=dtype)

    def step(n: int) -> None:
        mover.positions = atoms.positions
        MaxwellBoltzmannDistribution(mover, temperature_K=300, rng=np.random.default_rng(1))
        VelocityVerlet(mover, 0.5 * units.fs).run(n - 1)  # run(n) evaluates n + 1 times

    found["mace-torch"] = step
    try:
        from openmmml import MLPotential

        system = MLPotential("mace", modelPath=model).createSystem(
            topology, precision=precision, returnEnergyType="interaction_energy"
        )
        found["openmm-ml"] = openmm_stepper(system, positions)
    except ImportError:
        print("openmm-ml is not installed and is left out")
    return found


def bare_network(model: str, atoms: Atoms, precision: str) -> Callable[[int], None]:
    """Evaluate energy and gradient of the network alone, on fixed edges."""
    site_model = LearnedPotential(model, precision=precision).model(set(atoms.numbers.tolist()))
    module = torch.jit.freeze(site_model.scripted().eval())
    species = site_model.species_of(atoms.numbers)
    search = NeighborList(site_model.cutoff, 0.0)
    cell, periodic = torch.tensor(atoms.cell.array), torch.tensor([True] * 3)
    edge_index, vectors = search(torch.tensor(atoms.positions), cell, periodic)
    vectors = vectors.to(site_model.dtype).requires_grad_(True)

    def evaluate(n: int) -> None:
        for _ in range(n):
            torch.autograd.grad(module(species, edge_index, vectors).sum(), vectors)

    return evaluate


def measure(functions: dict, rounds: int) -> dict[str, float]:
    """Median seconds per step, in interleaved rounds of a few steps."""
    steps = {}
    for name, step in functions.items():
        step(6)  # TorchScript optimises itself during the first calls
        start = time.perf_counter()
        step(3)
        steps[name] = max(4, int(0.5 / ((time.perf_counter() - start) / 3)))
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, step in functions.items():
            start = time.perf_counter()
            step(steps[name])
            samples[name].append((time.perf_counter() - start) / steps[name])
    return {name: float(np.median(values)) for name, values in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a mace-torch .model file with H, C and O")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 100, 500])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precision", nargs="+", default=["double", "single"])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    import_mace("run the benchmark")
    print("threads precision atoms | us/atom/step: halberd  mace-torch  openmm-ml | speed-up over each | share")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for precision in arguments.precision:
            model = in_precision(arguments.model, precision)
            for size in arguments.sizes:
                atoms = liquid(size)
                functions = {**runners(model, atoms, precision), "network": bare_network(model, atoms, precision)}
                medians = measure(functions, arguments.rounds)
                network = medians["network"]
                per_atom = {name: 1e6 * value / len(atoms) for name, value in medians.items()}
                ours = medians["halberd"]
                peers = [name for name in ("mace-torch", "openmm-ml") if name in medians]
                print(
                    f"{threads:7d} {precision:>9} {len(atoms):5d} | {per_atom['halberd']:21.0f}"
                    + "".join(f"{per_atom[name]:12.0f}" for name in peers)
                    + " | "
                    + " ".join(f"{medians[name] / ours:8.2f}x" for name in peers)
                    + f" | {100 * (1 - network / ours):5.1f} %",
                    flush=True,
                )


if __name__ == "__main__":
    main()
