"""One walker of hyperactive learning: biased MD that stops where the committee disagrees too much.

At every look the order is: observe and judge, adapt tau, Monte Carlo moves. tau is a constant between looks. Energy is
not conserved while it changes, hence the thermostat.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import openmm
import torch
from ase import Atoms
from numpy.typing import NDArray
from openmm import app, unit

from halberd.plugins.forces.learned_potential import LearnedPotential
from halberd.plugins.forces.options import HAL_TAU
from halberd.plugins.forces.topology import topology_from_atoms
from halberd.plugins.reporters.committee_monitor import FRAME_COLUMNS, Observation, predicted_frame
from halberd.plugins.reporters.disagreement import DisagreementReporter
from halberd.potentials.committees.bias import bias_slope
from halberd.potentials.committees.disagreement import softmax
from halberd.potentials.constants import NM_IN_ANGSTROM
from halberd.potentials.errors import GeometryError, RestartError, StabilityError
from halberd.potentials.files import replacing
from halberd.potentials.frames.distance_guard import DistanceGuard
from halberd.potentials.sites.site_model import SiteModel
from halberd.potentials.sites.torchscript import warm_up
from halberd.samplers.hal.monte_carlo import MonteCarloMoves, compactness
from halberd.samplers.hal.tau_control import TauController
from halberd.samplers.hal.walker_settings import BiasedSettings, ends
from halberd.samplers.runs.platforms import find_platform
from halberd.samplers.runs.restart import cut_outputs, read_checkpoint, restore, write_checkpoint

OUTCOME, SELECTED, LOG, TRAJECTORY = "outcome.json", "selected.extxyz", "walker.csv", "trajectory.extxyz"
_CHECKPOINT = "walker.zip"
#: Of the compactness of the first cell; a cell below it has all but collapsed.
FLATTEST = 0.5


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a walker ended.

    Attributes
    ----------
    reason : {'uncertain', 'finished', 'distance', 'cell', 'unstable'}
        The tolerance was exceeded; all steps were done without; atoms came too close or the structure fell apart; the
        volume left its range; positions or forces were not finite.
    step : int
        At which the run ended.
    selected_step : int or None
        Of the frame to label; ``None`` if there is nothing to learn.
    max_f : float
        Largest relative force uncertainty of the selected frame, or of the run if there is none.
    atom : int
        Where it is.
    held : bool
        Whether all steps were done and the tolerance held at every look.
    detail : str
    moves : dict
        Monte Carlo move -> [accepted, tried].
    """

    reason: str
    step: int
    selected_step: int | None
    max_f: float
    atom: int
    held: bool
    detail: str
    moves: dict[str, list[int]]


