"""Variables made from models: values against independent evaluations, gradients against finite differences."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from ase import Atoms
from ase.build import molecule
from openmm import app, unit
from openmm.app.metadynamics import BiasVariable, Metadynamics

from halberd.plugins import HalberdCalculator
from halberd.plugins.forces.topology import topology_from_atoms
from halberd.plugins.forces.variables import (
    committee_sigma,
    descriptor_component,
    largest_force_uncertainty,
    similarity_log_density,
)
from halberd.potentials import load
from halberd.potentials.ace.fit import AceFit
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.committees.disagreement import disagreement
from halberd.potentials.errors import ConfigurationError, ModelError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.mace.descriptor import mace_descriptor
from halberd.potentials.simgen.reference_set import ReferenceSet
from halberd.potentials.simgen.score import SimilarityScore
from halberd.potentials.sites.block_list import BlockNeighbors


@pytest.fixture(scope="module")
def committee(mace_files):
    return load([str(mace_files[f"member{k}"]) for k in range(2)])


@pytest.fixture(scope="module")
def single(mace_files):
    return load(str(mace_files["plain"]))


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """A linear ACE with a committee, run by the compiled operator where there is one."""
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(6):
        atoms = molecule("CH3CH2OH")
        atoms.positions += 0.1 * generator.standard_normal(atoms.positions.shape)
        frames.append(Frame(atoms, generator.normal(), generator.standard_normal((9, 3)), None, "default"))
    fit = AceFit(AceSettings(("H", "C", "O"), cutoff=4.0, order=2, degree=4))
    fit.add(frames)
    return fit.solve(committee=4, seed=1)


NAMES = ("sigma", "largest", "smooth", "descriptor", "similarity")


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_differences_of_values(name, periodic, committee, single, ethanol):
    atoms = ethanol.copy()
    if periodic:  # smaller than twice the cutoff: images count
        atoms.set_cell([[6.0, 0, 0], [0.5, 6.2, 0], [0.3, -0.4, 6.5]])
        atoms.pbc = True
    topology, positions = topology_from_atoms(atoms)
    box = None
    if periodic:
        box = np.array(topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer))
    if name == "similarity":  # the shipped references hold more elements than the tiny models know
        some = ReferenceSet.from_atoms([molecule("CH3CH2OH"), molecule("CH3OCH3")], "two")
        variable = similarity_log_density(single, topology, some, 1.0)
    else:
        wanted = {key: value for key, value in makers(committee, single, topology).items() if key == name}
        variable = wanted[name]()
    value, gradient = variable.evaluate(positions, box)
    assert np.isfinite(value)
    generator = np.random.default_rng(5)
    for _ in range(3):
        direction = generator.standard_normal(positions.shape)
        step = 1e-5
        up, _ = variable.evaluate(positions + step * direction, box)
        down, _ = variable.evaluate(positions - step * direction, box)
        slope = float((gradient * direction).sum())
        assert (up - down) / (2 * step) == pytest.approx(slope, rel=2e-5, abs=1e-6 * np.abs(gradient).max())


def makers(committee, single, topology):
    return {
        "sigma": lambda: committee_sigma(committee, topology),
        "largest": lambda: largest_force_uncertainty(committee, topology),
        "smooth": lambda: largest_force_uncertainty(committee, topology, sharpness=20.0),
        "descriptor": lambda: descriptor_component(single, topology, 3, of=[0, 1]),
    }


def test_values_are_those_of_the_calculator(committee, ethanol):
    topology, positions = topology_from_atoms(ethanol)
    results = HalberdCalculator(committee).evaluate(ethanol)
    spread = disagreement(results["energies_committee"], results["forces_committee"])
    largest = spread.relative(0.2).max()
    sigma, _ = committee_sigma(committee, topology).evaluate(positions)
    assert sigma == pytest.approx(spread.sigma * 96.48533212, abs=2e-5)  # the rounded cone
    value, _ = largest_force_uncertainty(committee, topology).evaluate(positions)
    assert value == pytest.approx(largest, rel=1e-6)
    smooth, _ = largest_force_uncertainty(committee, topology, sharpness=50.0).evaluate(positions)
    assert largest <= smooth <= largest + np.log(9) / 50.0


def test_exact_sigma_as_a_variable(linear, ethanol):
    model = linear.with_exact_sigma()
    topology, positions = topology_from_atoms(ethanol)
    results = HalberdCalculator(model).evaluate(ethanol)
    value, gradient = committee_sigma(model, topology).evaluate(positions)
    assert value == pytest.approx(results["energy_std"] * 96.48533212, abs=2e-5)
    np.testing.assert_allclose(-gradient, results["sigma_forces"] * 964.8533212, atol=1e-4)
    with pytest.raises(ConfigurationError, match="no members to compare"):
        largest_force_uncertainty(model, topology)


def test_largest_uncertainty_of_a_compiled_linear_model(linear, ethanol):
    topology, positions = topology_from_atoms(ethanol)
    results = HalberdCalculator(linear.model).evaluate(ethanol)
    spread = disagreement(results["energies_committee"], results["forces_committee"])
    variable = largest_force_uncertainty(linear.model, topology, epsilon=0.3)
    value, gradient = variable.evaluate(positions)
    assert value == pytest.approx(spread.relative(0.3).max(), rel=1e-6)
    direction = np.random.default_rng(1).standard_normal(positions.shape)
    up, down = (variable.evaluate(positions + h * direction)[0] for h in (1e-5, -1e-5))
    assert (up - down) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


def test_descriptor_is_the_layers_and_projections_add_up(single, ethanol):
    model = single
    descriptor = mace_descriptor(model)
    topology, positions = topology_from_atoms(ethanol)
    neighbors = BlockNeighbors([9], descriptor.cutoff)
    import torch

    edges, vectors = neighbors(torch.tensor(ethanol.positions))
    features = descriptor(descriptor.species_of(ethanol.numbers), edges, vectors.to(descriptor.dtype)).detach().numpy()
    value, _ = descriptor_component(model, topology, 2, of=[2, 4]).evaluate(positions)
    assert value == pytest.approx(features[[2, 4], 2].mean(), rel=1e-6)
    direction = np.zeros(features.shape[1])
    direction[[0, 1]] = 0.5, -2.0
    value, _ = descriptor_component(model, topology, direction).evaluate(positions)
    assert value == pytest.approx((features @ direction).mean(), rel=1e-6)


def test_similarity_is_the_scores(ethanol):
    topology, positions = topology_from_atoms(ethanol)
    variable = similarity_log_density("gfn2-chnof@1", topology, "qm9-small", 1.0)
    value, _ = variable.evaluate(positions)
    import torch

    score = SimilarityScore(mace_descriptor(load("gfn2-chnof@1")), ReferenceSet.load("qm9-small"))
    skeleton = ethanol[ethanol.numbers > 1]
    species = score.descriptor.species_of(skeleton.numbers)
    every = score.log_density(
        torch.tensor(skeleton.positions), species, BlockNeighbors([3], score.descriptor.cutoff), 1.0
    )
    assert value == pytest.approx(float(every.mean()), rel=1e-5)


@pytest.mark.parametrize("backend", ["torchforce", "python"])
def test_as_a_force_alone_and_in_a_cv_force(backend, committee, ethanol):
    topology, positions = topology_from_atoms(ethanol)
    for variable in (committee_sigma(committee, topology), largest_force_uncertainty(committee, topology)):
        value, gradient = variable.evaluate(positions)
        system = openmm.System()
        for _ in ethanol:
            system.addParticle(12.0)
        system.addForce(variable.force(backend))
        outer = openmm.CustomCVForce("3*s^2")
        outer.addCollectiveVariable("s", variable.force(backend))
        outer.setForceGroup(1)
        system.addForce(outer)
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(positions)
        for group, scale, expected in ((0, 1.0, value), (1, 6.0 * value, 3 * value**2)):
            state = context.getState(energy=True, forces=True, groups={group})
            assert state.getPotentialEnergy()._value == pytest.approx(expected, rel=1e-9)
            forces = np.asarray(state.getForces(asNumpy=True)._value)
            np.testing.assert_allclose(forces, -scale * gradient, rtol=1e-8, atol=1e-8 * np.abs(gradient).max())


def test_in_openmms_metadynamics_and_opes(committee, ethanol):
    from openmm_opes import OPES

    topology, positions = topology_from_atoms(ethanol)
    sigma = committee_sigma(committee, topology)
    top, _ = sigma.evaluate(positions)
    for kind in ("metadynamics", "opes"):
        system = openmm.System()
        for atom in topology.atoms():
            system.addParticle(atom.element.mass)
        bond = openmm.HarmonicBondForce()
        for i in range(8):
            bond.addBond(i, i + 1, float(np.linalg.norm(positions[i + 1] - positions[i])), 1e5)
        system.addForce(bond)
        variable = BiasVariable(sigma.force(), 0.0, 3 * top, 0.05 * top, False)
        if kind == "metadynamics":
            sampler = Metadynamics(system, [variable], 300, 5.0, 1.0, 5)
        else:
            sampler = OPES(system, [variable], 300 * unit.kelvin, 20 * unit.kilojoules_per_mole, 5, 1)
        integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
        simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName("Reference"))
        simulation.context.setPositions(positions)
        sampler.step(simulation, 60)
        value = sampler.getCollectiveVariables(simulation)[0]
        now = simulation.context.getState(positions=True).getPositions(asNumpy=True)._value
        assert value == pytest.approx(sigma.evaluate(now)[0], rel=1e-6)
        if kind == "metadynamics":
            assert np.ptp(sampler.getFreeEnergy()._value) > 0
        else:
            assert sampler.getNumKernels() > 0


def test_a_subset_of_the_particles(committee, ethanol):
    both = Atoms([*ethanol.symbols, "Na"], [*ethanol.positions, [9.0, 0, 0]])
    topology, positions = topology_from_atoms(both)
    value, gradient = committee_sigma(committee, topology, atoms=range(9)).evaluate(positions)
    alone, expected = committee_sigma(committee, topology_from_atoms(ethanol)[0]).evaluate(positions[:9])
    assert value == pytest.approx(alone)
    np.testing.assert_allclose(gradient[:9], expected, atol=1e-9 * np.abs(expected).max())
    assert not gradient[9].any()


def test_what_cannot_be_a_variable(committee, single, linear, ethanol):
    topology, _ = topology_from_atoms(ethanol)
    with pytest.raises(ConfigurationError, match="no members to compare"):
        committee_sigma(single, topology)
    with pytest.raises(ConfigurationError, match="no members to compare"):
        largest_force_uncertainty(single, topology)
    with pytest.raises(ConfigurationError, match="must be positive"):
        largest_force_uncertainty(committee, topology, epsilon=0.0)
    with pytest.raises(ConfigurationError, match="features 0 to 7"):
        descriptor_component(single, topology, 8)
    with pytest.raises(ConfigurationError, match="has shape"):
        descriptor_component(single, topology, [1.0, 2.0])
    with pytest.raises(ConfigurationError, match="not among the atoms the model sees"):
        descriptor_component(single, topology, 0, of=[3], atoms=[0, 1, 2])
    with pytest.raises(ModelError, match="MACE"):
        descriptor_component(linear.model, topology, 0)
    with pytest.raises(ConfigurationError, match="noise level"):
        similarity_log_density("gfn2-chnof@1", topology, "qm9-small", -1.0)
