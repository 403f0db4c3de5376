"""Train diffusion models on files of molecules: ``halberd train`` with a section ``diffusion``."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from halberd.plugins.commands.train_loop import check_gpu, check_start_kept, run_trainings
from halberd.plugins.commands.train_settings import TrainSettings
from halberd.plugins.evaluation.loss_curve import loss_curve
from halberd.potentials.diffusion.model import DiffusionModel
from halberd.potentials.diffusion.settings import DiffusionSettings
from halberd.potentials.diffusion.training import BANDS, DenoisingTrainer, denoising_trainer, trained_diffusion
from halberd.potentials.errors import ConfigurationError, OutputError
from halberd.potentials.files import check_writable, replacing
from halberd.potentials.locks import locked
from halberd.potentials.sites.torchscript import set_threads
from halberd.potentials.training.loop import Epoch

#: Name of the data set in place of a file.
QM9 = "qm9"
SUFFIX = ".diffusion"
_COLUMNS = tuple((name, "loss") for name in BANDS)


def train_diffusion(settings: TrainSettings, *, progress: bool = True) -> dict[str, Any]:
    """Train, or go on with a training that was ended, and write model, report and losses.

    Parameters
    ----------
    settings : TrainSettings
        ``diffusion`` included.
    progress : bool
        Show a bar, and a line for every epoch, on standard error.

    Returns
    -------
    dict
        ``model``, ``epochs``, ``best_epoch``, ``done`` (false if the time was over first), ``loss`` of validation
        (``before``, and of the best epoch in all and by the noise level), ``molecules``, ``weights``, ``settings``, and
        ``seconds``.

    Raises
    ------
    DataError, ConfigurationError, OutputError
        As far as possible before anything is computed; also if another process trains the same model.
    RestartError
        If there is a checkpoint of another training.
    TrainingError
        If the training diverged, after what was best has been written.
    """
    output = Path(settings.output)
    if output.suffix != SUFFIX:
        raise OutputError(f"'{output}' names no file for a diffusion model: call it NAME{SUFFIX}.")
    check_gpu(settings.device)
    check_start_kept(settings.start_from, output)
    for suffix in (SUFFIX, ".json", ".history.csv", ".loss.png", ".checkpoint"):
        check_writable(output.with_suffix(suffix))
    with locked(output.parent, f".{output.name}.lock"):
        return _train_diffusion(settings, output, progress)


def _train_diffusion(settings: TrainSettings, output: Path, progress: bool) -> dict[str, Any]:
    begun = time.perf_counter()
    set_threads(settings.threads)
    start = None if settings.start_from is None else DiffusionModel.load(settings.start_from)
    choices = settings.diffusion if start is None else start.settings
    assert choices is not None
    training, validation = molecules_of(settings, choices)
    trainer = denoising_trainer(training, choices, settings.training, validation, device=settings.device, start=start)
    before, _ = trainer.validated()
    trouble = run_trainings(
        [trainer], output, max_hours=settings.max_hours, progress=progress, line=_line, errors=_COLUMNS
    )
    if trouble is not None and not trainer.best:
        raise trouble
    model = trained_diffusion(trainer, output.stem)
    if start is not None:
        model.metadata["started_from"] = start.name
    model.save(output)
    report = _report(settings, trainer, output, before)
    report["done"] = trouble is None and trainer.done
    report["seconds"] = {"training": time.perf_counter() - begun}
    if settings.plots:
        loss_curve([trainer.history], output.with_suffix(".loss.png"), output.stem)
    with replacing(output.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if trouble is not None:
        raise trouble
    return report


def _report(settings: TrainSettings, trainer: DenoisingTrainer, output: Path, before: float) -> dict[str, Any]:
    best = trainer.history[trainer.best - 1] if trainer.best else None
    return {
        "model": str(output),
        "epochs": [len(trainer.history)],
        "best_epoch": [trainer.best],
        "loss": {
            "before": before,
            "all": best.validation if best else None,
            **{name: values["loss"] for name, values in (best.errors if best else {}).items()},
        },
        "molecules": {"train": len(trainer.training), "validation": len(trainer.validation)},
        "weights": sum(weight.numel() for weight in trainer.network.parameters()),
        "sigma_data": trainer.choices.sigma_data,
        "settings": {**dataclasses.asdict(settings), "diffusion": dataclasses.asdict(trainer.choices)},
    }


def molecules_of(settings: TrainSettings, choices: DiffusionSettings) -> tuple[list[Atoms], list[Atoms] | None]:
    """Molecules to train on and to validate on; ``None`` for a share of the former.

    Those of QM9 are of the model's elements alone, and similar ones are all in one of both.

    Raises
    ------
    DataError
        If a file cannot be read.
    ConfigurationError
        If ``qm9`` and files are mixed.
    MissingDependencyError
        If ``qm9pack`` or RDKit is not installed.
    """
    if QM9 not in settings.train_files:
        files = settings.validation_files
        return _read(settings.train_files), None if files is None else _read(files)
    if settings.train_files != (QM9,) or settings.validation_files is not None:
        raise ConfigurationError("train is qm9, which is split as it is: leave other files and validation away.")
    from halberd.plugins.molecules.clusters import qm9_clusters, split_by_cluster
    from halberd.plugins.molecules.qm9 import qm9_molecules

    chosen = split_by_cluster(qm9_clusters(), 1.0 - settings.training.validation, settings.training.seed)
    known = np.array(choices.numbers)
    parts: tuple[list[Atoms], list[Atoms]] = ([], [])
    for atoms, trains in zip(qm9_molecules(), chosen, strict=True):
        if len(atoms) > 1 and np.isin(atoms.numbers, known).all():
            parts[0 if trains else 1].append(atoms)
    return parts


def _read(files: Sequence[str]) -> list[Atoms]:
    from halberd.plugins.molecules.files import read_molecules

    return [atoms for file in files for atoms in read_molecules(file)]


def _line(epoch: Epoch) -> str:
    """One epoch in words."""
    bands = ", ".join(f"{values['loss']:.3f} {name}" for name, values in epoch.errors.items())
    return f"epoch {epoch.number}: loss {epoch.loss:.4f}, validation {epoch.validation:.4f}; {bands}"
