"""All pairs with images, against vesin's cell lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.sites.image_pairs import ImagePairs
from halberd.potentials.sites.verlet_list import NeighborList

CELLS = {
    "cube": np.diag([9.0, 9.5, 10.0]),
    "triclinic": np.array([[8.0, 0, 0], [2.5, 7.5, 0], [-3.0, 1.5, 9.0]]),
    "small": np.array([[3.1, 0, 0], [0.9, 3.4, 0], [-0.5, 0.8, 2.9]]),
    "skewed": np.array([[4.0, 0, 0], [3.9, 2.5, 0], [1.0, 2.0, 6.0]]),
}


def listed(edges, vectors):
    rows = np.column_stack([edges.numpy().T, vectors.detach().numpy().round(9) + 0.0])
    return rows[np.lexsort(rows.T[::-1])]


@pytest.mark.parametrize("periodic", [(True, True, True), (True, True, False), (False, True, False), (False,) * 3])
@pytest.mark.parametrize("cell", list(CELLS))
@pytest.mark.parametrize("scripted", [False, True])
def test_pairs_are_vesins(cell, periodic, scripted):
    generator = np.random.default_rng(3)
    positions = torch.tensor(generator.uniform(-6, 14, (14, 3)), requires_grad=True)
    box = torch.tensor(CELLS[cell], requires_grad=True)
    flags = torch.tensor(periodic)
    pairs = ImagePairs(4.3)
    edges, vectors = (torch.jit.script(pairs) if scripted else pairs)(positions, box, flags)
    expected_edges, expected = NeighborList(4.3, 0.0)(positions, box, flags)
    np.testing.assert_allclose(listed(edges, vectors), listed(expected_edges, expected), atol=1e-8)
    assert bool((edges[0][1:] >= edges[0][:-1]).all())
    weights = torch.linspace(0.2, 1.0, 3, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((vectors.square() @ weights).sum(), [positions, box], allow_unused=True),
        torch.autograd.grad((expected.square() @ weights).sum(), [positions, box], allow_unused=True),
        strict=True,
    ):
        if any(periodic):
            assert one is not None
            np.testing.assert_allclose(one, other, atol=1e-8)


def test_no_neighbours_and_bad_cutoffs():
    edges, vectors = ImagePairs(2.0)(
        torch.tensor([[0.0, 0, 0], [9.0, 0, 0]], dtype=torch.float64),
        torch.zeros((3, 3), dtype=torch.float64),
        torch.zeros(3, dtype=torch.bool),
    )
    assert edges.shape == (2, 0)
    assert vectors.shape == (0, 3)
    with pytest.raises(ConfigurationError, match="positive"):
        ImagePairs(0.0)
