"""Processes that run halberd, forked from one that has imported everything: a start takes milliseconds."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


def start(place: Path, command: list[str], before: Callable[[], None] | None = None, name: str = "std") -> int:
    """Fork a process that does what the command line would do if it had been typed in a folder.

    Parameters
    ----------
    place : path
        The folder; gets what is said, in ``NAMEout.txt`` and ``NAMEerr.txt``.
    command : list of str
        Arguments of ``halberd``.
    before : callable, optional
        Called first in the new process: limits, for example.
    name : str

    Returns
    -------
    int
        Number of the process, which leads a group of its own.
    """
    child = os.fork()
    if child == 0:
        _run(place, command, before, name)
    return child


def wait(child: int, deadline: float, gently: float = 0.0) -> int | None:
    """Exit code of a child, minus the signal that ended it, or ``None`` if it had to be killed.

    Parameters
    ----------
    child : int
    deadline : float
        Of the monotonic clock.
    gently : float
        Seconds that it has to end by itself when it is asked to at the deadline.
    """
    for until in (deadline, deadline + gently):
        while time.monotonic() < until:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        if gently and until == deadline:
            os.kill(child, signal.SIGTERM)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def alive(group: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, theirs = entry.read_text().rpartition(")")[2].split()[:3]
            if int(theirs) == group and state not in "ZX":
                found.append(int(entry.parent.name))
    return found


def _run(place: Path, command: list[str], before: Callable[[], None] | None, name: str) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(place)
        for number, stream in ((1, f"{name}out.txt"), (2, f"{name}err.txt")):
            descriptor = os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, number)
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        if before is not None:
            before()
        sys.argv = ["halberd", *command]
        from halberd.plugins.commands.app import main

        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def import_everything() -> None:
    """Once, before any fork: imports take seconds, and an input a fraction of one."""
    import ase.calculators.emt  # noqa: F401
    import torch

    import halberd.plugins.commands.fit_file
    import halberd.plugins.evaluation.evaluate
    import halberd.samplers.generation.generator
    import halberd.samplers.hal.loop
    import halberd.samplers.md.production  # noqa: F401

    torch.set_num_threads(1)  # pools of threads do not survive a fork
