"""Rows of a least-squares fit: weights of energies, forces and virials, and how a labelled frame becomes rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.validation import conform

#: Voigt order of virial rows: xx, yy, zz, yz, xz, xy.
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


#: Kinds of rows, in the order in which a frame's rows come.
KINDS = ("energy", "forces", "virial")
#: Rows are squared by some solvers, and the squares of larger weights leave no digit to those of others.
LARGEST_WEIGHT = 1e7


@dataclasses.dataclass(frozen=True)
class FitWeights:
    """Weights of the three kinds of rows.

    Energy and virial rows are divided by the square root of the number of atoms, so that a weight means the same for
    small and large cells.

    Attributes
    ----------
    energy, forces, virial : float
        The ratio of two weights is the inverse ratio of the errors one is willing to accept (eV per atom^(1/2),
        eV/angstrom, eV per atom^(1/2)).
    per_config_type : mapping of str to (energy, forces, virial), optional
        Other weights for some ``config_type``.
    """

    energy: float = 30.0
    forces: float = 1.0
    virial: float = 1.0
    per_config_type: Mapping[str, tuple[float, float, float]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        conform(self)
        for values in [(self.energy, self.forces, self.virial), *self.per_config_type.values()]:
            if len(values) != 3 or not all(np.isfinite(v) and 0 <= v <= LARGEST_WEIGHT for v in values):
                raise ConfigurationError(
                    f"Weights are {values}; they are three numbers, for energy, forces and virial, from 0 to "
                    f"{LARGEST_WEIGHT:g}: beside larger ones nothing is left of the others."
                )

    def of(self, config_type: str) -> tuple[float, float, float]:
        """Weights for a config type."""
        energy, forces, virial = self.per_config_type.get(config_type, (self.energy, self.forces, self.virial))
        return float(energy), float(forces), float(virial)


class FrameDesign(NamedTuple):
    """Values of the M functions of a fit for one frame.

    Attributes
    ----------
    energy : array, shape (M,), eV per unit coefficient
    forces : array, shape (N, 3, M), eV/angstrom
    virial : array, shape (6, M), eV
        Minus the derivative with respect to strain, in the order of ``VOIGT``.
    """

    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    virial: NDArray[np.float64]


def weighted_rows(frame: Frame, weights: FitWeights, e0: float, design: FrameDesign) -> NDArray[np.float64]:
    """Weighted rows of one frame with the targets in the last column.

    Parameters
    ----------
    frame : Frame
        Labels that are ``None`` have no rows.
    weights : FitWeights
    e0 : float, eV
        Taken off the energy: what the functions do not describe.
    design : FrameDesign

    Returns
    -------
    array, shape (n, M + 1)
    """
    weight_e, weight_f, weight_v = weights.of(frame.config_type)
    energy, forces, virial = design
    n_atoms = len(frame.atoms)
    parts = []
    if frame.energy is not None and weight_e > 0:
        parts.append(np.append(energy, frame.energy - e0)[None] * (weight_e / np.sqrt(n_atoms)))
    if frame.forces is not None and weight_f > 0:
        parts.append(np.column_stack([forces.reshape(3 * n_atoms, -1), frame.forces.ravel()]) * weight_f)
    if frame.virial is not None and weight_v > 0:
        target = np.array([0.5 * (frame.virial[a, b] + frame.virial[b, a]) for a, b in VOIGT])
        parts.append(np.column_stack([virial, target]) * (weight_v / np.sqrt(n_atoms)))
    return np.concatenate(parts) if parts else np.zeros((0, len(energy) + 1))


def kinds_and_units(frame: Frame, weights: FitWeights) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of the rows that :func:`weighted_rows` makes of a frame: which of ``KINDS``, and how large a residual of 1 is.

    Parameters
    ----------
    frame : Frame
    weights : FitWeights

    Returns
    -------
    kinds : array of int, shape (n,)
    units : array, shape (n,)
        In eV per atom for energies and virials, eV/angstrom for forces.
    """
    n_atoms = len(frame.atoms)
    present = (frame.energy is not None, frame.forces is not None, frame.virial is not None)
    scales = (1 / np.sqrt(n_atoms), 1.0, 1 / np.sqrt(n_atoms))
    kinds, units = [], []
    for number, (there, weight) in enumerate(zip(present, weights.of(frame.config_type), strict=True)):
        if there and weight > 0:
            count = (1, 3 * n_atoms, 6)[number]
            kinds.append(np.full(count, number))
            units.append(np.full(count, scales[number] / weight))
    if not kinds:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    return np.concatenate(kinds), np.concatenate(units)
