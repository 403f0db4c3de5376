"""PLUMED's side of a run: its protocol, and the rule of when a step counts.

PLUMED computes (``performCalcNoUpdate``) as often as it is asked to, and acts, deposits hills and writes lines, only
in ``update``. OpenMM asks for energies more often than it makes steps: for Monte Carlo moves of the box, for reporters,
in minimisations. But within a step the integrator is the last to ask. So when an evaluation arrives whose step number
is one higher than that of the evaluation before it, that one was the integrator's, its step has been made, and only
then is PLUMED updated. Nothing else can deposit anything, and no reporter has to take care.

A System may have several Contexts, for an energy decomposition, say. PLUMED follows the one that made the first step;
the others may ask what the bias of a geometry is, and leave no trace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import weakref
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from halberd.plugins.plumed.files import (
    actions,
    begun_anew,
    deposits,
    open_for_writing,
    remove_empty_backups,
    value_of,
    written_files,
)
from halberd.plugins.plumed.kernel import open_plumed
from halberd.potentials.errors import ConfigurationError, OutputError
from halberd.potentials.files import make_folder


class Variable(Protocol):
    """A collective variable that is computed outside PLUMED."""

    def evaluate(
        self, positions: NDArray[np.float64], box: NDArray[np.float64] | None
    ) -> tuple[float, NDArray[np.float64]]:
        """Value and gradient (N, 3) per nm, from positions (N, 3) and box (3, 3) in nm."""


class EnergySource(Protocol):
    """What computes the energy that PLUMED's ``ENERGY`` stands for."""

    def __call__(
        self, positions: NDArray[np.float64], box: NDArray[np.float64] | None, parameters: Mapping[str, float]
    ) -> tuple[float, NDArray[np.float64]]:
        """Energy, kJ/mol, and forces (N, 3), kJ/mol/nm."""


#: Contexts whose last evaluations are remembered.
_MOST_ASKERS = 16


class _Evaluation(NamedTuple):
    """What was asked, and whether an integrator did."""

    step: int
    positions: NDArray[np.float64]
    box: NDArray[np.float64] | None
    parameters: Mapping[str, float]
    by_integrator: bool = True


