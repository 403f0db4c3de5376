"""The pieces of hyperactive learning that run in worker processes."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path

import torch
from ase import Atoms

from halberd.potentials.loading import load
from halberd.potentials.sites.site_model import SiteModel
from halberd.samplers.hal.walker import BiasedDynamics, Outcome
from halberd.samplers.hal.walker_settings import BiasedSettings


@dataclasses.dataclass(frozen=True)
class WalkerTask:
    """One biased run.

    Attributes
    ----------
    model, drive : str
        Files of the committee, and of what drives the run.
    atoms : ase.Atoms
    settings : BiasedSettings
    folder : str
    seed : int
    first_step : int
        Of a run that goes on where another one stopped.
    start : int
        Which of the starts the trajectory began at.
    known_start : bool
        The structure to begin at has a label already.
    """

    model: str
    drive: str
    atoms: Atoms
    settings: BiasedSettings
    folder: str
    seed: int
    first_step: int = 0
    start: int = 0
    known_start: bool = False


def run_walker(task: WalkerTask) -> Outcome:
    """Run a walker on one thread; finished ones are only read."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        drive = None if task.drive == task.model else _model(task.drive)
        return BiasedDynamics(
            _model(task.model),
            task.atoms,
            settings=task.settings,
            folder=Path(task.folder),
            seed=task.seed,
            drive=drive,
            first_step=task.first_step,
            known_start=task.known_start,
        ).run()
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=2)
def _model(path: str) -> SiteModel:
    return load(path)
