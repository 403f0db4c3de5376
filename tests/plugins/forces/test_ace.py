"""A fitted linear ACE inside OpenMM: conservation, ensembles, files."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import openmm
import pytest
import torch
from ase.build import bulk
from ase.calculators.lj import LennardJones

from halberd.plugins import HalberdCalculator, LearnedPotential
from halberd.potentials.ace.fit import AceFit
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.frames.labelled import Frame
from tests.conftest import topology_of


@pytest.fixture(scope="module")
def argon_ace(tmp_path_factory):
    """A committee of three fitted to Lennard-Jones argon, solid and dilute."""
    frames = []
    for number in range(24):
        atoms = bulk("Ar", cubic=True, a=5.1 + 0.04 * (number % 12)) * (2, 2, 1)
        atoms.rattle(0.1 + 0.02 * (number % 4), seed=number)
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=6.4, smooth=True)
        virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
        frames.append(Frame(atoms, atoms.get_potential_energy(), atoms.get_forces(), virial, "default"))
    fit = AceFit(AceSettings(("Ar",), order=2, degree=8, cutoff=5.5, pair_cutoff=6.5, pair_degree=14))
    fit.add(frames)
    path = tmp_path_factory.mktemp("ace") / "argon.pt"
    fit.solve(committee=3, seed=1).model.save(path)
    return path


def crystal(edge=5.35):
    atoms = bulk("Ar", cubic=True, a=edge) * (3, 3, 3)
    atoms.rattle(0.05, seed=1)
    return atoms


def context_of(system, positions, integrator, platform="CPU"):
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    return context


@pytest.mark.parametrize("backend", ["torchforce", "python"])
@pytest.mark.parametrize("platform", ["CPU", "Reference"])
def test_force_equals_the_calculator(argon_ace, backend, platform):
    atoms = crystal()
    topology, positions = topology_of(atoms)
    system = LearnedPotential(argon_ace).createSystem(topology, backend=backend)
    state = context_of(system, positions, openmm.VerletIntegrator(0.001), platform).getState(energy=True, forces=True)
    results = HalberdCalculator(argon_ace, energy="interaction").evaluate(atoms)
    per_ev = 96.48533212331
    assert state.getPotentialEnergy()._value == pytest.approx(results["energy"] * per_ev, rel=1e-6)
    forces = state.getForces(asNumpy=True)._value / (10 * per_ev)
    assert np.abs(forces - results["forces"]).max() < 1e-5
    assert results["energies_committee"].std() > 0


@pytest.mark.physical
def test_energy_is_conserved(argon_ace):
    """8 ps at 40 K: no drift, no trend."""
    topology, positions = topology_of(crystal())
    system = LearnedPotential(argon_ace).createSystem(topology)
    integrator = openmm.VerletIntegrator(0.004)
    context = context_of(system, positions, integrator)
    context.setVelocitiesToTemperature(60, 2)
    integrator.step(200)
    total, kinetic = [], []
    for _ in range(200):
        integrator.step(10)
        state = context.getState(energy=True)
        kinetic.append(state.getKineticEnergy()._value)
        total.append(state.getPotentialEnergy()._value + kinetic[-1])
    scale = np.mean(kinetic)
    first, second = np.array_split(np.array(total), 2)
    assert abs(second.mean() - first.mean()) < 0.002 * scale
    assert np.std(total) < 0.005 * scale


@pytest.mark.physical
def test_pressure_compresses(argon_ace):
    volumes = {}
    for bar in (1.0, 3000.0):
        topology, positions = topology_of(crystal())
        system = LearnedPotential(argon_ace).createSystem(topology)
        barostat = openmm.MonteCarloBarostat(bar, 15, 5)
        barostat.setRandomNumberSeed(4)
        system.addForce(barostat)
        integrator = openmm.LangevinMiddleIntegrator(15, 5.0, 0.004)
        integrator.setRandomNumberSeed(3)
        context = context_of(system, positions, integrator)
        context.setVelocitiesToTemperature(15, 1)
        integrator.step(600)
        samples = []
        for _ in range(30):
            integrator.step(20)
            samples.append(context.getState().getPeriodicBoxVolume()._value)
        volumes[bar] = np.mean(samples)
    # Against the static lattice of the same model.
    edges = np.linspace(4.9, 5.5, 121)
    calculator = HalberdCalculator(argon_ace, energy="interaction")
    energies = np.array([4 * calculator.evaluate(bulk("Ar", a=a))["energy"] for a in edges])
    for bar, volume in volumes.items():
        static = 27e-3 * edges[np.argmin(energies + bar / 1602176.6 * edges**3)] ** 3
        assert 0.99 < volume / static < 1.06
    assert volumes[3000.0] < 0.97 * volumes[1.0]


def test_xml_round_trip_in_a_fresh_process(argon_ace, tmp_path):
    topology, positions = topology_of(crystal())
    system = LearnedPotential(argon_ace).createSystem(topology)
    energy = context_of(system, positions, openmm.VerletIntegrator(0.001)).getState(energy=True).getPotentialEnergy()
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    np.save(tmp_path / "positions.npy", positions)
    code = f"""
