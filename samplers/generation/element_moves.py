"""A particle filter over the elements of molecules that are being generated.

Every molecule has P particles. From time to time one is kept, with probability ``softmax(-beta E - penalty)`` over
their similarity energies, and the others become copies of it in which some atoms have changed their element. Atoms that
look unlike the references are the likelier to change, and every other element of the set is drawn by its weight. The
inverse temperature ``beta(sigma) = 10^(1 - 7 sigma)`` makes all of this random at first and strict at the end.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.errors import ConfigurationError


def inverse_temperature(sigma: float) -> float:
    """Beta of reduced energies at a noise level in angstrom: 1e-6 at 1, 2 at 0.1, 8.5 at 0.01."""
    return 10.0 ** (1.0 - 7.0 * sigma)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities from their logarithms; entries that are not finite get none.

    All the same if no entry is finite.
    """
    finite = np.isfinite(logits)
    if not finite.any():
        return np.full(len(logits), 1.0 / len(logits))
    weights = np.exp(np.where(finite, logits - logits[finite].max(), -np.inf))
    return np.asarray(weights / weights.sum())


@dataclasses.dataclass(frozen=True)
class ElementMoves:
    """Which elements are exchanged, and how many at a time.

    Attributes
    ----------
    species : tuple of int
        Species that take part. Atoms of others keep theirs.
    weights : tuple of float
        With which each is drawn; zero for none.
    fraction : float
        Part of the free atoms that changes in a copy, rounded up.
    """

    species: tuple[int, ...]
    weights: tuple[float, ...]
    fraction: float = 0.2

    def __post_init__(self) -> None:
        if not self.species or len(set(self.species)) != len(self.species):
            raise ConfigurationError(f"Element moves need a set of different elements, got {self.species}.")
        if len(self.weights) != len(self.species) or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise ConfigurationError(
                f"Element moves need a weight of 0 or more for each of {len(self.species)} elements: {self.weights}."
            )
        if not 0 < self.fraction <= 1:
            raise ConfigurationError(
                f"The fraction of atoms that change must be above 0 and at most 1: {self.fraction}."
            )

    @property
    def are_idle(self) -> bool:
        """Whether there is nothing to exchange."""
        return sum(weight > 0 for weight in self.weights) < 2

    def select(
        self,
        energies: NDArray[np.float64],
        sigma: float,
        generator: np.random.Generator,
        penalties: NDArray[np.float64] | None = None,
    ) -> int:
        """Choose the particle that is kept.

        Parameters
        ----------
        energies : array, shape (P,)
            Reduced; a particle whose energy is not finite is never chosen while another's is.
        sigma : float
            Noise level, angstrom.
        generator : numpy.random.Generator
        penalties : array, shape (P,), optional
            Subtracted from the logarithm of each weight, at every noise level alike.
        """
        logits = -inverse_temperature(sigma) * energies
        if penalties is not None:
            logits = logits - penalties
        return int(generator.choice(len(energies), p=softmax(logits)))

    def spawn(
        self,
        species: NDArray[np.int64],
        energies: NDArray[np.float64],
        free: NDArray[np.bool_],
        copies: int,
        sigma: float,
        generator: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Change elements in copies of a particle.

        Parameters
        ----------
        species : array of int, shape (n,)
        energies : array, shape (n,)
            Reduced energy of every atom.
        free : array of bool, shape (n,)
            Atoms that may change.
        copies : int
        sigma : float
            Noise level, angstrom.
        generator : numpy.random.Generator

        Returns
        -------
        array of int, shape (copies, n)
            Distinct atoms are picked one after the other by ``softmax(beta E_i)``.
        """
        result = np.tile(species, (copies, 1))
        candidates = np.nonzero(free & np.isin(species, self.species))[0]
        if self.are_idle or not len(candidates):
            return result
        count = min(len(candidates), math.ceil(self.fraction * int(free.sum())))
        probabilities = softmax(inverse_temperature(sigma) * energies[candidates])
        weights = np.asarray(self.weights, dtype=np.float64)
        for copy in range(copies):
            # Picking one after the other without putting back is taking the largest of Gumbel-shifted logarithms.
            with np.errstate(divide="ignore"):
                keys = np.log(probabilities) + generator.gumbel(size=len(candidates))
            for atom in candidates[np.argsort(-keys, kind="stable")[:count]]:
                others = np.where(np.asarray(self.species) == species[atom], 0.0, weights)
                if others.sum() > 0:
                    result[copy, atom] = generator.choice(self.species, p=others / others.sum())
        return result
