"""TorchScript modules of collective variables with the signatures that OpenMM's TorchForce fixes."""

import torch

from halberd.plugins.forces.module import HostModule


class VariableModule(HostModule):
    """A collective variable of (a subset of) the particles of a System.

    Parameters
    ----------
    variable : torch.nn.Module
        Takes positions (N, 3) and box (3, 3) in angstrom and the periodicity; returns a number.
    atoms : torch.Tensor, int64, or None
        Particles the variable's model sees; ``None`` for all.
    periodic : bool
    scale : float
        What the value is multiplied by.
    """

    def __init__(
        self, variable: torch.nn.Module, atoms: torch.Tensor | None, periodic: bool, scale: float = 1.0
    ) -> None:
        super().__init__(atoms, periodic)
        self.variable = variable
        self.scale = scale

    def value(self, positions: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        """Value, scalar float64, from positions (N, 3) and box (3, 3) in nm."""
        value = self.variable(self.seen(positions), box * self.to_angstrom, torch.tensor(self.periodic))
        return value.to(torch.float64) * self.scale


class OpenVariable(VariableModule):
    """Without periodic boundary conditions."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Value."""
        return self.value(positions, self.no_box.to(positions.dtype))


class PeriodicVariable(VariableModule):
    """With periodic boundary conditions."""

    def forward(self, positions: torch.Tensor, boxvectors: torch.Tensor) -> torch.Tensor:
        """Value."""
        return self.value(positions, boxvectors)


#: periodic -> class
VARIABLE_MODULES: dict[bool, type[VariableModule]] = {False: OpenVariable, True: PeriodicVariable}
