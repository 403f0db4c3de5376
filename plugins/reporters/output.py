"""What all reporters share: files that are opened with a clear error, and when the next report is due."""

from __future__ import annotations

import os
from typing import TextIO

from openmm import app

from halberd.potentials.errors import OutputError


def steps_to_next(simulation: app.Simulation, interval: int) -> int:
    """Steps until a multiple of an interval."""
    return int(interval - simulation.currentStep % interval)


def open_output(file: str | os.PathLike[str], append: bool) -> TextIO:
    """Open a text file for writing.

    Raises
    ------
    OutputError
        If that cannot be done.
    """
    try:
        return open(file, "a" if append else "w", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"Cannot write '{file}': {error.strerror}.") from error
