"""The TorchScript module inside every halberd force: OpenMM's positions in, energy in kJ/mol out.

TorchForce fixes the signature of ``forward``: positions, then the box if the force is periodic, then one number per
global parameter. Hence the six small classes; all they do is call :meth:`ForceModule.energy` or, with a bias,
:meth:`ForceModule.biased`.

The kernel differentiates the energy itself. A module that returned forces would have to compute them at every call,
also for the Monte Carlo barostat, which only wants energies.
"""

import torch

from halberd.potentials.constants import EV_IN_KJ_PER_MOL, NM_IN_ANGSTROM
from halberd.potentials.sites.structure_energy import StructureEnergy


class HostModule(torch.nn.Module):
    """OpenMM's side of a module: positions and box in nm become angstrom, of the particles that the model sees.

    Parameters
    ----------
    atoms : torch.Tensor, int64, or None
        Particle indices in the order of the model's species; ``None`` for all particles.
    periodic : bool
    """

    atoms: torch.Tensor
    no_box: torch.Tensor

    def __init__(self, atoms: torch.Tensor | None, periodic: bool) -> None:
        super().__init__()
        self.all_atoms = atoms is None
        self.to_angstrom = NM_IN_ANGSTROM
        self.register_buffer("atoms", torch.zeros(0, dtype=torch.int64) if atoms is None else atoms)
        # A list, and so on the CPU whatever the device: it is read by the host.
        self.periodic: list[bool] = [periodic] * 3
        self.register_buffer("no_box", torch.zeros((3, 3), dtype=torch.float64))

    def seen(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions, angstrom, of the particles the model sees, from those of all in nm.

        The tensor is a view on the engine's memory and is never written to.
        """
        if not self.all_atoms:
            positions = positions.index_select(0, self.atoms)
        return positions * self.to_angstrom


class ForceModule(HostModule):
    """Energy of (a subset of) the particles of a System.

    Parameters
    ----------
    structure : StructureEnergy
    atoms : torch.Tensor, int64, or None
        Particle indices in the order of the structure's species; ``None`` for all particles.
    reduction : torch.nn.Module
        Turns the total energies, shape () or (K,), and in the biased classes tau, into a scalar.
    offset : float
        Added to the energy, kJ/mol: the self-energies, or 0.
    periodic : bool
    device_type : str
        ``"cpu"`` or ``"cuda"`` to insist on a kind of device, ``""`` to follow the Context.
    """

    def __init__(
        self,
        structure: StructureEnergy,
        atoms: torch.Tensor | None,
        *,
        reduction: torch.nn.Module,
        offset: float,
        periodic: bool,
        device_type: str = "",
    ) -> None:
        super().__init__(atoms, periodic)
        self.structure = structure
        self.reduction = reduction
        self.offset = offset
        self.device_type = device_type
        self.to_kj_per_mol = EV_IN_KJ_PER_MOL

    def totals(self, positions: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        """Total energies, eV, float64, shape () or (K,), from positions (N, 3) and box (3, 3) in nm."""
        if len(self.device_type) > 0 and positions.device.type != self.device_type:
            raise RuntimeError(
                f"halberd: device='{self.device_type}' was asked for, but the Context computes on "
                f"'{positions.device.type}'. Choose another OpenMM platform, or leave out device=."
            )
        return self.structure(self.seen(positions), box * self.to_angstrom, torch.tensor(self.periodic)).sum(0)

    def energy(self, positions: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        """Energy, kJ/mol, scalar float64."""
        return self.reduction(self.totals(positions, box)) * self.to_kj_per_mol + self.offset

    def biased(self, positions: torch.Tensor, box: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Energy with bias, kJ/mol, scalar float64."""
        energy = self.reduction(self.totals(positions, box), tau.to(device=positions.device, dtype=torch.float64))
        return energy * self.to_kj_per_mol + self.offset


class OpenForce(ForceModule):
    """Without periodic boundary conditions."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Energy in kJ/mol."""
        return self.energy(positions, self.no_box.to(positions.dtype))


class PeriodicForce(ForceModule):
    """With periodic boundary conditions."""

    def forward(self, positions: torch.Tensor, boxvectors: torch.Tensor) -> torch.Tensor:
        """Energy in kJ/mol."""
        return self.energy(positions, boxvectors)


class ScaledOpenForce(ForceModule):
    """Open boundaries, energy times a context parameter."""

    def forward(self, positions: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Energy in kJ/mol."""
        return self.energy(positions, self.no_box.to(positions.dtype)) * scale


class ScaledPeriodicForce(ForceModule):
    """Periodic boundaries, energy times a context parameter."""

    def forward(self, positions: torch.Tensor, boxvectors: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Energy in kJ/mol."""
        return self.energy(positions, boxvectors) * scale


class BiasedOpenForce(ForceModule):
    """Open boundaries, bias strength as a context parameter."""

    def forward(self, positions: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Energy in kJ/mol."""
        return self.biased(positions, self.no_box.to(positions.dtype), tau)


class BiasedPeriodicForce(ForceModule):
    """Periodic boundaries, bias strength as a context parameter."""

    def forward(self, positions: torch.Tensor, boxvectors: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Energy in kJ/mol."""
        return self.biased(positions, boxvectors, tau)


#: (periodic, what the context parameter does) -> class
FORCE_MODULES: dict[tuple[bool, str], type[ForceModule]] = {
    (False, "nothing"): OpenForce,
    (True, "nothing"): PeriodicForce,
    (False, "scales"): ScaledOpenForce,
    (True, "scales"): ScaledPeriodicForce,
    (False, "biases"): BiasedOpenForce,
    (True, "biases"): BiasedPeriodicForce,
}
