"""Evaluate a model on labelled structures: the work behind ``halberd evaluate``."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io

from halberd.plugins.evaluation.figures import check_figure_name, parity_plot
from halberd.plugins.evaluation.prediction import predict
from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials.errors import DataError
from halberd.potentials.files import check_writable, replacing
from halberd.potentials.frames.error_table import error_report
from halberd.potentials.frames.labelled import LabelKeys, read_frames
from halberd.potentials.frames.training_set import check_finite
from halberd.potentials.loading import ModelSource, check_source
from halberd.potentials.sites.torchscript import set_threads


def evaluate_file(
    model: ModelSource | Sequence[ModelSource],
    path: str | os.PathLike[str],
    *,
    keys: LabelKeys | None = None,
    plot: str | os.PathLike[str] | None = None,
    predictions_file: str | os.PathLike[str] | None = None,
    head: str | None = None,
    precision: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Compare a model with the labels in a file.

    Parameters
    ----------
    model : path, name, SiteModel or a sequence of these
    path : path-like
        Labelled structures.
    keys : LabelKeys, optional
    plot, predictions_file : path-like, optional
        Where to write a parity plot, and the frames with predictions as ``halberd_energy`` and ``halberd_forces``.
    head, precision, device
        See :class:`HalberdCalculator`.
    threads : int, optional
        CPU threads of torch.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    dict
        See :func:`halberd.potentials.frames.error_table.error_report`, and ``seconds``.

    Raises
    ------
    DataError
        If the file holds no labels, or some that are no numbers.
    ConfigurationError
        If there are too few or too many threads.
    ModelFileError, UnknownElementError, OutputError, BackendError
        Before anything is computed.
    """
    for file in (plot, predictions_file):
        if file is not None:
            check_writable(file)
    if plot is not None:
        check_figure_name(plot)
    check_source(model)
    set_threads(threads)
    frames = read_frames(path, keys)
    if all(frame.energy is None and frame.forces is None for frame in frames):
        raise DataError(
            f"'{path}' holds no labels under the usual keys. Say where they are with --energy-key and --forces-key."
        )
    check_finite(frames)
    calculator = HalberdCalculator(model, head=head, precision=precision, device=device)
    start = time.perf_counter()
    predictions = predict(calculator, frames, progress)
    report = {**error_report(frames, predictions), "seconds": time.perf_counter() - start}
    if plot is not None:
        parity_plot(frames, predictions, plot, f"{calculator.model.name} on {Path(path).name}")
    if predictions_file is not None:
        images = []
        for frame, prediction in zip(frames, predictions, strict=True):
            atoms = frame.atoms.copy()
            atoms.info["halberd_energy"] = prediction.energy
            atoms.arrays["halberd_forces"] = prediction.forces
            images.append(atoms)
        with replacing(predictions_file) as temporary:
            ase.io.write(temporary, images, format="extxyz")
    return report
