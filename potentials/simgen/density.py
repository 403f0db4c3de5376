"""Log density of atoms under the similarity kernel, as a collective variable: a geometry in, one number out."""

from typing import Any

import torch

from halberd.potentials.sites.compiled_list import neighbor_list
from halberd.potentials.sites.site_model import SiteModel


class SimilarityDensity(torch.nn.Module):
    """Mean log density of some atoms under the similarity kernel of SiMGen, at a fixed noise level.

    Parameters
    ----------
    descriptor : SiteModel
    kernel : SimilarityKernel
    species : torch.Tensor, int64, shape (N,)
    atoms : torch.Tensor, int64
        Which atoms to average over.
    sigma : float
        Noise level, angstrom.
    skin : float
        Verlet skin, angstrom.
    """

    species: torch.Tensor
    atoms: torch.Tensor
    level: torch.Tensor

    def __init__(
        self,
        descriptor: SiteModel,
        kernel: Any,
        species: torch.Tensor,
        atoms: torch.Tensor,
        sigma: float,
        skin: float = 0.5,
    ) -> None:
        super().__init__()
        self.descriptor = descriptor.scripted()
        self.kernel = kernel
        self.neighbors = neighbor_list(descriptor.cutoff, skin)
        self.dtype = descriptor.dtype
        self.register_buffer("species", species)
        self.register_buffer("atoms", atoms)
        self.register_buffer("level", torch.tensor(sigma, dtype=descriptor.dtype))

    def forward(self, positions: torch.Tensor, box: torch.Tensor, periodic: torch.Tensor) -> torch.Tensor:
        """Evaluate; scalar."""
        edge_index, vectors = self.neighbors(positions, box, periodic)
        features = self.descriptor(self.species, edge_index, vectors.to(self.dtype))
        features, species = features.index_select(0, self.atoms), self.species.index_select(0, self.atoms)
        return self.kernel.direct(features, species, self.level).mean().to(torch.float64)
