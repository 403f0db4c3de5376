"""Worker processes: executors that end with the program, and locks that outlive nothing."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from halberd.plugins.labelling.child_processes import die_with_parent
from halberd.potentials.errors import OutputError


class SerialExecutor(Executor):
    """Runs everything in this process, at once: for debugging, and where one process is enough."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call the function and return a finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def make_executor(workers: int) -> Executor:
    """A pool of processes, or a :class:`SerialExecutor` for 0 workers."""
    if workers == 0:
        return SerialExecutor()
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), die_with_parent)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the kernel lifts the lock when this process ends.

    Raises
    ------
    OutputError
        If another process holds it.
    """
    with open(folder / ".lock", "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"Another run is at work in '{folder}'. Wait for it, or choose another folder.") from None
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield
