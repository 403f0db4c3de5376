"""TorchScript modules of collective variables with the signatures that OpenMM's TorchForce fixes."""

import torch

from halberd.potentials.constants import NM_IN_ANGSTROM


class VariableModule(torch.nn.Module):
    """A collective variable of (a subset of) the particles of a System.

    Parameters
    ----------
    variable : torch.nn.Module
        Of :mod:`halberd.potentials.committees.uncertainty`.
    particles : torch.Tensor, int64, or None
        Particles the variable's model sees; ``None`` for all.
    periodic : bool
    scale : float
        What the value is multiplied by.
    """

    particles: torch.Tensor
    no_box: torch.Tensor

    def __init__(
        self, variable: torch.nn.Module, particles: torch.Tensor | None, periodic: bool, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.variable = variable
        self.every_particle = particles is None
        self.periodic: list[bool] = [periodic] * 3
        self.scale = scale
        self.to_angstrom = NM_IN_ANGSTROM
        self.register_buffer("particles", torch.zeros(0, dtype=torch.int64) if particles is None else particles)
        self.register_buffer("no_box", torch.zeros((3, 3), dtype=torch.float64))

    def value(self, positions: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        """Value, scalar float64, from positions (N, 3) and box (3, 3) in nm."""
        if not self.every_particle:
            positions = positions.index_select(0, self.particles)
        periodic = torch.tensor(self.periodic)
        value = self.variable(positions * self.to_angstrom, box * self.to_angstrom, periodic)
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
