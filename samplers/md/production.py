"""A whole production job: equilibration in stages, then one run, several that share a bias, or replica exchange."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from halberd.potentials.errors import RestartError
from halberd.samplers.md.job import _equilibrate, _with_time_left, has_checkpoint
from halberd.samplers.md.run import CHECKPOINT, MolecularDynamics
from halberd.samplers.md.settings import MDSettings


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
        See :meth:`halberd.samplers.md.run.MolecularDynamics.run`. If it ended within the equilibration, ``stage`` says
        where.

    Raises
    ------
    HalberdError
        See there, and :func:`halberd.samplers.md.replica_exchange.run_replica_exchange`,
        :func:`halberd.samplers.md.walkers.run_walkers`.
    """
    if settings.walkers > 1:
        from halberd.samplers.md.walkers import run_walkers

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
        from halberd.samplers.md.replica_exchange import run_replica_exchange

        return run_replica_exchange(settings, restart, progress, state)
    continues = restart and (folder / CHECKPOINT).exists()
    return MolecularDynamics(settings, state).run(continues, progress)
