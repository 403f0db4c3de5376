"""One run with its equilibration, from settings to a report: what walkers do each, and runs do once."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import openmm

from halberd.plugins.forces.topology import read_structure
from halberd.potentials.errors import RestartError
from halberd.potentials.files import make_folder
from halberd.samplers.md.fingerprint import fingerprint_of
from halberd.samplers.md.folder import CHECKPOINT, REPORT, check_folder, refuse_to_overwrite
from halberd.samplers.md.run import MolecularDynamics
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.md.system import build_system
from halberd.samplers.runs.restart import check_fingerprint, read_checkpoint


def run_job(settings: MDSettings, restart: bool, progress: bool, start_or_restart: bool) -> dict[str, Any]:
    """Equilibrate, then run once, or exchange replicas.

    Parameters
    ----------
    settings : MDSettings
        ``walkers`` is not looked at.
    restart, progress, start_or_restart : bool
        See :func:`halberd.samplers.md.production.run_md`.

    Returns
    -------
    dict
        See :meth:`halberd.samplers.md.run.MolecularDynamics.run` and
        :func:`halberd.samplers.md.replica_exchange.run_replica_exchange`. If it ended within the equilibration,
        ``stage`` says where.

    Raises
    ------
    RestartError
        If there is nothing to restart from.
    HalberdError
        See there.
    """
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
        from halberd.samplers.md.replica_exchange import run_replica_exchange

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


def _check_stages(settings: MDSettings) -> None:
    """Make sure that the stages that are made already are stages of this job."""
    stages = [settings.stage(number, values) for number, values in enumerate(settings.equilibration, start=1)]
    files = [Path(stage.output) / CHECKPOINT for stage in stages]
    made = [(stage, file) for stage, file in zip(stages, files, strict=True) if file.exists()]
    if not made:
        return
    topology, positions = read_structure(settings.structure)
    model = build_system(stages[0], topology, positions).model
    own = stages[0].fixed_by_restart()
    whole = fingerprint_of(stages[0], topology, positions, model)  # hashes every weight
    shared = {key: value for key, value in whole.items() if key not in own}
    for stage, file in made:
        checkpoint = read_checkpoint(file)
        fingerprint = {**shared, **stage.fixed_by_restart()}
        steps: dict[str, Any] = {}
        if checkpoint.step > stage.steps or file != made[-1][1]:
            # What came after it began where it ended.
            steps = {"number of steps": checkpoint.step}
            fingerprint["number of steps"] = stage.steps
        check_fingerprint({**checkpoint.fingerprint, **steps}, fingerprint, file)


def _equilibrate(
    settings: MDSettings, restart: bool, progress: bool, began: float
) -> tuple[openmm.State | None, dict[str, Any] | None]:
    """Run the stages that are left; returns the state to go on from, or the report of a stage that was stopped."""
    if restart and (Path(settings.output) / CHECKPOINT).exists():
        return None, None  # that checkpoint holds everything
    if not restart and settings.equilibration:
        refuse_to_overwrite(Path(settings.output))
    state: openmm.State | None = None
    if restart:
        _check_stages(settings)
    for number, values in enumerate(settings.equilibration, start=1):
        stage = settings.stage(number, values)
        file = Path(stage.output) / CHECKPOINT
        # The report comes after the last checkpoint.
        reported = (Path(stage.output) / REPORT).exists()
        if not (restart and reported and file.exists() and read_checkpoint(file).step >= stage.steps):
            check_folder(Path(settings.output))
            make_folder(Path(settings.output))
            continues = restart and file.exists()
            result = MolecularDynamics(_with_time_left(stage, began), state).run(continues, progress)
            if not result["complete"]:
                return None, {**result, "stage": number}
        state = openmm.XmlSerializer.deserialize(read_checkpoint(file).state)
    return state, None
