"""Train networks on files of labelled structures: the work behind ``halberd train``."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ase.data
from rich.console import Console

from halberd.plugins.commands.train_diffusion import train_diffusion
from halberd.plugins.commands.train_loop import check_gpu, check_start_kept, run_trainings
from halberd.plugins.commands.train_settings import TrainSettings
from halberd.plugins.evaluation.figures import parity_plot
from halberd.plugins.evaluation.loss_curve import loss_curve
from halberd.plugins.evaluation.prediction import predict
from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials.committees.committee import committee
from halberd.potentials.errors import ConfigurationError, OutputError
from halberd.potentials.files import check_writable, replacing
from halberd.potentials.frames.error_table import error_report
from halberd.potentials.frames.labelled import Frame, read_frames
from halberd.potentials.frames.oddities import contradictions
from halberd.potentials.frames.stored import stored_frames
from halberd.potentials.frames.training_set import check_frames
from halberd.potentials.loading import load
from halberd.potentials.locks import locked
from halberd.potentials.sites.site_model import Columns, SiteModel
from halberd.potentials.sites.torchscript import set_threads
from halberd.potentials.training.checks import LabelWarning
from halberd.potentials.training.graphs import GraphSet
from halberd.potentials.training.loop import Trainer
from halberd.potentials.training.replay import replayed
from halberd.potentials.training.start import Start, network_of_model, networks_of_committee, new_network
from halberd.potentials.training.training import trained_model, trainer_for

#: Training frames that errors are printed of; more would take longer than they tell.
_SHOWN = 500


def train_file(settings: TrainSettings, *, progress: bool = True) -> dict[str, Any]:
    """Train, or go on with a training that was ended, and write model, report and figures.

    Parameters
    ----------
    settings : TrainSettings
    progress : bool
        Show a bar, and a line for every epoch, on standard error.

    Returns
    -------
    dict
        ``model``, ``epochs`` and ``best_epoch`` per member, ``done`` (false if the time was over first), ``train``,
        ``validation`` and one entry per test file (see :func:`halberd.potentials.frames.error_table.error_report`),
        ``seconds`` {``training``, ``total``}, ``notes``.

    Raises
    ------
    DataError, ConfigurationError, OutputError
        As far as possible before anything is computed; also if another process trains the same model.
    RestartError
        If there is a checkpoint of another training.
    TrainingError
        If a training diverged, after what was best has been written.
    """
    output = Path(settings.output)
    if settings.diffusion is not None:
        return train_diffusion(settings, progress=progress)
    _check(settings, output)
    with locked(output.parent, f".{output.name}.lock"):
        return _train_file(settings, output, progress)


def _train_file(settings: TrainSettings, output: Path, progress: bool) -> dict[str, Any]:
    begun = time.perf_counter()
    set_threads(settings.threads)
    frames = _frames(settings, output)
    files = settings.validation_files
    validation = None if files is None else [frame for file in files for frame in read_frames(file, settings.keys)]
    tests = {name: read_frames(file, settings.keys) for name, file in settings.test_files.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        further = None if settings.start_from is None else _Further(settings, frames)
        members = [_member(settings, frames, validation, number, further) for number in range(settings.committee)]
    notes = list(dict.fromkeys(str(each.message) for each in caught if issubclass(each.category, LabelWarning)))
    notes += _remarks(settings, frames)
    _check_elements(members[0][0].atomic_numbers, {**tests, "validation": validation or []})
    for note in notes:
        Console(stderr=True).print(f"note: {note}", markup=False)

    trouble = run_trainings(
        [trainer for _, trainer in members], output, max_hours=settings.max_hours, progress=progress
    )
    if trouble is not None and not all(trainer.best for _, trainer in members):
        raise trouble
    seconds = time.perf_counter() - begun
    model = _model([trained_model(start, trainer, output.stem) for start, trainer in members])
    model.save(output)
    trainers = [trainer for _, trainer in members]
    report: dict[str, Any] = {
        "model": str(output),
        "epochs": [len(trainer.history) for trainer in trainers],
        "best_epoch": [trainer.best for trainer in trainers],
        "done": trouble is None and all(trainer.done for trainer in trainers),
        "weights": sum(weight.numel() for weight in trainers[0].network.parameters()),
        "settings": dataclasses.asdict(settings),
        "metadata": model.metadata,
        "notes": notes,
    }
    own, kept = (cast(GraphSet, each) for each in (trainers[0].training, trainers[0].validation))
    groups: dict[str, Sequence[Frame]] = {
        "train": own.frames[:: max(1, len(own) // _SHOWN)],
        **({"validation": kept.frames} if len(trainers) == 1 or validation is not None else {}),
        **tests,
    }
    # Members keep other frames aside: together they have seen nearly all.
    report["members"] = [
        {"validation": trainer.history[trainer.best - 1].errors if trainer.best else None} for trainer in trainers
    ]
    report.update(_errors(model, groups, output, settings.plots))
    if settings.plots:
        loss_curve([trainer.history for trainer in trainers], output.with_suffix(".loss.png"), output.stem)
    report["seconds"] = {"training": seconds, "total": time.perf_counter() - begun}
    with replacing(output.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if trouble is not None:
        raise trouble
    return report


def _remarks(settings: TrainSettings, frames: Sequence[Frame]) -> list[str]:
    """What may not have been meant, though it may be."""
    found = []
    second = settings.training.second_phase
    weighted = settings.training.loss.stress > 0 or (second is not None and second.loss.stress > 0)
    if not weighted and any(frame.virial is not None and frame.atoms.pbc.all() for frame in frames):
        found.append("Frames have stresses, which have no weight in the loss: training.loss says {stress: 0}.")
    if settings.stream:
        return found  # further looks would read all of the frames again
    copies = len(check_frames(frames))
    if copies:
        found.append(f"{copies} of the {len(frames)} frames are exact copies of others, and are used once.")
    return [*found, *filter(None, [contradictions(frames)])]


def _check(settings: TrainSettings, output: Path) -> None:
    if output.suffix != ".pt":
        raise OutputError(f"'{output}' names no file for the model: call it NAME.pt.")
    check_gpu(settings.device)
    for suffix in (".pt", ".json", ".history.csv", ".loss.png", ".parity.png", ".checkpoint"):
        check_writable(output.with_suffix(suffix))
    taken = {"train", "validation", "members", "model", "epochs", "best_epoch", "done", "seconds", "notes"}
    taken |= {"settings", "metadata", "weights"}
    for name in settings.test_files:
        if name in taken:
            raise ConfigurationError(f"Test files cannot be called '{name}'; take another name.")
    check_start_kept(settings.start_from, output)


def _check_elements(known: Sequence[int], groups: dict[str, Sequence[Frame]]) -> None:
    for name, frames in groups.items():
        others = {int(z) for frame in frames for z in frame.atoms.numbers} - set(known)
        if others:
            symbols = ", ".join(ase.data.chemical_symbols[z] for z in sorted(others))
            raise ConfigurationError(f"Frames of '{name}' hold {symbols}, which the network does not know.")


def _frames(settings: TrainSettings, output: Path) -> Sequence[Frame]:
    """To train on, in memory or on disk."""
    if settings.stream:
        return stored_frames(settings.train_files, output.with_suffix(".frames"), settings.keys)
    return [frame for file in settings.train_files for frame in read_frames(file, settings.keys)]


def _member(
    settings: TrainSettings,
    frames: Sequence[Frame],
    validation: Sequence[Frame] | None,
    number: int,
    further: _Further | None,
) -> tuple[Start, Trainer]:
    """One network of a committee, with a seed of its own."""
    own = dataclasses.replace(settings.training, seed=settings.training.seed + number)
    if further is None:
        start, replay = new_network(settings.network, frames, settings.e0s, own.seed), None
    else:
        start, replay = further.start(number), further.replay(number)
    return start, trainer_for(start, frames, own, validation, device=settings.device, replay=replay)


class _Further:
    """What members start from that are trained further: copies of one network, or every one that of a committee."""

    def __init__(self, settings: TrainSettings, frames: Sequence[Frame]) -> None:
        assert settings.start_from is not None
        model = load(settings.start_from)
        self._starts = self._of(model, settings, frames, settings.e0s)
        self._replays: list[GraphSet] | None = None
        if settings.replay is not None:
            again = read_frames(settings.replay, settings.replay_keys)
            self._replays = [replayed(known, again) for known in self._of(model, settings, (), None)]

    @staticmethod
    def _of(
        model: SiteModel, settings: TrainSettings, frames: Sequence[Frame], e0s: Mapping[str | int, float] | str | None
    ) -> list[Start]:
        if model.columns is not Columns.MEMBERS:
            return [network_of_model(model, frames, e0s)]
        starts = networks_of_committee(model, frames, e0s)
        if len(starts) != settings.committee:
            raise ConfigurationError(
                f"'{model.name}' has {len(starts)} members, and committee is {settings.committee}: give committee: "
                f"{len(starts)} to train all of them further."
            )
        return starts

    def start(self, number: int) -> Start:
        """Of a member; its network is trained in place, so it gets one of its own."""
        start = self._starts[number % len(self._starts)]
        return dataclasses.replace(start, network=copy.deepcopy(start.network))

    def replay(self, number: int) -> GraphSet | None:
        """What a member replays; members of one start share it."""
        return None if self._replays is None else self._replays[number % len(self._replays)]


def _model(members: list[SiteModel]) -> SiteModel:
    return members[0] if len(members) == 1 else committee(members, members[0].name)


def _errors(
    model: SiteModel, groups: dict[str, Sequence[Frame]], output: Path, plots: bool
) -> dict[str, dict[str, Any]]:
    """Errors of all groups of frames; parity of the last one."""
    calculator = HalberdCalculator(model)
    found = {}
    for name, frames in groups.items():
        begun = time.perf_counter()
        predictions = predict(calculator, frames)
        found[name] = {**error_report(frames, predictions), "seconds": time.perf_counter() - begun}
        if plots and name == list(groups)[-1]:
            parity_plot(frames, predictions, output.with_suffix(".parity.png"), f"{output.stem} on {name} frames")
    return found
