"""The score and its guidance as OpenMM forces."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
import torch

from halberd.plugins.forces.simgen import SIMGEN_SIGMA, carriers, guidance_force, n_carriers, similarity_force
from halberd.potentials import load
from halberd.potentials.mace.descriptor import mace_descriptor
from halberd.potentials.simgen.guidance import REPULSION_CUTOFF, GaussianPrior, Guidance
from halberd.potentials.simgen.reference_set import ReferenceSet
from halberd.potentials.simgen.score import SimilarityScore
from halberd.potentials.sites.block_list import BlockNeighbors


@pytest.fixture(scope="module")
def score():
    return SimilarityScore(mace_descriptor(load("gfn2-chnof@1", precision="double")), ReferenceSet.load("qm9-small"))


def blocks(score, which=(0, 1)):
    rng = np.random.default_rng(4)
    references = score.references
    positions = np.concatenate([references.positions[k] for k in which])
    numbers = np.concatenate([references.numbers[k] for k in which])
    species = score.descriptor.species_of(numbers).numpy()
    return [len(references.numbers[k]) for k in which], species, positions + rng.normal(scale=0.1, size=positions.shape)


def make_context(forces, sizes, species, positions):
    system = openmm.System()
    for _ in range(sum(sizes)):
        system.addParticle(1.0)
    for _ in range(n_carriers(sum(sizes))):
        system.addParticle(0.0)
    for force in forces:
        system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("CPU"))
    context.setPositions(np.concatenate([positions / 10, carriers(species)]))
    return context


@pytest.mark.parametrize("backend", ["torchforce", "python"])
@pytest.mark.parametrize("sigma", [1.0, 0.1, 0.001])
def test_energy_and_forces_are_those_of_the_score(score, sigma, backend):
    sizes, species, positions = blocks(score)
    context = make_context([similarity_force(score, sizes, 1, backend)], sizes, species, positions)
    context.setParameter(SIMGEN_SIGMA, sigma)
    state = context.getState(energy=True, forces=True, groups={1})
    moving = torch.tensor(positions, requires_grad=True)
    neighbors = BlockNeighbors(sizes, score.descriptor.cutoff)
    values = score.log_density(moving, torch.tensor(species), neighbors, sigma)
    (gradient,) = torch.autograd.grad(values.sum(), moving)
    np.testing.assert_allclose(state.getPotentialEnergy()._value, -float(values.sum().detach()), rtol=1e-6)
    forces = state.getForces(asNumpy=True)._value
    np.testing.assert_allclose(forces[: len(positions)], 10 * gradient.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(forces[len(positions) :], 0.0)


def test_elements_travel_in_the_carriers(score):
    sizes, species, positions = blocks(score)
    context = make_context([similarity_force(score, sizes)], sizes, species, positions)
    before = context.getState(energy=True).getPotentialEnergy()._value
    changed = species.copy()
    changed[0] = next(s for s in range(1, 4) if s != species[0])
    context.setPositions(np.concatenate([positions / 10, carriers(changed)]))
    assert context.getState(energy=True).getPotentialEnergy()._value != pytest.approx(before, abs=1e-3)
    checkpoint = context.createCheckpoint()
    context.setPositions(np.concatenate([positions / 10, carriers(species)]))
    assert context.getState(energy=True).getPotentialEnergy()._value == pytest.approx(before, rel=1e-9)
    context.loadCheckpoint(checkpoint)
    assert context.getState(energy=True).getPotentialEnergy()._value != pytest.approx(before, abs=1e-3)


def test_molecules_never_see_each_other(score):
    sizes, species, positions = blocks(score)
    together = make_context([similarity_force(score, sizes)], sizes, species, positions)
    energies = []
    for first, last in ((0, sizes[0]), (sizes[0], sum(sizes))):
        alone = make_context(
            [similarity_force(score, [last - first])], [last - first], species[first:last], positions[first:last]
        )
        energies.append(alone.getState(energy=True).getPotentialEnergy()._value)
    found = together.getState(energy=True).getPotentialEnergy()._value
    np.testing.assert_allclose(found, sum(energies), rtol=1e-9)


def test_guidance_force_is_the_gradient(score):
    sizes, species, positions = blocks(score)
    n = len(positions)
    guidance = Guidance(
        GaussianPrior((1.0, 1.0, 2.0)), torch.linspace(0, 2, n), BlockNeighbors(sizes, REPULSION_CUTOFF)
    )
    context = make_context([guidance_force(guidance, n)], sizes, species, positions)
    context.setParameter(SIMGEN_SIGMA, 0.2)
    moving = torch.tensor(positions, requires_grad=True)
    energy = guidance(moving, torch.tensor(0.2, dtype=torch.float64)).sum()
    (gradient,) = torch.autograd.grad(energy, moving)
    state = context.getState(energy=True, forces=True)
    np.testing.assert_allclose(state.getPotentialEnergy()._value, float(energy.detach()), rtol=1e-8)
    np.testing.assert_allclose(state.getForces(asNumpy=True)._value[:n], -10 * gradient.numpy(), rtol=1e-6, atol=1e-6)


def test_carriers():
    assert n_carriers(7) == 3
    packed = carriers(np.arange(7))
    np.testing.assert_array_equal(packed.ravel()[:7], np.arange(7))
    assert packed.shape == (3, 3)
