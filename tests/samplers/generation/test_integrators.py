"""Integrators against Gaussian targets whose variance is known at every step."""

from __future__ import annotations

import numpy as np
import openmm
import pytest

from halberd.potentials.errors import ConfigurationError
from halberd.samplers.generation.integrators import NOISE, AnnealedLangevinIntegrator, StochasticHeunIntegrator
from halberd.samplers.generation.noise_schedules import (
    checked_schedule,
    geometric_schedule,
    karras_schedule,
    schedule,
    simgen_schedule,
)

DATA = 0.5  # standard deviation of the target without noise, angstrom
N = 4000  # particles: 12,000 degrees of freedom, variance to 1.3 %


def context(integrator, energy, group=1, particles=N, start=1.0, seed=5, fixed=()):
    system = openmm.System()
    force = openmm.CustomExternalForce(energy)
    force.addGlobalParameter("simgen_sigma", 1.0)
    force.setForceGroup(group)
    for k in range(particles):
        system.addParticle(0.0 if k in fixed else 1.0)
        force.addParticle(k)
    system.addForce(force)
    integrator.setRandomNumberSeed(seed)
    made = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    made.setPositions(0.1 * start * np.random.default_rng(5).normal(size=(particles, 3)))
    return made


def variance(made):
    """Angstrom^2."""
    return 100 * float(made.getState(positions=True).getPositions(asNumpy=True)._value.var())


# Reduced energies in kJ/mol, positions in nm: 100 angstrom^2 to the nm^2.
SCORE = f"0.5*100*(x^2 + y^2 + z^2)/({DATA}^2 + simgen_sigma^2)"  # s, of the noised Gaussian
SIGMA_SCORE = f"simgen_sigma*{SCORE}"  # sigma s


@pytest.mark.parametrize("name", ["simgen", "karras", "geometric"])
def test_heun_follows_the_variance_of_a_gaussian(name):
    """With the full noise of the churn, the variance is that of target plus noise all the way down."""
    levels = schedule(name, 100) if name != "simgen" else simgen_schedule(100)
    integrator = StochasticHeunIntegrator(levels, churn=1.05, s_noise=1.0, min_noise=0.0, churn_from=0.0, clip=None)
    made = context(integrator, SIGMA_SCORE, start=np.sqrt(DATA**2 + 1))
    for step in range(integrator.n_steps):
        integrator.step(1)
        if step % 12 == 0 or step == integrator.n_steps - 1:
            expected = DATA**2 + levels[step + 1] ** 2
            np.testing.assert_allclose(variance(made), expected, rtol=0.06, err_msg=f"level {levels[step + 1]}")
    assert made.getParameter("simgen_sigma") == pytest.approx(levels[-1])


def test_heun_step_is_the_published_one_to_rounding():
    """Noise, clipping, both forces and both noise levels, against the same arithmetic in numpy."""
    levels = [0.8, 0.5, 0.3]
    integrator = StochasticHeunIntegrator(levels, clip=1.0, external_noise=True)
    made = context(integrator, "100*simgen_sigma*(x^2 + 2*y^2 + 3*z^2)", particles=30)
    pull = openmm.CustomExternalForce("7*x")
    for k in range(30):
        pull.addParticle(k)
    made.getSystem().addForce(pull)
    made.reinitialize(preserveState=True)
    rng = np.random.default_rng(0)
    x = 10 * made.getState(positions=True).getPositions(asNumpy=True)._value
    start = x.copy()

    def total(y, sigma):
        score = -2 * sigma * y * np.array([1.0, 2.0, 3.0])
        norms = np.linalg.norm(score, axis=1, keepdims=True)
        return score * np.minimum(1, 1.0 / norms) - np.array([0.7, 0.0, 0.0])

    for level, following in ((0.8, 0.5), (0.5, 0.3)):
        xi = rng.normal(size=x.shape)
        integrator.setPerDofVariableByName(NOISE, xi)
        integrator.step(1)
        hat = 1.3 * level
        x = x + max(0.5 * np.sqrt(hat**2 - level**2), 0.01) * xi
        first = total(x, hat)
        second = total(x + (hat - following) * first, following)
        x = x + (hat - following) * (first + second) / 2
    found = 10 * made.getState(positions=True).getPositions(asNumpy=True)._value
    np.testing.assert_allclose(found, x, rtol=1e-9, atol=1e-10)
    integrator.step(5)  # the schedule has ended: nothing moves
    np.testing.assert_array_equal(10 * made.getState(positions=True).getPositions(asNumpy=True)._value, found)
    integrator.restart()
    integrator.step(1)
    assert np.abs(10 * made.getState(positions=True).getPositions(asNumpy=True)._value - found).max() > 1e-3
    assert np.abs(start - found).max() > 1e-3


