"""Worker processes: executors that end with the program."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any

from halberd.plugins.labelling.child_processes import die_with_parent


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
