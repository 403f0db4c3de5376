"""A Lennard-Jones site model: the cheapest thing that obeys the contract.

Useful where the physics is beside the point: checking an installation, measuring the cost of everything that is
not the network, and testing what is built on site models against numbers one can work out by hand.
"""

from collections.abc import Sequence

import torch

from halberd.potentials.sites.site_model import SiteModel


class LennardJonesSites(torch.nn.Module):
    """Half of every pair energy at each of its two atoms, eV.

    The pair energy ``4 epsilon ((sigma/r)^12 - (sigma/r)^6)`` is multiplied by ``(1 - (r/cutoff)^2)^3``, so that
    energy, force and its derivative are continuous at the cutoff.
    """

    epsilon: torch.Tensor

    def __init__(self, epsilon: float, sigma: float, cutoff: float) -> None:
        super().__init__()
        self.register_buffer("epsilon", torch.tensor(epsilon, dtype=torch.float64))
        self.sigma = sigma
        self.cutoff = cutoff

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`."""
        r2 = (edge_vectors * edge_vectors).sum(1)
        s6 = (self.sigma * self.sigma / r2) ** 3
        envelope = torch.clamp(1.0 - r2 / (self.cutoff * self.cutoff), min=0.0) ** 3
        half_pair = 2.0 * self.epsilon * (s6 * s6 - s6) * envelope
        sites = torch.zeros(species.shape[0], dtype=half_pair.dtype, device=half_pair.device)
        return sites.index_add(0, edge_index[0], half_pair)


def lennard_jones(
    atomic_numbers: Sequence[int], epsilon: float = 0.0104, sigma: float = 3.4, cutoff: float = 8.0
) -> SiteModel:
    """Build a Lennard-Jones model, the same for every element given.

    Parameters
    ----------
    atomic_numbers : sequence of int
    epsilon : float, eV
    sigma : float, angstrom
    cutoff : float, angstrom

    Returns
    -------
    SiteModel
        Double precision; the defaults are argon's.
    """
    return SiteModel(
        LennardJonesSites(epsilon, sigma, cutoff),
        cutoff,
        atomic_numbers,
        metadata={"name": "lennard-jones", "fitted_to": "nothing"},
    )
