"""Short-range repulsion: the screened nuclear repulsion of Ziegler, Biersack and Littmark, switched off smoothly."""

from __future__ import annotations

import torch

from halberd.potentials.ace.radial import RadialFunction, with_slope

#: e^2 / (4 pi epsilon_0), eV angstrom.
COULOMB = 14.399645
_SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
#: Below this fraction of its onset the core goes on as a parabola, which a table can hold.
INNERMOST = 0.15


def zbl(z1: int, z2: int, r: torch.Tensor) -> torch.Tensor:
    """Universal screened Coulomb repulsion of two nuclei, eV (Ziegler, Biersack, Littmark 1985).

    Parameters
    ----------
    z1, z2 : int
        Atomic numbers.
    r : torch.Tensor
        Distance, angstrom.
    """
    length = 0.46850 / (z1**0.23 + z2**0.23)
    screening = torch.zeros_like(r)
    for amplitude, exponent in _SCREENING:
        screening = screening + amplitude * torch.exp(-exponent * r / length)
    return COULOMB * z1 * z2 / r * screening


def repulsive_core(z1: int, z2: int, onset: float) -> RadialFunction:
    """ZBL repulsion times ``(1 - r/onset)^3``: zero, with two derivatives, from the onset on.

    Parameters
    ----------
    z1, z2 : int
        Atomic numbers.
    onset : float, angstrom

    Returns
    -------
    callable
        Distances (E,) to energies (E, 1), eV; decreasing everywhere below the onset.
    """
    lowest = INNERMOST * onset
    point = torch.tensor([lowest], dtype=torch.float64)

    def inside(r: torch.Tensor) -> torch.Tensor:
        return zbl(z1, z2, r) * (1.0 - r / onset) ** 3

    value = float(inside(point))
    first, second = map(float, with_slope(lambda r: with_slope(inside, r)[1], point))

    def core(r: torch.Tensor) -> torch.Tensor:
        parabola = value + (r - lowest) * (first + 0.5 * second * (r - lowest))
        safe = torch.clamp(r, min=lowest, max=onset)
        energy = torch.where(r < lowest, parabola, torch.where(r < onset, inside(safe), torch.zeros_like(r)))
        return energy.unsqueeze(-1)

    return core
