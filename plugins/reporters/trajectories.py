"""OpenMM's binary trajectories, beginning with the frame of step 0: OpenMM takes it for granted that there is none."""

from __future__ import annotations

import openmm
from openmm import app


class DCDReporter(app.DCDReporter):
    """OpenMM's ``DCDReporter`` for a file whose first frame is that of step 0; its header says so."""

    _dcd: app.DCDFile | None

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write one frame."""
        if self._dcd is None:
            step = simulation.integrator.getStepSize()
            more = {"interval": self._reportInterval, "append": self._append}
            self._dcd = app.DCDFile(self._out, simulation.topology, step, 0, **more)
        super().report(simulation, state)


class XTCReporter(app.XTCReporter):
    """OpenMM's ``XTCReporter`` for a file whose first frame is that of step 0, at time 0."""

    _xtc: app.XTCFile | None

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write one frame."""
        if self._xtc is None:
            step = simulation.integrator.getStepSize()
            more = {"interval": self._reportInterval, "append": self._append}
            self._xtc = app.XTCFile(self._fileName, simulation.topology, step, 0, **more)
        super().report(simulation, state)
