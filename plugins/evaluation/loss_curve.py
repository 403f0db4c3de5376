"""Losses and errors over the epochs of a training."""

from __future__ import annotations

import os
from collections.abc import Sequence

from halberd.plugins.evaluation.figures import new_figure, save_figure
from halberd.potentials.training.loop import Epoch


def loss_curve(histories: Sequence[Sequence[Epoch]], path: str | os.PathLike[str], title: str) -> None:
    """Draw the losses of training and validation frames, and the errors of the latter.

    Parameters
    ----------
    histories : sequence of sequence of Epoch
        One per network.
    path : path
    title : str

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    units = {"energy": (1e3, "energy, meV/atom"), "forces": (1e3, "forces, meV/Å"), "stress": (1e3, "stress, meV/Å³")}
    shown = [name for name in units if any(name in each.errors for history in histories for each in history)]
    figure, axes = new_figure(1 + len(shown))
    loss = axes[0, 0]
    for number, history in enumerate(histories):
        epochs = [each.number for each in history]
        alpha = 1.0 if len(histories) == 1 else 0.6
        labels = ("training", "validation") if number == 0 else (None, None)
        loss.plot(epochs, [each.loss for each in history], color="C0", alpha=alpha, label=labels[0])
        loss.plot(epochs, [each.validation for each in history], color="C1", alpha=alpha, label=labels[1])
        for axis, name in zip(axes[0, 1:], shown, strict=True):
            factor, _ = units[name]
            values = [factor * each.errors[name]["rmse"] if name in each.errors else float("nan") for each in history]
            axis.plot(epochs, values, color="C1", alpha=alpha)
    loss.set_ylabel("loss")
    loss.legend(frameon=False)
    for axis, name in zip(axes[0, 1:], shown, strict=True):
        axis.set_ylabel(f"RMSE of validation frames: {units[name][1]}")
    for axis in axes[0]:
        axis.set_xlabel("epoch")
        axis.set_yscale("log")
    figure.suptitle(title)
    save_figure(figure, path)
