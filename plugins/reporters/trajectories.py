"""OpenMM's binary trajectories, beginning with the frame of step 0: OpenMM takes it for granted that there is none."""

from __future__ import annotations

from typing import Any

import openmm
from openmm import app


def _begun_at_zero(kind: Any, place: Any, simulation: app.Simulation, reporter: Any) -> Any:
    """A trajectory file of OpenMM whose first frame is that of step 0."""
    more = {"firstStep": 0, "interval": reporter._reportInterval, "append": reporter._append}
    return kind(place, simulation.topology, simulation.integrator.getStepSize(), **more)


class DCDReporter(app.DCDReporter):
    """OpenMM's ``DCDReporter`` for a file whose first frame is that of step 0; its header says so."""

    _dcd: app.DCDFile | None

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write one frame."""
        if self._dcd is None:
            self._dcd = _begun_at_zero(app.DCDFile, self._out, simulation, self)
        super().report(simulation, state)


class XTCReporter(app.XTCReporter):
    """OpenMM's ``XTCReporter`` for a file whose first frame is that of step 0, at time 0."""

    _xtc: app.XTCFile | None

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write one frame."""
        if self._xtc is None:
            self._xtc = _begun_at_zero(app.XTCFile, self._fileName, simulation, self)
        super().report(simulation, state)