class BiasedDynamics:
    """A biased run in a folder of its own; killed, it goes on where its last checkpoint was.

    Parameters
    ----------
    model : SiteModel
        The committee.
    atoms : ase.Atoms
        Start.
    settings : BiasedSettings
    folder : path
        Made if it is not there. Holds ``walker.csv``, ``trajectory.extxyz`` (with per-atom uncertainties) and, in the
        end, ``outcome.json`` and ``selected.extxyz``.
    seed : int
    drive : SiteModel, optional
        What drives the run, such as the same mean with an exact sigma; the committee if omitted.
    first_step : int
        Step to begin at, for a run that goes on where another one stopped: ramps go on,
        and beyond the burn-in there is a bias from the first look.
    known_start : bool
        The start has a label already: uncertain or not, it is not selected.

    Raises
    ------
    GeometryError
        If the start violates the distance guard.
    ConfigurationError, UnknownElementError
        If model, settings and start do not fit together.
    """

    def __init__(
        self,
        model: SiteModel,
        atoms: Atoms,
        settings: BiasedSettings,
        folder: Path,
        seed: int = 0,
        drive: SiteModel | None = None,
        first_step: int = 0,
        known_start: bool = False,
    ) -> None:
        self.settings = settings
        self.first_step = first_step
        self.known_start = known_start
        self.folder = Path(folder)
        self.periodic = bool(atoms.pbc.any())
        self.guard = guard_of(model, atoms, settings)
        problem = self.guard.violation(atoms)
        if problem is not None:
            raise GeometryError(f"The start cannot be used: {problem}. Change it, or min_distance.")
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(3) >> 1]
        topology, positions = topology_from_atoms(atoms)
        system = LearnedPotential(drive or model).createSystem(
            topology, bias=settings.bias, bias_width=settings.bias_width
        )
        platform = find_platform(settings.platform, settings.device_index, torch.get_num_threads())
        self.simulation = app.Simulation(topology, system, _integrator(settings, seeds[0]), *platform)
        self.simulation.context.setPositions(positions)
        self.first_box = np.array(self.simulation.context.getState().getPeriodicBoxVectors(asNumpy=True)._value)
        self.moves = MonteCarloMoves(
            self.simulation.context, atoms.numbers, seeds[1], settings.cell_move, settings.cell_amplitude
        )
        self.controller = TauController(
            settings.at("tau_rel", first_step),
            settings.tau_history,
            settings.tau_burn_in,
            settings.tau_averaging,
            settings.check_interval,
        )
        self._model, self._velocity_seed = model, seeds[2]
        self._best: dict[str, Any] = {"max_f": 0.0, "atom": 0}
        #: The last look that passed the guards, and the one selected.
        self._last: tuple[Atoms, dict[str, Any]] | None = None
        self._selected: tuple[Atoms, dict[str, Any]] | None = None
        self._ending: tuple[str, str] | None = None

    # -- running ----------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run to the end, or finish what was begun, and write the outcome.

        Returns
        -------
        Outcome
        """
        if (self.folder / OUTCOME).is_file():
            return read_outcome(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        simulation, settings = self.simulation, self.settings
        outputs = [self.folder / LOG, self.folder / TRAJECTORY]
        resumed = self._resume()
        reporter = DisagreementReporter(
            outputs[0],
            settings.check_interval,
            self._model,
            epsilon=settings.epsilon,
            form=settings.deviation,
            frames=outputs[1],
            after=self._judge,
            append=resumed,
        )
        self._warm_up(reporter)
        try:
            if not resumed:
                simulation.currentStep = self.first_step
                temperature = settings.at("temperature", self.first_step)
                simulation.context.setVelocitiesToTemperature(temperature * unit.kelvin, self._velocity_seed)
                self._look(reporter)
            while self._ending is None and simulation.currentStep < settings.steps:
                self._advance(reporter, outputs)
        except (openmm.OpenMMException, ValueError, StabilityError) as error:
            if not _is_explosion(error):
                raise
            self._ending = ("unstable", str(error).splitlines()[0][:200])
        finally:
            reporter.close()
        return self._finish()

    def _advance(self, reporter: DisagreementReporter, outputs: list[Path]) -> None:
        simulation, settings = self.simulation, self.settings
        self._set_temperature(settings.at("temperature", simulation.currentStep))
        ahead = settings.stride - simulation.currentStep % settings.stride
        simulation.step(min(ahead, settings.steps - simulation.currentStep))
        step = simulation.currentStep
        if step % settings.check_interval == 0 or step == settings.steps:
            self._look(reporter)
        if self._ending is not None or step == settings.steps:
            return
        temperature = settings.at("temperature", step)
        if settings.cell_move != "none" and step % settings.cell_interval == 0:
            self.moves.move_cell(temperature, settings.at("pressure", step))
        if settings.swap_interval and step % settings.swap_interval == 0:
            self.moves.swap(temperature)
        if step % settings.checkpoint_interval == 0:
            write_checkpoint(self.folder / _CHECKPOINT, simulation, {}, outputs, self.get_state())

    def _look(self, reporter: DisagreementReporter) -> None:
        state = self.simulation.context.getState(positions=True, energy=True)
        positions = state.getPositions(asNumpy=True)._value
        if not np.isfinite(positions).all():
            raise StabilityError("positions are not finite")
        problem = self._guarded(positions, state.getPeriodicBoxVectors(asNumpy=True)._value)
        if problem is not None:
            self._ending = problem
            return
        reporter.report(self.simulation, state)

    def _guarded(self, positions: NDArray[np.float64], box: NDArray[np.float64]) -> tuple[str, str] | None:
        """Reason and detail, if a geometry is not worth looking at."""
        low, high = ends(self.settings.volume_range)
        atoms = Atoms(numbers=self.moves.numbers, positions=positions * NM_IN_ANGSTROM, pbc=self.periodic)
        if self.periodic:
            ratio = float(np.linalg.det(box) / np.linalg.det(self.first_box))
            if not low < ratio < high:
                return "cell", f"the volume is {ratio:.2f} times the first"
            if compactness(box) < FLATTEST * compactness(self.first_box):
                return "cell", "the cell has become flat; cell_move: isotropic suits liquids better"
            atoms.set_cell(box * NM_IN_ANGSTROM)
        problem = self.guard.violation(atoms)
        return None if problem is None else ("distance", problem)

    def _judge(self, simulation: app.Simulation, seen: Observation, uncertainty: NDArray[np.float64]) -> None:
        """Decide about a frame, then adapt tau; called by the reporter."""
        settings, step = self.settings, int(simulation.currentStep)
        facts = {"max_f": float(uncertainty.max()), "atom": int(uncertainty.argmax()), "step": step}
        if not np.isfinite(facts["max_f"]):
            raise StabilityError("forces are not finite")
        if facts["max_f"] >= self._best["max_f"]:
            self._best = {"max_f": facts["max_f"], "atom": facts["atom"]}
        self._last = (predicted_frame(seen, uncertainty, step), facts)
        measure = softmax(uncertainty).max() if settings.criterion == "softmax" else uncertainty.max()
        labelled_before = self.known_start and step == self.first_step
        if measure > settings.tolerance and self._selected is None and not labelled_before:
            self._selected = self._last
            if settings.stop_at_trigger:
                self._ending = ("uncertain", "")
        self.controller.tau_rel = settings.at("tau_rel", step)
        slope = bias_slope(seen.spread.sigma, len(uncertainty), settings.bias, settings.bias_width)
        tau = self.controller.update(
            step,
            float(np.linalg.norm(seen.spread.forces, axis=1).mean()),
            slope * float(np.linalg.norm(seen.spread.sigma_forces, axis=1).mean()),
        )
        simulation.context.setParameter(HAL_TAU, tau)

    def _finish(self) -> Outcome:
        reason, detail = self._ending or ("finished", "")
        held = reason == "finished" and self._selected is None
        if self._selected is None and (self.settings.keep_last or reason != "finished"):
            # What led to a failure is worth learning, and the last sound frame is closest to it.
            self._selected = self._last
        selected_step = None
        best = self._best
        if self._selected is not None:
            atoms, best = self._selected
            selected_step = best["step"]
            with replacing(self.folder / SELECTED) as temporary:
                ase.io.write(temporary, atoms, format="extxyz", columns=FRAME_COLUMNS)
        outcome = Outcome(
            reason=reason,
            step=int(self.simulation.currentStep),
            selected_step=selected_step,
            max_f=best["max_f"],
            atom=best["atom"],
            held=held,
            detail=detail,
            moves=self.moves.counts,
        )
        with replacing(self.folder / OUTCOME) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(outcome), indent=2) + "\n", encoding="utf-8")
        (self.folder / _CHECKPOINT).unlink(missing_ok=True)
        return outcome

    # -- state ------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """What the run remembers beside the engine's state; JSON-compatible."""
        return {
            "tau": self.controller.get_state(),
            "moves": self.moves.get_state(),
            "best": self._best,
            "selected": None if self._selected is None else _to_json(*self._selected),
            "last": None if self._last is None else _to_json(*self._last),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self.controller.set_state(state["tau"])
        self.moves.set_state(state["moves"])
        self._best = state["best"]
        self._selected = None if state["selected"] is None else _from_json(state["selected"])
        self._last = None if state["last"] is None else _from_json(state["last"])

    def _resume(self) -> bool:
        path = self.folder / _CHECKPOINT
        if not path.is_file():
            return False
        try:
            checkpoint = read_checkpoint(path)
            cut_outputs(self.folder, checkpoint)
        except RestartError:  # begun again from the start, the run is the same
            return False
        restore(self.simulation, checkpoint)
        self.set_state(checkpoint.extra)
        return True

    def _warm_up(self, reporter: DisagreementReporter) -> None:
        """Let TorchScript settle: a resumed run must repeat the first."""
        context = self.simulation.context
        state = warm_up(lambda: context.getState(positions=True, energy=True, forces=True))
        box = state.getPeriodicBoxVectors(asNumpy=True)._value
        reporter.monitor(self.simulation).warm_up(state.getPositions(asNumpy=True)._value, box)

    def _set_temperature(self, temperature: float) -> None:
        self.simulation.integrator.setTemperature(temperature * unit.kelvin)


def guard_of(model: SiteModel, atoms: Atoms, settings: BiasedSettings) -> DistanceGuard:
    """The distance guard of a run; what hangs together within the model's cutoff at first must go on doing so."""
    connected = DistanceGuard(atoms.numbers, settings.min_distance, model.cutoff)
    separate = DistanceGuard(atoms.numbers, settings.min_distance)
    if atoms.pbc.any() or (connected.violation(atoms) is not None and separate.violation(atoms) is None):
        return separate
    return connected


def read_outcome(folder: Path) -> Outcome:
    """Read how a walker ended."""
    return Outcome(**json.loads((folder / OUTCOME).read_text(encoding="utf-8")))


def _integrator(settings: BiasedSettings, seed: int) -> openmm.Integrator:
    temperature = settings.at("temperature", 0) * unit.kelvin
    friction, step = settings.friction / unit.picosecond, settings.timestep * unit.femtosecond
    if settings.integrator == "nose_hoover":
        return openmm.NoseHooverIntegrator(temperature, friction, step)
    kinds = {
        "langevin_middle": openmm.LangevinMiddleIntegrator,
        "langevin": openmm.LangevinIntegrator,
        "brownian": openmm.BrownianIntegrator,
    }
    integrator = kinds[settings.integrator](temperature, friction, step)
    integrator.setRandomNumberSeed(seed)
    return integrator


def _is_explosion(error: Exception) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("nan", "not finite", "infinite"))


def _to_json(atoms: Atoms, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": np.asarray(atoms.cell).tolist(),
        "pbc": atoms.pbc.tolist(),
        "info": dict(atoms.info),
        "arrays": {name: atoms.arrays[name].tolist() for name in FRAME_COLUMNS[2:]},
        "facts": facts,
    }


def _from_json(stored: dict[str, Any]) -> tuple[Atoms, dict[str, Any]]:
    atoms = Atoms(stored["numbers"], stored["positions"], cell=stored["cell"], pbc=stored["pbc"], info=stored["info"])
    for name, values in stored["arrays"].items():
        atoms.arrays[name] = np.array(values)
    return atoms, stored["facts"]
