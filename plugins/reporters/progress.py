"""A progress bar on standard error."""

from __future__ import annotations

from typing import Any

import openmm
from openmm import app
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from halberd.plugins.reporters.output import steps_to_next


class ProgressReporter:
    """A progress bar on standard error.

    Parameters
    ----------
    totalSteps : int
        Step number at which the bar is full.
    description : str
    reportInterval : int
        Steps between updates; asks for nothing, so it costs nothing.
    """

    def __init__(self, totalSteps: int, description: str = "MD", reportInterval: int = 50) -> None:
        self._interval = reportInterval
        self._total = totalSteps
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(description, total=totalSteps)
        self._progress.start()

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when to call again."""
        steps = min(steps_to_next(simulation, self._interval), max(1, self._total - simulation.currentStep))
        return {"steps": steps, "periodic": None, "include": []}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:  # noqa: ARG002  (OpenMM passes it)
        """Move the bar."""
        self._progress.update(self._task, completed=simulation.currentStep)

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._progress.stop()
