"""Fit a linear ACE to a file of labelled structures: the work behind ``halberd fit``."""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from halberd.plugins.commands.fit_settings import FitSettings
from halberd.plugins.evaluation.cross_validation import cross_validate, in_parts
from halberd.plugins.evaluation.dimer_curves import draw_dimers
from halberd.plugins.evaluation.figures import parity_plot
from halberd.plugins.evaluation.prediction import predict
from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials.ace.fit import PRIOR_POWERS, AceFit, FittedAce
from halberd.potentials.ace.model_selection import SizeChoice, compare_sizes, smallest_as_good
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.ace.sizing import (
    PER_ROOT,
    Cost,
    chosen_for,
    cost_of,
    memory_of_machine_mb,
    smaller_sizes,
)
from halberd.potentials.errors import ConfigurationError, OutputError, did_you_mean
from halberd.potentials.files import check_writable, replacing
from halberd.potentials.frames.error_table import error_report
from halberd.potentials.frames.labelled import Frame, read_frames
from halberd.potentials.frames.oddities import oddities
from halberd.potentials.frames.training_set import check_frames, composition
from halberd.potentials.sites.elements import atomic_number_of
from halberd.potentials.sites.site_model import SiteModel
from halberd.potentials.sites.torchscript import set_threads
from halberd.potentials.validation import from_mapping


def fit_file(settings: FitSettings, *, progress: bool = True) -> dict[str, Any]:
    """Fit, evaluate on training and test frames, and write model, report and figures.

    Parameters
    ----------
    settings : FitSettings
    progress : bool
        Show bars on standard error.

    Returns
    -------
    dict
        ``model``, ``n_basis``, ``n_rows``, ``train`` and ``test`` (see
        :func:`halberd.potentials.frames.error_table.error_report`), ``seconds`` {``assemble``, ``solve``, ``total``},
        ``leave_one_out`` (by kind of label, :class:`halberd.potentials.regression.calibration.LeftOut`),
        ``cross_validation`` (if asked, :func:`halberd.plugins.evaluation.cross_validation.cross_validate`),
        ``peak_memory_mb``, ``oddities`` of the training frames and what the fit was ``foreseen`` to take (both printed
        before it begins), ``sizes`` that were compared for ``degree: auto``
        (:class:`halberd.potentials.ace.model_selection.SizeChoice`), and what was chosen.

    Raises
    ------
    DataError, ConfigurationError, UnknownElementError, OutputError
        As far as possible before anything is computed.
    """
    start = time.perf_counter()
    output = Path(settings.output)
    if not output.name:
        raise OutputError(f"'{settings.output}' names no file for the model. Give one, such as model.pt.")
    figures = [output.with_suffix(".parity.png"), output.with_suffix(".dimers.png")] if settings.plots else []
    kept = [] if settings.state is None else [Path(settings.state)]
    written = [output, output.with_suffix(".json"), *figures, *kept]
    for file in written:
        check_writable(file)
    twice = next((file for file in written if written.count(file) > 1), None)
    if twice is not None:
        raise ConfigurationError(
            f"'{twice}' would hold two results of this fit, one over the other. Name the model NAME.pt, and its state "
            "otherwise."
        )
    set_threads(settings.threads)
    groups = {"train": read_frames(settings.train, settings.keys)}
    if settings.test is not None:
        groups["test"] = read_frames(settings.test, settings.keys)
    odd = oddities(groups["train"])
    for sentence in odd:
        _say(f"note: {sentence}")
    fit, cost, sizes = _prepare(settings, groups["train"])
    # A test frame of an unknown element is found now, not after the fit.
    for frame in groups.get("test", []):
        if set(frame.atoms.numbers) - set(fit.basis.settings.elements):
            _refuse_element(frame, fit.basis.settings)

    begun = time.perf_counter()
    copies, parts, fits = _assemble(fit, groups["train"], settings.folds, progress)
    assembled = time.perf_counter()
    if settings.state is not None:
        fit.save(settings.state)
    fitted = _solve(fit, settings)
    solved = time.perf_counter()
    fitted.model.save(output)

    report = _report(settings, fit, fitted, copies)
    report["oddities"] = odd
    if sizes:
        report["sizes"] = [dataclasses.asdict(size) for size in sizes]
    report["foreseen"] = None if cost is None else dataclasses.asdict(cost)
    report.update(_evaluate(fitted.model, groups, figures, progress))
    if parts:
        report["cross_validation"] = _left_out(fits, parts, settings, progress)
    if settings.plots:
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