@pytest.mark.parametrize("scaled", [True, False])
def test_langevin_follows_the_variance_of_a_gaussian(scaled):
    """Step by step, the variance is that of the linear recursion; at the end of a slow schedule that of the target."""
    levels = geometric_schedule(12, 1.0, 0.3)
    integrator = AnnealedLangevinIntegrator(
        levels, steps_per_level=20, step_size=0.2, clip=None, force_is_sigma_score=scaled
    )
    made = context(integrator, SIGMA_SCORE if scaled else SCORE, start=2.0)
    expected = variance(made)
    for step in range(integrator.n_steps):
        sigma = levels[step // 20]
        a, target = 0.2 * sigma**2, DATA**2 + sigma**2
        expected = (1 - a / target) ** 2 * expected + 2 * a
        integrator.step(1)
        if step % 20 == 19:
            np.testing.assert_allclose(variance(made), expected, rtol=0.06)
            assert made.getParameter("simgen_sigma") == pytest.approx(sigma)
    np.testing.assert_allclose(expected, DATA**2 + 0.3**2, rtol=0.1)


def test_same_seed_same_path_and_massless_particles_stay():
    results = []
    for seed in (3, 3, 4):
        integrator = StochasticHeunIntegrator([0.5, 0.2, 0.1])
        made = context(integrator, SIGMA_SCORE, particles=5, seed=seed, fixed=(2,))
        before = made.getState(positions=True).getPositions(asNumpy=True)._value.copy()
        integrator.step(2)
        after = made.getState(positions=True).getPositions(asNumpy=True)._value
        np.testing.assert_array_equal(before[2], after[2])
        assert (before[[0, 1, 3, 4]] != after[[0, 1, 3, 4]]).all()
        results.append(after)
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0][0] != results[2][0]).all()


def test_a_force_that_is_no_number_counts_as_none():
    integrator = StochasticHeunIntegrator([0.5, 0.2, 0.1], external_noise=True)
    made = context(integrator, "simgen_sigma*(sqrt(x) + y^2)", particles=2)
    made.setPositions([[-0.1, 0.1, 0.0], [0.1, 0.1, 0.0]])
    integrator.step(2)
    after = made.getState(positions=True).getPositions(asNumpy=True)._value
    assert np.isfinite(after).all()
    assert after[0, 0] == -0.1
    assert after[0, 1] < 0.1
    assert after[1, 0] < 0.1


def test_schedules():
    levels = simgen_schedule(50)
    assert len(levels) == 50
    np.testing.assert_allclose(levels[[0, 24, 25, 49]], [1.0, 0.05, 10**-1.31, 1e-3])
    karras = karras_schedule(5, 2.0, 0.1, 3.0)
    np.testing.assert_allclose(np.diff(karras ** (1 / 3)), np.diff(karras ** (1 / 3))[0])
    geometric = geometric_schedule(5, 2.0, 0.1)
    np.testing.assert_allclose(geometric[1:] / geometric[:-1], (0.1 / 2.0) ** 0.25)
    assert len(schedule([3.0, 2.0, 1.0], 50)) == 3
    with pytest.raises(ConfigurationError, match="too short"):
        simgen_schedule(2)
    with pytest.raises(ConfigurationError, match="Karras"):
        karras_schedule(5, 0.1, 1.0)
    with pytest.raises(ConfigurationError, match="geometric"):
        geometric_schedule(1)
    with pytest.raises(ConfigurationError, match="no noise schedule 'cosine'"):
        schedule("cosine", 10)
    for bad in ([1.0], [1.0, 2.0], [1.0, -1.0], [1.0, np.nan]):
        with pytest.raises(ConfigurationError, match="oise"):
            checked_schedule(bad)


@pytest.mark.parametrize(
    ("kind", "keywords", "message"),
    [
        (StochasticHeunIntegrator, {"churn": 0.5}, "churn"),
        (StochasticHeunIntegrator, {"clip": 0.0}, "clip is"),
        (StochasticHeunIntegrator, {"clip_group": 0}, "clip_group"),
        (AnnealedLangevinIntegrator, {"steps_per_level": 0}, "steps_per_level"),
        (AnnealedLangevinIntegrator, {"step_size": 3.0}, "step_size"),
    ],
)
def test_bad_options(kind, keywords, message):
    with pytest.raises(ConfigurationError, match=message):
        kind([1.0, 0.5], **keywords)
