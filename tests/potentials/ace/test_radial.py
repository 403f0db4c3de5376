from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import eval_jacobi

from halberd.potentials.ace.radial import (
    agnesi_transform,
    hermite,
    orthogonal_polynomials,
    radial_basis,
    tabulate,
    with_slope,
)
from halberd.potentials.ace.repulsive_core import repulsive_core, zbl
from halberd.potentials.sites.elements import bond_length


def polynomials(count, p_in, p_cut, y):
    A, B, C = orthogonal_polynomials(count, p_in, p_cut)
    rows = [A[0] * (y + 1) ** p_in * (y - 1) ** p_cut]
    for n in range(1, count):
        rows.append((A[n] * y + B[n]) * rows[-1] + C[n] * (rows[-2] if n > 1 else 0))
    return np.stack(rows)


@pytest.mark.parametrize(("p_in", "p_cut"), [(0, 2), (2, 2), (2, 3), (0, 3)])
def test_polynomials_are_jacobi_times_envelope(p_in, p_cut):
    y = np.linspace(-0.999, 0.999, 400)
    ours = polynomials(12, p_in, p_cut, y)
    for n in range(12):
        jacobi = (y + 1) ** p_in * (y - 1) ** p_cut * eval_jacobi(n, 2 * p_cut, 2 * p_in, y)
        scale = np.dot(ours[n], jacobi) / np.dot(jacobi, jacobi)
        # The scalar product is a sum over 1000 points, not an integral: equal to about 1e-3 without an envelope.
        assert np.abs(ours[n] - scale * jacobi).max() < (1e-8 if p_in and p_cut > 1 else 3e-3) * np.abs(ours[n]).max()


def test_polynomials_are_orthonormal():
    y = -1 + (np.arange(1000) + 0.5) * 0.002
    J = polynomials(25, 2, 3, y)
    assert np.abs(J @ J.T / 1000 - np.eye(25)).max() < 1e-10


@pytest.mark.parametrize(("p", "q"), [(2, 4), (1, 3), (1, 4)])
def test_transform_is_steepest_at_the_bond_length(p, q):
    transform = agnesi_transform(p, q, 2.4)
    r = torch.linspace(0.5, 6.0, 5501, dtype=torch.float64)
    value, slope = with_slope(transform, r)
    assert float(r[slope.argmin()]) == pytest.approx(2.4, abs=2e-3)
    assert float(transform(torch.tensor(0.0))) == pytest.approx(1.0)
    assert (slope <= 0).all()
    assert float(value[-1]) > 0


def test_known_bond_lengths():
    known = {13: 2.86, 14: 2.35, 29: 2.55, 28: 2.49, 3: 3.02, 6: 1.54, 1: 1.2}
    for z, length in known.items():
        assert bond_length(z) == pytest.approx(length, abs=0.02)


@pytest.mark.parametrize("inner", [0.0, 1.2])
def test_radial_functions_are_smooth_to_second_order_at_both_cutoffs(inner):
    cutoff = 5.5
    basis = radial_basis(10, agnesi_transform(2, 4, 2.4, inner), cutoff, inner, 3, 3)
    table = tabulate(basis, 6.5)[None]
    h = 6.5 / (table.shape[1] - 1)

    def derivatives(r):
        r = torch.tensor([r], dtype=torch.float64)
        pair = torch.zeros(1, dtype=torch.int64)
        function = lambda x: hermite(table, pair, x, h)  # noqa: E731
        first = lambda x: with_slope(function, x)[1]  # noqa: E731
        return function(r), *with_slope(first, r)

    # Just inside and outside of a cutoff; the functions vanish there with the third power.
    for edge in [cutoff] + ([inner] if inner else []):
        outside = edge + (2 * h if edge == cutoff else -2 * h)
        for value in derivatives(outside):
            assert torch.abs(value).max() == 0.0
        for step in (1e-3, 1e-4):
            inside = edge - step if edge == cutoff else edge + step
            value, _slope, curvature = derivatives(inside)
            assert torch.abs(curvature).max() < 3e4 * (step + h)
    # Continuity of the second derivative across knots everywhere.
    for knot in range(30, 500, 47):
        below, above = derivatives(knot * h - 1e-9)[2], derivatives(knot * h + 1e-9)[2]
        assert torch.abs(below - above).max() < 1e-4 * max(1.0, float(torch.abs(below).max()))


def test_table_reproduces_the_formula():
    basis = radial_basis(20, agnesi_transform(2, 4, 2.4), 5.5, 0.0, 2, 3)
    table = tabulate(basis, 6.5)[None]
    r = torch.tensor(np.random.default_rng(0).uniform(0.3, 6.4, 300))
    read = hermite(table, torch.zeros(300, dtype=torch.int64), r, 6.5 / (table.shape[1] - 1))
    exact = basis(r)
    assert torch.abs(read - exact).max() < 1e-6 * torch.abs(exact).max()


def test_core_repels_everywhere_and_ends_smoothly():
    core = repulsive_core(13, 14, 2.0)
    r = torch.linspace(0.0, 2.5, 2501, dtype=torch.float64)
    energy, slope = with_slope(core, r)
    inside = r < 1.999
    assert (slope[inside] < 0).all()
    assert (energy[r >= 2.0] == 0).all()
    # Universal screening: half the bare Coulomb energy is gone at 0.1 A or so.
    assert float(zbl(1, 1, torch.tensor(1e-4))) == pytest.approx(14.399645e4, rel=1e-3)
    assert float(zbl(14, 14, torch.tensor(1.0))) == pytest.approx(55.0, rel=0.25)
