"""What a committee does not know, as TorchScript modules: a geometry in, one number out.

All take positions (N, 3) and box (3, 3) in angstrom and the periodicity, as
:class:`halberd.potentials.sites.structure_energy.StructureEnergy` does, and are differentiable with respect to the
positions.
"""

import torch

from halberd.potentials.sites.site_model import SiteModel


class CommitteeSigma(torch.nn.Module):
    """Standard deviation of the total energy over the members of a committee, eV.

    Parameters
    ----------
    structure : torch.nn.Module
        :class:`halberd.potentials.sites.structure_energy.StructureEnergy` of a committee, or of a model with an exact
        sigma.
    spread : torch.nn.Module
        From :func:`halberd.potentials.committees.bias.spread_module`.
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
        :class:`halberd.potentials.sites.structure_energy.StructureEnergy` of a committee.
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


def smooth_twice(model: SiteModel) -> SiteModel:
    """The model in the form that can be differentiated twice: that of its file, without compiled operators."""
    portable = getattr(model.module, "portable", None)
    return model if portable is None else model.replaced(portable)
