"""Molecular dynamics from settings to results: the work behind ``halberd md``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import openmm
from ase import Atoms
from openmm import app, unit

from halberd.plugins.ase_calculator import HalberdCalculator
from halberd.plugins.learned_potential import LearnedPotential, elements_of
from halberd.plugins.plots import run_plot
from halberd.plugins.reporters import ExtXYZReporter, ProgressReporter, ThermoReporter
from halberd.plugins.structures import describe_atoms, read_structure, symbols_of
from halberd.potentials.constants import EV_IN_KJ_PER_MOL, EV_PER_ANGSTROM_IN_KJ_PER_MOL_NM, NM_IN_ANGSTROM
from halberd.potentials.errors import (
    BackendError,
    ConfigurationError,
    HalberdError,
    OutputError,
    StabilityError,
)
from halberd.potentials.files import replacing
from halberd.samplers.md_settings import MDSettings
from halberd.samplers.platforms import find_platform
from halberd.samplers.restart import (
    check_fingerprint,
    cut_outputs,
    read_checkpoint,
    restore,
    write_checkpoint,
)
from halberd.samplers.run_log import energy_drift, mean_and_error, read_log

_CHECKPOINT = "restart.zip"


class MolecularDynamics:
    """One run: a System, its integrator, its output folder.

    Parameters
    ----------
    settings : MDSettings

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

    def __init__(self, settings: MDSettings) -> None:
        self.settings = settings
        self.topology, self.positions = read_structure(settings.structure)
        if not np.isfinite(self.positions).all():
            raise_not_finite(self.topology, self.positions, "the structure")
        self.periodic = self.topology.getPeriodicBoxVectors() is not None
        if settings.ensemble == "NPT" and not self.periodic:
            raise ConfigurationError(
                f"ensemble is NPT, but '{settings.structure}' has no periodic cell; use NVT, or give it a cell."
            )
        potential = LearnedPotential(settings.model)
        options = {**settings.force_options().__dict__}
        options.pop("device")
        self.system = potential.createSystem(self.topology, **options)
        self.model = potential.model(
            head=settings.head,
            precision=settings.precision,
            charge=settings.charge,
            multiplicity=settings.multiplicity,
        )
        if settings.ensemble == "NPT":
            self._add_barostat()
        self.folder = Path(settings.output)
        check_folder(self.folder)
        platform = find_platform(settings.platform, settings.device_index)
        try:
            self.simulation = app.Simulation(self.topology, self.system, self._integrator(), *platform)
        except openmm.OpenMMException as error:
            raise BackendError(
                f"OpenMM cannot start on platform '{settings.platform or 'of its choice'}': {error} "
                "'halberd doctor' shows what works here."
            ) from error
        self.simulation.context.setPositions(self.positions)
        self._remember()
        # Once: it hashes every weight, and a run writes many checkpoints.
        self._fingerprint = self.fingerprint()

    # -- parts ------------------------------------------------------------------------------------------------

    def _add_barostat(self) -> None:
        barostat = openmm.MonteCarloBarostat(
            self.settings.pressure * unit.bar,
            self.settings.temperature * unit.kelvin,
            self.settings.barostat_interval,
        )
        barostat.setRandomNumberSeed(self.settings.seed)
        self.system.addForce(barostat)

    def _virial(self) -> Callable[[np.ndarray, np.ndarray], float]:
        """Make a function that evaluates the trace of the virial, kJ/mol, beside the simulation."""
        calculator = HalberdCalculator(self.model, skin=self.settings.skin)
        atoms = Atoms(numbers=elements_of(self.topology), pbc=True)

        def trace(positions: np.ndarray, box: np.ndarray) -> float:
            atoms.set_cell(box * NM_IN_ANGSTROM)
            atoms.set_positions(positions * NM_IN_ANGSTROM)
            stress = calculator.evaluate(atoms)["stress"]
            return float(-stress[:3].sum() * atoms.get_volume() * EV_IN_KJ_PER_MOL)

        return trace

    def _integrator(self) -> openmm.Integrator:
        step = self.settings.timestep * unit.femtosecond
        if self.settings.ensemble == "NVE":
            return openmm.VerletIntegrator(step)
        integrator = openmm.LangevinMiddleIntegrator(
            self.settings.temperature * unit.kelvin, self.settings.friction / unit.picosecond, step
        )
        integrator.setRandomNumberSeed(self.settings.seed)
        return integrator

    def fingerprint(self) -> dict[str, Any]:
        """What a continuation must share with the run that wrote a checkpoint."""
        numbers = np.array(elements_of(self.topology), dtype=np.int64)
        return {
            "composition": hashlib.sha256(numbers.tobytes()).hexdigest()[:16],
            "number of atoms": len(numbers),
            "periodicity": self.periodic,
            "model": self.model.name,
            "weights": self._weights_digest(),
            **self.settings.fixed_by_restart(),
        }

    def _weights_digest(self) -> str:
        digest = hashlib.sha256(self.model.e0s.tobytes())
        for tensor in [*self.model.module.parameters(), *self.model.module.buffers()]:
            digest.update(tensor.detach().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def outputs(self) -> dict[str, Path]:
        """Reporter name -> file."""
        names = {"csv": "log.csv", "dcd": "trajectory.dcd", "extxyz": "frames.extxyz"}
        return {reporter: self.folder / names[reporter] for reporter in ("csv", "dcd", "extxyz")}

    # -- running ----------------------------------------------------------------------------------------------

    def run(self, restart: bool = False, progress: bool = True) -> dict[str, Any]:
        """Run to ``settings.steps`` and report.

        Parameters
        ----------
        restart : bool
            Go on from the last checkpoint in the output folder.
        progress : bool
            Show a bar on standard error.

        Returns
        -------
        dict
            ``trajectory``, ``steps``, ``us_per_atom_step``, ``mean`` {``temperature_K``, ``pressure_bar``,
            ``density_g_cm3``}, ``error`` (standard errors of these), ``drift`` (eV per atom and ps, NVE only; else
            ``None``), ``output``, ``figure``, ``seconds``.

        Raises
        ------
        StabilityError
            If the run explodes; the last good frame is then in ``last_good.extxyz``.
        RestartError
            If there is nothing to restart from, or it is another run.
        OutputError
            If the folder cannot be written, or holds a run and ``restart`` is false.
        """
        settings, simulation = self.settings, self.simulation
        checkpoint_file = self.folder / _CHECKPOINT
        if restart:
            checkpoint = read_checkpoint(checkpoint_file)
            check_fingerprint(checkpoint, self._fingerprint, checkpoint_file)
            cut_outputs(self.folder, checkpoint)
            restore(simulation, checkpoint)
            self._remember()
        else:
            self._refuse_to_overwrite()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._start()
        self._warm_up()
        self._attach_reporters(restart)
        bar = ProgressReporter(settings.steps, settings.ensemble) if progress else None
        if bar is not None:
            simulation.reporters.append(bar)
        first_step, start = simulation.currentStep, time.perf_counter()
        try:
            self._loop(checkpoint_file)
        finally:
            for reporter in simulation.reporters:
                if hasattr(reporter, "close"):
                    reporter.close()
            simulation.reporters.clear()
        seconds = time.perf_counter() - start
        return self._report(simulation.currentStep - first_step, seconds)

    def _refuse_to_overwrite(self) -> None:
        for file in (*self.outputs.values(), self.folder / _CHECKPOINT):
            if file.exists():
                raise OutputError(
                    f"'{self.folder}' holds a run already ('{file.name}'). Go on with it by --restart (restart=True), "
                    "choose another output folder, or delete it."
                )

    def _start(self) -> None:
        context = self.simulation.context
        with replacing(self.folder / "topology.pdb") as temporary, open(temporary, "w", encoding="utf-8") as handle:
            app.PDBFile.writeFile(self.topology, self.positions * unit.nanometer, handle, keepIds=True)
        with self._naming_atoms():
            if self.settings.minimize:
                self.simulation.minimizeEnergy()
            context.setVelocitiesToTemperature(self.settings.temperature * unit.kelvin, self.settings.seed)
            self._remember()

    def _warm_up(self) -> None:
        """Let TorchScript settle.

        Its first evaluations run another, unoptimised program, which rounds differently. A restarted run would
        leave the original's trajectory if it made them where the original was past them.
        """
        with self._naming_atoms():
            for _ in range(3):
                self.simulation.context.getState(energy=True, forces=True)

    def _attach_reporters(self, append: bool) -> None:
        settings, outputs = self.settings, self.outputs
        interval = settings.report_interval
        reporters = self.simulation.reporters
        virial = self._virial() if self.periodic else None
        if virial is not None:
            state = self.simulation.context.getState(positions=True)
            box = state.getPeriodicBoxVectors(asNumpy=True)._value
            for _ in range(3):
                virial(state.getPositions(asNumpy=True)._value, box)
        # The log comes with every run: the closing report is made from it.
        reporters.append(ThermoReporter(str(outputs["csv"]), interval, virial, append=append))
        if "dcd" in settings.reporters:
            reporters.append(app.DCDReporter(str(outputs["dcd"]), interval, append=append))
        if "extxyz" in settings.reporters:
            reporters.append(ExtXYZReporter(outputs["extxyz"], interval, append=append))

    def _loop(self, checkpoint_file: Path) -> None:
        settings, simulation = self.settings, self.simulation
        stride = math.gcd(settings.checkpoint_interval, settings.report_interval)
        with self._naming_atoms():
            while simulation.currentStep < settings.steps:
                ahead = stride - simulation.currentStep % stride
                simulation.step(min(ahead, settings.steps - simulation.currentStep))
                finished = simulation.currentStep >= settings.steps
                if simulation.currentStep % settings.report_interval == 0 or finished:
                    self._remember()
                if simulation.currentStep % settings.checkpoint_interval == 0 or finished:
                    write_checkpoint(checkpoint_file, simulation, self._fingerprint, list(self.outputs.values()))

    def _remember(self) -> None:
        """Keep the positions if they are good; find out early if they are not."""
        state = self.simulation.context.getState(positions=True)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        if not np.isfinite(positions).all():
            raise_not_finite(self.topology, positions, "the run")
        self._last_good = np.array(positions)
        self._last_good_box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        self._last_good_step = self.simulation.currentStep

    @contextlib.contextmanager
    def _naming_atoms(self) -> Iterator[None]:
        """Turn an explosion into a StabilityError that names atoms, and leave the last good frame behind."""
        try:
            yield
        except OSError as error:
            if isinstance(error, HalberdError):
                raise
            raise OutputError(f"Cannot write to '{self.folder}': {error.strerror or error}.") from error
        except (openmm.OpenMMException, ValueError, StabilityError) as error:
            text = str(error)
            if "nan" not in text.lower() and "not finite" not in text and "infinite" not in text:
                raise
            where = self._write_last_good()
            detail = text[text.rindex("halberd:") + 8 :].strip() if "halberd:" in text else text.split(" For more")[0]
            raise StabilityError(
                f"The run exploded at step {self.simulation.currentStep}: {detail} {self._suspects()}"
                f"The last good frame (step {self._last_good_step}) is in '{where}'."
            ) from error

    def _suspects(self) -> str:
        """Name the atoms behind an explosion: those whose forces are worst in the last good frame.

        By the time positions are not finite, all are: the centre-of-mass correction spreads them.
        """
        try:
            context = self.simulation.context
            context.setPositions(self._last_good)
            forces = context.getState(forces=True).getForces(asNumpy=True)._value
        except openmm.OpenMMException:
            return ""
        symbols = symbols_of(self.topology)
        bad = np.nonzero(~np.isfinite(forces).all(axis=1))[0]
        if len(bad):
            return f"Forces are not finite on atoms {describe_atoms(symbols, bad)}. "
        sizes = np.linalg.norm(forces, axis=1) / EV_PER_ANGSTROM_IN_KJ_PER_MOL_NM
        worst = np.argsort(sizes)[::-1][:3]
        return (
            f"The largest forces before it, up to {sizes[worst[0]]:.3g} eV/angstrom, were on atoms "
            f"{describe_atoms(symbols, worst)}. "
        )

    def _write_last_good(self) -> Path:
        path = self.folder / "last_good.extxyz"
        symbols = symbols_of(self.topology)
        atoms = Atoms(symbols, positions=self._last_good * NM_IN_ANGSTROM)
        if self.periodic:
            atoms.set_cell(self._last_good_box * NM_IN_ANGSTROM)
            atoms.pbc = True
        with replacing(path) as temporary:
            ase.io.write(temporary, atoms, format="extxyz")
        return path

    # -- closing ----------------------------------------------------------------------------------------------

    def _report(self, steps_done: int, seconds: float) -> dict[str, Any]:
        settings = self.settings
        n_atoms = self.topology.getNumAtoms()
        log = read_log(self.outputs["csv"])
        means: dict[str, float | None] = {}
        errors: dict[str, float | None] = {}
        for key in ("temperature_K", "pressure_bar", "density_g_cm3"):
            mean, error = mean_and_error(log[key]) if key in log else (float("nan"), float("nan"))
            means[key] = None if math.isnan(mean) else mean
            errors[key] = None if math.isnan(error) else error
        drift = energy_drift(log, n_atoms) if settings.ensemble == "NVE" else float("nan")
        figure = self.folder / "run.png"
        target = None if settings.ensemble == "NVE" else settings.temperature
        run_plot(log, figure, f"{settings.ensemble} of {n_atoms} atoms, {self.model.name}", target)
        result = {
            "trajectory": str(self.outputs["dcd"]) if "dcd" in settings.reporters else None,
            "steps": settings.steps,
            "us_per_atom_step": 1e6 * seconds / max(1, steps_done) / n_atoms,
            "mean": means,
            "error": errors,
            "drift": None if math.isnan(drift) else drift,
            "output": str(self.folder),
            "figure": str(figure),
            "seconds": seconds,
        }
        with replacing(self.folder / "report.json") as temporary:
            temporary.write_text(json.dumps({**result, "settings": settings.__dict__}, indent=2), encoding="utf-8")
        return result


def run_md(settings: MDSettings, restart: bool = False, progress: bool = True) -> dict[str, Any]:
    """Run molecular dynamics; see :meth:`MolecularDynamics.run`."""
    return MolecularDynamics(settings).run(restart, progress)


def raise_not_finite(topology: app.Topology, positions: np.ndarray, where: str) -> None:
    """Raise a StabilityError that names the atoms whose positions are not finite."""
    bad = np.nonzero(~np.isfinite(positions).all(axis=1))[0]
    symbols = symbols_of(topology)
    raise StabilityError(
        f"Positions in {where} are not finite for {len(bad)} of {len(symbols)} atoms: {describe_atoms(symbols, bad)}."
    )


def check_folder(folder: Path) -> None:
    """Raise an OutputError if files could not be created in a folder that may not exist yet."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"The output folder '{folder}' is a file; choose another name.")
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise OutputError(f"The output folder '{folder}' cannot be written: permission denied. Choose another place.")
