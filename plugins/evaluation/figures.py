"""Figures that halberd's commands leave behind."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from halberd.potentials.errors import OutputError
from halberd.potentials.files import replacing
from halberd.potentials.frames.coverage import curve
from halberd.potentials.frames.error_table import Prediction, deviations, residuals
from halberd.potentials.frames.labelled import Frame

BLUE, RED, GREY = "#20639b", "#c8553d", "#8a8a8a"


def new_figure(columns: int, rows: int = 1, width: float = 4.2, height: float = 3.6) -> tuple[Any, Any]:
    """Make a figure with a grid of axes, drawn without a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure under a temporary name and rename it.

    Raises
    ------
    OutputError
        If the place cannot be written, or the suffix names no format.
    """
    check_figure_name(path)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def check_figure_name(path: str | os.PathLike[str]) -> None:
    """Make sure that a figure can be written under a name, whose suffix chooses the format.

    Raises
    ------
    OutputError
        If there is no such format.
    """
    known = ("pdf", "png", "svg", "jpg")
    if Path(path).suffix.lower().removeprefix(".") not in known:
        raise OutputError(f"Cannot draw '{path}': the name of a figure ends in .{', .'.join(known)}.")


def parity_plot(
    frames: Sequence[Frame], predictions: Sequence[Prediction], path: str | os.PathLike[str], title: str
) -> None:
    """Draw predicted against labelled energies per atom, force components, and components of virials per atom.

    Of models with standard deviations, also how many of the errors are within so many of them.

    Parameters
    ----------
    frames : sequence of Frame
    predictions : sequence of Prediction, same length
    path : path
        Its suffix chooses the format.
    title : str

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    pairs = list(zip(frames, predictions, strict=True))
    energies = np.array([(f.energy / len(f.atoms), p.energy / len(f.atoms)) for f, p in pairs if f.energy is not None])
    forces = [np.stack([f.forces.ravel(), p.forces.ravel()], 1) for f, p in pairs if f.forces is not None]
    panels: list[tuple[np.ndarray, str, str]] = []
    if len(energies):
        panels.append((energies, "energy", "eV/atom"))
    if forces:
        panels.append((np.concatenate(forces), "force component", "eV/Å"))
    virials = [
        np.stack([f.virial.ravel(), p.virial.ravel()], 1) / len(f.atoms)
        for f, p in pairs
        if f.virial is not None and p.virial is not None
    ]
    if virials:
        panels.append((np.concatenate(virials), "virial component", "eV/atom"))
    if not panels:
        return
    spreads = deviations(frames, predictions)
    figure, axes = new_figure(len(panels) + bool(spreads))
    if spreads:
        _coverage_panel(axes[0, -1], residuals(frames, predictions), spreads)
    for axis, (data, name, unit) in zip(axes[0], panels, strict=False):
        low, high = float(data.min()), float(data.max())
        pad = 0.03 * (high - low or 1.0)
        line = [low - pad, high + pad]
        axis.plot(line, line, color=GREY, linewidth=1, zorder=1)
        axis.scatter(data[:, 0], data[:, 1], s=6, alpha=0.4, color=BLUE, linewidths=0, zorder=2, rasterized=True)
        axis.set(xlim=line, ylim=line, aspect="equal", xlabel=f"label, {unit}", ylabel=f"model, {unit}")
        error = data[:, 1] - data[:, 0]
        axis.set_title(
            f"{name}: MAE {1e3 * np.abs(error).mean():.3g}, RMSE {1e3 * np.sqrt((error**2).mean()):.3g} m{unit}",
            fontsize=9,
        )
        axis.ticklabel_format(useOffset=False)
        axis.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=10)
    save_figure(figure, path)


def _coverage_panel(axis: Any, errors: Mapping[str, np.ndarray], spreads: Mapping[str, np.ndarray]) -> None:
    z = np.linspace(0.0, 3.0, 61)
    normal = np.array([math.erf(each / math.sqrt(2.0)) for each in z])
    axis.plot(z, normal, color=GREY, linewidth=1, label="normal")
    for (name, spread), color in zip(spreads.items(), (RED, BLUE), strict=False):
        axis.plot(z, curve(errors[name], spread, z), color=color, linewidth=1.5, label=name)
    axis.set(xlim=(0, 3), ylim=(0, 1.02), xlabel="standard deviations", ylabel="share of errors within")
    axis.set_title("predicted standard deviations", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.legend(frameon=False, fontsize=8, loc="lower right")


def dimer_plot(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]], path: str | os.PathLike[str], title: str
) -> None:
    """Draw the energy of two atoms alone against their distance, one panel per pair of elements.

    Parameters
    ----------
    curves : mapping
        Pair -> (distances (R,) in angstrom, energies (R, K) in eV, closest distance in the training set).
    path : path
    title : str

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = new_figure(columns, rows, width=3.8, height=2.9)
    for axis in axes.ravel()[len(curves) :]:
        axis.set_visible(False)
    for axis, (name, (distances, energies, closest)) in zip(axes.ravel(), curves.items(), strict=False):
        mean = energies.mean(axis=1)
        for member in energies.T if energies.shape[1] > 1 else ():
            axis.plot(distances, member, color=BLUE, linewidth=0.6, alpha=0.35)
        axis.plot(distances, mean, color=BLUE, linewidth=1.5)
        if np.isfinite(closest):
            axis.axvspan(distances[0], closest, color=GREY, alpha=0.15, linewidth=0)
        data = mean[distances >= closest] if np.isfinite(closest) else mean
        spread = max(float(np.ptp(data)), 1.0)
        axis.set_ylim(float(data.min()) - 0.3 * spread, float(data.max()) + spread)
        axis.axhline(0.0, color=GREY, linewidth=0.5)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("distance, Å", fontsize=8)
        axis.set_ylabel("energy, eV", fontsize=8)
        axis.tick_params(labelsize=8)
    words = textwrap.fill(f"{title} (grey: closer than any training data)", 40 * columns)
    figure.suptitle(words, fontsize=10)
    save_figure(figure, path)
