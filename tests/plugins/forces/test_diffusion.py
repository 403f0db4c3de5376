"""The score of a diffusion model as an OpenMM force."""

from __future__ import annotations

import numpy as np
import openmm
import pytest

from halberd.plugins.forces.diffusion import (
    DIFFUSION_SIGMA,
    diffusion_force,
    element_carriers,
    elements_in,
    n_element_carriers,
)
from tests.potentials.diffusion.models import model, noisy


def make_context(own, sizes, backend="torchforce"):
    system = openmm.System()
    for _ in range(sum(sizes) + n_element_carriers(own, sizes)):
        system.addParticle(1.0)
    system.addForce(diffusion_force(own, sizes, 1, backend))
    return openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("CPU"))


@pytest.mark.parametrize("backend", ["torchforce", "python"])
@pytest.mark.parametrize("sigma", [3.0, 0.1])
@pytest.mark.parametrize("kind", ["edm", "iddpm"])
def test_energy_and_forces_are_sigma_times_those_of_the_model(kind, sigma, backend):
    own = model(preconditioning=kind)
    positions, elements, sizes = noisy()
    scale = own.settings.element_scale
    context = make_context(own, sizes, backend)
    context.setPositions(np.concatenate([positions / 10, element_carriers(elements * scale)]))
    context.setParameter(DIFFUSION_SIGMA, sigma)
    state = context.getState(energy=True, forces=True)
    found = own.evaluate(positions, elements, sigma, sizes)
    assert state.getPotentialEnergy()._value == pytest.approx(sigma * found.energy.sum(), rel=1e-6)
    forces = state.getForces(asNumpy=True)._value
    np.testing.assert_allclose(forces[:9] / 10, sigma * found.score, rtol=1e-4, atol=1e-4)
    # Per angstrom of an element, as coordinates are.
    of_elements = elements_in(forces / 100, 9, 3)
    np.testing.assert_allclose(of_elements, sigma * found.element_score / scale, rtol=1e-4, atol=1e-4)
    assert not np.any(np.ravel(forces[9:])[27:])


def test_carriers_bring_elements_back():
    elements = np.random.default_rng(0).normal(size=(7, 5))
    packed = np.concatenate([np.zeros((7, 3)), element_carriers(elements)])
    assert packed.shape == (7 + 12, 3)
    np.testing.assert_allclose(elements_in(packed, 7, 5), elements, rtol=1e-14)
