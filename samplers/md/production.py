"""A whole production job: equilibration in stages, then one run, several that share a bias, or replica exchange."""

from __future__ import annotations

from typing import Any

from halberd.samplers.md.job import run_job
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.md.walkers import run_walkers


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
        See :func:`halberd.samplers.md.job.run_job` and :func:`halberd.samplers.md.walkers.run_walkers`.

    Raises
    ------
    HalberdError
        See there.
    """
    if settings.walkers > 1:
        return run_walkers(settings, restart, progress, start_or_restart)
    return run_job(settings, restart, progress, start_or_restart)
