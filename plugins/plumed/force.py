"""``PlumedForce``: a PLUMED script as an OpenMM Force, from pip-installed parts."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from halberd.plugins.plumed.files import absolute_inputs
from halberd.plugins.plumed.restarts import unwritten_grids
from halberd.plugins.plumed.session import PlumedSession, Variable
from halberd.potentials.constants import GAS_CONSTANT_KJ_PER_MOL_K
from halberd.potentials.errors import ConfigurationError, DataError, HalberdError


class ContextEnergy:
    """Energy and forces of a System, evaluated in a Context of its own.

    Parameters
    ----------
    system : openmm.System or str
        Or its XML. Copied.
    platform : str, optional
        Name of a platform; OpenMM chooses if omitted.
    """

    def __init__(self, system: openmm.System | str, platform: str | None = None) -> None:
        self._xml = system if isinstance(system, str) else openmm.XmlSerializer.serialize(system)
        self._platform = platform
        self._context: openmm.Context | None = None

    def __call__(
        self, positions: NDArray[np.float64], box: NDArray[np.float64] | None, parameters: Mapping[str, float]
    ) -> tuple[float, NDArray[np.float64]]:
        """Energy, kJ/mol, and forces (N, 3), kJ/mol/nm, of a geometry (nm) under the parameters the System knows."""
        if self._context is None:
            system = openmm.XmlSerializer.deserialize(self._xml)
            platform = () if self._platform is None else (openmm.Platform.getPlatformByName(self._platform),)
            self._context = openmm.Context(system, openmm.VerletIntegrator(0.001), *platform)
        context = self._context
        known = set(dict(context.getParameters()))
        for name, value in parameters.items():
            if name in known:
                context.setParameter(name, value)
        if box is not None:
            context.setPeriodicBoxVectors(*(openmm.Vec3(*row) for row in box))
        context.setPositions(positions)
        state = context.getState(energy=True, forces=True)
        return state.getPotentialEnergy()._value, np.asarray(state.getForces(asNumpy=True)._value)

    def __getstate__(self) -> tuple[str, str | None]:
        return self._xml, self._platform

    def __setstate__(self, state: tuple[str, str | None]) -> None:
        self.__init__(*state)  # type: ignore[misc]


def asking_context() -> tuple[int, bool] | None:
    """Who evaluates: the address of the Context's integrator, which tells Contexts apart, and whether it is that.

    OpenMM does not tell a ``PythonForce`` whose evaluation it is, but the call comes out of a method of that Context
    or its integrator, in this thread or in the one that waits for it. ``None`` if neither is to be found.
    """
    found = _asking_frame(sys._getframe(1))
    if found is None:
        found = next((each for frame in sys._current_frames().values() if (each := _asking_frame(frame))), None)
    return found


def _asking_frame(frame: FrameType | None) -> tuple[int, bool] | None:
    module = vars(openmm.openmm)
    while frame is not None:
        if frame.f_globals is module:
            for name in ("self", "context"):
                held = frame.f_locals.get(name)
                if isinstance(held, openmm.Integrator):
                    return int(held.this), True
                if isinstance(held, openmm.Context):
                    return int(held.getIntegrator().this), False
        frame = frame.f_back
    return None


class PlumedCallback:
    """What an ``openmm.PythonForce`` calls; keeps PLUMED's session, and pickles as the recipe for a new one.

    Parameters
    ----------
    recipe : dict
        Arguments of :class:`halberd.plugins.plumed.session.PlumedSession`.
    periodic : bool
    """

    def __init__(self, recipe: dict[str, Any], periodic: bool) -> None:
        self.recipe = recipe
        self.periodic = periodic
        self.session: PlumedSession | None = None
        self._told = False

    def start(self) -> PlumedSession:
        """The session, opened if there is none."""
        if self.session is None:
            self.session = PlumedSession(**self.recipe)
        return self.session

    def __call__(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        """Energy (kJ/mol) and forces (kJ/mol/nm) of a State.

        OpenMM keeps only the text of an exception, so the text carries the traceback.
        """
        try:
            session = self.start()
            box = None
            if self.periodic:
                box = np.asarray(state.getPeriodicBoxVectors(asNumpy=True)._value)
            parameters = dict(state.getParameters()) if session.needs_parameters else None
            positions = state.getPositions(asNumpy=True)._value
            asker, steps = asking_context() or (None, True)
            result = session.evaluate(
                int(state.getStepCount()), positions, box, parameters, asker=asker, by_integrator=steps
            )
        except HalberdError:
            raise
        except Exception as error:
            raise RuntimeError("halberd's PlumedForce failed:\n" + traceback.format_exc()) from error
        if session.stopped and not self._told:
            self._told = True
            raise RuntimeError(f"halberd: PLUMED asked to stop; the last step it counted is {session.stopped_at}.")
        return result

    def __getstate__(self) -> dict[str, Any]:
        return {"recipe": self.recipe, "periodic": self.periodic}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["recipe"], state["periodic"])  # type: ignore[misc]


class PlumedForce(openmm.PythonForce):
    r"""A PLUMED script as an OpenMM Force.

    Make it once everything else is in the System, and add it like any other force. It follows the Context that makes
    steps; others of the same System may ask for energies, and so may barostats, minimisers and reporters: only steps
    that are really made count, so that hills and lines are written once each. Counting needs no reporter; it follows
    from the step numbers of the evaluations. (An integrator that takes steps back, as a Metropolis one does, breaks
    the rule.) Steps are numbered by where their forces were computed: with OpenMM's own integrators step n has the
    positions after n steps. A second Context that makes steps, and a step number that jumps, are errors.

    Parameters
    ----------
    script : str or path
        PLUMED input, or the name of a file that holds it. Atoms count from 1; units are PLUMED's defaults, nm, ps and
        kJ/mol.
    system : openmm.System
        Whose masses, charges (of a ``NonbondedForce``) and number of particles PLUMED gets, and, if the script uses
        ``ENERGY``, whose energy. Not modified.
    timestep : float or Quantity
        Of the integrator; ps if a number.
    temperature : float or Quantity, optional
        For actions that ask the engine for it; K if a number.
    restart : bool
        Continue the files of an earlier run, whose step number the simulation must have (load its State or checkpoint
        first, or call ``setStepCount``).
    folder : path
        Where relative names of PLUMED's files start. Names of input files are looked for beside the script first.
    log : str
        PLUMED's log.
    variables : mapping, optional
        Name -> :class:`halberd.plugins.forces.variables.CollectiveVariable`; ``EXTRACV NAME=...`` in the script
        takes it.
    charges : sequence of float, optional
        Elementary charges, where the System has no ``NonbondedForce``.
    energy : bool
        Whether ``ENERGY`` may be used. It costs one more evaluation of the System per step, made on ``platform``, and
        nothing where the script does not use it.
    platform : str, optional
        OpenMM platform for that evaluation.

    Attributes
    ----------
    stopped : bool
        Whether PLUMED asked for the end of the run. The step after that raises an ``OpenMMException`` once; the
        Context is whole and can go on.

    Raises
    ------
    MissingDependencyError
        If there is no PLUMED, with how to get one.
    ConfigurationError
        If PLUMED refuses the script, two simulations would write the same files, or an option is wrong.
    DataError
        If the file does not exist.

    Examples
    --------
    >>> import openmm, tempfile
    >>> from halberd.plugins import PlumedForce
    >>> system = openmm.System()
    >>> _ = system.addParticle(1.0), system.addParticle(1.0)
    >>> spring = "d: DISTANCE ATOMS=1,2\nRESTRAINT ARG=d AT=0.2 KAPPA=100"
    >>> force = PlumedForce(spring, system, timestep=0.001, folder=tempfile.mkdtemp())
    >>> _ = system.addForce(force)
    >>> context = openmm.Context(system, openmm.VerletIntegrator(0.001))
    >>> context.setPositions([[0, 0, 0], [0.3, 0, 0]])
    >>> context.getState(energy=True).getPotentialEnergy().format("%.3f")
    '0.500 kJ/mol'
    >>> force.close()
    """

    def __init__(
        self,
        script: str | os.PathLike[str],
        system: openmm.System,
        *,
        timestep: Any,
        temperature: Any = None,
        restart: bool = False,
        folder: str | os.PathLike[str] = ".",
        log: str = "plumed.log",
        variables: Mapping[str, Variable] | None = None,
        charges: Sequence[float] | None = None,
        energy: bool = True,
        platform: str | None = None,
    ) -> None:
        step = timestep.value_in_unit(unit.picosecond) if unit.is_quantity(timestep) else float(timestep)
        if not step > 0:
            raise ConfigurationError(f"timestep is {timestep}; it must be a positive time in ps.")
        heat = temperature.value_in_unit(unit.kelvin) if unit.is_quantity(temperature) else temperature
        n = system.getNumParticles()
        masses = np.array([system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(n)])
        text = read_script(script)
        grids = unwritten_grids(text, Path(folder).absolute())
        if grids:
            raise ConfigurationError(
                f"DUMPGRID of '{grids[0]}' has no STRIDE: PLUMED would write it when it is told that all is over, "
                "which nobody does. Add STRIDE=."
            )
        recipe: dict[str, Any] = {
            "script": text,
            "masses": masses,
            "charges": _charges(system) if charges is None else np.asarray(charges, dtype=float),
            "timestep": step,
            "kT": None if heat is None else GAS_CONSTANT_KJ_PER_MOL_K * float(heat),
            "restart": restart,
            "folder": os.fspath(Path(folder).absolute()),
            "log": log,
            "variables": dict(variables or {}),
            "energy": ContextEnergy(system, platform) if energy and _uses_energy(text) else None,
        }
        if len(recipe["charges"]) != n:
            raise ConfigurationError(f"{len(recipe['charges'])} charges were given for {n} particles.")
        self._callback = PlumedCallback(recipe, system.usesPeriodicBoundaryConditions())
        session = self._callback.start()
        super().__init__(self._callback)
        self.setUsesPeriodicBoundaryConditions(self._callback.periodic)
        self.setName("PLUMED")
        self._session = session

    @property
    def stopped(self) -> bool:
        """Whether PLUMED asked for the end of the run."""
        return self._session.stopped

    @property
    def script(self) -> str:
        """PLUMED's input."""
        return str(self._callback.recipe["script"])

    @property
    def files(self) -> list[Path]:
        """Files that grow line by line, such as COLVAR and HILLS, those included that no ``FILE=`` names."""
        return self._session.files

    @property
    def states(self) -> list[Path]:
        """Files that are written as a whole, such as grids and states."""
        return self._session.states

    @property
    def state_step(self) -> int | None:
        """Step of the states on disk, if they were written for a checkpoint."""
        return self._session.state_step

    def announce_checkpoint(self, step: int) -> None:
        """Tell PLUMED that a checkpoint will be written at a step, which has not been reached yet."""
        self._session.checkpoint_step = step

    def flush(self) -> None:
        """Bring everything that was written to the files."""
        self._session.flush()

    def complete(self, step: int) -> None:
        """Count the last step now, instead of at the next evaluation.

        Parameters
        ----------
        step : int
            Steps made so far; ``simulation.currentStep``.
        """
        self._session.complete(step)

    def close(self, step: int | None = None) -> None:
        """Finish PLUMED and its files.

        Parameters
        ----------
        step : int, optional
            Steps made so far; with it the last of them counts, too. Give it if the run is to be continued.
        """
        self._session.close(step)


