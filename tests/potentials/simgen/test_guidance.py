"""Restorative priors: energies by hand, forces as their gradients, samples and shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.simgen.guidance import (
    REPULSION_CUTOFF,
    GaussianPrior,
    Guidance,
    HostWall,
    PointCloudPrior,
    prior_strength,
)
from halberd.potentials.sites.block_list import BlockNeighbors

POINTS = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 3.0, 1.0]])
PRIORS = {
    "gaussian": GaussianPrior(),
    "ellipsoid": GaussianPrior((1.0, 1.0, 4.0), centre=(0.5, 0.0, -1.0)),
    "full": GaussianPrior([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 1.5]]),
    "cloud": PointCloudPrior(POINTS, beta=2.0),
    "stretched": PointCloudPrior(POINTS, beta=8.0, precision=(1.0, 0.5, 0.5)),
    "wall": HostWall(POINTS, [1.5, 2.0, 2.5]),
}


@pytest.mark.parametrize("name", PRIORS)
def test_force_is_the_gradient(name):
    prior = PRIORS[name]
    x = torch.tensor(np.random.default_rng(0).normal(scale=1.5, size=(6, 3)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: prior(y).sum(), x, eps=1e-5, atol=1e-7)


def test_gaussian_by_hand():
    prior = GaussianPrior((1.0, 1.0, 8.0))
    np.testing.assert_allclose(np.linalg.det(prior.covariance), 1.0)
    x = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    np.testing.assert_allclose(prior(x).numpy(), [0.5 * 2.0, 0.5 * 2.0 / 8.0])


def test_cloud_force_is_the_softmax_average_of_pulls():
    prior = PRIORS["stretched"]
    x = torch.tensor([[0.7, 1.1, -0.4]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(prior(x).sum(), x)
    d = x.detach().numpy() - POINTS
    precision = np.diag([1.0, 0.5, 0.5])
    weights = np.exp(-0.5 * 8.0 * np.einsum("ka,ab,kb->k", d, precision, d))
    expected = (weights / weights.sum()) @ d @ precision
    np.testing.assert_allclose(gradient[0].numpy(), expected, rtol=1e-10)
    single = PointCloudPrior(POINTS[:1])
    np.testing.assert_allclose(float(single(torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64))), 2.0)


def test_samples_have_the_shape_asked_for():
    rng = np.random.default_rng(1)
    samples = GaussianPrior((1.0, 1.0, 4.0), centre=(3.0, 0.0, 0.0)).sample(40000, rng)
    np.testing.assert_allclose(samples.mean(0), [3.0, 0.0, 0.0], atol=0.01)
    np.testing.assert_allclose(samples.var(0) / samples.var(0)[0], [1.0, 1.0, 4.0], rtol=0.05)
    cloud = PointCloudPrior(10 * POINTS).sample(3, rng)
    nearest = np.linalg.norm(cloud[:, None] - 10 * POINTS[None], axis=2).argmin(1)
    assert sorted(nearest) == [0, 1, 2]  # no point twice before all were taken
    axis = np.stack([np.linspace(0, 30, 151), np.zeros(151), np.zeros(151)], 1)
    few = np.sort(PointCloudPrior(axis).sample(8, rng)[:, 0])
    assert np.diff(few).max() < 3.5  # a part of the line, without gaps
    assert PointCloudPrior(POINTS).sample(7, rng).shape == (7, 3)


def test_capacity_is_the_volume_around_the_points():
    line = np.stack([np.linspace(0, 20, 101), np.zeros(101), np.zeros(101)], 1)
    expected = (np.pi * 1.9**2 * 20 + 4 / 3 * np.pi * 1.9**3) / 12.0
    np.testing.assert_allclose(PointCloudPrior(line).capacity(), expected, rtol=0.1)
    assert GaussianPrior().capacity() == float("inf")


def test_strength_as_published():
    np.testing.assert_allclose([prior_strength(n) for n in (5, 9, 20, 40)], [1.99, 1.57, 1.06, 0.71], atol=0.01)


def guidance(**keywords):
    neighbors = BlockNeighbors([3, 2], REPULSION_CUTOFF)
    strength = torch.tensor([1.0, 1.0, 0.0, 2.0, 2.0])
    return Guidance(GaussianPrior(), strength, neighbors, **keywords)


def test_guidance_adds_prior_repulsion_and_wall():
    x = torch.tensor(np.random.default_rng(2).normal(size=(5, 3)))
    wall = HostWall(POINTS, [1.5, 2.0, 2.5])
    sigma = torch.tensor(0.15, dtype=torch.float64)
    found = guidance(wall=wall)(x, sigma).sum()
    expected = 0.5 * (x.square().sum(1) * torch.tensor([1.0, 1.0, 0.0, 2.0, 2.0])).sum() * np.tanh(20 * 0.15**2)
    for first, second in ((0, 1), (0, 2), (1, 2), (3, 4)):
        r = float((x[first] - x[second]).norm())
        if r < REPULSION_CUTOFF:
            expected = expected + np.exp(-8 * r) / 3
    expected = expected + wall(x).sum()
    np.testing.assert_allclose(float(found), float(expected), rtol=1e-9)


def test_recentred_prior_does_not_see_where_a_molecule_is():
    owner = torch.tensor([0, 0, 0, 1, 1])
    x = torch.tensor(np.random.default_rng(2).normal(size=(5, 3)), requires_grad=True)
    level = torch.tensor(1.0, dtype=torch.float64)
    module = guidance(owner=owner)
    shifted = x.detach() + torch.tensor([[5.0, 0.0, 0.0]] * 3 + [[0.0, -7.0, 0.0]] * 2)
    torch.testing.assert_close(module(x, level).sum(), module(shifted, level).sum(), rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(module(x, level).sum(), x)
    np.testing.assert_allclose(gradient[:3].sum(0), 0.0, atol=1e-9)
    assert torch.autograd.gradcheck(lambda y: module(y, level).sum(), x, eps=1e-5, atol=1e-7)


def test_bad_input():
    for covariance in ((1.0, 1.0, -1.0), [[1.0, 2.0], [2.0, 1.0]], np.ones((3, 3))):
        with pytest.raises(ConfigurationError, match="covariance"):
            GaussianPrior(covariance)
    with pytest.raises(ConfigurationError, match="three dimensions"):
        PointCloudPrior(np.zeros((0, 3)))
    with pytest.raises(ConfigurationError, match="three dimensions"):
        PointCloudPrior([[0.0, np.nan, 0.0]])
    with pytest.raises(ConfigurationError, match="beta"):
        PointCloudPrior(POINTS, beta=0.0)


def test_wall_depth():
    wall = HostWall([[0.0, 0.0, 0.0]], [2.0])
    assert wall.depth([[3.0, 0.0, 0.0]]) == 0.0
    np.testing.assert_allclose(wall.depth([[3.0, 0.0, 0.0], [0.0, 1.5, 0.0]]), 0.5)


def test_blocks_never_see_each_other():
    x = torch.zeros(5, 3, dtype=torch.float64)
    x[:, 0] = torch.arange(5) * 0.5
    edge_index, vectors = BlockNeighbors([3, 2], 0.8)(x)
    pairs = [tuple(pair) for pair in edge_index.t().tolist()]
    assert pairs == [(0, 1), (1, 0), (1, 2), (2, 1), (3, 4), (4, 3)]
    torch.testing.assert_close(vectors[:, 0], torch.tensor([0.5, -0.5, 0.5, -0.5, 0.5, -0.5], dtype=torch.float64))
    with pytest.raises(ConfigurationError, match="needs an atom"):
        BlockNeighbors([2, 0], 1.0)
    with pytest.raises(ConfigurationError, match="cutoff"):
        BlockNeighbors([2], 0.0)
