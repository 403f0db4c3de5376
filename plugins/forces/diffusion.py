"""The score of a diffusion model as an OpenMM force; the noise level is the context parameter ``diffusion_sigma``.

Reduced energies count as kJ/mol at OpenMM's border. What atoms are of every element has noise as coordinates have, and
moves as they do: behind the atoms come carriers, particles whose coordinates are three such numbers each, in angstrom,
see :func:`element_carriers`. The force is ``sigma`` times the score, the derivative of coordinates with respect to
``-sigma`` that :class:`halberd.samplers.generation.integrators.StochasticHeunIntegrator` follows.
"""

from typing import Any

import numpy as np
import openmm
import torch
from numpy.typing import NDArray

from halberd.plugins.forces.carrier import Carrier
from halberd.plugins.forces.simgen import carriers, n_carriers
from halberd.potentials.constants import NM_IN_ANGSTROM
from halberd.potentials.diffusion.energy import RecordedEnergy
from halberd.potentials.diffusion.model import DiffusionModel
from halberd.potentials.sites.block_list import owners, pairs_of_blocks
from halberd.potentials.sites.torchscript import script

#: Context parameter: noise level in angstrom.
DIFFUSION_SIGMA = "diffusion_sigma"


def element_carriers(elements: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions of the carriers, shape (C, 3), nm, for elements of shape (N, S), angstrom."""
    return carriers(np.ravel(elements) / NM_IN_ANGSTROM)


def elements_in(positions: NDArray[np.float64], n_atoms: int, n_elements: int) -> NDArray[np.float64]:
    """Elements, shape (N, S), angstrom, from positions (N + C, 3), nm, of atoms and carriers."""
    values = np.ravel(positions[n_atoms:])[: n_atoms * n_elements]
    return values.reshape(n_atoms, n_elements) * NM_IN_ANGSTROM


class DiffusionForce(torch.nn.Module):
    """``sigma`` times the energy of all molecules in a Context.

    Parameters
    ----------
    energy : torch.nn.Module
        A :class:`halberd.potentials.diffusion.energy.RecordedEnergy`.
    sizes : list of int
        Atoms of the molecules, which follow each other.
    n_elements : int
    dtype : torch.dtype
        Precision of the energy.
    """

    edge_index: torch.Tensor
    owner: torch.Tensor

    def __init__(self, energy: Any, sizes: list[int], n_elements: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.energy = energy
        self.register_buffer("edge_index", pairs_of_blocks(sizes))
        self.register_buffer("owner", owners(sizes))
        self.n_atoms, self.n_molecules, self.n_elements = sum(sizes), len(sizes), n_elements
        self.dtype = dtype
        self.to_angstrom = NM_IN_ANGSTROM

    def forward(self, positions: torch.Tensor, diffusion_sigma: torch.Tensor) -> torch.Tensor:
        """Reduced energy, as kJ/mol, from positions (N + C, 3) in nm."""
        values = (positions * self.to_angstrom).to(self.dtype)
        count = self.n_atoms * self.n_elements
        elements = values[self.n_atoms :].reshape(-1)[:count].reshape(self.n_atoms, self.n_elements)
        sigma = diffusion_sigma.detach().to(device=positions.device, dtype=self.dtype).reshape(1)
        each = sigma.expand(self.n_molecules)
        energies = self.energy(values[: self.n_atoms], elements, each, self.edge_index, self.owner)
        return (sigma * energies).to(torch.float64).sum()


def diffusion_force(
    model: DiffusionModel, sizes: list[int], group: int = 1, backend: str = "torchforce"
) -> openmm.Force:
    """Build the force of a diffusion model on molecules.

    Parameters
    ----------
    model : DiffusionModel
    sizes : list of int
        Atoms of each molecule. The System holds the molecules one after the other, then :func:`n_element_carriers`
        particles.
    group : int
        Force group.
    backend : {'torchforce', 'python', 'auto'}

    Returns
    -------
    openmm.Force

    Raises
    ------
    BackendError
        If the backend is not usable here.
    """
    module = DiffusionForce(RecordedEnergy(model.energy), list(sizes), len(model.atomic_numbers), model.dtype)
    return Carrier(backend, False, f"halberd: diffusion, {model.name}", group, {DIFFUSION_SIGMA: 1.0}).carry(
        script(module)
    )


def n_element_carriers(model: DiffusionModel, sizes: list[int]) -> int:
    """Particles that carry what the atoms of molecules are of every element."""
    return n_carriers(sum(sizes) * len(model.atomic_numbers))
