"""Radial functions of linear ACE: distance transform, orthogonal polynomials, and the table both are read from.

The basis *is* the table: values, first and second derivatives on a uniform grid of distances, joined by quintic
Hermite polynomials. That makes every radial function twice continuously differentiable, lets any other radial basis
take the same road, and costs a handful of multiplications per function whatever the formula behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: Knots of a radial table; at 6 angstrom that is 0.012 angstrom, and polynomials of degree 25 are met to 1e-8.
TABLE_KNOTS = 512
#: Points of the discrete scalar product in which the polynomials are orthogonal.
QUADRATURE_POINTS = 1000

RadialFunction = Callable[[torch.Tensor], torch.Tensor]


def agnesi_transform(p: float, q: float, r0: float, r_in: float = 0.0) -> RadialFunction:
    """Generalised Agnesi transform, steepest at ``r0``.

    ``x = 1 / (1 + a s^q / (1 + s^(q-p)))`` with ``s = (r - r_in)/(r0 - r_in)`` and
    ``a = (-2q + p(4q - 2)) / (p + p^2 + q + q^2)``; x falls from 1 at ``r_in`` to 0 at infinity (ACEpotentials,
    J. Chem. Phys. 159, 164101 (2023)).

    Parameters
    ----------
    p, q : float
        Exponents far from and close to ``r_in``; 0 < p <= q.
    r0, r_in : float, angstrom
    """
    a = (-2.0 * q + p * (4.0 * q - 2.0)) / (p + p * p + q + q * q)

    def transform(r: torch.Tensor) -> torch.Tensor:
        # Away from zero, where non-integer powers have no derivative; x is 1 there to rounding.
        s = torch.clamp((r - r_in) / (r0 - r_in), min=1e-8)
        return 1.0 / (1.0 + a * s**q / (1.0 + s ** (q - p)))

    return transform


def orthogonal_polynomials(count: int, p_in: int, p_cut: int) -> tuple[NDArray, NDArray, NDArray]:
    """Recursion of polynomials on [-1, 1] that carry an envelope and are orthonormal with it.

    ``J_1 = A_1 (y + 1)^p_in (y - 1)^p_cut`` and ``J_n = (A_n y + B_n) J_(n-1) + C_n J_(n-2)``, orthonormal on
    1000 midpoints with weight 1/1000. These are Jacobi polynomials of weight (2 p_cut, 2 p_in) times the envelope.

    Parameters
    ----------
    count : int
        Number of polynomials, at least 1.
    p_in, p_cut : int
        Order of the zero at y = -1 and y = +1.

    Returns
    -------
    A, B, C : arrays, shape (count,)
    """
    y = -1.0 + (np.arange(QUADRATURE_POINTS) + 0.5) * (2.0 / QUADRATURE_POINTS)
    A, B, C = np.zeros(count), np.zeros(count), np.zeros(count)
    previous = np.zeros_like(y)
    current = (y + 1.0) ** p_in * (y - 1.0) ** p_cut
    A[0] = 1.0 / math.sqrt(np.mean(current**2))
    current = current * A[0]
    for n in range(1, count):
        b, c = np.mean(y * current * current), np.mean(y * current * previous)
        following = (y - b) * current - c * previous
        norm = math.sqrt(np.mean(following**2))
        A[n], B[n], C[n] = 1.0 / norm, -b / norm, -c / norm
        previous, current = current, following / norm
    return A, B, C


def radial_basis(
    count: int, transform: RadialFunction, cutoff: float, r_in: float = 0.0, p_in: int = 2, p_cut: int = 3
) -> RadialFunction:
    """Polynomials in the transformed distance, zero outside of ``(r_in, cutoff)``.

    Parameters
    ----------
    count : int
    transform : callable
        Monotonic map of distances.
    cutoff, r_in : float, angstrom
    p_in, p_cut : int
        The functions vanish like this power at either end: with 3 they are smooth to second order.

    Returns
    -------
    callable
        Distances of shape (E,) to values of shape (E, count).
    """
    A, B, C = orthogonal_polynomials(count, p_in, p_cut)
    ends = transform(torch.tensor([r_in, cutoff], dtype=torch.float64))
    x_in, x_cut = float(ends[0]), float(ends[1])

    def basis(r: torch.Tensor) -> torch.Tensor:
        y = 2.0 * (transform(r) - x_in) / (x_cut - x_in) - 1.0
        previous = torch.zeros_like(y)
        inside = (r > r_in) & (r < cutoff)
        current = torch.where(inside, A[0] * (y + 1.0) ** p_in * (y - 1.0) ** p_cut, previous)
        values = [current]
        for n in range(1, count):
            previous, current = current, (A[n] * y + B[n]) * current + C[n] * previous
            values.append(current)
        return torch.stack(values, dim=-1)

    return basis


def with_slope(function: RadialFunction, r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of a function of distance and its derivative, for all distances at once, by forward differentiation."""
    result: Any = torch.func.jvp(function, (r,), (torch.ones_like(r),))
    return result[0], result[1]


def tabulate(function: RadialFunction, r_max: float, knots: int = TABLE_KNOTS) -> torch.Tensor:
    """Values and derivatives of radial functions on a uniform grid from 0 to ``r_max``.

    Parameters
    ----------
    function : callable
        Distances (G,) to values (G, C), twice differentiable.
    r_max : float, angstrom
    knots : int

    Returns
    -------
    torch.Tensor, float64, shape (knots, 3, C)
        f, h f' and h^2 f'' at every knot, h the grid spacing.
    """
    h = r_max / (knots - 1)
    r = torch.linspace(0.0, r_max, knots, dtype=torch.float64)
    # Off the singularity that a formula may have at zero.
    r[0] = 1e-3 * h
    first, second = with_slope(lambda x: with_slope(function, x)[1], r)
    return torch.stack([function(r), h * first, h * h * second], dim=1)


def hermite(table: torch.Tensor, pair: torch.Tensor, r: torch.Tensor, spacing: float) -> torch.Tensor:
    """Read radial functions off their tables.

    Parameters
    ----------
    table : torch.Tensor, shape (P, G, 3, C)
        From :func:`tabulate`, one for every ordered pair of species.
    pair : torch.Tensor, int64, shape (E,)
        Which table to read.
    r : torch.Tensor, shape (E,)
        Distances, angstrom; anything beyond the last knot reads the last interval's end.
    spacing : float
        Distance of the knots, angstrom.

    Returns
    -------
    torch.Tensor, shape (E, C)
        Differentiable with respect to ``r``.
    """
    knots = table.size(1)
    position = torch.clamp(r / spacing, max=float(knots - 1))
    interval = torch.clamp(position.floor(), max=float(knots - 2))
    t = (position - interval).unsqueeze(1)
    row = pair * knots + interval.to(torch.int64)
    flat = table.reshape(-1, 3, table.size(3))
    left = flat.index_select(0, row)
    right = flat.index_select(0, row + 1)
    t3 = t * t * t
    u = 1.0 - t
    u3 = u * u * u
    return (
        left[:, 0] * (u3 * (1.0 + 3.0 * t + 6.0 * t * t))
        + left[:, 1] * (u3 * t * (1.0 + 3.0 * t))
        + left[:, 2] * (0.5 * u3 * t * t)
        + right[:, 0] * (t3 * (1.0 + 3.0 * u + 6.0 * u * u))
        - right[:, 1] * (t3 * u * (1.0 + 3.0 * u))
        + right[:, 2] * (0.5 * t3 * u * u)
    )
