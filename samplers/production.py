"""A whole production job: equilibration in stages, then one run, several that share a bias, or replica exchange."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import openmm

from halberd.potentials.errors import RestartError
from halberd.samplers.md import CHECKPOINT, MolecularDynamics, refuse_to_overwrite
from halberd.samplers.md_settings import MDSettings
from halberd.samplers.restart import read_checkpoint


def run_md(
    settings: MDSettings, restart: bool = False, progress: bool = True, start_or_restart: bool = False
) -> dict[str, Any]:
    """Run molecular dynamics as the settings say.

    Stages of equilibration come first, each in a subfolder; a restart goes on in the stage that was interrupted.

    Parameters
    ----------
    settings : MDSettings
    restart : bool
        Go on from the last checkpoint.
    progress : bool
        Show a bar on standard error.
    start_or_restart : bool
        Go on if there is something to go on with, otherwise start: one command for all jobs of a queue.

    Returns
    -------
    dict
        See :meth:`halberd.samplers.md.MolecularDynamics.run`. If it ended within the equilibration, ``stage`` says
        where.

    Raises
    ------
    HalberdError
        See there, and :func:`halberd.samplers.replica_exchange.run_replica_exchange`,
        :func:`halberd.samplers.walkers.run_walkers`.
    """
    if settings.walkers > 1:
        from halberd.samplers.walkers import run_walkers

        return run_walkers(settings, restart, progress, start_or_restart)
    folder = Path(settings.output)
    if start_or_restart:
        restart = has_checkpoint(settings)
    elif restart and not has_checkpoint(settings):
        raise RestartError(f"There is no restart file '{folder / CHECKPOINT}'. Start the run without --restart.")
    began = time.monotonic()
    state, unfinished = _equilibrate(settings, restart, progress, began)
    if unfinished is not None:
        return unfinished
    settings = _with_time_left(settings, began)
    if settings.replica_temperatures is not None:
        from halberd.samplers.replica_exchange import run_replica_exchange

        return run_replica_exchange(settings, restart, progress, state)
    continues = restart and (folder / CHECKPOINT).exists()
    return MolecularDynamics(settings, state).run(continues, progress)


def has_checkpoint(settings: MDSettings) -> bool:
    """Whether a job has left anything to go on with."""
    folder = Path(settings.output)
    stages = [folder / f"equilibration-{n}" for n in range(1, len(settings.equilibration) + 1)]
    found = any((each / CHECKPOINT).exists() for each in (folder, *stages))
    return found or (settings.replica_temperatures is not None and (folder / "replicas.nc").exists())


def _with_time_left(settings: MDSettings, began: float) -> MDSettings:
    """Settings whose limit by the clock is what is left of it."""
    if settings.max_hours is None:
        return settings
    left = settings.max_hours - (time.monotonic() - began) / 3600.0
    return dataclasses.replace(settings, max_hours=max(left, 1e-9))


def _equilibrate(
    settings: MDSettings, restart: bool, progress: bool, began: float
) -> tuple[openmm.State | None, dict[str, Any] | None]:
    """Run the stages that are left; returns the state to go on from, or the report of a stage that was stopped."""
    if restart and (Path(settings.output) / CHECKPOINT).exists():
        return None, None  # that checkpoint holds everything
    if not restart and settings.equilibration:
        refuse_to_overwrite(Path(settings.output))
    state: openmm.State | None = None
    for number, values in enumerate(settings.equilibration, start=1):
        stage = settings.stage(number, values)
        file = Path(stage.output) / CHECKPOINT
        if not (restart and file.exists() and read_checkpoint(file).step >= stage.steps):
            Path(settings.output).mkdir(parents=True, exist_ok=True)
            continues = restart and file.exists()
            result = MolecularDynamics(_with_time_left(stage, began), state).run(continues, progress)
            if not result["complete"]:
                return None, {**result, "stage": number}
        state = openmm.XmlSerializer.deserialize(read_checkpoint(file).state)
    return state, None
