"""Errors of predictions against labels: MAE and RMSE per property and per config type."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from halberd.potentials.frames.coverage import coverage
from halberd.potentials.frames.labelled import Frame, group_by_config_type


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says about a frame.

    Attributes
    ----------
    energy : float, eV
    forces : array, shape (N, 3), eV/angstrom
    virial : array, shape (3, 3), eV
        ``None`` if the frame is open.
    energy_std : float, eV
    forces_std : array, shape (N, 3), eV/angstrom
        Standard deviations, of models that have any.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray | None = None
    energy_std: float | None = None
    forces_std: np.ndarray | None = None


def residuals(frames: Sequence[Frame], predictions: Sequence[Prediction]) -> dict[str, np.ndarray]:
    """Prediction minus label, for the labels that exist.

    Parameters
    ----------
    frames : sequence of Frame
    predictions : sequence of Prediction, same length

    Returns
    -------
    dict
        ``energy`` (eV/atom, one per labelled frame), ``forces`` (eV/angstrom, one per component), ``virial``
        (eV/atom, one per component); properties without labels are missing.
    """
    collected: dict[str, list[np.ndarray]] = {"energy": [], "forces": [], "virial": []}
    for frame, prediction in zip(frames, predictions, strict=True):
        n_atoms = len(frame.atoms)
        if frame.energy is not None:
            collected["energy"].append(np.array([(prediction.energy - frame.energy) / n_atoms]))
        if frame.forces is not None:
            collected["forces"].append((prediction.forces - frame.forces).ravel())
        if frame.virial is not None and prediction.virial is not None:
            collected["virial"].append((prediction.virial - frame.virial).ravel() / n_atoms)
    return {name: np.concatenate(parts) for name, parts in collected.items() if parts}


def deviations(frames: Sequence[Frame], predictions: Sequence[Prediction]) -> dict[str, np.ndarray]:
    """Standard deviations that belong to the energies and forces of :func:`residuals`.

    Parameters
    ----------
    frames : sequence of Frame
    predictions : sequence of Prediction, same length

    Returns
    -------
    dict
        As that of :func:`residuals`, of what has a deviation in every prediction.
    """
    pairs = list(zip(frames, predictions, strict=True))
    found = {}
    energies = [(f, p.energy_std) for f, p in pairs if f.energy is not None]
    if energies and all(value is not None for _, value in energies):
        found["energy"] = np.array([value / len(f.atoms) for f, value in energies])  # type: ignore[operator]
    forces = [p.forces_std for f, p in pairs if f.forces is not None]
    if forces and all(value is not None for value in forces):
        found["forces"] = np.concatenate([value.ravel() for value in forces])  # type: ignore[union-attr]
    return found


def labels_of(frames: Sequence[Frame]) -> dict[str, int]:
    """Number of frames that have an energy, forces, a virial."""
    names = ("energy", "forces", "virial")
    return {name: sum(getattr(frame, name) is not None for frame in frames) for name in names}


def summarise(errors: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """MAE and RMSE of each property, in the units of :func:`residuals`."""
    return {
        name: {"mae": float(np.abs(values).mean()), "rmse": float(np.sqrt((values**2).mean()))}
        for name, values in errors.items()
    }


def error_report(frames: Sequence[Frame], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Errors over all frames and per config type.

    Parameters
    ----------
    frames : sequence of Frame
    predictions : sequence of Prediction, same length

    Returns
    -------
    dict
        ``n_frames``; ``n_labelled``, the frames that have each property; per property ``{"mae", "rmse"}``;
        ``sigma``, of models with standard deviations, :func:`halberd.potentials.frames.coverage.coverage` of energies
        and forces; ``per_config_type``, the same for each type.
    """
    report = _errors(frames, predictions)
    report["per_config_type"] = {
        config_type: _errors([frames[i] for i in indices], [predictions[i] for i in indices])
        for config_type, indices in group_by_config_type(frames)
    }
    return report


def _errors(frames: Sequence[Frame], predictions: Sequence[Prediction]) -> dict[str, Any]:
    errors, spreads = residuals(frames, predictions), deviations(frames, predictions)
    report: dict[str, Any] = {"n_frames": len(frames), "n_labelled": labels_of(frames), **summarise(errors)}
    if spreads:
        report["sigma"] = {name: coverage(errors[name], spread) for name, spread in spreads.items()}
    return report