def _assemble(
    fit: AceFit, frames: list[Frame], folds: int, progress: bool
) -> tuple[list[int], list[list[Frame]], list[AceFit]]:
    """Add frames: which were copies and, of a cross-validation, the parts of the others and what each makes."""
    with _bar(progress) as bar:
        task = bar.add_task("assembling", total=len(frames))

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        if not folds:
            return fit.add(frames, show), [], []
        copies = check_frames(frames)
        parts = in_parts([frame for i, frame in enumerate(frames) if i not in set(copies)], folds)
        return copies, parts, fit.add_in_parts(parts, show)


def _solve(fit: AceFit, settings: FitSettings) -> FittedAce:
    return fit.solve(
        settings.solver,
        committee=settings.committee,
        seed=settings.seed,
        prior_power=settings.prior_power,
        distortions=settings.distortions,
        calibrate=settings.calibrate,
        name=Path(settings.output).stem,
        **settings.solver_options,
    )


def _left_out(
    fits: Sequence[AceFit], parts: Sequence[Sequence[Frame]], settings: FitSettings, progress: bool
) -> dict[str, Any]:
    """Errors of a cross-validation."""
    begun = time.perf_counter()
    with _bar(progress, "folds") as bar:
        task = bar.add_task("cross-validating", total=len(parts))
        report = cross_validate(
            fits, parts, lambda rest: _solve(rest, settings).model, lambda done: bar.update(task, completed=done)
        )
    return {**report, "seconds": time.perf_counter() - begun}


def _prepare(settings: FitSettings, frames: Sequence[Frame]) -> tuple[AceFit, Cost | None, list[SizeChoice]]:
    """The fit, what it will take (told unless frames are added to one that is there), and sizes that were compared."""
    kinds = {frame.config_type for frame in frames}
    for kind in settings.weights.per_config_type if settings.weights is not None else ():
        if kind not in kinds:
            raise ConfigurationError(
                f"There are weights for config type '{kind}', but no frame is of it.{did_you_mean(kind, kinds)} "
                f"There are {', '.join(sorted(kinds))}."
            )
    if settings.extend is not None:
        return AceFit.load(settings.extend, settings.memory_mb), None, []
    chosen = dict(settings.basis)
    known = sorted({int(z) for frame in frames for z in frame.atoms.numbers})
    chosen["elements"] = tuple(atomic_number_of(each) for each in chosen.get("elements", known))
    degree = chosen.pop("degree", None)
    basis = from_mapping(AceSettings, chosen if degree in (None, "auto") else {**chosen, "degree": degree}, "'basis'")
    check_frames(frames)
    composition(frames, basis.elements)
    sizes: list[SizeChoice] = []
    if degree == "auto":
        basis, sizes = _compare(basis, frames, settings)
    elif degree is None:
        basis = chosen_for(basis, frames, settings.budget, settings.memory_mb)
        _say(f"order {basis.order}, degree {','.join(f'{d:g}' for d in basis.degrees)}, as the frames are good for")
    solves = len(PRIOR_POWERS) if settings.prior_power == "auto" else 1
    cost = cost_of(basis, frames, settings.memory_mb, solves=solves, folds=settings.folds)
    _say(str(cost))
    if settings.committee and settings.solver == "ridge" and cost.n_rows <= cost.n_functions:
        raise ConfigurationError(
            f"Solver 'ridge' has no posterior to draw a committee from where rows ({cost.n_rows}) are no more than "
            f"functions ({cost.n_functions}). Use solver 'blr', no committee (--committee 0), or a lower degree."
        )
    machine = memory_of_machine_mb()
    if cost.seconds > 3600 or cost.memory_mb > machine:
        _say(
            f"note: That is more than an hour, or than the {machine / 1000:.0f} GB of this machine. Lower the degree "
            "or the order, or leave the degree out."
        )
    return AceFit(basis, settings.weights, settings.e0s, settings.memory_mb), cost, sizes


