"""Bias energies of hyperactive learning: the K total energies of a committee reduced to ``mean - tau * u``.

Because the bias acts on energies, its gradient is one backward pass whatever K is; for a linear model that is one
evaluation with the coefficients ``c - tau w``, ``w = grad_b u``.

References
----------
van der Oord, Sachs, Kovacs, Ortner, Csanyi: Hyperactive learning, npj Comput. Mater. 9, 168 (2023).
Kulichenko et al.: Uncertainty-driven dynamics, Nat. Comput. Sci. 3, 230 (2023).
"""

import numpy as np
import torch
from numpy.typing import ArrayLike

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.sites.site_model import Columns, SiteModel

#: eV. Rounds the cone of sigma at zero: it changes sigma by less than this, and its gradient there is zero.
SIGMA_FLOOR = 1e-7


class CommitteeSpread(torch.nn.Module):
    """Mean and standard deviation of the members' total energies, eV, shape (2,).

    Parameters
    ----------
    offsets : array, shape (K,), eV
        Differences between the members' self-energies, which the site model leaves out.
    """

    offsets: torch.Tensor

    def __init__(self, offsets: ArrayLike) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.as_tensor(np.asarray(offsets, dtype=np.float64)))
        self.floor = SIGMA_FLOOR

    def forward(self, energies: torch.Tensor) -> torch.Tensor:
        """Reduce energies of shape (K,) or ()."""
        members = energies.reshape(-1) + self.offsets
        spread = members - members.mean()
        sigma = torch.sqrt((spread * spread).mean() + self.floor * self.floor) - self.floor
        return torch.stack([energies.mean(), sigma])


class SigmaColumn(torch.nn.Module):
    """Mean and standard deviation of a model whose two columns they are."""

    def forward(self, energies: torch.Tensor) -> torch.Tensor:
        """Pass energies of shape (2,) on."""
        return energies


class MeanEnergy(torch.nn.Module):
    """The energy that drives unbiased runs: the mean of the members, of a single model its only one."""

    def __init__(self, first_column: bool = False) -> None:
        super().__init__()
        self.first_column = first_column

    def forward(self, energies: torch.Tensor) -> torch.Tensor:
        """Reduce energies of shape () or (K,) to a scalar."""
        if self.first_column:
            return energies[0]
        return energies.mean()


class SigmaBias(torch.nn.Module):
    """``E = mean - tau * sigma``."""

    def __init__(self, spread: torch.nn.Module) -> None:
        super().__init__()
        self.spread = spread

    def forward(self, energies: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Biased energy, eV, from energies (K,) or () and a scalar tau (dimensionless)."""
        both = self.spread(energies)
        return both[0] - tau * both[1]


class ExponentialBias(torch.nn.Module):
    """``E = mean - tau (1 - exp(-sigma^2 / (2 N B^2)))``: the bounded form of uncertainty-driven dynamics.

    Written with the population variance sigma^2; the published prefactor A is ``tau``, here in eV. (There sigma_E^2 is
    half the sum of squares, divided by the number of members in the exponent.)

    Parameters
    ----------
    spread : torch.nn.Module
    n_atoms : int
    width : float
        B, eV.
    """

    def __init__(self, spread: torch.nn.Module, n_atoms: int, width: float) -> None:
        super().__init__()
        self.spread = spread
        self.scale = 2.0 * n_atoms * width * width

    def forward(self, energies: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Biased energy, eV, from energies (K,) or () and a scalar tau in eV."""
        both = self.spread(energies)
        return both[0] + tau * torch.expm1(-both[1] * both[1] / self.scale)


#: Kinds of bias; see :func:`bias_module`.
BIASES = ("sigma", "exponential")


def check_bias(kind: str, width: float) -> None:
    """Check the choice of a bias.

    Raises
    ------
    ConfigurationError
        If there is no such kind, or the width is not positive.
    """
    if kind not in BIASES:
        raise ConfigurationError(f"bias is '{kind}'; it must be one of {', '.join(BIASES)}.")
    if not (np.isfinite(width) and width > 0):
        raise ConfigurationError(f"bias_width is {width}; it must be a positive energy in eV.")


def bias_slope(sigma: float, n_atoms: int, kind: str = "sigma", width: float = 0.1) -> float:
    """How fast a bias grows with sigma, ``du / dsigma``: its force is ``tau`` times this times the gradient of sigma.

    Parameters
    ----------
    sigma : float, eV
    n_atoms : int
    kind, width
        As for :func:`bias_module`.
    """
    if kind == "sigma":
        return 1.0
    scale = n_atoms * width * width
    return float(sigma / scale * np.exp(-sigma * sigma / (2.0 * scale)))


def bias_module(
    model: SiteModel, atomic_numbers: ArrayLike, kind: str = "sigma", width: float = 0.1
) -> torch.nn.Module:
    """Make the reduction that turns a committee's energies into a biased energy.

    Parameters
    ----------
    model : SiteModel
        A committee, or a model with an exact sigma. A single model is a committee of one: its sigma is zero and so is
        its bias.
    atomic_numbers : array of int, shape (N,)
    kind : {'sigma', 'exponential'}
    width : float
        B of the exponential form, eV.

    Returns
    -------
    torch.nn.Module
        ``forward(energies, tau)``.

    Raises
    ------
    ConfigurationError
        If there is no such kind, or the width is not positive.
    """
    check_bias(kind, width)
    spread = spread_module(model, atomic_numbers)
    return SigmaBias(spread) if kind == "sigma" else ExponentialBias(spread, len(np.asarray(atomic_numbers)), width)


def spread_module(model: SiteModel, atomic_numbers: ArrayLike) -> torch.nn.Module:
    """What reduces the totals of a model to mean and standard deviation, eV, shape (2,), self-energies considered.

    Parameters
    ----------
    model : SiteModel
        As for :func:`bias_module`.
    atomic_numbers : array of int, shape (N,)
    """
    if model.columns is Columns.MEAN_AND_SIGMA:
        return SigmaColumn()
    numbers = [int(z) for z in np.asarray(atomic_numbers)]
    totals = np.atleast_1d(np.asarray(model.self_energy(numbers), dtype=float))
    return CommitteeSpread(np.broadcast_to(totals, (model.n_columns or 1,)) - totals.mean())


def check_committee(model: SiteModel) -> None:
    """Raise if a model has no members to compare.

    Raises
    ------
    ConfigurationError
        If it is a single model, or its columns are not members.
    """
    if model.columns is not Columns.MEMBERS:
        raise ConfigurationError(
            f"'{model.name}' has no members to compare. Give a list of models, or fit one with a committee."
        )
