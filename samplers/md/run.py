"""Molecular dynamics from settings to results: one run in one folder. ``production.run_md`` adds what is around it."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from ase import Atoms
from openmm import app, unit

from halberd.plugins.forces.topology import elements_of, read_structure
from halberd.plugins.hosts.ase_calculator import HalberdCalculator, virial_trace
from halberd.plugins.plumed.files import remove_empty, written_files
from halberd.plugins.plumed.force import PlumedForce, read_script
from halberd.plugins.reporters.extxyz import ExtXYZReporter
from halberd.plugins.reporters.progress import ProgressReporter
from halberd.plugins.reporters.thermo import ThermoReporter
from halberd.plugins.reporters.trajectories import DCDReporter, XTCReporter
from halberd.plugins.reporters.uncertainty_guard import UncertaintyGuard
from halberd.potentials.constants import NM_IN_ANGSTROM
from halberd.potentials.errors import BackendError, ConfigurationError, RunStopped, StabilityError
from halberd.potentials.files import make_folder, replacing
from halberd.potentials.locks import locked
from halberd.potentials.sites.torchscript import warm_up
from halberd.samplers.md.fingerprint import fingerprint_of
from halberd.samplers.md.folder import CHECKPOINT, OUTPUTS, REPORT, check_folder, refuse_to_overwrite
from halberd.samplers.md.last_good import LastGood, raise_not_finite
from halberd.samplers.md.report import Ending, closing_report
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.md.stability import StabilityCheck, remark_on_fragments
from halberd.samplers.md.system import (
    barostats,
    build_system,
    continued_script,
    make_integrator,
    make_plumed,
    seed_barostats,
    set_temperature,
)
from halberd.samplers.runs.interruption import Interruption
from halberd.samplers.runs.platforms import find_platform
from halberd.samplers.runs.restart import (
    Checkpoint,
    InexactRestartWarning,
    check_fingerprint,
    cut_outputs,
    read_checkpoint,
    restore,
    write_checkpoint,
)

#: Steps between looks at signals and the clock; OpenMM's Simulation makes no more at a time either.
_CHUNK = 10
#: Steps between looks at the state of the run, at most: an explosion must not cool down unseen.
_LOOK = 50
#: In checkpoints: whether the run that wrote it started its barostat anew there, as one that goes on from it does.
_RENEWED = "renewed barostat"


class MolecularDynamics:
    """One run: a System, its integrator, its output folder.

    Parameters
    ----------
    settings : MDSettings
    start : openmm.State, optional
        Positions, velocities and box to start from, instead of those of the structure file at rest.

    Attributes
    ----------
    simulation : openmm.app.Simulation
    folder : pathlib.Path

    Raises
    ------
    HalberdError
        Anything wrong with model, structure, platform or output folder, before the first step and before anything
        is written.
    """

    def __init__(self, settings: MDSettings, start: openmm.State | None = None) -> None:
        self.settings = settings
        self.topology, self.positions = read_structure(settings.structure)
        if not np.isfinite(self.positions).all():
            raise_not_finite(self.topology, self.positions, "the structure")
        self.periodic = self.topology.getPeriodicBoxVectors() is not None
        if settings.ensemble == "NPT" and not self.periodic:
            raise ConfigurationError(
                f"ensemble is NPT, but '{settings.structure}' has no periodic cell; use NVT, or give it a cell."
            )
        built = build_system(settings, self.topology, self.positions)
        self.system, self.model = built.system, built.model
        self.folder = Path(settings.output)
        check_folder(self.folder)
        seed_barostats(self.system, settings.seed, 0)
        platform = find_platform(settings.platform, settings.device_index)
        try:
            self.simulation = app.Simulation(self.topology, self.system, make_integrator(settings), *platform)
        except openmm.OpenMMException as error:
            raise BackendError(
                f"OpenMM cannot start on platform '{settings.platform or 'of its choice'}': {error} "
                "'halberd doctor' shows what works here."
            ) from error
        self._start_state = start
        context = self.simulation.context
        if start is not None:
            context.setPeriodicBoxVectors(*start.getPeriodicBoxVectors())
            context.setPositions(start.getPositions())
        else:
            context.setPositions(self.positions)
        self._check = self._stability()
        self._good = LastGood(self.simulation, self.folder, self.periodic, self._check)
        self._thermo: ThermoReporter | None = None
        self._plumed: PlumedForce | None = None
        self._guard: UncertaintyGuard | None = None
        # Once: it hashes every weight, and a run writes many checkpoints.
        self._fingerprint = fingerprint_of(settings, self.topology, self.positions, self.model)

    # -- parts ------------------------------------------------------------------------------------------------

    def _stability(self) -> StabilityCheck | None:
        settings = self.settings
        if settings.stability is None:
            return None
        return StabilityCheck(
            settings.stability,
            self.system,
            self.topology,
            self.positions,
            temperature=max(settings.temperature, settings.temperature_end or 0.0),
            conserves_energy=settings.ensemble == "NVE",
        )

    def _virial(self) -> Callable[[np.ndarray, np.ndarray], float]:
        """Make a function that evaluates the trace of the virial, kJ/mol, beside the simulation."""
        calculator = HalberdCalculator(self.model, skin=self.settings.force.skin)
        atoms = Atoms(numbers=elements_of(self.topology), pbc=True)

        def trace(positions: np.ndarray, box: np.ndarray) -> float:
            atoms.set_cell(box * NM_IN_ANGSTROM)
            atoms.set_positions(positions * NM_IN_ANGSTROM)
            return virial_trace(calculator.evaluate(atoms), atoms)

        return trace

    @property
    def outputs(self) -> dict[str, Path]:
        """Kind -> file that grows during a run."""
        return {kind: self.folder / name for kind, name in OUTPUTS.items()}

    def _plumed_files(self) -> tuple[list[Path], list[Path]]:
        """Files that the PLUMED script says it appends to, and those it writes as a whole."""
        if self.settings.plumed is None:
            return [], []
        return written_files(read_script(Path(self.settings.plumed)), self.folder.absolute())

    def _growing(self) -> list[Path]:
        return [*self.outputs.values(), *(self._plumed.files if self._plumed is not None else [])]

    # -- running ----------------------------------------------------------------------------------------------

    def run(self, restart: bool = False, progress: bool = True) -> dict[str, Any]:
        """Run to ``settings.steps``, or to where something asks for an end, and report.

        Parameters
        ----------
        restart : bool
            Go on from the last checkpoint in the output folder.
        progress : bool
            Show a bar on standard error.

        Returns
        -------
        dict
            ``trajectory``, ``steps``, ``complete`` (whether all steps are made), ``stopped`` (why not, or ``None``),
            ``us_per_atom_step``, ``ns_per_day``, ``mean`` {``temperature_K``, ``pressure_bar``, ``density_g_cm3``},
            ``error`` (standard errors of these), ``drift`` (eV per atom and ps, NVE only; else ``None``),
            ``uncertainty`` (``None``, or ``quantity``, ``largest``, ``n_above``), ``remarks`` (sentences about what
            must not be overlooked), ``trajectories`` (kind -> file), ``output``, ``figure``, ``seconds``.
            Means and figure are ``None`` if the run was shorter than ``report_interval``: the row of step 0 is no
            sample.

        Raises
        ------
        StabilityError
            If the run explodes; the last good frame is then in ``last_good.extxyz``, and the last checkpoint is good.
        RestartError
            If there is nothing to restart from, or it is another run.
        OutputError
            If the folder cannot be written or is full, or holds a run and ``restart`` is false.
        """
        if not restart:
            refuse_to_overwrite(self.folder)
            make_folder(self.folder)
        with locked(self.folder):
            return self._run(restart, progress)

    def _run(self, restart: bool, progress: bool) -> dict[str, Any]:
        settings, simulation = self.settings, self.simulation
        checkpoint_file = self.folder / CHECKPOINT
        if restart:
            checkpoint = read_checkpoint(checkpoint_file)
            check_fingerprint(checkpoint.fingerprint, self._fingerprint, checkpoint_file)
            growing, states = self._plumed_files()
            cut_outputs(self.folder, checkpoint, [*self.outputs.values(), *states], growing)
            self._complete_system(checkpoint)
            restore(simulation, checkpoint)
            self._look_at_checkpoint(checkpoint)
            if checkpoint.step < settings.steps:
                (self.folder / REPORT).unlink(missing_ok=True)  # of what was complete, and is not any more
            self._warm_up()
            # Once more: custom integrators draw random numbers whenever somebody asks for a kinetic energy.
            restore(simulation, checkpoint)
        else:
            refuse_to_overwrite(self.folder)
            self._complete_system(None)
            self._start()
            self._warm_up()
            # A run that is killed early can go on, too.
            self._checkpoint(checkpoint_file)
        bar = ProgressReporter(settings.steps, settings.ensemble) if progress else None
        first_step = simulation.currentStep
        try:
            self._attach_reporters()
            if bar is not None:
                simulation.reporters.append(bar)
            start = time.perf_counter()
            with Interruption(settings.max_hours) as interruption:
                stopped = self._loop(checkpoint_file, interruption)
        finally:
            self._close()
        seconds = time.perf_counter() - start
        done = simulation.currentStep - first_step
        return closing_report(
            settings,
            self.topology.getNumAtoms(),
            self.model.name,
            Ending(simulation.currentStep, done, seconds, stopped),
            guard=self._guard,
            more_remarks=self._came_apart() if settings.stability is not None else [],
        )

    def _look_at_checkpoint(self, checkpoint: Checkpoint) -> None:
        if self._check is not None:
            self._check.first_energy = checkpoint.extra.get("first energy")
        try:
            self._good.remember()
        except StabilityError as error:
            raise StabilityError(
                f"The checkpoint of step {checkpoint.step} is beyond a limit: {error} Go on with the limits that it "
                "was written with, or start anew."
            ) from error

    def _came_apart(self) -> list[str]:
        start = self.topology.getPeriodicBoxVectors()
        boxes = (np.array(start.value_in_unit(unit.nanometer)), self._good.box) if self.periodic else (None, None)
        frames = []
        for positions, box in zip((self.positions, self._good.positions), boxes, strict=True):
            cell = None if box is None else box * NM_IN_ANGSTROM
            frames.append(Atoms(elements_of(self.topology), positions * NM_IN_ANGSTROM, cell=cell, pbc=self.periodic))
        return remark_on_fragments(*frames)

    def _complete_system(self, checkpoint: Checkpoint | None) -> None:
        """Add what needs the folder, and start random streams that OpenMM does not store."""
        step = 0 if checkpoint is None else checkpoint.step
        if self.settings.plumed is not None:
            if checkpoint is None:
                growing, states = self._plumed_files()
                remove_empty([*growing, *states])
            script = None if checkpoint is None else continued_script(self.settings, self.folder, checkpoint)
            self._plumed = make_plumed(self.settings, self.system, self.topology, self.folder, script)
            self.system.addForce(self._plumed)
        seed_barostats(self.system, self.settings.seed, step)
        exact = checkpoint is None or step >= self.settings.steps or checkpoint.extra.get(_RENEWED)
        if barostats(self.system) and not exact:
            warnings.warn(
                f"The run was ended at step {step}, between two checkpoints. From there on the barostat draws other "
                "random numbers than in one go: the same ensemble, another trajectory.",
                InexactRestartWarning,
                stacklevel=2,
            )
        if self._plumed is not None or step > 0:
            self.simulation.context.reinitialize(preserveState=True)

    def _start(self) -> None:
        context = self.simulation.context
        with replacing(self.folder / "topology.pdb") as temporary, open(temporary, "w", encoding="utf-8") as handle:
            app.PDBFile.writeFile(self.topology, self.positions * unit.nanometer, handle, keepIds=True)
        with self._good.naming_atoms():
            if self._start_state is not None:
                context.setVelocities(self._start_state.getVelocities())
            else:
                if self.settings.minimize:
                    self.simulation.minimizeEnergy()
                context.setVelocitiesToTemperature(self.settings.temperature * unit.kelvin, self.settings.seed)
            self._good.remember()

    def _warm_up(self) -> None:
        """Let TorchScript settle, so that a restarted run leaves where the original was."""
        with self._good.naming_atoms():
            warm_up(lambda: self.simulation.context.getState(energy=True, forces=True))

    def _attach_reporters(self) -> None:
        settings, outputs = self.settings, self.outputs
        # What is there now belongs to a run that goes on.
        old = {kind: file.exists() and file.stat().st_size > 0 for kind, file in outputs.items()}
        interval = settings.report_interval
        reporters: list[Any] = []
        virial = self._virial() if self.periodic else None
        if virial is not None:
            state = self.simulation.context.getState(positions=True)
            positions, box = (get(asNumpy=True)._value for get in (state.getPositions, state.getPeriodicBoxVectors))
            warm_up(lambda: virial(positions, box))
        # The log comes with every run: the closing report is made from it.
        self._thermo = ThermoReporter(str(outputs["csv"]), interval, virial, append=old["csv"])
        reporters.append(self._thermo)
        if "dcd" in settings.reporters:
            reporters.append(DCDReporter(str(outputs["dcd"]), interval, append=old["dcd"]))
        if "xtc" in settings.reporters:
            reporters.append(XTCReporter(str(outputs["xtc"]), interval, append=old["xtc"]))
        if "extxyz" in settings.reporters:
            model = self.model if settings.frame_sigma else None
            reporters.append(ExtXYZReporter(outputs["extxyz"], interval, append=old["extxyz"], model=model))
        self.simulation.reporters.extend(reporters)
        if self.simulation.currentStep == 0:
            self._report_start(reporters)
        if settings.watch is not None:
            files = outputs["uncertainty"], outputs["uncertain frames"]
            self._guard = settings.watch.guard(self.model, *files, append=old["uncertainty"])
            self._guard.warm_up(self.simulation)
            self.simulation.reporters.append(self._guard)

    def _report_start(self, reporters: list[Any]) -> None:
        """Write the row and frame of step 0, from which trajectories are counted; OpenMM leaves them out."""
        groups = self.simulation.integrator.getIntegrationForceGroups()
        with self._good.naming_atoms():
            for reporter in reporters:
                wanted = dict.fromkeys(reporter.describeNextReport(self.simulation)["include"], True)
                state = self.simulation.context.getState(enforcePeriodicBox=self.periodic, groups=groups, **wanted)
                reporter.report(self.simulation, state)
            if self._check is not None and self._thermo is not None:
                self._check.check_energy(self._thermo.total_energy)

    def _loop(self, checkpoint_file: Path, interruption: Interruption) -> str | None:
        """Make steps; returns why it stopped before the last one."""
        settings, simulation = self.settings, self.simulation
        written = time.monotonic()
        stopped: str | None = None
        with self._good.naming_atoms():
            while simulation.currentStep < settings.steps and stopped is None:
                step = simulation.currentStep
                if settings.temperature_end is not None:
                    change = settings.temperature_end - settings.temperature
                    set_temperature(simulation, settings.temperature + change * step / settings.steps)
                strides = (_CHUNK, settings.report_interval, settings.checkpoint_interval)
                target = min(settings.steps, *(step + stride - step % stride for stride in strides))
                # Known before the steps are made: PLUMED wants to hear of a checkpoint in advance.
                reason = interruption.reason
                minutes = (time.monotonic() - written) / 60.0
                by_clock = settings.checkpoint_minutes is not None and minutes >= settings.checkpoint_minutes
                due = target % settings.checkpoint_interval == 0 or by_clock or reason is not None
                due = due or target == settings.steps
                if due and self._plumed is not None:
                    self._plumed.announce_checkpoint(target)
                stopped = self._advance(target - step) or reason
                step = simulation.currentStep
                last = step >= settings.steps or stopped is not None
                due = due or last
                if step % settings.report_interval == 0 or step % _LOOK == 0 or due:
                    self._good.remember(self._total_energy(due), thorough=due)
                if due:
                    on_time = step % settings.checkpoint_interval == 0
                    self._checkpoint(checkpoint_file, renews=on_time or not last)
                    written = time.monotonic()
                    if not last:
                        self._renew_barostats()
        return None if simulation.currentStep >= settings.steps else stopped

    def _total_energy(self, of_now: bool) -> float | None:
        """Total energy, kJ/mol, of the last row; of this step if a checkpoint asks, and it matters."""
        of_row = None if self._thermo is None else self._thermo.total_energy
        step = self.simulation.currentStep
        if not of_now or self.settings.ensemble != "NVE" or step % self.settings.report_interval == 0:
            return of_row
        state = self.simulation.context.getState(energy=True)
        return float((state.getPotentialEnergy() + state.getKineticEnergy())._value)

    def _advance(self, steps: int) -> str | None:
        """Make a few steps; returns a reason to stop, if one came up."""
        try:
            self.simulation.step(steps)
        except RunStopped as error:
            return str(error)
        except openmm.OpenMMException as error:
            if self._plumed is None or not self._plumed.stopped or "PLUMED asked to stop" not in str(error):
                raise
        if self._plumed is not None and self._plumed.stopped:
            return "PLUMED asked for it"
        return None

    def _checkpoint(self, file: Path, renews: bool = True) -> None:
        states: list[Path] = []
        extra: dict[str, Any] = {_RENEWED: renews}
        if self._check is not None:
            extra["first energy"] = self._check.first_energy
        if self._plumed is not None:
            self._plumed.complete(self.simulation.currentStep)
            self._plumed.flush()
            states = self._plumed.states
            if "STATE_WSTRIDE=" not in self._plumed.script:
                extra["PLUMED state"] = self._plumed.state_step
        write_checkpoint(file, self.simulation, self._fingerprint, self._growing(), extra, states=states)

    def _renew_barostats(self) -> None:
        """Start the barostat's random stream anew, as a run that is restarted from the checkpoint will.

        OpenMM does not store it. Thus the restarted run makes the very moves that the original would have made.
        """
        if barostats(self.system):
            seed_barostats(self.system, self.settings.seed, self.simulation.currentStep)
            context = self.simulation.context
            everything = context.createCheckpoint()
            context.reinitialize(preserveState=True)
            self._warm_up()
            context.loadCheckpoint(everything)

    def _close(self) -> None:
        for reporter in self.simulation.reporters:
            if hasattr(reporter, "close"):
                # On a full disk closing fails as well; the error that counts is on its way.
                with contextlib.suppress(OSError):
                    reporter.close()
        self.simulation.reporters.clear()
        if self._plumed is not None:
            self._plumed.close()
