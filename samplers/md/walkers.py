"""Multiple walkers: runs in processes of their own that share one metadynamics bias through PLUMED's files."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import signal
import time
from pathlib import Path
from typing import Any

from halberd.plugins.evaluation.figures import BLUE, GREY, RED, new_figure, save_figure
from halberd.plugins.labelling.child_processes import die_with_parent
from halberd.plugins.plumed.files import absolute_inputs
from halberd.potentials.errors import ConfigurationError, HalberdError
from halberd.potentials.files import make_folder, replacing
from halberd.samplers.md.folder import CHECKPOINT, REPORT
from halberd.samplers.md.job import run_job
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.runs.interruption import Interruption
from halberd.samplers.runs.log import read_log
from halberd.samplers.runs.restart import read_checkpoint


def run_walkers(settings: MDSettings, restart: bool, progress: bool, start_or_restart: bool) -> dict[str, Any]:
    """Run ``settings.walkers`` copies that deposit hills for each other.

    The PLUMED script holds ``{walker}`` and ``{walkers}`` where PLUMED wants the number of a walker and how many there
    are; relative names start in the walker's own subfolder of ``output``.

    Parameters
    ----------
    settings : MDSettings
    restart, progress, start_or_restart : bool
        See :func:`halberd.samplers.md.production.run_md`.

    Returns
    -------
    dict
        ``walkers`` (their reports), ``complete``, ``stopped``, ``steps`` (of the slowest), ``output``, ``figure``,
        ``seconds``.

    Raises
    ------
    ConfigurationError
        If the script does not tell walkers apart.
    HalberdError
        If a walker failed: the message of the first that did. The others are stopped, with checkpoints.
    """
    start = time.perf_counter()
    walkers = [settings_of_walker(settings, number) for number in range(settings.walkers)]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_run, args=(each, restart, progress and number == 0, start_or_restart), daemon=True)
        for number, each in enumerate(walkers)
    ]
    for process, each in zip(processes, walkers, strict=True):
        (Path(each.output) / _FAILURE).unlink(missing_ok=True)
        process.start()
    with Interruption(settings.max_hours) as interruption:
        told = False
        while any(process.is_alive() for process in processes):
            failed = any(process.exitcode not in (None, 0) for process in processes)
            if (interruption.reason or failed) and not told:
                told = True
                for process in processes:
                    if process.is_alive() and process.pid is not None:
                        process.terminate()
            time.sleep(0.2)
        reason = interruption.reason
    for process, each in zip(processes, walkers, strict=True):
        note = Path(each.output) / _FAILURE
        # Whoever is told to stop before it has begun ends at once.
        if process.exitcode != 0 and not (told and process.exitcode == -signal.SIGTERM):
            text = note.read_text(encoding="utf-8") if note.exists() else f"it ended with code {process.exitcode}."
            raise HalberdError(f"Walker in '{each.output}' failed: {text} The others have written checkpoints.")
    reports: list[dict[str, Any]] = [
        {"complete": False, "stopped": "it was told to before it began", "steps": _steps_made(each)}
        if process.exitcode != 0
        else json.loads((Path(each.output) / REPORT).read_text(encoding="utf-8"))
        for process, each in zip(processes, walkers, strict=True)
    ]
    for report in reports:
        report.pop("settings", None)
    figure = Path(settings.output) / "walkers.png"
    begun = [each for each, report in zip(walkers, reports, strict=True) if report.get("figure")]
    if begun:
        _plot(begun, figure)
    return {
        "walkers": reports,
        "complete": all(report["complete"] for report in reports),
        "stopped": reason or next((report["stopped"] for report in reports if report["stopped"]), None),
        "steps": min(report["steps"] for report in reports),
        "output": settings.output,
        "figure": str(figure) if begun else None,
        "seconds": time.perf_counter() - start,
    }


def _steps_made(walker: MDSettings) -> int:
    file = Path(walker.output) / CHECKPOINT
    return read_checkpoint(file).step if file.exists() else 0


_FAILURE = "failure.txt"


def settings_of_walker(settings: MDSettings, number: int) -> MDSettings:
    """Settings of one walker: a folder and a seed of its own, and the script with its number in it, written there.

    Raises
    ------
    ConfigurationError
        If the script does not tell walkers apart.
    OutputError
        If the folder cannot be made.
    """
    assert settings.plumed is not None
    script = Path(settings.plumed)
    try:
        text = script.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"PLUMED script '{script}' cannot be read: {error.strerror}.") from error
    if "{walker}" not in text:
        raise ConfigurationError(
            f"'{script}' is to be run by {settings.walkers} walkers, but does not hold '{{walker}}'. Write "
            "WALKERS_N={walkers} WALKERS_ID={walker} WALKERS_DIR=.. WALKERS_RSTRIDE=100 into its METAD line."
        )
    folder = Path(settings.output) / f"walker-{number}"
    make_folder(folder)
    text = text.replace("{walker}", str(number)).replace("{walkers}", str(settings.walkers))
    with replacing(folder / "plumed.dat") as temporary:
        temporary.write_text(absolute_inputs(text, script.parent), encoding="utf-8")
    seed = (settings.seed + 100_000 * number) % 2**31
    return dataclasses.replace(
        settings, walkers=1, output=str(folder), plumed=str(folder / "plumed.dat"), seed=seed, max_hours=None
    )


def _run(settings: MDSettings, restart: bool, progress: bool, start_or_restart: bool) -> None:
    """What a walker's process does."""
    die_with_parent()
    # The terminal sends Ctrl-C to all; the parent passes it on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run_job(settings, restart, progress, start_or_restart)
    except HalberdError as error:
        with replacing(Path(settings.output) / _FAILURE) as temporary:
            temporary.write_text(" ".join(str(error).split()), encoding="utf-8")
        raise SystemExit(2) from error


def _plot(walkers: list[MDSettings], path: Path) -> None:
    figure, axes = new_figure(1, 1, width=7.0, height=2.6)
    for number, each in enumerate(walkers):
        log = read_log(Path(each.output) / "log.csv")
        color = (BLUE, RED, GREY)[number % 3]
        axes[0, 0].plot(log["time_ps"], log["potential_kj_mol"], color=color, linewidth=0.9, label=f"walker {number}")
    axes[0, 0].set_xlabel("time, ps", fontsize=8)
    axes[0, 0].set_ylabel("potential energy, bias included, kJ/mol", fontsize=8)
    axes[0, 0].legend(fontsize=8, frameon=False, ncols=4)
    save_figure(figure, path)
