"""Any halberd model as the TorchScript file that GROMACS' NNPot interface runs.

GROMACS hands over what the ``.mdp`` file lists: here positions (nm, float32), atomic numbers (int32) and, for periodic
systems, the box (rows, nm) and which directions are periodic. It takes an energy in kJ/mol and differentiates it
itself. The file holds a neighbour search of plain torch functions, and needs no library but GROMACS' own libtorch.
"""

import os
from pathlib import Path

import torch

from halberd.potentials.committees.bias import MeanEnergy
from halberd.potentials.constants import EV_IN_KJ_PER_MOL, NM_IN_ANGSTROM
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.files import replacing
from halberd.potentials.sites.image_pairs import ImagePairs
from halberd.potentials.sites.site_model import Columns, SiteModel
from halberd.potentials.sites.torchscript import quiet_torchscript, script


class GromacsModel(torch.nn.Module):
    """Energy in GROMACS' units.

    Parameters
    ----------
    model : SiteModel
    """

    species_of: torch.Tensor

    def __init__(self, model: SiteModel) -> None:
        super().__init__()
        scripted = model.scripted()
        self.model = getattr(scripted, "portable", scripted)
        self.reduction = MeanEnergy(model.columns is Columns.MEAN_AND_SIGMA)
        self.pairs = ImagePairs(model.cutoff)
        self.dtype = model.dtype
        self.known = ", ".join(model.symbols)
        self.to_angstrom = NM_IN_ANGSTROM
        self.to_kj_per_mol = EV_IN_KJ_PER_MOL
        table = torch.full((120,), -1, dtype=torch.int64)
        for species, number in enumerate(model.atomic_numbers):
            table[number] = species
        self.register_buffer("species_of", table)

    def energy(
        self, positions: torch.Tensor, numbers: torch.Tensor, box: torch.Tensor, periodic: torch.Tensor
    ) -> torch.Tensor:
        """Energy, kJ/mol, from positions (N, 3) and box (3, 3) in nm."""
        species = self.species_of.index_select(0, numbers.to(torch.int64))
        if bool((species < 0).any()):
            raise RuntimeError("halberd: an atom has an element that the model does not know; it knows " + self.known)
        points = positions.to(torch.float64) * self.to_angstrom
        edge_index, vectors = self.pairs(points, box.to(torch.float64) * self.to_angstrom, periodic)
        totals = self.model(species, edge_index, vectors.to(self.dtype)).to(torch.float64).sum(0)
        return self.reduction(totals) * self.to_kj_per_mol


class OpenGromacsModel(GromacsModel):
    """Inputs: atom-positions, atom-numbers."""

    def forward(self, positions: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Energy, kJ/mol."""
        box = torch.zeros((3, 3), dtype=torch.float64, device=positions.device)
        return self.energy(positions, numbers, box, torch.zeros(3, dtype=torch.bool))


class PeriodicGromacsModel(GromacsModel):
    """Inputs: atom-positions, atom-numbers, box, pbc."""

    def forward(
        self, positions: torch.Tensor, numbers: torch.Tensor, box: torch.Tensor, pbc: torch.Tensor
    ) -> torch.Tensor:
        """Energy, kJ/mol."""
        return self.energy(positions, numbers, box, pbc)


def export_for_gromacs(model: SiteModel, path: str | os.PathLike[str], periodic: bool = True) -> str:
    """Write a model for GROMACS' NNPot.

    Parameters
    ----------
    model : SiteModel
    path : path
        Should end in ``.pt``.
    periodic : bool
        Whether the model takes box and periodicity.

    Returns
    -------
    str
        Lines for the ``.mdp`` file.

    Raises
    ------
    ConfigurationError
        If the model's columns are no energies.
    OutputError
        If the place cannot be written.
    """
    if model.columns in (Columns.DESCRIPTOR, Columns.ENERGY_AND_FEATURES):
        raise ConfigurationError(f"'{model.name}' computes {model.columns.value}, not an energy.")
    module = (PeriodicGromacsModel if periodic else OpenGromacsModel)(model)
    with quiet_torchscript(), replacing(path) as temporary:
        script(module).save(str(temporary))
    inputs = ["atom-positions", "atom-numbers", *(["box", "pbc"] if periodic else [])]
    lines = ["nnpot-active            = true", f"nnpot-modelfile         = {Path(path).name}"]
    lines += ["nnpot-input-group       = System  ; or the group the model is for"]
    lines += [f"nnpot-model-input{k}      = {name}" for k, name in enumerate(inputs, start=1)]
    return "\n".join(lines) + "\n"
