"""The in-graph neighbour list against a brute-force sum over images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.sites.verlet_list import NeighborList

CUTOFF = 3.0
BOXES = {
    "cubic": np.diag([8.0, 8.0, 8.0]),
    "triclinic": np.array([[7.0, 0.0, 0.0], [2.5, 6.5, 0.0], [-2.0, 1.5, 7.5]]),
    "smaller than the cutoff": np.array([[2.2, 0.0, 0.0], [0.6, 2.6, 0.0], [0.3, -0.4, 2.4]]),
}


def brute_force(positions: np.ndarray, box: np.ndarray, periodic) -> np.ndarray:
    """Sorted rows (i, j, dx, dy, dz) of all pairs within the cutoff."""
    heights = np.abs(np.linalg.det(box)) / np.linalg.norm(np.cross(box[[1, 2, 0]], box[[2, 0, 1]]), axis=1)
    spread = np.ptp(positions @ np.linalg.inv(box), axis=0)
    images = [
        range(-int(np.ceil(CUTOFF / h + s)) - 1, int(np.ceil(CUTOFF / h + s)) + 2) if p else range(1)
        for h, s, p in zip(heights, spread, periodic, strict=True)
    ]
    rows = []
    for shift in itertools.product(*images):
        delta = positions[None] + np.array(shift) @ box - positions[:, None]
        close = np.linalg.norm(delta, axis=2) < CUTOFF
        if not any(shift):
            np.fill_diagonal(close, False)
        i, j = np.nonzero(close)
        rows.append(np.column_stack([i, j, delta[i, j]]))
    return sort(np.concatenate(rows))


def sort(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(np.round(rows, 6).T[::-1])]


def found(search, positions, box, periodic) -> np.ndarray:
    edge_index, vectors = search(torch.tensor(positions), torch.tensor(box), torch.tensor(periodic))
    return sort(np.column_stack([edge_index.T.numpy(), vectors.numpy()]))


@pytest.fixture(params=["eager", "scripted", "frozen"])
def make_search(request):
    def make(skin):
        module = NeighborList(CUTOFF, skin)
        if request.param == "eager":
            return module
        scripted = torch.jit.script(module.eval())
        return torch.jit.freeze(scripted) if request.param == "frozen" else scripted

    return make


@pytest.mark.parametrize("skin", [0.0, 0.5])
@pytest.mark.parametrize("box", list(BOXES))
@pytest.mark.parametrize("periodic", [(True, True, True), (False, False, False), (True, True, False)])
def test_equals_brute_force(make_search, box, skin, periodic):
    generator = np.random.default_rng(1)
    vectors = BOXES[box]
    positions = generator.uniform(size=(14 if "small" not in box else 3, 3)) @ vectors
    positions[0] += 2 * vectors[0] - vectors[2]  # outside the box
    search = make_search(skin)
    np.testing.assert_allclose(
        found(search, positions, vectors, periodic), brute_force(positions, vectors, periodic), atol=1e-9
    )


@pytest.mark.parametrize("skin", [0.0, 0.5])
@pytest.mark.parametrize("box", ["cubic", "triclinic", "smaller than the cutoff"])
def test_follows_a_trajectory_with_a_barostat(make_search, box, skin):
    """Small moves, wraps, box changes every third step, and a jump to somewhere far away."""
    generator = np.random.default_rng(2)
    vectors = BOXES[box].copy()
    positions = generator.uniform(size=(10 if "small" not in box else 3, 3)) @ vectors
    search = make_search(skin)
    periodic = (True, True, True)
    for step in range(60):
        positions = positions + generator.normal(scale=0.03, size=positions.shape)
        if step % 3 == 0:
            factor = 1 + generator.uniform(-0.02, 0.02)
            vectors, positions = vectors * factor, positions * factor
        if step % 7 == 0:
            positions[step % len(positions)] += vectors[step % 3]
        if step == 40:
            positions = generator.uniform(size=positions.shape) @ vectors + 50.0
        np.testing.assert_allclose(
            found(search, positions, vectors, periodic), brute_force(positions, vectors, periodic), atol=1e-9
        )


def test_slow_box_changes_do_not_slip_through_the_skin(make_search):
    """Each change is far below the skin, their sum is not."""
    search = make_search(0.5)
    vectors = np.diag([6.2, 6.2, 6.2])
    positions = np.array([[0.1, 0.0, 0.0], [6.1, 3.1, 3.1], [3.0, 3.0, 3.2]])
    for _ in range(80):
        vectors, positions = vectors * 0.995, positions * 0.995
        np.testing.assert_allclose(
            found(search, positions, vectors, (True,) * 3), brute_force(positions, vectors, (True,) * 3), atol=1e-9
        )


def test_vectors_differentiate_through_positions_and_box():
    search = NeighborList(CUTOFF, 0.3)
    generator = torch.Generator().manual_seed(0)
    box = torch.tensor(BOXES["triclinic"], requires_grad=True)
    positions = (torch.rand((6, 3), generator=generator, dtype=torch.float64) @ box).detach().requires_grad_(True)

    def energy(positions, box):
        return (search(positions, box, torch.tensor([True] * 3))[1] ** 4).sum()

    assert torch.autograd.gradcheck(energy, (positions, box), eps=1e-6, atol=1e-5)


def test_no_pairs_and_one_atom():
    search = NeighborList(CUTOFF)
    for positions in (torch.zeros((1, 3)).double(), torch.tensor([[0.0, 0, 0], [9.0, 0, 0]]).double()):
        edge_index, vectors = search(positions, torch.zeros((3, 3)).double(), torch.tensor([False] * 3))
        assert edge_index.shape == (2, 0)
        assert vectors.shape == (0, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_positions_that_are_not_finite_name_the_atoms(value):
    positions = torch.zeros((5, 3), dtype=torch.float64)
    positions[3, 1] = value
    search = torch.jit.script(NeighborList(CUTOFF))
    with pytest.raises(torch.jit.Error, match=r"not finite for 1 of 5 atoms, the first are \[3\]"):
        search(positions, torch.eye(3).double(), torch.tensor([False] * 3))


@pytest.mark.parametrize(("cutoff", "skin"), [(0.0, 0.5), (-1.0, 0.5), (3.0, -0.1), (float("nan"), 0.5)])
def test_bad_lengths_are_refused(cutoff, skin):
    with pytest.raises(ConfigurationError):
        NeighborList(cutoff, skin)
