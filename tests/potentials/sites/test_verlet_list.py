"""The in-graph neighbour lists, of torch functions and compiled, against a brute-force sum over images."""

from __future__ import annotations

import concurrent.futures
import io
import itertools

import numpy as np
import pytest
import torch

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.sites.compiled_list import LIST_OPERATOR, CompiledNeighborList, neighbor_list
from halberd.potentials.sites.verlet_list import NeighborList

CUTOFF = 3.0
needs_operator = pytest.mark.skipif(
    LIST_OPERATOR.problem() is not None, reason=f"no compiled operator: {LIST_OPERATOR.problem()}"
)
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


@pytest.fixture(
    params=["eager", "scripted", "frozen", *(pytest.param(k, marks=needs_operator) for k in ("compiled", "read"))]
)
def make_search(request):
    def make(skin):
        compiled = request.param in ("compiled", "read")
        module = neighbor_list(CUTOFF, skin) if compiled else NeighborList(CUTOFF, skin)
        assert isinstance(module, CompiledNeighborList) == (compiled and skin > 0)
        if request.param in ("eager", "compiled"):
            return module
        scripted = torch.jit.script(module.eval())
        if request.param == "read":
            file = io.BytesIO()
            torch.jit.save(scripted, file)
            file.seek(0)
            return torch.jit.load(file)
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


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("distance", [3.505, 3.3])
def test_slow_approaches_do_not_slip_through_the_skin(make_search, distance, periodic):
    """Two atoms that begin just beyond the list, or between it and the cutoff, and nothing else that renews it."""
    search = make_search(0.5)
    box, directions = 20.0 * torch.eye(3, dtype=torch.float64), torch.tensor([periodic] * 3)
    crossed = 0
    for step in range(120):
        moved = 0.004 * step
        points = torch.tensor([[moved, 0.0, 0.0], [distance - moved, 0.0, 0.0]], dtype=torch.float64)
        edge_index, _ = search(points, box, directions)
        near = distance - 2 * moved < CUTOFF
        assert edge_index.shape[1] == 2 * near
        crossed += near
    assert 20 < crossed < 110


@pytest.mark.parametrize("kind", [NeighborList, pytest.param(CompiledNeighborList, marks=needs_operator)])
def test_vectors_differentiate_through_positions_and_box(kind):
    """Twice: Hessians go through the list as well."""
    search = kind(CUTOFF, 0.3)
    generator = torch.Generator().manual_seed(0)
    box = torch.tensor(BOXES["triclinic"], requires_grad=True)
    positions = (torch.rand((6, 3), generator=generator, dtype=torch.float64) @ box).detach().requires_grad_(True)

    def energy(positions, box):
        return (search(positions, box, torch.tensor([True] * 3))[1] ** 4).sum()

    assert torch.autograd.gradcheck(energy, (positions, box), eps=1e-6, atol=1e-5)
    assert torch.autograd.gradgradcheck(energy, (positions, box), eps=1e-6, atol=1e-5)
    # What is differentiated again takes another way than what is not; both checks see one of them only.
    plain = torch.autograd.grad(energy(positions, box), (positions, box))
    again = torch.autograd.grad(energy(positions, box), (positions, box), create_graph=True)
    assert all(each.requires_grad for each in again)
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-12, atol=1e-12)