class PlumedSession:
    """One instance of PLUMED that follows one simulation.

    Parameters
    ----------
    script : str
        PLUMED input.
    masses : array, shape (N,), dalton
    charges : array, shape (N,), elementary charges
    timestep : float, ps
    kT : float, optional
        kJ/mol, for actions that ask the engine for it.
    restart : bool
        Continue files that exist; otherwise PLUMED keeps old ones under the name ``bck.0.NAME``.
    folder : path
        Where PLUMED's relative file names start.
    log : str
        PLUMED's own log.
    variables : mapping
        Name -> variable that the script takes with ``EXTRACV NAME=...``.
    energy : callable, optional
        See :class:`EnergySource`; without it a script that asks for ``ENERGY`` is an error.

    Attributes
    ----------
    stopped : bool
        Whether PLUMED asked for the run to end (``COMMITTOR``, say).
    checkpoint_step : int or None
        Set it to the step at which a checkpoint will be written: PLUMED then writes its states (``STATE_WFILE``) as
        they are at that step.
    state_step : int or None
        Step of the states on disk, if they were written for a checkpoint.

    Raises
    ------
    MissingDependencyError
        If there is no PLUMED.
    ConfigurationError
        If PLUMED refuses the script, or another simulation of this process writes to the same files.
    OutputError
        If the folder does not exist, or one that the script writes to cannot be made.
    """

    #: Files that sessions of this process write to.
    _open: ClassVar[weakref.WeakValueDictionary[str, PlumedSession]] = weakref.WeakValueDictionary()

    def __init__(
        self,
        script: str,
        masses: NDArray[np.float64],
        charges: NDArray[np.float64],
        timestep: float,
        *,
        kT: float | None = None,
        restart: bool = False,
        folder: str | os.PathLike[str] = ".",
        log: str = "plumed.log",
        variables: Mapping[str, Variable] | None = None,
        energy: EnergySource | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()
        if not self.folder.is_dir():
            raise OutputError(f"PLUMED's folder '{folder}' does not exist. Create it first.")
        self._script = script
        self.stopped = False
        self.stopped_at: int | None = None
        self.checkpoint_step: int | None = None
        self.state_step: int | None = None
        self._variables = dict(variables or {})
        self._check_variables()
        self._energy = energy
        self._restart = restart
        #: Last evaluation of every Context, the one whose steps count, what PLUMED computed last, and whether that is
        #: a step that has been counted.
        self._last: dict[Hashable, _Evaluation] = {}
        self._followed: Hashable = None
        self._follows = False
        self._computed: _Evaluation | None = None
        self._counted = False
        n_atoms = len(masses)
        # PLUMED keeps pointers to these.
        self._masses = np.ascontiguousarray(masses, dtype=np.float64)
        self._charges = np.ascontiguousarray(charges, dtype=np.float64)
        self._forces = np.zeros((n_atoms, 3))
        self._box = np.zeros((3, 3))
        self._virial = np.zeros((3, 3))
        self._stop = np.zeros(1, dtype=np.int32)
        self._flag = np.zeros(1, dtype=np.int32)
        self._bias = np.zeros(1)
        self._values = {name: np.zeros(1) for name in self._variables}
        self._pulls = {name: np.zeros(1) for name in self._variables}
        self.growing, self.states = written_files(script, self.folder)
        self._check_files()
        before = open_for_writing()
        self._plumed = open_plumed()
        self._finalize = weakref.finalize(self, self._plumed.finalize)
        PlumedSession._open.update({str(file): self for file in self.growing})
        # PLUMED would keep one log per restart as bck.N.
        (self.folder / log).unlink(missing_ok=True)
        try:
            self._start(n_atoms, timestep, kT, restart, log)
        except Exception as error:
            self._finalize()
            raise ConfigurationError(f"PLUMED does not accept the script: {_explain(error)}") from error
        self._before = before | {self.folder / log}
        remove_empty_backups([*self.growing, *self.states])

    def _start(self, n_atoms: int, timestep: float, kT: float | None, restart: bool, log: str) -> None:
        cmd = self._plumed.cmd
        for quantity in ("setMDEnergyUnits", "setMDLengthUnits", "setMDTimeUnits"):
            cmd(quantity, 1.0)  # both use kJ/mol, nm and ps
        cmd("setMDEngine", "halberd-OpenMM")
        cmd("setNatoms", n_atoms)
        cmd("setTimestep", float(timestep))
        if kT is not None:
            cmd("setKbT", float(kT))
        cmd("setRestart", int(restart))
        with contextlib.chdir(self.folder):
            cmd("setLogFile", log)
            cmd("init")
            # Flushed after every step that wrote something, so that a killed run loses no line.
            text = begun_anew(self._script, self.folder) if restart else self._script
            lines = [line for line in text.splitlines() if line.split("#")[0].strip()]
            cmd("readInputLines", "\n".join([*lines, "FLUSH STRIDE=1"]) + "\n")

    def _check_variables(self) -> None:
        """PLUMED takes a variable that nobody gives as 0."""
        for words in actions(self._script, self.folder):
            name = value_of(words, "NAME")
            if "EXTRACV" in words and name not in self._variables:
                known = ", ".join(self._variables) or "none"
                raise ConfigurationError(
                    f"The PLUMED script takes EXTRACV NAME={name}, but no variable of this name is given; there is "
                    f"{known}. Add it to variables."
                )

    def _check_files(self) -> None:
        for file in self.growing:
            owner = PlumedSession._open.get(str(file))
            if owner is not None and owner.alive:
                raise ConfigurationError(
                    f"PLUMED of another simulation in this program is writing to '{file}'. Close it (close()), or give "
                    "this one another folder=. A copied System is another simulation, too."
                )
        # PLUMED crashes where the folder of hills that walkers share is missing.
        for folder in {file.parent for file in (*self.growing, *self.states)}:
            make_folder(folder)

    @property
    def alive(self) -> bool:
        """Whether PLUMED is still there."""
        return bool(self._finalize.alive)

    @property
    def needs_parameters(self) -> bool:
        """Whether evaluations should bring the Context's parameters along."""
        return self._energy is not None

    @property
    def files(self) -> list[Path]:
        """Files that grow line by line, such as COLVAR and HILLS: those the script names, and those PLUMED has open."""
        opened = {file for file in open_for_writing() - self._before if self.folder in file.parents}
        return [*self.growing, *sorted(opened - set(self.growing) - set(self.states))]

    def flush(self) -> None:
        """Bring everything that was written to the files, also where PLUMED's own FLUSH does not reach (xtc, trr)."""
        ctypes.CDLL(None).fflush(None)

    # -- evaluating -------------------------------------------------------------------------------------------

    def evaluate(
        self,
        step: int,
        positions: NDArray[np.float64],
        box: NDArray[np.float64] | None = None,
        parameters: Mapping[str, float] | None = None,
        asker: Hashable = None,
        by_integrator: bool = True,
    ) -> tuple[float, NDArray[np.float64]]:
        """Bias of a geometry; counts the step before, if ``step`` is the next one.

        Parameters
        ----------
        step : int
            Steps made so far.
        positions : array, shape (N, 3), nm
            Kept until the next call: do not write into it.
        box : array, shape (3, 3), nm, optional
        parameters : mapping, optional
            Context parameters, for the energy source.
        asker : hashable
            Tells Contexts apart.
        by_integrator : bool
            Whether an integrator asks; steps of a Context that integrators never asked for are copies of another's.

        Returns
        -------
        energy : float, kJ/mol
        forces : array, shape (N, 3), kJ/mol/nm
            PLUMED's own memory: read it before the next call.

        Raises
        ------
        ConfigurationError
            If PLUMED has been closed, a second Context makes steps, or the step number jumps.
        """
        if not self.alive:
            raise ConfigurationError("PLUMED of this force has been closed. Make a new PlumedForce to go on.")
        asked = _Evaluation(step, positions, box, parameters or {}, by_integrator)
        before = self._last.get(asker)
        known = self._follows and asker == self._followed
        stepped = before is not None and step == before.step + 1 and (known or before.by_integrator)
        self._check_asker(asker, asked, before, stepped)
        if self._restart and step > 0:
            # A run that goes on from its very first step leaves out a hill there by right.
            if not stepped and deposits(self._script, self.folder):
                self._pretend_first_step(asked)
            self._restart = False
        if before is not None and stepped:
            self._follows, self._followed = True, asker
            self._count(before)
        self._remember(asker, asked)
        mine = not self._follows or asker == self._followed
        # For the others the bias is what it is now, whatever their own clocks say.
        self._compute(asked if mine else asked._replace(step=self._last[self._followed].step))
        if stepped:
            self._counted = False
        return float(self._bias[0]), self._forces

    def _remember(self, asker: Hashable, asked: _Evaluation) -> None:
        self._last[asker] = asked
        # Contexts come and go; those that only look are forgotten, the oldest first.
        if len(self._last) > _MOST_ASKERS:
            del self._last[next(each for each in self._last if each not in (asker, self._followed))]

    def _check_asker(self, asker: Hashable, asked: _Evaluation, before: _Evaluation | None, stepped: bool) -> None:
        if not self._follows:
            return
        if stepped and asker != self._followed:
            raise ConfigurationError(
                "Two Contexts of one System make steps, and both would deposit into the files of its PlumedForce. Give "
                "the second a System with a PlumedForce and a folder of its own; for energies alone a second Context "
                "is fine."
            )
        if asker == self._followed and before is not None and not stepped and asked.step != before.step:
            raise ConfigurationError(
                f"The step number jumped from {before.step} to {asked.step}, but hills and lines in "
                f"'{self.folder}' belong to the steps in between. To go on from another State, close this PlumedForce "
                "and make a new one, with restart=True and files cut to that step, or with another folder."
            )

    def complete(self, step: int) -> None:
        """Let PLUMED act on the step before ``step``, if that was the one evaluated last; otherwise do nothing."""
        asker = self._followed
        if not self._follows:
            made = (each for each, last in reversed(self._last.items()) if last.step + 1 == step and last.by_integrator)
            asker = next(made, None)
        last = self._last.get(asker)
        if last is not None and step == last.step + 1 and not self._counted:
            self._follows, self._followed = True, asker
            self._count(last)

    def _count(self, done: _Evaluation) -> None:
        """Let PLUMED act on a step that has been made."""
        if self._counted:
            return
        if self._computed is not done:  # another Context has asked since
            self._compute(done)
        self._counted = True
        checkpoint = done.step + 1 == self.checkpoint_step
        self._plumed.cmd("doCheckPoint", int(checkpoint))
        self._update()
        if checkpoint:
            self.state_step = done.step + 1
        if self._stop[0] and not self.stopped:
            self.stopped, self.stopped_at = True, done.step

    def _update(self) -> None:
        # Hills of other walkers are looked for under relative names.
        with contextlib.chdir(self.folder):
            self._plumed.cmd("update")

    def _compute(self, asked: _Evaluation) -> None:
        cmd = self._plumed.cmd
        step, positions, box, parameters = asked[:4]
        self._computed = asked
        self._positions = np.ascontiguousarray(positions, dtype=np.float64)
        if box is not None:
            self._box[:] = box
        self._forces.fill(0.0)
        self._virial.fill(0.0)
        cmd("setStep", int(step))
        cmd("setPositions", self._positions)
        cmd("setBox", self._box)
        cmd("setMasses", self._masses)
        cmd("setCharges", self._charges)
        cmd("setForces", self._forces)
        cmd("setVirial", self._virial)
        cmd("setStopFlag", self._stop)
        cmd("prepareDependencies")
        engine_forces = self._give_energy(positions, box, parameters)
        gradients = self._give_variables(positions, box)
        cmd("shareData")
        cmd("performCalcNoUpdate")
        cmd("getBias", self._bias)
        if engine_forces is not None:
            self._forces -= engine_forces
        for name, gradient in gradients.items():
            self._forces += self._pulls[name][0] * gradient

    def _give_energy(
        self, positions: NDArray[np.float64], box: NDArray[np.float64] | None, parameters: Mapping[str, float]
    ) -> NDArray[np.float64] | None:
        """Hand the engine's energy and forces over if the script uses them; PLUMED scales forces to bias an energy."""
        self._plumed.cmd("isEnergyNeeded", self._flag)
        if not self._flag[0]:
            return None
        if self._energy is None:
            raise ConfigurationError(
                "The PLUMED script uses ENERGY, but this force was made without an energy to give; leave energy=True."
            )
        energy, forces = self._energy(positions, box, parameters)
        self._forces[:] = forces
        self._plumed.cmd("setEnergy", float(energy))
        return forces

    def _give_variables(
        self, positions: NDArray[np.float64], box: NDArray[np.float64] | None
    ) -> dict[str, NDArray[np.float64]]:
        gradients = {}
        for name, variable in self._variables.items():
            self._plumed.cmd(f"isExtraCVNeeded {name}", self._flag)
            if not self._flag[0]:
                continue
            self._values[name][0], gradients[name] = variable.evaluate(positions, box)
            self._pulls[name].fill(0.0)
            self._plumed.cmd(f"setExtraCV {name}", self._values[name])
            self._plumed.cmd(f"setExtraCVForce {name}", self._pulls[name])
        return gradients

    def _pretend_first_step(self, asked: _Evaluation) -> None:
        """Make the step that PLUMED will not count.

        METAD and its kin skip their first step, because most engines repeat the last one of the run before. This one
        does not, so the step is made up, and what it writes is taken back. (Averages, which begin at a restart, count
        its frame twice then.)
        """
        sizes = {file: file.stat().st_size for file in self.files if file.exists()}
        self._compute(asked._replace(step=asked.step - 1))
        self._update()
        self._stop[0] = 0
        for file, size in sizes.items():
            os.truncate(file, size)

    def close(self, step: int | None = None) -> None:
        """Finish PLUMED: files are complete after it.

        Parameters
        ----------
        step : int, optional
            Steps the simulation has made, so that the last one counts, too.
        """
        if self.alive:
            if step is not None:
                self.complete(step)
            self._finalize()


def _explain(error: Exception) -> str:
    """The lines of a PLUMED message that say something; the rest is the place in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    noise = re.compile(r"^(\+{3}.*|\(?tools/.*|.*\.(cpp|h):\d+.*|in function .*|message follows.*|)$")
    useful = [line for line in lines if not noise.match(line)]
    return " ".join(useful or lines or [repr(error)])
