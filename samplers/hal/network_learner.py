"""Committees of networks as hyperactive learning grows them: trained further from their last weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Executor, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from halberd.plugins.commands.train_loop import write_history
from halberd.plugins.evaluation.loss_curve import loss_curve
from halberd.potentials.committees.committee import committee
from halberd.potentials.errors import ConfigurationError, TrainingError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.training_set import check_frames, distance_range, is_isolated
from halberd.potentials.loading import load
from halberd.potentials.sites.site_model import Columns, SiteModel
from halberd.potentials.sites.torchscript import set_threads
from halberd.potentials.training.settings import FURTHER_RATE, ScheduleSettings, TrainingSettings
from halberd.potentials.training.start import (
    Start,
    network_of_model,
    networks_of_committee,
    new_network,
    perturbed,
)
from halberd.potentials.training.training import train, trained_model, trainer_for
from halberd.samplers.hal.learning import Learnt, Lesson
from halberd.samplers.hal.model import ModelSettings

#: Seconds.
_TOLD_EVERY = 2.0
#: Where the learning rate of later trainings ends, as a part of where it begins.
_LAST_RATE = 0.01
#: Learning rate of trainings after the first, of networks that began with the run.
_REFIT_RATE = 0.002


@dataclasses.dataclass(frozen=True)
class TrainingTask:
    """One member's training.

    Attributes
    ----------
    settings : ModelSettings
    elements : tuple of int
    frames : sequence of Frame
    seed, number, member : int
        Of the run, the iteration and the member.
    folder : str
    before : str, optional
        Committee to go on from.
    epochs : int, optional
        Of a later training.
    threads : int
    """

    settings: ModelSettings
    elements: tuple[int, ...]
    frames: Sequence[Frame]
    seed: int
    number: int
    member: int
    folder: str
    before: str | None
    epochs: int | None
    threads: int


def run_training(task: TrainingTask) -> str:
    """Train a member, or go on where its training was interrupted; finished ones are left as they are.

    Returns
    -------
    str
        Its file.
    """
    output = Path(task.folder) / f"member{task.member}.pt"
    if not output.is_file():
        threads = torch.get_num_threads()
        set_threads(task.threads)
        try:
            _train(task, output)
        finally:
            set_threads(threads)
    return str(output)


def _train(task: TrainingTask, output: Path) -> None:
    copies = set(check_frames(task.frames))
    frames = [f for number, f in enumerate(task.frames) if number not in copies and not is_isolated(f.atoms)]
    settings = _training_settings(task)
    kept = kept_aside(len(frames), settings.validation, task.seed, task.member)
    start = _start(task)
    trainer = trainer_for(
        start,
        [frame for number, frame in enumerate(frames) if number not in kept],
        settings,
        [frames[number] for number in sorted(kept)],
    )
    checkpoint = output.with_suffix(".checkpoint")
    history = output.with_suffix(".history.csv")
    note = None
    try:
        train(trainer, checkpoint=checkpoint, each_epoch=lambda _: write_history([trainer], history))
    except TrainingError as error:  # what was best up to there goes on
        if trainer.best == 0:
            raise
        note = str(error)
    model = trained_model(start, trainer, f"hal-{task.number:04d}")
    best = trainer.history[trainer.best - 1]
    weights = sum(weight.numel() for weight in trainer.network.parameters())
    model.metadata["training"].update(validation=best.validation, errors=best.errors, weights=weights, note=note)
    model.save(output)
    loss_curve([trainer.history], output.with_suffix(".loss.png"), f"{model.name}, network {task.member + 1}")
    checkpoint.unlink(missing_ok=True)


def _training_settings(task: TrainingTask) -> TrainingSettings:
    seed = int(np.random.SeedSequence([task.seed, task.number, task.member]).generate_state(1)[0] >> 1)
    settings = dataclasses.replace(task.settings.training, seed=seed)
    if task.epochs is None:
        return settings
    usual = _REFIT_RATE if task.settings.start_from is None else FURTHER_RATE
    return dataclasses.replace(
        settings,
        epochs=task.epochs,
        learning_rate=task.settings.refit.learning_rate or usual,
        schedule=ScheduleSettings("cosine", _LAST_RATE),
        second_phase=None,
        early_stop=None,
    )


def _start(task: TrainingTask) -> Start:
    settings, frames = task.settings, task.frames
    seed = int(np.random.SeedSequence([task.seed, task.member]).generate_state(1)[0] >> 1)
    if task.before is not None:
        return networks_of_committee(SiteModel.load(task.before), ())[task.member]
    if settings.start_from is not None:
        model = load(settings.start_from, elements=task.elements)
        if model.columns is Columns.MEMBERS:
            return networks_of_committee(model, frames, settings.e0s)[task.member]
        return perturbed(network_of_model(model, frames, settings.e0s), settings.refit.perturbation, seed)
    return new_network({**settings.network, "elements": task.elements}, frames, settings.e0s, seed)


def _awaited(futures: Sequence[Future[str]], tasks: Sequence[TrainingTask], lesson: Lesson) -> list[str]:
    """Results of all trainings; meanwhile it is told how far they are."""
    while wait(futures, timeout=_TOLD_EVERY).not_done:
        epochs = []
        for task in tasks:
            history = lesson.folder / f"member{task.member}.history.csv"
            rows = history.read_text(encoding="utf-8").splitlines() if history.is_file() else [""]
            epochs.append(str(len(rows) - 1))
        of = tasks[0].epochs or tasks[0].settings.training.epochs
        lesson.tell(f"training, epochs {', '.join(epochs)} of {of}")
    return [future.result() for future in futures]


def kept_aside(count: int, share: float, seed: int, member: int) -> set[int]:
    """Which of the frames a member does not train on; for every frame the same, however many come after it.

    Parameters
    ----------
    count : int
        Frames, two at least.
    share : float
    seed, member : int
    """
    drawn = np.random.default_rng([seed, member, 13]).random(count)
    # One of the first two is kept and the other is not, so that there is always a frame of each kind.
    first = int(drawn[0] > drawn[1])
    chosen = set(np.flatnonzero(drawn < share).tolist())
    return (chosen | {first}) - {1 - first}


class NetworkLearner:
    """Committees of networks: members differ in their first weights, and in the frames they keep aside.

    Parameters
    ----------
    settings : ModelSettings
    elements : sequence of int
        All elements that will occur.
    seed : int
    threads : int
        Of every training.
    """

    def __init__(self, settings: ModelSettings, elements: Sequence[int], seed: int, threads: int = 1) -> None:
        self.settings = settings
        self.elements = tuple(sorted(elements))
        self.seed, self.threads = seed, threads

    def check(self, structures: Sequence[Atoms]) -> None:
        """Check that there will be frames to train on and to keep aside, and that the start can be trained.

        Raises
        ------
        ConfigurationError
        """
        if sum(len(atoms) > 1 for atoms in structures) < 2:
            raise ConfigurationError("Networks need two initial frames or more: one to train on, one to keep aside.")
        if self.settings.start_from is not None:
            model = load(self.settings.start_from, elements=self.elements)
            if model.columns is not Columns.MEMBERS:
                network_of_model(model, ())
            elif len(networks_of_committee(model, ())) != self.settings.members:
                raise ConfigurationError(
                    f"'{model.name}' has {model.n_columns} members, and committee is {self.settings.members}: "
                    f"give committee: {model.n_columns}."
                )

    def learn(self, lesson: Lesson, executor: Executor) -> Learnt:
        """Train the first networks, or the last ones further; see :class:`halberd.samplers.hal.learning.Learner`."""
        epochs = None if lesson.model is None else self.settings.refit.epochs
        model, told = self._trained(lesson, epochs, executor)
        weights = sum(each["weights"] for each in told) // len(told)
        shortest, _ = distance_range(lesson.frames, self.elements, SiteModel.load(model).cutoff)
        return Learnt(
            model=model,
            drive=model,
            state=None,
            n_functions=weights,
            n_rows=sum(int(f.energy is not None) + 3 * len(f.atoms) for f in lesson.frames),
            closest=shortest,
            details={"members": told, "notes": [each["note"] for each in told if each["note"]]},
        )

    def choose(self, candidates: Sequence[Atoms], *_: object) -> list[int]:
        """All of them: what a network will know once it is trained further cannot be told before."""
        return list(range(len(candidates)))

    def finish(self, lesson: Lesson, executor: Executor) -> Path | None:
        """Train the networks for longer."""
        if not self.settings.refit.final_epochs:
            return None
        lesson.folder.mkdir(exist_ok=True)
        return self._trained(lesson, self.settings.refit.final_epochs, executor)[0]

    def _trained(self, lesson: Lesson, epochs: int | None, executor: Executor) -> tuple[Path, list[dict[str, Any]]]:
        tasks = [
            TrainingTask(
                settings=self.settings,
                elements=self.elements,
                frames=list(lesson.frames),
                seed=self.seed,
                number=lesson.number,
                member=member,
                folder=str(lesson.folder),
                before=None if lesson.model is None else str(lesson.model),
                epochs=epochs,
                threads=self.threads,
            )
            for member in range(self.settings.members)
        ]
        output = lesson.folder / "model.pt"
        if not output.is_file():
            files = _awaited([executor.submit(run_training, task) for task in tasks], tasks, lesson)
            committee([SiteModel.load(file) for file in files], f"hal-{lesson.number:04d}").save(output)
        for task in tasks:
            (lesson.folder / f"member{task.member}.pt").unlink(missing_ok=True)
        return output, [each["training"] for each in SiteModel.load(output).metadata["members"]]
