"""A worker's process: takes jobs from a pipe, and tells what becomes of them."""

from __future__ import annotations

import os
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from halberd.plugins.labelling.child_processes import die_with_parent
from halberd.potentials.errors import HalberdError


def serve(connection: Connection, model: str, threads: int) -> None:
    """Work until the pipe is closed.

    Parameters
    ----------
    connection : Connection
        Gives ``(kind, request, folder)``; is told ``ready`` once, then the messages of
        :func:`halberd.samplers.web.tasks.run_task` and one of ``done`` or ``failed`` per job.
    model : str
    threads : int
    """
    die_with_parent()
    from halberd.potentials.sites.torchscript import set_threads
    from halberd.samplers.web.tasks import run_task, warm_up

    set_threads(threads)
    warnings.simplefilter("ignore")
    _answer(connection, "ready", lambda: warm_up(model))
    while True:
        try:
            kind, request, folder = connection.recv()
        except EOFError:
            return
        os.chdir(folder)  # settings name files without their folder, as they do when they are downloaded
        tell = connection.send
        _answer(connection, "done", lambda: run_task(kind, request, model, Path(folder), tell))  # noqa: B023


def _answer(connection: Connection, good: str, task: Any) -> None:
    """Do one thing and tell how it ended; what nobody foresaw is told by its kind, with the rest in the log."""
    try:
        connection.send({"type": good, "message": task()})
    except HalberdError as error:
        connection.send({"type": "failed", "message": " ".join(str(error).split())})
    except Exception as error:
        import traceback

        traceback.print_exc()
        connection.send(
            {"type": "failed", "message": f"Something went wrong in halberd itself: {type(error).__name__}."}
        )
