"""What the benchmarks of whole steps share: boxes of water, things that make steps, and rounds of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
from ase import Atoms, units
from bench_multi_ace import SPACING, water_grid

Step = Callable[[int], None]


def water(n_atoms: int) -> Atoms:
    """Molecules on a grid, in a box that ends with its last layer."""
    atoms, side = water_grid(n_atoms)
    layers = int(np.ceil(n_atoms / 3 / side**2))
    atoms.set_cell([SPACING * side, SPACING * side, SPACING * layers])
    atoms.pbc = True
    return atoms


def slow_stepper(system: openmm.System, positions: np.ndarray, platform: str) -> Step:
    """Steps of velocities too small to matter to a potential that nobody fitted, always from the same start."""
    context = openmm.Context(system, openmm.VerletIntegrator(1e-4), openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    context.setVelocitiesToTemperature(30.0, 1)
    velocities = context.getState(velocities=True).getVelocities(asNumpy=True)

    def step(n: int) -> None:
        context.setPositions(positions)
        context.setVelocities(velocities)
        context.getIntegrator().step(n)
        context.getState()

    return step


def ase_stepper(atoms: Atoms, calculator: Any) -> Step:
    """Steps of ASE's integrator."""
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
    from ase.md.verlet import VelocityVerlet

    mover = atoms.copy()
    mover.calc = calculator

    def step(n: int) -> None:
        mover.positions = atoms.positions
        MaxwellBoltzmannDistribution(mover, temperature_K=30, rng=np.random.default_rng(1))
        VelocityVerlet(mover, 0.1 * units.fs).run(max(1, n - 1))

    return step


def measured(runners: dict[str, Step], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds per step in interleaved rounds."""
    steps = {}
    for name, step in runners.items():
        step(4)  # TorchScript optimises itself during the first calls
        begun = time.perf_counter()
        step(2)
        steps[name] = max(2, int(seconds / ((time.perf_counter() - begun) / 2)))
    samples: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, step in runners.items():
            begun = time.perf_counter()
            step(steps[name])
            samples[name].append((time.perf_counter() - begun) / steps[name])
    return samples
