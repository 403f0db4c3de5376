"""SiMGen's score and guidance as OpenMM forces; the noise level is the context parameter ``simgen_sigma``.

Reduced energies count as kJ/mol at OpenMM's border. Elements change while molecules are generated, so they are degrees
of freedom too: behind the atoms come carriers, massless particles whose coordinates, in nm, are the species of three
atoms each. They travel in States and checkpoints like every other coordinate.
"""

from typing import Any

import numpy as np
import openmm
import torch
from numpy.typing import NDArray

from halberd.plugins.forces.carrier import Carrier
from halberd.potentials.constants import NM_IN_ANGSTROM
from halberd.potentials.simgen.score import SimilarityScore
from halberd.potentials.sites.block_list import BlockNeighbors
from halberd.potentials.sites.torchscript import script

#: Context parameter: noise level in angstrom.
SIMGEN_SIGMA = "simgen_sigma"


def n_carriers(n_values: int) -> int:
    """Particles that carry so many numbers, such as the species of atoms."""
    return -(-n_values // 3)


def carriers(values: NDArray[Any]) -> NDArray[np.float64]:
    """Positions of the carriers, shape (C, 3), nm, for numbers of shape (N,)."""
    padded = np.zeros(3 * n_carriers(len(values)))
    padded[: len(values)] = values
    return padded.reshape(-1, 3)


class SimilarityForce(torch.nn.Module):
    """Similarity energy of all atoms in a Context.

    Parameters
    ----------
    sites : torch.jit.ScriptModule
        Scripted :class:`halberd.potentials.simgen.score.SimilaritySites`.
    neighbors : BlockNeighbors
    dtype : torch.dtype
        Precision of the descriptor.
    """

    def __init__(self, sites: Any, neighbors: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.sites = sites
        self.neighbors = neighbors
        self.n_atoms = len(neighbors.owner)
        self.dtype = dtype
        self.to_angstrom = NM_IN_ANGSTROM

    def forward(self, positions: torch.Tensor, simgen_sigma: torch.Tensor) -> torch.Tensor:
        """Reduced energy, as kJ/mol, from positions (N + C, 3) in nm."""
        species = positions.detach()[self.n_atoms :].reshape(-1)[: self.n_atoms].round().to(torch.int64)
        edge_index, vectors = self.neighbors(positions[: self.n_atoms] * self.to_angstrom)
        # Detached: the plugin asks for gradients of its parameters, and would have the whole kernel recorded.
        sigma = simgen_sigma.detach().to(device=positions.device, dtype=self.dtype)
        sites = self.sites(
            species,
            edge_index,
            edge_vectors=vectors.to(self.dtype),
            sigma=sigma,
            owner=self.neighbors.owner,
            count=self.neighbors.n_blocks,
        )
        return sites.to(torch.float64).sum()


class GuidanceForce(torch.nn.Module):
    """Energy of prior, repulsion and wall of all atoms in a Context."""

    def __init__(self, guidance: Any, n_atoms: int) -> None:
        super().__init__()
        self.guidance = guidance
        self.n_atoms = n_atoms
        self.to_angstrom = NM_IN_ANGSTROM

    def forward(self, positions: torch.Tensor, simgen_sigma: torch.Tensor) -> torch.Tensor:
        """Reduced energy, as kJ/mol, from positions (N + C, 3) in nm."""
        places = (positions[: self.n_atoms] * self.to_angstrom).to(torch.float64)
        sigma = simgen_sigma.detach().to(device=positions.device, dtype=torch.float64)
        return self.guidance(places, sigma).sum()


def similarity_force(
    score: SimilarityScore, sizes: list[int], group: int = 1, backend: str = "torchforce"
) -> openmm.Force:
    """Build the force of a similarity score on blocks of atoms.

    Parameters
    ----------
    score : SimilarityScore
    sizes : list of int
        Atoms of each block. The System holds the blocks one after the other, then ``n_carriers`` massless particles.
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
    neighbors = BlockNeighbors(sizes, score.descriptor.cutoff)
    module = SimilarityForce(score.module, neighbors, score.descriptor.dtype)
    return _force(module, group, backend, f"halberd: similarity to {score.references.name}")


def guidance_force(
    guidance: torch.nn.Module, n_atoms: int, group: int = 0, backend: str = "torchforce"
) -> openmm.Force:
    """Build the force of a :class:`halberd.potentials.simgen.guidance.Guidance` on the first atoms of a System.

    Raises
    ------
    BackendError
        If the backend is not usable here.
    """
    return _force(GuidanceForce(guidance, n_atoms), group, backend, "halberd: guidance")


def _force(module: torch.nn.Module, group: int, backend: str, name: str) -> openmm.Force:
    return Carrier(backend, False, name, group, {SIMGEN_SIGMA: 1.0}).carry(script(module))
