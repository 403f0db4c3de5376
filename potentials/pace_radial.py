"""Radial functions, core repulsion and embeddings of ML-PACE potentials.

Formulas: Lysogorskiy et al., npj Comput. Mater. 7, 97 (2021), in the form current ML-PACE evaluates them.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from halberd.potentials.ace_radial import RadialFunction
from halberd.potentials.errors import ModelFileError

RADIAL_BASES = ("ChebExpCos", "ChebPow", "ChebLinear", "SBessel")


@dataclasses.dataclass(frozen=True)
class PaceBond:
    """Radial part of one ordered pair of elements.

    Attributes
    ----------
    basis : str
        One of ``RADIAL_BASES``.
    decay : float
        lambda of the Chebyshev argument.
    cutoff, width : float, angstrom
        Range, and width of the additional cosine switch before it (ChebExpCos).
    coefficients : torch.Tensor, shape (n_radial, l_max + 1, n_base)
        R_nl = sum_k c_nlk g_k.
    n_base : int
    core : pair of float
        Prefactor (eV angstrom) and exponent (1/angstrom^2) of the core repulsion.
    """

    basis: str
    decay: float
    cutoff: float
    width: float
    coefficients: torch.Tensor
    n_base: int
    core: tuple[float, float]


def chebyshev(x: torch.Tensor, count: int) -> list[torch.Tensor]:
    """T_0 ... T_(count - 1)."""
    values = [torch.ones_like(x), x]
    while len(values) < count:
        values.append(2.0 * x * values[-1] - values[-2])
    return values[:count]


def base_functions(bond: PaceBond) -> RadialFunction:
    """g_k(r), k = 1 ... n_base, zero beyond the cutoff.

    Raises
    ------
    ModelFileError
        If the basis is unknown.
    """
    if bond.basis not in RADIAL_BASES:
        raise ModelFileError(f"Radial basis '{bond.basis}' is not supported; halberd reads {', '.join(RADIAL_BASES)}.")
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


def bond_functions(bond: PaceBond, n_radial: int, l_max: int, n_base: int) -> RadialFunction:
    """All radial columns of a bond, padded with zeros to a common layout.

    Columns: the core, g_1 ... g_n_base, then R_1l ... R_n_radial,l for l = 0 ... l_max.
    """
    base, core = base_functions(bond), core_repulsion(bond)
    own = bond.coefficients.transpose(0, 1)[: l_max + 1]  # l that no product uses are left out
    mixing = torch.zeros(l_max + 1, n_radial, bond.n_base, dtype=torch.float64)
    mixing[: own.shape[0], : own.shape[1]] = own

    def functions(r: torch.Tensor) -> torch.Tensor:
        g = base(r)
        padding = torch.zeros(*g.shape[:-1], n_base - bond.n_base, dtype=g.dtype)
        return torch.cat([core(r), g, padding, g @ mixing.reshape(-1, bond.n_base).t()], dim=-1)

    return functions
