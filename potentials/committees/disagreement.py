"""What the members of a committee say about one structure: the measures that steer and stop hyperactive learning."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.committees.bias import SIGMA_FLOOR
from halberd.potentials.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """What the members say about one structure.

    Attributes
    ----------
    sigma : float
        Standard deviation of the total energy, eV.
    forces : array, shape (N, 3), eV/angstrom
        Of the mean.
    sigma_forces : array, shape (N, 3), eV/angstrom
        ``-grad sigma``; the bias force is ``-tau`` times this.
    deviation : array, shape (N,), eV/angstrom
        How far the members' force vectors are from the mean.
    """

    sigma: float
    forces: NDArray[np.float64]
    sigma_forces: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def relative(self, epsilon: float) -> NDArray[np.float64]:
        """Relative force uncertainty ``f_i = dF_i / (|F_i| + epsilon)``, shape (N,)."""
        return np.asarray(self.deviation / (np.linalg.norm(self.forces, axis=1) + epsilon))


def disagreement(energies: NDArray, forces: NDArray, form: str = "rms") -> Disagreement:
    """Boil the members' energies and forces down.

    Parameters
    ----------
    energies : array, shape (K,), eV
    forces : array, shape (K, N, 3), eV/angstrom
    form : {'rms', 'mean'}
        ``dF_i`` as the root of the mean square of, or the mean, norm of ``F_k,i - F_i``.

    Raises
    ------
    ConfigurationError
        If there is no such form.
    """
    if form not in ("rms", "mean"):
        raise ConfigurationError(f"force deviation is '{form}'; it must be 'rms' or 'mean'.")
    mean = forces.mean(axis=0)
    spread = energies - energies.mean()
    sigma = float(np.sqrt((spread**2).mean()))
    weights = spread / (len(energies) * np.hypot(sigma, SIGMA_FLOOR))
    norms = np.linalg.norm(forces - mean, axis=2)
    deviation = np.sqrt((norms**2).mean(axis=0)) if form == "rms" else norms.mean(axis=0)
    return Disagreement(sigma, mean, np.einsum("k,kid->id", weights, forces - mean), deviation)


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``exp(f_i) / sum_j exp(f_j)``; its largest entry is at least 1/N, so a threshold on it depends on N."""
    weights = np.exp(values - values.max())
    return np.asarray(weights / weights.sum())
