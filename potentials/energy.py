"""Total energy of a structure from a site model: positions and box in, energy out.

The one place where positions become edges. The OpenMM forces and the ASE calculator both run this module.
"""

from __future__ import annotations

import torch

from halberd.potentials.neighbors import NeighborList
from halberd.potentials.site_model import SiteModel


class StructureEnergy(torch.nn.Module):
    """Energies of fixed atoms in a variable geometry.

    Parameters
    ----------
    model : SiteModel
    species : torch.Tensor, int64, shape (N,)
        From :meth:`SiteModel.species_of`.
    skin : float
        Verlet skin, angstrom.
    n_threads : int
        CPU threads of the neighbour search.
    """

    def __init__(self, model: SiteModel, species: torch.Tensor, skin: float = 0.5, n_threads: int = 1) -> None:
        super().__init__()
        self.model = model.scripted()
        self.neighbors = NeighborList(model.cutoff, skin, n_threads)
        self.register_buffer("species", species)
        # Edge vectors are formed in the precision of the positions and rounded only then, so that single precision
        # does not depend on how far from the origin the atoms are.
        self.dtype = model.dtype

    def forward(self, positions: torch.Tensor, box: torch.Tensor, periodic: torch.Tensor) -> torch.Tensor:
        """Site energies, eV.

        Parameters
        ----------
        positions : torch.Tensor, shape (N, 3), angstrom
        box : torch.Tensor, shape (3, 3), angstrom
        periodic : torch.Tensor, bool, shape (3,)

        Returns
        -------
        torch.Tensor, float64, shape (N,) or (N, K)
            Without self-energies, differentiable with respect to positions and box.
        """
        edge_index, edge_vectors = self.neighbors(positions, box, periodic)
        energies = self.model(self.species, edge_index, edge_vectors.to(self.dtype))
        return energies.to(torch.float64)
