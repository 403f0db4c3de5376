"""Errors of predictions against labels: MAE and RMSE per property and per config type."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from halberd.potentials.frames.labelled import Frame, group_by_config_type


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says about a frame: energy (eV), forces (eV/angstrom), virial (eV, ``None`` if open)."""

    energy: float
    forces: np.ndarray
    virial: np.ndarray | None = None


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
        ``per_config_type``, the same for each type.
    """
    report: dict[str, Any] = {
        "n_frames": len(frames),
        "n_labelled": labels_of(frames),
        **summarise(residuals(frames, predictions)),
    }
    report["per_config_type"] = {
        config_type: {
            "n_frames": len(indices),
            "n_labelled": labels_of([frames[i] for i in indices]),
            **summarise(residuals([frames[i] for i in indices], [predictions[i] for i in indices])),
        }
        for config_type, indices in group_by_config_type(frames)
    }
    return report
