"""The recursion that a GPU runs gives sphericart's harmonics."""

from __future__ import annotations

import pytest
import torch

from halberd.potentials.sites.harmonics import FastSphericalHarmonics, SphericalHarmonics


@pytest.mark.parametrize("l_max", [0, 1, 2, 3, 6, 10])
@pytest.mark.parametrize("scripted", [False, True])
def test_recursion_equals_sphericart(l_max, scripted):
    vectors = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    vectors = torch.cat([vectors, 2.0 * torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    harmonics = FastSphericalHarmonics(l_max)
    module = torch.jit.script(harmonics) if scripted else harmonics
    weights = torch.randn((l_max + 1) ** 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    results = []
    for function in (module.compiled, module.by_recursion):
        moving = vectors.clone().requires_grad_()
        values = function(moving)
        total = (values * weights).sum() + 0.0 * moving.sum()  # degree 0 alone depends on nothing
        (gradient,) = torch.autograd.grad(total, moving)
        results.append((values.detach(), gradient))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-10, atol=1e-10)


def test_it_can_be_differentiated_twice():
    vectors = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert torch.autograd.gradgradcheck(SphericalHarmonics(3).by_recursion, vectors)