def read_script(script: str | os.PathLike[str]) -> str:
    """Text of a script given as such or as a file.

    Raises
    ------
    DataError
        If it is the name of a file that does not exist.
    ConfigurationError
        If it holds no action.
    """
    if isinstance(script, os.PathLike) or ("\n" not in script and not _looks_like_input(script)):
        path = Path(script)
        if not path.is_file():
            raise DataError(f"PLUMED script '{path}' does not exist. Give a file, or the text of one.")
        try:
            text = absolute_inputs(path.read_text(encoding="utf-8"), path.parent)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"PLUMED script '{path}' cannot be read: {error}.") from error
    else:
        text = absolute_inputs(script, Path())
    if not any(line.split("#")[0].strip() for line in text.splitlines()):
        raise ConfigurationError("The PLUMED script is empty.")
    return text


def _looks_like_input(text: str) -> bool:
    return "=" in text or ":" in text or " " in text.strip()


def _uses_energy(script: str) -> bool:
    words = [word for line in script.splitlines() for word in line.split("#")[0].replace(":", ": ").split()]
    return "ENERGY" in words or "LABEL=ENERGY" in words


def _charges(system: openmm.System) -> NDArray[np.float64]:
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            particles = range(force.getNumParticles())
            values = [force.getParticleParameters(i)[0] for i in particles]
            return np.array([charge.value_in_unit(unit.elementary_charge) for charge in values])
    return np.zeros(system.getNumParticles())
