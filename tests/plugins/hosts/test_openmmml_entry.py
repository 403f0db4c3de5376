"""openmm-ml finds halberd through its entry points and gets the forces halberd gives by itself."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import openmm
import pytest
from ase.build import molecule
from openmm import app, unit
from openmmml import MLPotential

from halberd.plugins import LearnedPotential
from halberd.plugins.forces.topology import topology_from_atoms
from halberd.potentials.errors import ConfigurationError, ModelFileError, UnknownElementError

REFERENCE = openmm.Platform.getPlatformByName("Reference")


def evaluated(system, positions, **parameters):
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), REFERENCE)
    context.setPositions(positions)
    for name, value in parameters.items():
        context.setParameter(name, value)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, np.asarray(state.getForces(asNumpy=True)._value)


def test_entry_points_load_without_torch():
    code = """
import sys, openmmml
assert {"halberd", "gfn2-chnof"} <= set(openmmml.MLPotential._implFactories)
assert "halberd.plugins.hosts.openmmml_entry" in sys.modules
assert "torch" not in sys.modules
assert not any(name.startswith("halberd.potentials.") for name in sys.modules if name != "halberd.potentials.faces")
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("backend", ["torchforce", "python"])
def test_systems_are_those_of_halberd(backend, mace_files, ethanol):
    topology, positions = topology_from_atoms(ethanol)
    model = str(mace_files["scale-shift"])
    theirs = MLPotential("halberd", modelPath=model).createSystem(topology, backend=backend)
    ours = LearnedPotential(model).createSystem(topology, backend=backend)
    assert theirs.getNumForces() == ours.getNumForces() == 2
    energy, forces = evaluated(theirs, positions)
    expected, expected_forces = evaluated(ours, positions)
    assert energy == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(forces, expected_forces, atol=1e-9)
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(theirs))
    assert evaluated(again, positions)[0] == pytest.approx(energy, rel=1e-12)


def test_keywords_of_openmm_ml(mace_files, ethanol):
    topology, positions = topology_from_atoms(ethanol)
    model = str(mace_files["scale-shift"])
    potential = MLPotential("halberd", modelPath=model, precision="double")
    total, _ = evaluated(potential.createSystem(topology, returnEnergyType="energy"), positions)
    interaction, _ = evaluated(potential.createSystem(topology, returnEnergyType="interaction_energy"), positions)
    expected, _ = evaluated(LearnedPotential(model).createSystem(topology, energy="total"), positions)
    assert total == pytest.approx(expected, rel=1e-9)
    assert abs(total - interaction) > 1e3
    grouped = MLPotential("halberd", modelPath=model, forceGroup=5)
    system = grouped.createSystem(topology, removeCMMotion=False)
    assert [force.getForceGroup() for force in system.getForces()] == [5]


def test_a_pretrained_model_by_name_and_a_committee(mace_files, ethanol):
    topology, positions = topology_from_atoms(ethanol)
    energy, _ = evaluated(MLPotential("gfn2-chnof").createSystem(topology), positions)
    expected, _ = evaluated(LearnedPotential("gfn2-chnof").createSystem(topology), positions)
    assert energy == pytest.approx(expected, rel=1e-9)
    members = [str(mace_files["member0"]), str(mace_files["member1"])]
    energy, _ = evaluated(MLPotential("halberd", modelPath=members).createSystem(topology), positions)
    alone = [evaluated(MLPotential("halberd", modelPath=m).createSystem(topology), positions)[0] for m in members]
    assert energy == pytest.approx(np.mean(alone), rel=1e-9)


@pytest.mark.parametrize("interpolate", [False, True])
def test_mixed_systems(interpolate):
    """Ethanol as the learned region beside a classical argon atom, against halberd's own mixed System."""
    from ase import Atoms

    ethanol = molecule("CH3CH2OH")
    atoms = Atoms([*ethanol.symbols, "Ar"], [*ethanol.positions, [4.0, 0.5, 0.3]])
    topology, positions = topology_from_atoms(atoms)
    classical = openmm.System()
    for atom in topology.atoms():
        classical.addParticle(atom.element.mass)
    bonds = openmm.HarmonicBondForce()
    bonds.addBond(0, 1, 0.15, 2e5)
    classical.addForce(bonds)
    nonbonded = openmm.NonbondedForce()
    for i in range(10):
        nonbonded.addParticle(0.1 * (-1) ** i, 0.3, 0.4)
    classical.addForce(nonbonded)
    region = list(range(9))
    theirs = MLPotential("gfn2-chnof").createMixedSystem(topology, classical, region, interpolate=interpolate)
    ours = LearnedPotential("gfn2-chnof").createMixedSystem(topology, classical, region, interpolate=interpolate)
    for parameters in ({},) if not interpolate else ({"lambda_interpolate": x} for x in (0.0, 0.3, 1.0)):
        energy, forces = evaluated(theirs, positions, **parameters)
        expected, expected_forces = evaluated(ours, positions, **parameters)
        assert energy == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(forces, expected_forces, rtol=1e-5, atol=1e-3)


def test_a_periodic_run(mace_files, crystal):
    topology, positions = topology_from_atoms(crystal)
    system = MLPotential("halberd", modelPath=str(mace_files["zbl"])).createSystem(topology)
    assert system.usesPeriodicBoundaryConditions()
    integrator = openmm.LangevinMiddleIntegrator(100, 1, 0.0001)
    simulation = app.Simulation(topology, system, integrator, REFERENCE)
    simulation.context.setPositions(positions)
    simulation.step(3)
    assert np.isfinite(simulation.context.getState(energy=True).getPotentialEnergy() / unit.kilojoules_per_mole)


def test_mistakes_are_named(mace_files, ethanol):
    topology, _ = topology_from_atoms(ethanol)
    model = str(mace_files["scale-shift"])
    with pytest.raises(ConfigurationError, match="Did you mean 'precision'"):
        MLPotential("halberd", modelPath=model, precison="single")
    with pytest.raises(ConfigurationError, match="Did you mean 'precision'"):
        MLPotential("halberd", modelPath=model).createSystem(topology, precison="single")
    with pytest.raises(ConfigurationError, match="needs a model"):
        MLPotential("halberd")
    with pytest.raises(ConfigurationError, match="is a pretrained model"):
        MLPotential("gfn2-chnof", modelPath=model)
    with pytest.raises(ConfigurationError, match="returnEnergyType is 'both'"):
        MLPotential("halberd", modelPath=model).createSystem(topology, returnEnergyType="both")
    with pytest.raises(ModelFileError):
        MLPotential("halberd", modelPath="nowhere.model")
    salt, _ = topology_from_atoms(molecule("NaCl"))
    with pytest.raises(UnknownElementError, match="Na"):
        MLPotential("halberd", modelPath=model).createSystem(salt)