@needs_operator
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_and_portable_lists_agree_whatever_came_before(dtype):
    """Same edges in the same order, and the same bits from a list that is old as from a new one."""
    generator = torch.Generator().manual_seed(3)
    box = torch.tensor(BOXES["triclinic"], dtype=dtype)
    start = torch.rand((60, 3), generator=generator, dtype=torch.float64).to(dtype) @ box
    periodic = torch.tensor([True, True, False])
    old, portable = CompiledNeighborList(CUTOFF, 0.5), NeighborList(CUTOFF, 0.5)
    old(start, box, periodic)
    moved = (start + 0.1 * (torch.rand((60, 3), generator=generator, dtype=torch.float64).to(dtype) - 0.5)).detach()
    moved.requires_grad_(True)
    weights = torch.rand((10_000, 3), generator=generator, dtype=torch.float64).to(dtype)
    results = []
    for search in (old, CompiledNeighborList(CUTOFF, 0.5), portable):
        edge_index, vectors = search(moved, box, periodic)
        assert edge_index.is_contiguous() or search is portable
        (gradient,) = torch.autograd.grad((vectors.pow(3) * weights[: len(vectors)]).sum(), moved)
        results.append((edge_index, vectors.detach(), gradient))
    for first, second in zip(results[0], results[1], strict=True):
        assert torch.equal(first, second)
    assert torch.equal(results[0][0], results[2][0])
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    for first, second in zip(results[0][1:], results[2][1:], strict=True):
        torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


@needs_operator
def test_compiled_list_is_the_same_on_any_number_of_threads():
    generator = torch.Generator().manual_seed(4)
    positions = (20.0 * torch.rand((1500, 3), generator=generator, dtype=torch.float64)).requires_grad_(True)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        edge_index, vectors = CompiledNeighborList(CUTOFF, 0.5)(
            positions, 20.0 * torch.eye(3).double(), torch.tensor([True] * 3)
        )
        results.append((edge_index, vectors, *torch.autograd.grad(vectors.pow(3).sum(), positions)))
    torch.set_num_threads(1)
    assert results[0][0].shape[1] > 10_000
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


@needs_operator
def test_a_list_that_is_used_for_other_atoms_is_renewed():
    """Other numbers of atoms, other periodicity, and a box that only changes along an open direction."""
    search = CompiledNeighborList(CUTOFF, 0.5)
    generator = np.random.default_rng(5)
    box = BOXES["cubic"]
    positions = generator.uniform(size=(12, 3)) @ box
    for count in (12, 7, 12):
        for periodic in ((True,) * 3, (False,) * 3, (True, False, True)):
            np.testing.assert_allclose(
                found(search, positions[:count], box, periodic),
                brute_force(positions[:count], box, periodic),
                atol=1e-12,
            )


def test_no_pairs_and_one_atom(make_search):
    search = make_search(0.5)
    for positions in (torch.zeros((1, 3)).double(), torch.tensor([[0.0, 0, 0], [9.0, 0, 0]]).double()):
        for _ in range(2):
            edge_index, vectors = search(positions, torch.zeros((3, 3)).double(), torch.tensor([False] * 3))
            assert edge_index.shape == (2, 0)
            assert vectors.shape == (0, 3)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [NeighborList, pytest.param(CompiledNeighborList, marks=needs_operator)])
