"""The reduced energy whose negative gradient drives generation: descriptor and kernel in one scripted module."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from halberd.potentials.errors import ConfigurationError, UnknownElementError
from halberd.potentials.simgen.kernel import SimilarityKernel
from halberd.potentials.simgen.reference_set import ReferenceSet
from halberd.potentials.simgen.valence import MOST_HYDROGENS
from halberd.potentials.sites.block_list import BlockNeighbors
from halberd.potentials.sites.site_model import SiteModel
from halberd.potentials.sites.torchscript import script

#: m of the vote on hydrogens: with it 99.8 % of the atoms of unseen QM9 skeletons get the number they have.
VOTE_INVERSE_WIDTH = 300.0
#: Reference molecules whose descriptors are computed together.
_MOLECULES = 64


class SimilaritySites(torch.nn.Module):
    """Reduced site energies, ``-log k``, as a site model with a noise level.

    Parameters
    ----------
    descriptor : torch.jit.ScriptModule
        Scripted module of a descriptor.
    kernel : SimilarityKernel
    coverage : float
        Weight of the coverage sum; 0 leaves the direct sum alone, 1 the coverage alone.
    """

    def __init__(self, descriptor: Any, kernel: Any, coverage: float) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.kernel = kernel
        self.coverage = coverage

    def forward(
        self,
        species: torch.Tensor,
        edge_index: torch.Tensor,
        edge_vectors: torch.Tensor,
        sigma: torch.Tensor,
        owner: torch.Tensor,
        count: int,
    ) -> torch.Tensor:
        """Reduced energy of every atom, shape (N,).

        Parameters
        ----------
        species, edge_index, edge_vectors
            As for any site model.
        sigma : torch.Tensor, shape ()
            Noise level, angstrom.
        owner : torch.Tensor, int64, shape (N,)
            Molecule of each atom.
        count : int
            Number of molecules.
        """
        features = self.descriptor(species, edge_index, edge_vectors)
        energy = torch.zeros_like(features[:, 0])
        if self.coverage < 1.0:
            energy = energy - (1.0 - self.coverage) * self.kernel.direct(features, species, sigma)
        if self.coverage > 0.0:
            energy = energy - self.coverage * self.kernel.coverage(features, species, sigma, owner, count)
        return energy


class SimilarityScore:
    """Similarity of generated atoms to a reference set, for any model with a descriptor.

    Parameters
    ----------
    descriptor : SiteModel
        From :func:`halberd.potentials.mace.descriptor.mace_descriptor`, or any other descriptor.
    references : ReferenceSet
    widths : mapping, optional
        Element -> kernel width, default 1.
    coverage : float
        Weight of the coverage sum, 0 to 1.
    inverse_width : float, optional
        A constant m instead of one that depends on the noise level.
    balance : float
        0 counts every reference atom once; 1 gives every element the same weight, whatever the number of its atoms.

    Raises
    ------
    UnknownElementError
        If the model lacks an element of the reference set.
    ConfigurationError
        If ``coverage`` is not between 0 and 1, or as :class:`SimilarityKernel`.
    """

    def __init__(
        self,
        descriptor: SiteModel,
        references: ReferenceSet,
        *,
        widths: Mapping[str | int, float] | None = None,
        coverage: float = 0.0,
        inverse_width: float | None = None,
        balance: float = 0.0,
    ) -> None:
        if not 0 <= coverage <= 1:
            raise ConfigurationError(f"coverage is {coverage}; it must be 0 (direct) to 1 (coverage alone).")
        missing = sorted(set(references.symbols) - set(descriptor.symbols))
        if missing:
            raise UnknownElementError(
                f"Reference set '{references.name}' holds {', '.join(missing)}, which model '{descriptor.name}' does "
                f"not know; it knows {', '.join(descriptor.symbols)}. Take those molecules out, or use another model."
            )
        self.descriptor = descriptor
        self.references = references
        features = reference_features(descriptor, references)
        mask = np.concatenate(references.masks)
        _, element, counts = np.unique(
            np.concatenate(references.numbers)[mask], return_inverse=True, return_counts=True
        )
        weights = torch.tensor((counts.mean() / counts[element]) ** float(balance))
        kernel = SimilarityKernel(features, descriptor.atomic_numbers, widths, inverse_width, weights)
        labels = torch.tensor(np.concatenate(references.hydrogens)[mask])
        self.labels = labels.to(features.device)
        self.kernel = kernel
        self._highest: dict[float, float] = {}
        self.module = script(SimilaritySites(descriptor.scripted(), kernel, float(coverage)))

    def log_density(
        self, positions: torch.Tensor, species: torch.Tensor, neighbors: BlockNeighbors, sigma: float
    ) -> torch.Tensor:
        """Direct log density of every atom, shape (N,), from positions (N, 3) in angstrom.

        Differentiable with respect to the positions.
        """
        features = block_features(self.descriptor, species, positions, neighbors)
        level = torch.tensor(float(sigma), dtype=features.dtype, device=features.device)
        result: torch.Tensor = self.kernel.direct(features, species, level)
        return result

    @torch.no_grad()
    def highest_density(self, sigma: float) -> float:
        """Largest mean log density of a reference molecule, itself among the references.

        Atoms that are more similar than that have collapsed onto each other. Remembered for every noise level.
        """
        if sigma not in self._highest:
            species = self.descriptor.species_of(np.concatenate(self.references.numbers))
            mask = torch.tensor(np.concatenate(self.references.masks))
            level = torch.tensor(float(sigma), dtype=self.descriptor.dtype, device=self.descriptor.device)
            features = self.kernel.references
            values = self.kernel.direct(features, species[mask].to(features.device), level)
            counts = [int(each.sum()) for each in self.references.masks]
            means = [float(piece.mean()) for piece in torch.split(values, counts) if len(piece)]
            self._highest[sigma] = max(means)
        return self._highest[sigma]

    def hydrogen_vote(self, numbers: NDArray[np.int64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log probability of 0 to 4 hydrogens on every atom of a skeleton, by vote of similar reference atoms.

        Parameters
        ----------
        numbers : array of int, shape (n,)
        positions : array, shape (n, 3), angstrom

        Returns
        -------
        array, shape (n, 5)
        """
        device = self.descriptor.device
        species = self.descriptor.species_of(numbers).to(device)
        neighbors = BlockNeighbors([len(numbers)], self.descriptor.cutoff).to(device)
        with torch.no_grad():
            features = block_features(self.descriptor, species, torch.tensor(positions, device=device), neighbors)
            votes = self.kernel.vote(features, species, self.labels, MOST_HYDROGENS + 1, VOTE_INVERSE_WIDTH)
        return np.asarray(votes.to(torch.float64).cpu().numpy())


def block_features(
    descriptor: SiteModel, species: torch.Tensor, positions: torch.Tensor, neighbors: BlockNeighbors
) -> torch.Tensor:
    """Descriptors of blocks of atoms, shape (N, D), from positions (N, 3) in angstrom."""
    edge_index, vectors = neighbors(positions)
    return descriptor(species, edge_index, vectors.to(descriptor.dtype))


@torch.no_grad()
def reference_features(descriptor: SiteModel, references: ReferenceSet) -> torch.Tensor:
    """Descriptors of the atoms of a reference set that its masks let through, shape (M, D)."""
    device = descriptor.device
    features = []
    for start in range(0, len(references), _MOLECULES):
        some = slice(start, start + _MOLECULES)
        numbers = references.numbers[some]
        species = descriptor.species_of(np.concatenate(numbers)).to(device)
        positions = torch.tensor(np.concatenate(references.positions[some]), device=device)
        neighbors = BlockNeighbors([len(each) for each in numbers], descriptor.cutoff).to(device)
        mask = torch.tensor(np.concatenate(references.masks[some]), device=device)
        features.append(block_features(descriptor, species, positions, neighbors)[mask])
    return torch.cat(features)