def _compare(
    basis: AceSettings, frames: Sequence[Frame], settings: FitSettings
) -> tuple[AceSettings, list[SizeChoice]]:
    """Settings of the smallest basis that is as good as the best, and all that were compared, in half the budget."""
    if settings.prior_power == "auto":
        raise ConfigurationError("degree and prior_power cannot both be auto; name one of them.")
    largest = chosen_for(basis, frames, settings.budget / 2, settings.memory_mb, per_root=2 * PER_ROOT)
    _say(f"comparing sizes up to degree {','.join(f'{d:g}' for d in largest.degrees)}")
    fit = AceFit(largest, settings.weights, settings.e0s, settings.memory_mb)
    fit.add(frames)
    sizes = compare_sizes(fit, smaller_sizes(largest), float(settings.prior_power))
    found = smallest_as_good(sizes)
    for size in sizes:
        errors = ", ".join(f"{kind} {1e3 * each.rmse:.3g}" for kind, each in size.left_out.items())
        mark = " <- taken" if size is found else ""
        degrees = ",".join(f"{d:g}" for d in size.settings.degrees)
        _say(f"  degree {degrees}: {size.n_functions} functions, RMSE of frames left out (thousandths): {errors}{mark}")
    return found.settings, sizes


def _say(sentence: str) -> None:
    Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)


def _report(settings: FitSettings, fit: AceFit, fitted: FittedAce, copies: list[int]) -> dict[str, Any]:
    """What was fitted and chosen."""
    return {
        "model": settings.output,
        "n_basis": fit.basis.n_functions,
        "n_rows": fit.n_rows,
        "n_frames": fit.n_frames,
        "left_out": copies,
        "settings": fit.basis.settings.to_dict(),
        "e0s": dict(zip(fit.basis.settings.symbols, np.asarray(fit.e0s).tolist(), strict=True)),
        "e0_source": fit.e0_source,
        "solver": {
            "name": settings.solver,
            "prior_power": fitted.model.metadata["prior_power"],
            **fitted.posterior.details,
        },
        "log_evidence": fitted.posterior.log_evidence,
        "leave_one_out": {kind: dataclasses.asdict(found) for kind, found in fitted.leave_one_out.items()},
        "committee": settings.committee,
        "seed": settings.seed,
        "notes": fitted.notes,
    }


def _evaluate(
    model: SiteModel, groups: Mapping[str, list[Frame]], figures: Sequence[Path], progress: bool
) -> dict[str, Any]:
    """Errors on training and test frames; the parity plot is of the last group."""
    calculator = HalberdCalculator(model)
    errors = {}
    for name, group in groups.items():
        begun = time.perf_counter()
        predictions = predict(calculator, group, progress)
        errors[name] = {**error_report(group, predictions), "seconds": time.perf_counter() - begun}
        if figures and name == list(groups)[-1]:
            parity_plot(group, predictions, figures[0], f"{figures[0].name.partition('.')[0]} on {name} frames")
    return errors


def _refuse_element(frame: Frame, settings: AceSettings) -> None:
    others = sorted(set(frame.atoms.get_chemical_symbols()) - set(settings.symbols))
    raise ConfigurationError(
        f"A test frame holds {', '.join(others)}, but the fit is for {', '.join(settings.symbols)}. "
        "Use test frames of the same elements."
    )


def _bar(show: bool, unit: str = "frames") -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.completed}}/{{task.total}} {unit}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not show,
    )
