"""The functions of the noise level: their limits, and that what is learnt has size one."""

from __future__ import annotations

import pytest
import torch

from halberd.potentials.diffusion.preconditioning import Preconditioning
from halberd.potentials.errors import ConfigurationError

LEVELS = torch.tensor([1e-4, 1e-2, 0.3, 1.0, 5.0, 80.0], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["edm", "iddpm"])
def test_without_noise_molecules_stay_whatever_is_learnt(kind):
    functions = Preconditioning(kind, 1.4)
    least = torch.tensor(1e-6, dtype=torch.float64)
    assert float(functions.skip(least)) == pytest.approx(1.0)
    assert float(functions.out(least)) == pytest.approx(1e-6)


def test_much_noise_is_forgotten_or_has_to_be_learnt():
    most = torch.tensor(1e6, dtype=torch.float64)
    edm, iddpm = Preconditioning("edm", 1.4), Preconditioning("iddpm", 1.4)
    assert float(edm.skip(most)) == pytest.approx(0.0, abs=1e-9)
    assert float(edm.out(most)) == pytest.approx(1.4)
    assert float(iddpm.skip(most)) == 1.0
    assert float(iddpm.out(most)) == 1e6


@pytest.mark.parametrize("kind", ["edm", "iddpm"])
def test_inputs_and_what_is_learnt_have_variance_one(kind):
    functions = Preconditioning(kind, 1.4)
    generator = torch.Generator().manual_seed(0)
    clean = 1.4 * torch.randn(400_000, generator=generator, dtype=torch.float64)
    for sigma in LEVELS:
        noisy = clean + sigma * torch.randn(400_000, generator=generator, dtype=torch.float64)
        assert float((functions.into(sigma) * noisy).var()) == pytest.approx(1.0, rel=0.01)
        wanted = (clean - functions.skip(sigma) * noisy) / functions.out(sigma)
        assert float(wanted.var()) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("kind", ["edm", "iddpm"])
def test_the_rest_is_what_is_not_kept(kind):
    functions = Preconditioning(kind, 0.7)
    by_hand = (1.0 - functions.skip(LEVELS)) / LEVELS**2
    torch.testing.assert_close(functions.rest(LEVELS[2:]), by_hand[2:], rtol=1e-12, atol=0)


def test_c_noise_is_that_of_the_papers():
    sigma = torch.tensor(2.0, dtype=torch.float64)
    assert float(Preconditioning("edm", 1.0).noise(sigma)) == pytest.approx(0.17328679513998632)
    assert float(Preconditioning("iddpm", 1.0).noise(sigma)) == pytest.approx(0.6931471805599453)


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan")])
def test_data_without_width(width):
    with pytest.raises(ConfigurationError, match="sigma_data is"):
        Preconditioning("edm", width)