import numpy as np, openmm
from halberd.plugins import LearnedPotential
system = openmm.XmlSerializer.deserialize(open({str(tmp_path / "system.xml")!r}).read())
context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("CPU"))
context.setPositions(np.load({str(tmp_path / "positions.npy")!r}))
context.getIntegrator().step(2)
context.setPositions(np.load({str(tmp_path / "positions.npy")!r}))
print(repr(context.getState(energy=True).getPotentialEnergy()._value))
"""
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) == pytest.approx(energy._value, rel=1e-12)


def test_restart_repeats_the_run(argon_ace, tmp_path):
    topology, positions = topology_of(crystal())
    ends = []
    for interrupted in (False, True):
        system = LearnedPotential(argon_ace).createSystem(topology)
        integrator = openmm.LangevinMiddleIntegrator(40, 1.0, 0.004)
        integrator.setRandomNumberSeed(6)
        context = context_of(system, positions, integrator)
        context.setVelocitiesToTemperature(40, 5)
        integrator.step(20)
        if interrupted:
            (tmp_path / "state.chk").write_bytes(context.createCheckpoint())
            integrator.step(7)
            context.loadCheckpoint((tmp_path / "state.chk").read_bytes())
        integrator.step(20)
        ends.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
    assert np.array_equal(*ends)


def test_bias_against_disagreement_is_one_force(argon_ace):
    """A reduction of the members other than the mean: forces are its gradient."""
    from halberd.plugins.forces.builder import build_force
    from halberd.potentials import load

    class MeanMinusSpread(torch.nn.Module):
        def forward(self, energies: torch.Tensor) -> torch.Tensor:
            mean = energies.mean()
            return mean - 3.0 * torch.sqrt(((energies - mean) ** 2).mean())

    atoms = crystal()
    _topology, positions = topology_of(atoms)
    system = openmm.System()
    for _ in atoms:
        system.addParticle(39.9)
    system.setDefaultPeriodicBoxVectors(*(np.array(atoms.cell) / 10))
    model = load(argon_ace)
    system.addForce(build_force(model, atoms.numbers, periodic=True, reduction=MeanMinusSpread()))
    context = context_of(system, positions, openmm.VerletIntegrator(0.001))
    forces = context.getState(forces=True).getForces(asNumpy=True)._value
    positions = np.array(positions)
    for atom, axis in [(0, 0), (17, 2)]:
        energies = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[atom, axis] += sign * 1e-5
            context.setPositions(moved)
            energies.append(context.getState(energy=True).getPotentialEnergy()._value)
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / 2e-5, rel=1e-5, abs=1e-3)
