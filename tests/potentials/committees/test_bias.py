"""Bias energies: one evaluation with ``c - tau w``, exact sigma, limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halberd.plugins import HalberdCalculator
from halberd.potentials.ace.design_rows import DesignAssembler
from halberd.potentials.ace.fit import AceFit
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.committees.bias import CommitteeSpread, ExponentialBias, SigmaBias, bias_module
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.sites.site_model import SiteModel
from tests.conftest import random_ace


@pytest.fixture(scope="module")
def fitted(alloy):
    """A fit to a handful of labels that a random ACE made up, so that the posterior is wide."""
    basis, truth = random_ace(order=2, degree=6)
    calculator = HalberdCalculator(ace_site_model(basis, truth))
    frames = []
    for seed in range(5):
        atoms = alloy.copy()
        atoms.rattle(0.1, seed=seed)
        results = calculator.evaluate(atoms)
        frames.append(Frame(atoms, results["energy"], results["forces"], None, "default"))
    fit = AceFit(AceSettings(("Al", "Si"), order=3, degree=6, cutoff=4.5), e0s={"Al": -1.0, "Si": -2.5})
    fit.add(frames)
    return fit.solve(committee=6, seed=2)


@pytest.fixture(scope="module")
def functions(fitted, alloy):
    """Total basis vector and minus its gradient, for a structure the fit never saw."""
    atoms = alloy.copy()
    atoms.rattle(0.2, seed=44)
    block = DesignAssembler(fitted.basis).rows([atoms])
    return atoms, block.energy[0], block.forces[0]


def gradient(spread, energies, tau):
    values = torch.tensor(energies, requires_grad=True)
    (slope,) = torch.autograd.grad(spread(values, torch.tensor(tau, dtype=torch.float64)), values)
    return slope.numpy()


def test_one_evaluation_equals_the_sum_over_members(fitted, functions):
    """Energy and forces of the bias from coefficients ``c - tau w``, and from all members one by one."""
    atoms, b, force_rows = functions
    tau = 0.7
    deviations = fitted.members - fitted.coefficients[:, None]
    spread = b @ deviations
    sigma = np.sqrt((spread**2).mean())
    w = deviations @ spread / (len(spread) * sigma)
    assert b @ w == pytest.approx(sigma, rel=1e-12)

    results = HalberdCalculator(fitted.model).evaluate(atoms)
    by_members = results["forces_committee"] - results["forces"]
    brute = results["forces"] - tau * np.einsum("k,kid->id", spread / (len(spread) * sigma), by_members)
    once = HalberdCalculator(ace_site_model(fitted.basis, fitted.coefficients - tau * w)).evaluate(atoms)["forces"]
    core = results["forces"] - force_rows @ fitted.coefficients  # the repulsive core is not part of the basis
    assert np.abs(force_rows @ (fitted.coefficients - tau * w) + core - brute).max() < 1e-9
    assert np.abs(once - force_rows @ (fitted.coefficients - tau * w)).max() < 1e-9

    bias = bias_module(fitted.model, atoms.numbers)
    energies = results["energies_committee"]
    weights = gradient(bias, energies, tau)
    assert weights.sum() == pytest.approx(1.0, rel=1e-9)
    assert np.abs(np.einsum("k,kid->id", weights, results["forces_committee"]) - brute).max() < 1e-9


def test_exact_sigma_is_the_posterior_one(fitted, functions, tmp_path):
    atoms, b, force_rows = functions
    model = fitted.with_exact_sigma()
    covariance = fitted.posterior.factor @ fitted.posterior.factor.T
    sigma = np.sqrt(b @ covariance @ b)
    model.save(tmp_path / "sigma.pt")
    for each in (model, SiteModel.load(tmp_path / "sigma.pt")):  # compiled operator, and ordinary torch functions
        results = HalberdCalculator(each).evaluate(atoms)
        assert results["energy_std"] == pytest.approx(sigma, rel=1e-9)
        expected = force_rows @ (covariance @ b / sigma)
        assert np.abs(results["sigma_forces"] - expected).max() < 1e-9 * np.abs(expected).max() + 1e-12
        mean = HalberdCalculator(fitted.model).evaluate(atoms)
        assert results["energy"] == pytest.approx(mean["energy"], abs=1e-9)
        assert np.abs(results["forces"] - mean["forces"]).max() < 1e-9
        assert np.abs(results["stress"] - mean["stress"]).max() < 1e-9
    assert "columns: mean, sigma" in repr(model)


def test_sampled_sigma_approaches_the_exact_one(fitted, functions):
    """400 draws: relative scatter 1/sqrt(2 K) = 3.5 %, three of these allowed."""
    _, b, _ = functions
    members = fitted.posterior.draw(400, seed=5)
    sampled = (b @ (members - fitted.coefficients[:, None])).std()
    exact = np.linalg.norm(fitted.posterior.factor.T @ b)
    assert sampled == pytest.approx(exact, rel=0.11)


def test_sigma_of_identical_members_is_zero_and_smooth():
    bias = SigmaBias(CommitteeSpread(np.zeros(4)))
    energies = torch.full((4,), -3.25, dtype=torch.float64, requires_grad=True)
    value = bias(energies, torch.tensor(5.0))
    assert float(value.detach()) == -3.25
    (slope,) = torch.autograd.grad(value, energies)
    assert torch.equal(slope, torch.full((4,), 0.25, dtype=torch.float64))
    single = bias_module(SiteModel(torch.nn.Identity(), 4.0, [1]), [1, 1])
    assert float(single(torch.tensor(2.5, dtype=torch.float64), torch.tensor(5.0))) == 2.5


def test_members_may_differ_in_self_energies():
    """A constant offset of one member is disagreement of its total energies, as the paper has it."""
    model = SiteModel(torch.nn.Identity(), 4.0, [1], e0s=[[0.0, 3.0]], n_columns=2)
    energies = torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert float(bias_module(model, [1, 1])(energies, torch.tensor(1.0))) == pytest.approx(1.0 - 3.0, abs=1e-6)


def test_exponential_bias_is_bounded_and_quadratic_at_first():
    bias = ExponentialBias(CommitteeSpread(np.zeros(2)), n_atoms=3, width=0.2)
    small = torch.tensor([-0.01, 0.01], dtype=torch.float64)
    large = torch.tensor([-50.0, 50.0], dtype=torch.float64)
    tau = torch.tensor(0.5)
    assert float(bias(small, tau)) == pytest.approx(-0.5 * 0.01**2 / (2 * 3 * 0.04), rel=1e-3)
    assert float(bias(large, tau)) == pytest.approx(-0.5, rel=1e-12)


def test_bad_bias_is_refused():
    model = SiteModel(torch.nn.Identity(), 4.0, [1])
    with pytest.raises(ConfigurationError, match="bias is 'variance'; it must be one of sigma, exponential"):
        bias_module(model, [1], "variance")
    with pytest.raises(ConfigurationError, match="bias_width is -1"):
        bias_module(model, [1], "exponential", -1)


def test_solver_without_posterior_has_no_exact_sigma(fitted):
    import dataclasses

    blind = dataclasses.replace(fitted, posterior=dataclasses.replace(fitted.posterior, directions=None))
    with pytest.raises(ConfigurationError, match="use solver 'blr' or 'ard'"):
        blind.with_exact_sigma()