def test_positions_that_are_not_finite_name_the_atoms(kind, value, before):
    positions = torch.zeros((15, 3), dtype=torch.float64)
    search = torch.jit.script(kind(CUTOFF, 0.5))
    arguments = (torch.eye(3).double(), torch.tensor([False] * 3))
    if before:
        search(positions + torch.arange(15)[:, None], *arguments)
    positions[3, 1] = value
    with pytest.raises((torch.jit.Error, RuntimeError), match=r"not finite for 1 of 15 atoms, the first are \[3\]"):
        search(positions, *arguments)
    positions[:, 0] = value
    with pytest.raises((torch.jit.Error, RuntimeError), match=r"not finite for 15 of 15 atoms, .*\[0, 1.* 8, 9\]"):
        search(positions, *arguments)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_boxes_that_are_not_finite_are_refused_unless_the_direction_is_open(make_search, value, before):
    """The search itself ends the process with a signal."""
    search = make_search(0.5)
    positions = torch.rand((6, 3), generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 4
    box = 5.0 * torch.eye(3, dtype=torch.float64)
    slab = torch.tensor([True, True, False])
    expected = search(positions, box, slab)
    if before:
        search(positions, box, torch.tensor([True] * 3))
    box[2, 2] = value
    with pytest.raises((torch.jit.Error, RuntimeError), match="box vectors are not finite"):
        search(positions, box, torch.tensor([True] * 3))
    for _ in range(2):
        for mine, other in zip(search(positions, box, slab), expected, strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize("periodic", [(False, False, False), (True, True, False), (False, True, False)])
@pytest.mark.parametrize("far", [1e4, 1e9, 1e18])
def test_what_has_flown_off_costs_nothing(make_search, far, periodic):
    """A fragment 10 ns after it evaporated, or an explosion: the search would hang, or end the process."""
    search = make_search(0.5)
    generator = torch.Generator().manual_seed(3)
    box = torch.tensor(BOXES["triclinic"])
    near = 5.0 * torch.rand((12, 3), generator=generator, dtype=torch.float64)
    alone, _ = search(near, box, torch.tensor(periodic))
    rows = [np.array(row) for row, p in zip(BOXES["triclinic"], periodic, strict=True) if p]
    direction = {0: np.array([0.6, -0.8, 0.0]), 1: np.cross([0, 0, 1.0], rows[0]) if rows else None}.get(len(rows))
    direction = np.cross(*rows) if direction is None else direction
    away = far * torch.tensor(direction / np.linalg.norm(direction))
    pair = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    for _ in range(2):
        edge_index = search(torch.cat([near, pair + away]), box, torch.tensor(periodic))[0]
        kept = (edge_index < 12).all(dim=0)
        assert torch.equal(edge_index[:, kept], alone)
        if far < 1e12:  # beyond, numbers do not tell the two atoms apart
            assert sorted(edge_index[:, ~kept].T.tolist()) == [[12, 13], [13, 12]]
        away = away * 1.001


@needs_operator
def test_threads_may_share_one_list():
    """Two Contexts of one force, each with a thread: scripted modules run without the interpreter's lock."""
    search = torch.jit.script(CompiledNeighborList(CUTOFF, 0.5).eval())
    periodic = torch.tensor([True] * 3)
    box = 9.0 * torch.eye(3, dtype=torch.float64)

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        found = []
        for _ in range(100):
            positions = 9.0 * torch.rand((60, 3), generator=generator, dtype=torch.float64)
            found.append(search(positions, box, periodic))
        return found

    expected = [work(seed) for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for mine, others in zip(pool.map(work, range(4)), expected, strict=True):
            for one, other in zip(mine, others, strict=True):
                assert torch.equal(one[0], other[0])
                assert torch.equal(one[1], other[1])


def test_no_atoms_are_refused(make_search):
    with pytest.raises((torch.jit.Error, RuntimeError), match="no atoms"):
        make_search(0.5)(torch.zeros((0, 3)).double(), torch.zeros((3, 3)).double(), torch.tensor([False] * 3))


@needs_operator
@pytest.mark.parametrize(
    ("positions", "box", "message"),
    [((4, 2), (3, 3), r"positions must have the shape \(N, 3\)"), ((4, 3), (0,), r"box must have the shape \(3, 3\)")],
)
def test_wrong_shapes_are_refused(positions, box, message):
    search = CompiledNeighborList(CUTOFF, 0.5)
    periodic = torch.tensor([False] * 3)
    search(torch.rand((4, 3), dtype=torch.float64), torch.zeros((3, 3), dtype=torch.float64), periodic)
    with pytest.raises(RuntimeError, match=message):
        search(torch.rand(positions, dtype=torch.float64), torch.zeros(box, dtype=torch.float64), periodic)


@pytest.mark.parametrize(("cutoff", "skin"), [(0.0, 0.5), (-1.0, 0.5), (3.0, -0.1), (float("nan"), 0.5)])
def test_bad_lengths_are_refused(cutoff, skin):
    for make in (NeighborList, neighbor_list):
        with pytest.raises(ConfigurationError):
            make(cutoff, skin)
