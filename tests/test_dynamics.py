"""Conservation laws and ensembles, on both backends and both platforms."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from openmm import unit

from halberd.plugins import HalberdCalculator, LearnedPotential
from halberd.potentials.constants import EV_PER_ANGSTROM3_IN_BAR, GAS_CONSTANT_KJ_PER_MOL_K
from halberd.potentials.sites.lennard_jones import lennard_jones
from halberd.samplers.runs.log import mean_and_error
from tests.conftest import topology_of

KJ = unit.kilojoules_per_mole
COMBINATIONS = [("torchforce", "CPU"), ("torchforce", "Reference"), ("python", "CPU"), ("python", "Reference")]


def eight_ethanols() -> Atoms:
    """72 atoms in a periodic box, the molecules a cutoff apart: the model was fitted to single molecules."""
    generator = np.random.default_rng(4)
    atoms = Atoms()
    for corner in np.ndindex(2, 2, 2):
        each = molecule("CH3CH2OH")
        each.rotate(generator.uniform(0, 360), generator.normal(size=3))
        each.translate(9.0 * np.array(corner) - each.positions.mean(axis=0))
        atoms += each
    atoms.set_cell([18.0] * 3)
    atoms.pbc = True
    return atoms


@pytest.mark.physical
@pytest.mark.parametrize(
    ("backend", "platform", "steps"),
    [
        (*COMBINATIONS[0], 400),
        (*COMBINATIONS[3], 400),
        pytest.param(*COMBINATIONS[0], 4000, marks=pytest.mark.long),
    ],
)
def test_energy_is_conserved(backend, platform, steps):
    """Drift below 1 % of the kinetic energy and no trend: over 0.2 ps, and over 2 ps on the default route."""
    topology, positions = topology_of(eight_ethanols())
    system = LearnedPotential("gfn2-chnof", precision="double").createSystem(topology, backend=backend)
    integrator = openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, 20.0, 40)
    context.setVelocitiesToTemperature(300, 2)
    integrator.step(100)
    total, kinetic = [], []
    for _ in range(steps // 10):
        integrator.step(10)
        state = context.getState(energy=True)
        kinetic.append(state.getKineticEnergy().value_in_unit(KJ))
        total.append(state.getPotentialEnergy().value_in_unit(KJ) + kinetic[-1])
    time = np.arange(len(total)) / len(total)
    scale = np.mean(kinetic)
    drift = np.polyfit(time, total, 1)[0]
    assert abs(drift) < 0.01 * scale
    first, second = np.array_split(np.array(total), 2)
    assert abs(second.mean() - first.mean()) < 0.005 * scale
    assert np.std(total) < 0.01 * scale


def langevin(
    system: openmm.System, positions: np.ndarray, platform: str, kelvin: float, friction: float, ps: float, seeds: tuple
) -> openmm.Context:
    """A Context with a thermostat, at temperature; the seeds are the thermostat's and the velocities'."""
    integrator = openmm.LangevinMiddleIntegrator(kelvin, friction, ps)
    integrator.setRandomNumberSeed(seeds[0])
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    context.setVelocitiesToTemperature(kelvin, seeds[1])
    return context


def argon(backend: str, **more) -> tuple[openmm.System, np.ndarray]:
    topology, positions = topology_of(bulk("Ar", "fcc", a=5.35, cubic=True) * (2, 2, 2))
    potential = LearnedPotential(lennard_jones([18]), backend=backend)
    return potential.createSystem(topology, **more), positions


def mean_temperature(context: openmm.Context, samples: int) -> tuple[float, float]:
    """Mean kinetic temperature, K, and its standard error, from a sample every five steps."""
    degrees_of_freedom = 3 * context.getSystem().getNumParticles()
    temperatures = []
    for _ in range(samples):
        context.getIntegrator().step(5)
        kinetic = context.getState(energy=True).getKineticEnergy().value_in_unit(KJ)
        temperatures.append(2 * kinetic / (degrees_of_freedom * GAS_CONSTANT_KJ_PER_MOL_K))
    return mean_and_error(np.array(temperatures))


@pytest.mark.physical
@pytest.mark.parametrize(("backend", "platform"), COMBINATIONS)
def test_temperature_is_the_thermostats(backend, platform):
    system, positions = argon(backend, removeCMMotion=False)
    context = langevin(system, positions, platform, 60, 5.0, 0.004, (11, 3))
    context.getIntegrator().step(300)
    mean, error = mean_temperature(context, 600)
    assert error < 1.5
    assert abs(mean - 60) < 3.5 * error


@pytest.mark.physical
@pytest.mark.long
def test_temperature_of_a_molecule_in_single_precision():
    topology, positions = topology_of(molecule("CH3CH2OH"))
    system = LearnedPotential("gfn2-chnof").createSystem(topology, removeCMMotion=False)
    context = langevin(system, positions, "CPU", 300, 20.0, 0.0005, (5, 5))
    context.getIntegrator().step(200)
    mean, error = mean_temperature(context, 500)
    assert error < 15
    assert abs(mean - 300) < 3.5 * error


@pytest.mark.physical
@pytest.mark.parametrize(("backend", "platform"), COMBINATIONS)
def test_volume_falls_with_pressure(backend, platform):
    """Monte Carlo barostat: the mean volume follows the equation of state of the crystal."""
    volumes = {}
    for pressure in (1.0, 4000.0):
        system, positions = argon(backend)
        barostat = openmm.MonteCarloBarostat(pressure, 15, 5)
        barostat.setRandomNumberSeed(2)
        system.addForce(barostat)
        context = langevin(system, positions, platform, 15, 5.0, 0.004, (1, 1))
        integrator = context.getIntegrator()
        integrator.step(500)
        samples = []
        for _ in range(100):
            integrator.step(10)
            samples.append(context.getState().getPeriodicBoxVolume()._value)
        volumes[pressure] = mean_and_error(np.array(samples))
    (low, low_error), (high, high_error) = volumes[1.0], volumes[4000.0]
    assert low - high > 5 * np.hypot(low_error, high_error)
    # Against the static lattice, which 15 K expand by a few per cent, less so under pressure.
    assert 1.0 < low / static_volume(1.0) < 1.10
    assert 1.0 < high / static_volume(4000.0) < 1.05


def static_volume(pressure: float) -> float:
    """Volume, nm^3, of the 32-atom cell that minimises energy + pressure * volume at rest."""
    calculator = HalberdCalculator(lennard_jones([18]))
    edges = np.linspace(4.6, 5.6, 201)
    enthalpies = []
    for edge in edges:
        cell = bulk("Ar", "fcc", a=edge)
        enthalpies.append(4 * calculator.evaluate(cell)["energy"] + pressure / EV_PER_ANGSTROM3_IN_BAR * edge**3)
    return 8 * float(edges[int(np.argmin(enthalpies))]) ** 3 / 1000


def test_barostat_with_mace(mace_files, crystal):
    topology, positions = topology_of(crystal)
    system = LearnedPotential(mace_files["zbl"]).createSystem(topology)
    system.addForce(openmm.MonteCarloBarostat(1.0, 300, 3))
    integrator = openmm.LangevinMiddleIntegrator(300, 5.0, 0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"))
    context.setPositions(positions)
    before = context.getState().getPeriodicBoxVolume()._value
    integrator.step(40)
    state = context.getState(positions=True, energy=True)
    assert np.isfinite(state.getPositions(asNumpy=True)._value).all()
    assert state.getPeriodicBoxVolume()._value != before
