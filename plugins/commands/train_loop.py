"""Trainings side by side: an epoch each in turn, with checkpoints, a bar, and the history of all."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from halberd.potentials.errors import ConfigurationError, RestartError, TrainingError
from halberd.potentials.files import replacing
from halberd.potentials.training.loop import Epoch, Trainer
from halberd.potentials.training.training import train

#: Columns of a history: which error, and which measure of it.
ERRORS = tuple((name, kind) for name in ("energy", "forces", "stress") for kind in ("mae", "rmse"))


def check_gpu(device: str) -> None:
    """Check that there is a GPU if a training wants one.

    Raises
    ------
    ConfigurationError
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError("device is cuda, but torch finds no GPU here. Take device: cpu.")


def check_start_kept(start_from: str | None, output: Path) -> None:
    """Check that a training does not write over what it starts from.

    Raises
    ------
    ConfigurationError
    """
    if start_from is not None and Path(start_from).absolute() == output.absolute():
        raise ConfigurationError(
            f"'{output}' is what the training starts from, and would be lost: name another output."
        )


def run_trainings(
    trainers: Sequence[Trainer],
    output: Path,
    *,
    max_hours: float | None = None,
    progress: bool = True,
    line: Callable[[Epoch], str] | None = None,
    errors: Sequence[tuple[str, str]] = ERRORS,
) -> TrainingError | None:
    """Train networks side by side, from their checkpoints if there are any.

    Parameters
    ----------
    trainers : sequence of Trainer
    output : path
        Checkpoints and ``.history.csv`` are written beside it.
    max_hours : float, optional
        Stop after the epoch in which they end.
    progress : bool
        Show a bar, and a line for every epoch.
    line : callable, optional
        Makes that line.
    errors : sequence of (str, str)
        Columns of the history.

    Returns
    -------
    TrainingError or None
        What went wrong with one of them, once the others are through.

    Raises
    ------
    RestartError
        If there is a checkpoint of another training.
    """
    deadline = None if max_hours is None else time.monotonic() + 3600.0 * max_hours
    line = line or epoch_line
    files = [_checkpoint(output, number, len(trainers)) for number in range(len(trainers))]
    _check_count(output, files)
    console = Console(stderr=True)
    for trainer, file in zip(trainers, files, strict=True):
        if file.exists():
            _resume(trainer, file, console)
    trouble: TrainingError | None = None
    running = [number for number, trainer in enumerate(trainers) if not trainer.done]
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("epoch {task.completed:.1f} of {task.total:.0f},"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=not progress,
    ) as bar:
        tasks = [
            bar.add_task(f"network {n + 1}", total=trainer.settings.epochs, completed=len(trainer.history))
            for n, trainer in enumerate(trainers)
        ]
        while running and not (deadline is not None and time.monotonic() >= deadline):
            for number in list(running):
                trainer, before = trainers[number], len(trainers[number].history)
                task = tasks[number]
                try:
                    train(
                        trainer,
                        checkpoint=files[number],
                        each_batch=lambda done, of, task=task, before=before: bar.update(  # type: ignore[misc]
                            task, completed=before + done / of
                        ),
                        stop=lambda: True,
                    )
                except TrainingError as error:
                    trouble = error
                    running.remove(number)
                    continue
                if progress:
                    console.print(line(trainer.history[-1]), markup=False, highlight=False, soft_wrap=True)
                if trainer.done:
                    running.remove(number)
            write_history(trainers, output.with_suffix(".history.csv"), errors)
    return trouble


def _checkpoint(output: Path, number: int, count: int) -> Path:
    return output.with_suffix(".checkpoint" if count == 1 else f".{number + 1}.checkpoint")


def _resume(trainer: Trainer, file: Path, console: Console) -> None:
    trainer.resume(file)
    done, wanted = len(trainer.history), trainer.settings.epochs
    if done > wanted:
        text = f"note: '{file.name}' has {done} epochs already, and epochs is {wanted}: nothing more is trained."
        console.print(text, markup=False)


def _check_count(output: Path, files: Sequence[Path]) -> None:
    """Refuse to write over the trainings of another number of networks."""
    ours = re.compile(rf"{re.escape(output.stem)}(\.\d+)?\.checkpoint")
    others = {file for file in output.parent.iterdir() if ours.fullmatch(file.name)} - set(files)
    if others:
        raise RestartError(
            f"'{min(others)}' is of a training with another number of networks than {len(files)}: give committee as it "
            "was to go on with it, name another output, or delete it to lose it."
        )


def epoch_line(epoch: Epoch) -> str:
    """One epoch of a potential in words."""
    names = {"energy": ("energy", "meV/atom"), "forces": ("forces", "meV/A"), "stress": ("stress", "meV/A^3")}
    parts = [f"{names[name][0]} {1e3 * values['rmse']:.4g} {names[name][1]}" for name, values in epoch.errors.items()]
    return f"epoch {epoch.number}: loss {epoch.loss:.4g}, validation {epoch.validation:.4g}; RMSE {', '.join(parts)}"


def write_history(trainers: Sequence[Trainer], path: Path, errors: Sequence[tuple[str, str]] = ERRORS) -> None:
    """Write losses and errors of all epochs of some networks, as CSV."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        names = [f"{name} {kind}" for name, kind in errors]
        table.writerow(["network", "epoch", "loss", "validation loss", "learning rate", *names])
        for number, trainer in enumerate(trainers):
            for each in trainer.history:
                values = [each.errors.get(name, {}).get(kind, np.nan) for name, kind in errors]
                table.writerow([number + 1, each.number, each.loss, each.validation, each.learning_rate, *values])
