"""Radial functions, core repulsion and embeddings of ML-PACE potentials.

Formulas: Lysogorskiy et al., npj Comput. Mater. 7, 97 (2021), in the form current ML-PACE evaluates them.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from halberd.potentials.ace.radial import RadialFunction, tabulate

RADIAL_BASES = ("ChebExpCos", "ChebPow", "ChebLinear", "SBessel")


@dataclasses.dataclass(frozen=True)
class PaceBond:
    """Radial part of one ordered pair of elements.

    Attributes
    ----------
    basis : str
        One of ``RADIAL_BASES``, or ``"Tabulated"``.
    decay : float
        lambda of the Chebyshev argument.
    cutoff, width : float, angstrom
        Range, and width of the additional cosine switch before it (ChebExpCos).
    coefficients : torch.Tensor, shape (n_radial, l_max + 1, n_base)
        R_nl = sum_k c_nlk g_k.
    n_base : int
    core : pair of float
        Prefactor (eV angstrom) and exponent (1/angstrom^2) of the core repulsion.
    values : torch.Tensor, shape (knots, n_base + (l_max + 1) n_radial), optional
        Instead of a formula: g_k, then R_nl for l = 0, 1, ..., on a uniform grid from 0 to the cutoff.
    """

    basis: str
    decay: float
    cutoff: float
    width: float
    coefficients: torch.Tensor
    n_base: int
    core: tuple[float, float]
    values: torch.Tensor | None = None


def chebyshev(x: torch.Tensor, count: int) -> list[torch.Tensor]:
    """T_0 ... T_(count - 1)."""
    values = [torch.ones_like(x), x]
    while len(values) < count:
        values.append(2.0 * x * values[-1] - values[-2])
    return values[:count]


def base_functions(bond: PaceBond) -> RadialFunction:
    """g_k(r), k = 1 ... n_base, zero beyond the cutoff."""
    cutoff, count = bond.cutoff, bond.n_base

    def functions(r: torch.Tensor) -> torch.Tensor:
        inside = r < cutoff
        # Where the function is zero, the formulas get a harmless argument: their derivatives stay finite.
        safe = torch.where(inside, r, torch.full_like(r, 0.5 * cutoff))
        if bond.basis == "ChebExpCos":
            lowest = math.exp(-bond.decay)
            x = 1.0 - 2.0 * (torch.exp(-bond.decay * safe / cutoff) - lowest) / (1.0 - lowest)
            terms = chebyshev(x, max(count, 2))
            values = torch.stack([terms[0], *(0.5 - 0.5 * t for t in terms[1:count])], dim=-1)
            envelope = 0.5 * (1.0 + torch.cos(math.pi * safe / cutoff))
            if bond.width > 0:
                step = torch.clamp((safe - cutoff + bond.width) / bond.width, min=0.0)
                envelope = envelope * 0.5 * (1.0 + torch.cos(math.pi * step))
            values = values * envelope.unsqueeze(-1)
        elif bond.basis == "SBessel":
            values = _spherical_bessel(safe, cutoff, count)
        else:
            closeness = 1.0 - safe / cutoff
            x = closeness if bond.basis == "ChebLinear" else 1.0 - 2.0 * closeness**bond.decay
            values = torch.stack([0.5 - 0.5 * t for t in chebyshev(x, count + 1)[1:]], dim=-1)
        return torch.where(inside.unsqueeze(-1), values, torch.zeros_like(values))

    return functions


def _spherical_bessel(r: torch.Tensor, cutoff: float, count: int) -> torch.Tensor:
    """Orthogonalised sums of two spherical Bessel functions that vanish at the cutoff (Kocer et al. 2020)."""

    def raw(n: int) -> torch.Tensor:
        factor = (-1) ** n * math.sqrt(2.0) * math.pi * (n + 1) * (n + 2) / math.hypot(n + 1, n + 2)
        first, second = r * (n + 1) / cutoff, r * (n + 2) / cutoff
        return factor / cutoff**1.5 * (torch.sinc(first) + torch.sinc(second))

    values = [raw(0)]
    before = 1.0
    for n in range(1, count):
        e = n**2 * (n + 2) ** 2 / (4.0 * (n + 1) ** 4 + 1.0)
        d = 1.0 - e / before
        values.append((raw(n) + math.sqrt(e / before) * values[-1]) / math.sqrt(d))
        before = d
    return torch.stack(values, dim=-1)


def core_repulsion(bond: PaceBond) -> RadialFunction:
    """``A exp(-B r^2)/r`` with a cosine envelope, per ordered pair, shape (E, 1)."""
    prefactor, exponent = abs(bond.core[0]), abs(bond.core[1])

    def core(r: torch.Tensor) -> torch.Tensor:
        inside = (r < bond.cutoff) & (exponent * r * r < 50.0)
        # Closer than this it goes on as a constant: no table holds 1/r.
        safe = torch.where(inside, torch.clamp(r, min=0.05), torch.full_like(r, 0.5 * bond.cutoff))
        envelope = 0.5 * (1.0 + torch.cos(math.pi * safe / bond.cutoff))
        value = prefactor * torch.exp(-exponent * safe * safe) / safe * envelope
        return torch.where(inside, value, torch.zeros_like(value)).unsqueeze(-1)

    return core


def bond_table(bond: PaceBond, n_radial: int, l_max: int, n_base: int, r_max: float, knots: int) -> torch.Tensor:
    """All radial columns of a bond as a table, padded with zeros to a common layout; shape (knots, 3, columns).

    Columns: the core, g_1 ... g_n_base, then R_1l ... R_n_radial,l for l = 0 ... l_max.
    """
    if bond.values is None:
        return tabulate(bond_functions(bond, n_radial, l_max, n_base), r_max, knots)
    own_n, own_l, _ = bond.coefficients.shape
    spacing = r_max / (knots - 1)
    r = np.linspace(0.0, r_max, knots)
    spline = CubicSpline(np.linspace(0.0, bond.cutoff, len(bond.values)), bond.values.numpy(), axis=0)
    inside = (r < bond.cutoff)[:, None]
    derivatives = [np.where(inside, spacing**k * spline(np.minimum(r, bond.cutoff), k), 0.0) for k in range(3)]
    read = torch.from_numpy(np.stack(derivatives, axis=1))
    table = torch.zeros(knots, 3, 1 + n_base + (l_max + 1) * n_radial, dtype=torch.float64)
    table[:, :, :1] = tabulate(core_repulsion(bond), r_max, knots)
    table[:, :, 1 : 1 + bond.n_base] = read[:, :, : bond.n_base]
    for degree in range(min(own_l, l_max + 1)):
        start, first = 1 + n_base + degree * n_radial, bond.n_base + degree * own_n
        table[:, :, start : start + own_n] = read[:, :, first : first + own_n]
    return table


def bond_functions(bond: PaceBond, n_radial: int, l_max: int, n_base: int) -> RadialFunction:
    """All radial columns of a bond given by formulas, in the layout of :func:`bond_table`."""
    base, core = base_functions(bond), core_repulsion(bond)
    own = bond.coefficients.transpose(0, 1)[: l_max + 1]  # l that no product uses are left out
    mixing = torch.zeros(l_max + 1, n_radial, bond.n_base, dtype=torch.float64)
    mixing[: own.shape[0], : own.shape[1]] = own

    def functions(r: torch.Tensor) -> torch.Tensor:
        g = base(r)
        padding = torch.zeros(*g.shape[:-1], n_base - bond.n_base, dtype=g.dtype)
        return torch.cat([core(r), g, padding, g @ mixing.reshape(-1, bond.n_base).t()], dim=-1)

    return functions
