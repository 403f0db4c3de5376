"""Errors of a fit in frames it has not seen: the frames in parts, each predicted by a fit to all the others.

Frames that follow each other in a file are often neighbours on a trajectory. A part is therefore a stretch of every
config type, not a random choice: what is left out has few copies in what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from halberd.plugins.evaluation.prediction import predict
from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials.ace.fit import AceFit
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.frames.error_table import error_report, residuals
from halberd.potentials.frames.labelled import Frame, group_by_config_type
from halberd.potentials.frames.training_set import is_isolated
from halberd.potentials.sites.site_model import SiteModel


def in_parts(frames: Sequence[Frame], count: int) -> list[list[Frame]]:
    """Divide frames into parts of about the same size, each a stretch of every config type.

    Parameters
    ----------
    frames : sequence of Frame
    count : int
        At least 2.

    Returns
    -------
    list of list of Frame

    Raises
    ------
    ConfigurationError
        If there are fewer frames than parts, or less than two parts.
    """
    if not 2 <= count <= len(frames):
        raise ConfigurationError(
            f"{count} folds of {len(frames)} frames are not possible; between 2 and the number of frames are, 5 is "
            "usual."
        )
    parts: list[list[int]] = [[] for _ in range(count)]
    for _, indices in group_by_config_type(frames):
        # The first stretches are the longer ones: they go to the parts that have least.
        order = sorted(range(count), key=lambda k: len(parts[k]))
        for k, stretch in zip(order, np.array_split(np.array(indices), count), strict=True):
            parts[k] += stretch.tolist()
    return [[frames[i] for i in sorted(part)] for part in parts]


def cross_validate(
    fits: Sequence[AceFit],
    parts: Sequence[Sequence[Frame]],
    solve: Callable[[AceFit], SiteModel],
    done: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Errors of every part under the fit to all others.

    Parameters
    ----------
    fits : sequence of AceFit
        To each part alone, see :meth:`halberd.potentials.ace.fit.AceFit.add_in_parts`.
    parts : sequence of sequence of Frame
        Atoms alone are not predicted: self-energies are.
    solve : callable
        Makes a model of a fit.
    done : callable, optional
        Called with the number of parts that are done.

    Returns
    -------
    dict
        As :func:`halberd.potentials.frames.error_table.error_report` of all frames, with ``folds``, and to ``mae`` and
        ``rmse`` of every property ``mae_error`` and ``rmse_error``: standard errors from the scatter between parts.
    """
    frames, predictions, sizes = [], [], []
    for k, part in enumerate(parts):
        rest = fits[k].alike()
        for j, other in enumerate(fits):
            if j != k:
                rest.merge(other)
        left_out = [frame for frame in part if not is_isolated(frame.atoms)]
        frames += left_out
        predictions += predict(HalberdCalculator(solve(rest)), left_out)
        sizes.append(len(left_out))
        if done is not None:
            done(k + 1)
    report = error_report(frames, predictions)
    report["folds"] = len(parts)
    ends = np.cumsum(sizes)
    by_part = [residuals(frames[e - n : e], predictions[e - n : e]) for e, n in zip(ends, sizes, strict=True)]
    for name in ("energy", "forces", "virial"):
        found = [errors[name] for errors in by_part if name in errors]
        if len(found) > 1:
            squares = np.array([np.mean(errors**2) for errors in found])
            sizes_of = np.array([np.mean(np.abs(errors)) for errors in found])
            root = np.sqrt(len(found))
            report[name]["mae_error"] = float(np.std(sizes_of, ddof=1) / root)
            rmse = report[name]["rmse"]
            report[name]["rmse_error"] = float(np.std(squares, ddof=1) / root / (2 * rmse)) if rmse > 0 else 0.0
    return report
