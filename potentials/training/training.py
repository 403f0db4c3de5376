"""Training from frames to a site model."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.stored import picked
from halberd.potentials.frames.training_set import check_frames, copies_of, is_isolated
from halberd.potentials.multi_ace.model import multi_ace_model
from halberd.potentials.sites.site_model import SiteModel
from halberd.potentials.training.checks import LabelWarning, check_labels
from halberd.potentials.training.graphs import GraphSet
from halberd.potentials.training.loop import Epoch, Trainer
from halberd.potentials.training.settings import TrainingSettings
from halberd.potentials.training.start import Start

#: Seconds between checkpoints within an epoch.
EVERY = 300.0


def drawn_aside(usable: Sequence[int], share: float, seed: int) -> set[int]:
    """A share of some numbers, one at least, and not all of them."""
    count = min(max(1, round(share * len(usable))), len(usable) - 1)
    return set(np.random.default_rng(seed).permutation(usable)[:count].tolist()) if count > 0 else set()


def set_aside(frames: Sequence[Frame], share: float, seed: int) -> tuple[Sequence[Frame], Sequence[Frame]]:
    """Split frames into those that are trained on, and a share for validation.

    Frames of one atom stay with the former: they say what self-energies are.
    """
    usable = [number for number, frame in enumerate(frames) if not is_isolated(frame.atoms)]
    chosen = drawn_aside(usable, share, seed)
    return (
        picked(frames, lambda number, _: number not in chosen),
        picked(frames, lambda number, _: number in chosen),
    )


def trainer_for(
    start: Start,
    frames: Sequence[Frame],
    settings: TrainingSettings,
    validation: Sequence[Frame] | None = None,
    device: str = "cpu",
    replay: GraphSet | None = None,
) -> Trainer:
    """Everything that a training needs, from frames.

    Parameters
    ----------
    start : Start
    frames : sequence of Frame
        Copies of one and the same frame are used once.
    settings : TrainingSettings
    validation : sequence of Frame, optional
        A share of the others, chosen by the seed, if omitted.
    device : str
    replay : GraphSet, optional
        What :func:`halberd.potentials.training.replay.replayed` makes of frames that the network knew.

    Raises
    ------
    DataError
        If frames or labels are damaged or missing; see :func:`halberd.potentials.frames.training_set.check_frames` and
        :func:`halberd.potentials.training.checks.check_labels`.

    Warns
    -----
    LabelWarning
    """
    copies = set(check_frames(frames))
    own = picked(frames, lambda number, _: number not in copies)
    if validation is None:
        own, kept = set_aside(own, settings.validation, settings.seed)
    else:
        known = copies_of(own, validation)
        if known:
            warnings.warn(
                f"{known} frames to train on are for validation, too: errors of validation are not those of frames "
                "never seen.",
                LabelWarning,
                stacklevel=2,
            )
        kept = validation
    check_labels(own, kept, settings.loss)
    if settings.second_phase is not None:
        check_labels(own, kept, settings.second_phase.loss)
    cutoff = start.network.edges.cutoff
    training, kept_aside = (
        # An atom alone has no forces, and its energy is its self-energy.
        GraphSet(
            picked(each, lambda _, frame: not is_isolated(frame.atoms)),
            start.atomic_numbers,
            start.e0s,
            cutoff,
            settings.loss.per_config_type,
        )
        for each in (own, kept)
    )
    settings = dataclasses.replace(settings, learning_rate=settings.rate(further=start.further))
    return Trainer(start.network, training, kept_aside, settings, device=device, replay=replay)


def train(
    trainer: Trainer,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    each_epoch: Callable[[Epoch], None] | None = None,
    each_batch: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> None:
    """Train until the settings say that it is enough.

    Parameters
    ----------
    trainer : Trainer
    checkpoint : path-like, optional
        Written after every epoch and, where epochs are long, every five minutes; a training that finds it goes on from
        it.
    each_epoch, each_batch : callable, optional
        Told what came out, and how far an epoch is.
    stop : callable, optional
        Asked after every epoch whether to end early.

    Raises
    ------
    TrainingError
        If the training diverges; ``trainer`` then has the best network up to there.
    RestartError
        If the checkpoint is of another training.
    """
    if checkpoint is not None and Path(checkpoint).exists():
        trainer.resume(checkpoint)
    written = time.monotonic()

    def after_batch(done: int, count: int) -> None:
        nonlocal written
        if each_batch is not None:
            each_batch(done, count)
        if checkpoint is not None and done < count and time.monotonic() - written > EVERY:
            trainer.save(checkpoint)
            written = time.monotonic()

    while not trainer.done:
        result = trainer.epoch(after_batch)
        if checkpoint is not None:
            trainer.save(checkpoint)
            written = time.monotonic()
        if each_epoch is not None:
            each_epoch(result)
        if stop is not None and stop():
            return


def trained_model(start: Start, trainer: Trainer, name: str) -> SiteModel:
    """The best network of a training as a site model.

    Parameters
    ----------
    start : Start
        That the training began with.
    trainer : Trainer
    name : str
    """
    network = trainer.best_network().to("cpu", trainer.dtype)
    metadata = {
        **start.metadata,
        "training": {
            "frames": len(trainer.training),
            "validation_frames": len(trainer.validation),
            "epochs": len(trainer.history),
            "best_epoch": trainer.best,
            "seed": trainer.settings.seed,
        },
    }
    with torch.no_grad():
        return multi_ace_model(network, start.atomic_numbers, e0s=start.e0s, name=name, metadata=metadata)
