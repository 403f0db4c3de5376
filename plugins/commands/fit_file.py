"""Fit a linear ACE to a file of labelled structures: the work behind ``halberd fit``."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from halberd.plugins.evaluation.dimer_curves import draw_dimers
from halberd.plugins.evaluation.figures import parity_plot
from halberd.plugins.evaluation.prediction import predict
from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials.ace.fit import AceFit
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.files import check_writable, replacing
from halberd.potentials.frames.error_table import error_report
from halberd.potentials.frames.labelled import Frame, LabelKeys, read_frames
from halberd.potentials.regression.solvers import check_solver
from halberd.potentials.regression.weighted_rows import FitWeights


def fit_file(
    train: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    keys: LabelKeys | None = None,
    weights: FitWeights | None = None,
    e0s: Mapping[str | int, float] | str | None = None,
    solver: str = "blr",
    solver_options: Mapping[str, float] | None = None,
    prior_power: float | str = 4.0,
    committee: int = 8,
    seed: int = 0,
    state: str | os.PathLike[str] | None = None,
    extend: str | os.PathLike[str] | None = None,
    plots: bool = True,
    threads: int | None = None,
    memory_mb: float = 512.0,
    progress: bool = True,
) -> dict[str, Any]:
    """Fit, evaluate on training and test frames, and write model, report and figures.

    Parameters
    ----------
    train : path-like
        Labelled structures.
    output : path-like
        The ``.pt`` file; ``NAME.json``, ``NAME.parity.png`` and ``NAME.dimers.png`` are written beside it.
    test : path-like, optional
        More labelled structures, which are not fitted.
    settings : mapping, optional
        Of :class:`AceSettings`; ``elements`` are those of the training frames if omitted.
    keys : LabelKeys, optional
    weights : FitWeights, optional
    e0s, solver, prior_power, committee, seed
        See :class:`AceFit` and :meth:`AceFit.solve`.
    solver_options : mapping, optional
    state : path-like, optional
        Where to keep the compressed rows, so that frames can be added later.
    extend : path-like, optional
        State of an earlier fit, to which the frames are added; its settings, weights and E0 apply.
    plots : bool
    threads : int, optional
        CPU threads of torch.
    memory_mb : float
        See :class:`AceFit`.
    progress : bool
        Show bars on standard error.

    Returns
    -------
    dict
        ``model``, ``n_basis``, ``n_rows``, ``train`` and ``test`` (see
        :func:`halberd.potentials.frames.error_table.error_report`), ``seconds`` {``assemble``, ``solve``, ``total``},
        ``peak_memory_mb``, and what was chosen.

    Raises
    ------
    DataError, ConfigurationError, UnknownElementError, OutputError
        As far as possible before anything is computed.
    """
    start = time.perf_counter()
    check_solver(solver, solver_options or {}, committee)
    output = Path(output)
    figures = [output.with_suffix(".parity.png"), output.with_suffix(".dimers.png")] if plots else []
    for file in [output, output.with_suffix(".json"), *figures, *([state] if state is not None else [])]:
        check_writable(file)
    if threads is not None:
        torch.set_num_threads(threads)
    frames = read_frames(train, keys)
    test_frames = read_frames(test, keys) if test is not None else []
    fit = _prepare(frames, settings, weights, e0s, extend, memory_mb)
    # A test frame of an unknown element is found now, not after the fit.
    for frame in test_frames:
        if set(frame.atoms.numbers) - set(fit.basis.settings.elements):
            _refuse_element(frame, fit.basis.settings)

    begun = time.perf_counter()
    with _bar(progress) as bar:
        task = bar.add_task("assembling", total=len(frames))
        copies = fit.add(frames, lambda done, total: bar.update(task, completed=done, total=total))
    assembled = time.perf_counter()
    if state is not None:
        fit.save(state)
    fitted = fit.solve(
        solver,
        committee=committee,
        seed=seed,
        prior_power=prior_power,
        name=output.stem,
        **dict(solver_options or {}),
    )
    solved = time.perf_counter()
    fitted.model.save(output)

    calculator = HalberdCalculator(fitted.model)
    report: dict[str, Any] = {
        "model": str(output),
        "n_basis": fit.basis.n_functions,
        "n_rows": fit.n_rows,
        "n_frames": fit.n_frames,
        "left_out": copies,
        "settings": fit.basis.settings.to_dict(),
        "e0s": dict(zip(fit.basis.settings.symbols, np.asarray(fit.e0s).tolist(), strict=True)),
        "e0_source": fit.e0_source,
        "solver": {"name": solver, "prior_power": fitted.model.metadata["prior_power"], **fitted.posterior.details},
        "log_evidence": fitted.posterior.log_evidence,
        "committee": committee,
        "seed": seed,
        "notes": fitted.notes,
    }
    for name, group in (("train", frames), ("test", test_frames)):
        if group:
            begun_evaluation = time.perf_counter()
            predictions = predict(calculator, group, progress)
            seconds = time.perf_counter() - begun_evaluation
            report[name] = {**error_report(group, predictions), "seconds": seconds}
            if plots and (name == "test" or not test_frames):
                parity_plot(group, predictions, figures[0], f"{output.stem} on {name} frames")
    if plots:
        draw_dimers(fitted.model, fit.closest, figures[1])
    report["seconds"] = {
        "assemble": assembled - begun,
        "solve": solved - assembled,
        "total": time.perf_counter() - start,
    }
    report["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    with replacing(output.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    return report


def _prepare(
    frames: Sequence[Frame],
    settings: Mapping[str, Any] | None,
    weights: FitWeights | None,
    e0s: Mapping[str | int, float] | str | None,
    extend: str | os.PathLike[str] | None,
    memory_mb: float,
) -> AceFit:
    if extend is not None:
        given = [name for name, value in (("settings", settings), ("weights", weights), ("e0s", e0s)) if value]
        if given:
            raise ConfigurationError(
                f"{', '.join(given)} were fixed by the fit in '{extend}' and cannot be changed when frames are added."
            )
        return AceFit.load(extend, memory_mb)
    chosen = dict(settings or {})
    chosen.setdefault("elements", tuple(sorted({int(z) for frame in frames for z in frame.atoms.numbers})))
    return AceFit(AceSettings(**chosen), weights, e0s, memory_mb)


def _refuse_element(frame: Frame, settings: AceSettings) -> None:
    others = sorted(set(frame.atoms.get_chemical_symbols()) - set(settings.symbols))
    raise ConfigurationError(
        f"A test frame holds {', '.join(others)}, but the fit is for {', '.join(settings.symbols)}. "
        "Use test frames of the same elements."
    )


def _bar(show: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} frames"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not show,
    )
