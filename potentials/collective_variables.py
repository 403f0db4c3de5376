"""Collective variables from learned models, as TorchScript modules: a geometry in, one number out.

All take positions (N, 3) and box (3, 3) in angstrom and the periodicity, as
:class:`halberd.potentials.energy.StructureEnergy` does, and are differentiable with respect to the positions.
"""

from typing import Any

import torch

from halberd.potentials.neighbors import NeighborList
from halberd.potentials.site_model import SiteModel


class CommitteeSigma(torch.nn.Module):
    """Standard deviation of the total energy over the members of a committee, eV.

    Parameters
    ----------
    structure : torch.nn.Module
        :class:`halberd.potentials.energy.StructureEnergy` of a committee, or of a model with an exact sigma.
    spread : torch.nn.Module
        From :func:`halberd.potentials.bias.spread_module`.
    """

    def __init__(self, structure: torch.nn.Module, spread: torch.nn.Module) -> None:
        super().__init__()
        self.structure = structure
        self.spread = spread

    def forward(self, positions: torch.Tensor, box: torch.Tensor, periodic: torch.Tensor) -> torch.Tensor:
        """Evaluate; scalar."""
        return self.spread(self.structure(positions, box, periodic).sum(0))[1]


class LargestForceUncertainty(torch.nn.Module):
    """Largest relative force uncertainty, ``max_i f_i`` with ``f_i = dF_i / (|F_i| + epsilon)``.

    With a ``sharpness`` b it is ``log(sum_i exp(b f_i)) / b``, smooth, and at most ``log(N) / b`` above the maximum.
    The members' forces are differentiated again, so the model must be differentiable twice.

    Parameters
    ----------
    structure : torch.nn.Module
        :class:`halberd.potentials.energy.StructureEnergy` of a committee.
    epsilon : float, eV/angstrom
    sharpness : float
        0 for the maximum itself.
    """

    def __init__(self, structure: torch.nn.Module, epsilon: float, sharpness: float) -> None:
        super().__init__()
        self.structure = structure
        self.epsilon = epsilon
        self.sharpness = sharpness

    def forward(self, positions: torch.Tensor, box: torch.Tensor, periodic: torch.Tensor) -> torch.Tensor:
        """Evaluate; scalar."""
        if not positions.requires_grad:
            positions = positions.clone().requires_grad_(True)
        totals = self.structure(positions, box, periodic).sum(0)
        members: list[torch.Tensor] = []
        for k in range(totals.size(0)):
            (gradient,) = torch.autograd.grad([totals[k]], [positions], retain_graph=True, create_graph=True)
            assert gradient is not None
            members.append(-gradient)
        forces = torch.stack(members)
        mean = forces.mean(0)
        # Rounded at zero, where square roots have no slope.
        deviation = torch.sqrt((forces - mean).square().sum(2).mean(0) + 1e-16)
        uncertainty = deviation / (torch.sqrt(mean.square().sum(1) + 1e-16) + self.epsilon)
        if self.sharpness > 0.0:
            return torch.logsumexp(self.sharpness * uncertainty, 0) / self.sharpness
        return uncertainty.max()


class DescriptorProjection(torch.nn.Module):
    """Component of the mean descriptor of some atoms along a direction.

    Parameters
    ----------
    structure : torch.nn.Module
        :class:`halberd.potentials.energy.StructureEnergy` of a descriptor; its columns are features.
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
        self.neighbors = NeighborList(descriptor.cutoff, skin)
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


def smooth_twice(model: SiteModel) -> SiteModel:
    """The model in the form that can be differentiated twice: that of its file, without compiled operators."""
    portable = getattr(model.module, "portable", None)
    return model if portable is None else model.replaced(portable)
