"""Total energy of a structure from a site model: positions and box in, energy out.

The one place where positions become edges. The OpenMM forces and the ASE calculator both run this module.
"""

import torch

from halberd.potentials.sites.compiled_list import neighbor_list
from halberd.potentials.sites.site_model import SiteModel


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
    one_gradient : bool
        Whether something of all columns is differentiated, and not every column: committees of networks are then
        evaluated as one.
    """

    def __init__(
        self,
        model: SiteModel,
        species: torch.Tensor,
        skin: float = 0.5,
        n_threads: int = 1,
        *,
        one_gradient: bool = False,
    ) -> None:
        super().__init__()
        joined = model.joined() if one_gradient and model.joined is not None else None
        self.model = model.scripted() if joined is None else joined
        self.neighbors = neighbor_list(model.cutoff, skin, n_threads)
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
        energies = self.model(self.species, edge_index, edge_vectors.to(self.dtype)).to(torch.float64)
        if positions.is_cuda:
            # The list leaves out atoms whose positions are no numbers; on a CPU it refuses them, which would make a GPU
            # wait. Energies become NaN.
            energies = energies + 0.0 * positions.detach().sum()
        return energies


class DescriptorProjection(torch.nn.Module):
    """Component of the mean descriptor of some atoms along a direction.

    Parameters
    ----------
    structure : torch.nn.Module
        :class:`halberd.potentials.sites.structure_energy.StructureEnergy` of a descriptor; its columns are features.
    atoms : torch.Tensor, int64
        Which atoms to average over.
    direction : torch.Tensor, shape (D,)
    """

    atoms: torch.Tensor
    direction: torch.Tensor

    def __init__(self, structure: torch.nn.Module, atoms: torch.Tensor, direction: torch.Tensor) -> None:
        super().__init__()
        self.structure = structure
        self.register_buffer("atoms", atoms)
        self.register_buffer("direction", direction)

    def forward(self, positions: torch.Tensor, box: torch.Tensor, periodic: torch.Tensor) -> torch.Tensor:
        """Evaluate; scalar."""
        features = self.structure(positions, box, periodic).index_select(0, self.atoms)
        return torch.mv(features, self.direction).mean()
