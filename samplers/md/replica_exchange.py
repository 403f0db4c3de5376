"""Temperature replica exchange: openmmtools' sampler with a learned potential, a run folder and a closing report."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from halberd.plugins.evaluation.figures import BLUE, RED, new_figure, save_figure
from halberd.plugins.forces.topology import read_structure
from halberd.potentials.constants import GAS_CONSTANT_KJ_PER_MOL_K
from halberd.potentials.errors import ConfigurationError, OutputError, RestartError, missing_dependency
from halberd.potentials.files import make_folder, replacing
from halberd.potentials.locks import locked
from halberd.potentials.sites.site_model import SiteModel
from halberd.samplers.md.fingerprint import fingerprint_of
from halberd.samplers.md.folder import REPORT, check_folder
from halberd.samplers.md.replica_storage import STORAGE, ReplicaStorage, StorageError
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.md.system import build_system
from halberd.samplers.runs.interruption import Interruption
from halberd.samplers.runs.log import mean_and_error
from halberd.samplers.runs.platforms import find_platform
from halberd.samplers.runs.restart import InexactRestartWarning


def run_replica_exchange(
    settings: MDSettings, restart: bool = False, progress: bool = True, start: openmm.State | None = None
) -> dict[str, Any]:
    """Run copies at several temperatures that exchange places.

    openmmtools draws the seeds of thermostats and velocities itself: two runs with one seed differ.

    ``settings.steps`` are those of every replica; they exchange every ``exchange_interval`` of them, and that is when
    frames are kept.

    Parameters
    ----------
    settings : MDSettings
        With ``replica_temperatures``.
    restart : bool
        Go on with the storage in the output folder.
    progress : bool
    start : openmm.State, optional
        Where all replicas start; the structure file, at rest, if omitted.

    Returns
    -------
    dict
        ``temperatures_K``, ``iterations``, ``complete``, ``stopped``, ``steps``, ``potential_kj_mol`` (mean and
        standard error at each temperature), ``acceptance`` (between neighbours), ``round_trips`` (from the lowest
        temperature to the highest and back, all replicas together), ``trajectories`` (DCD, one per temperature),
        ``output``, ``figure``, ``seconds``.

    Raises
    ------
    MissingDependencyError
        If openmmtools is not installed.
    OutputError, RestartError, ConfigurationError
        As for a single run.
    """
    began = time.perf_counter()
    _, _, states, _ = _import_openmmtools()
    assert settings.replica_temperatures is not None
    if settings.steps % settings.exchange_interval:
        raise ConfigurationError(
            f"steps, {settings.steps}, is not a multiple of exchange_interval, {settings.exchange_interval}."
        )
    folder = Path(settings.output)
    check_folder(folder)
    storage = ReplicaStorage(folder)
    if restart and not storage.path.is_file():
        raise RestartError(f"There is no '{storage.path}'. Start the run without --restart.")
    if not restart and storage.path.exists():
        raise OutputError(f"'{folder}' holds a run already ('{STORAGE}'). Go on with it by --restart.")
    topology, positions = read_structure(settings.structure)
    if settings.ensemble == "NPT" and topology.getPeriodicBoxVectors() is None:
        raise ConfigurationError(f"ensemble is NPT, but '{settings.structure}' has no periodic cell; use NVT.")
    # openmmtools adds thermostat and barostat itself.
    built = build_system(dataclasses.replace(settings, ensemble="NVT"), topology, positions)
    fingerprint = _fingerprint(settings, topology, positions, built.model)
    platform = find_platform(settings.platform, settings.device_index)
    box = built.system.getDefaultPeriodicBoxVectors()
    if start is None:
        place = states.SamplerState(positions * unit.nanometer, box_vectors=box)
    else:
        place = states.SamplerState(start.getPositions(), box_vectors=start.getPeriodicBoxVectors())
    minimize = settings.minimize and start is None
    make_folder(folder)
    with locked(folder):
        if restart:
            restart = storage.check(fingerprint)
        sample = functools.partial(_sample, settings, storage, platform=platform, progress=progress)
        try:
            if restart:
                reporter, sampler, stopped = sample()
            else:
                reporter, sampler, stopped = sample(
                    lambda reporter: _create(settings, built.system, place, reporter, minimize=minimize), fingerprint
                )
        except StorageError:
            if not restart or not storage.copy.is_file():
                raise
            warnings.warn(
                f"'{storage.path}' is damaged; the run goes on from its last copy, '{storage.copy}'.",
                InexactRestartWarning,
                stacklevel=2,
            )
            storage.restore()
            reporter, sampler, stopped = sample()
        return _report(
            settings,
            [float(each) for each in settings.replica_temperatures],
            reporter=reporter,
            iterations=sampler.iteration,
            stopped=stopped,
            seconds=time.perf_counter() - began,
        )


def _sample(
    settings: MDSettings,
    storage: ReplicaStorage,
    create: Callable[[Any], Any] | None = None,
    fingerprint: dict[str, Any] | None = None,
    *,
    platform: tuple[openmm.Platform, dict[str, str]] | tuple[()],
    progress: bool,
) -> tuple[Any, Any, str | None]:
    """Go on with what is stored, or create it; returns reporter, sampler, and why it stopped before the last step."""
    multistate, _, _, cache = _import_openmmtools()
    reporter = multistate.MultiStateReporter(str(storage.path), checkpoint_interval=1)
    with storage.watched(reporter):
        if create is None:
            sampler = multistate.ReplicaExchangeSampler.from_storage(reporter)
        else:
            sampler = create(reporter)
            storage.keep(reporter, now=True)
            storage.describe(fingerprint or {})
        contexts = cache.ContextCache(capacity=None, time_to_live=None, platform=platform[0] if platform else None)
        sampler.sampler_context_cache = sampler.energy_context_cache = contexts
        stopped = _loop(sampler, storage, settings, progress)
    return reporter, sampler, stopped  # a sampler that nobody holds closes its reporter


def _create(settings: MDSettings, system: openmm.System, place: Any, reporter: Any, *, minimize: bool) -> Any:
    """A new sampler with its storage."""
    multistate, mcmc, states, _ = _import_openmmtools()
    assert settings.replica_temperatures is not None
    temperatures = [float(each) for each in settings.replica_temperatures]
    pressure = settings.pressure * unit.bar if settings.ensemble == "NPT" else None
    move = mcmc.LangevinDynamicsMove(
        timestep=settings.timestep * unit.femtosecond,
        collision_rate=settings.friction / unit.picosecond,
        n_steps=settings.exchange_interval,
        reassign_velocities=True,  # they belong to another temperature after an exchange
    )
    wanted = settings.steps // settings.exchange_interval
    sampler = multistate.ReplicaExchangeSampler(mcmc_moves=move, number_of_iterations=wanted)
    np.random.seed(settings.seed)  # noqa: NPY002  (what openmmtools draws exchanges from)
    thermodynamic = [states.ThermodynamicState(system, each * unit.kelvin, pressure) for each in temperatures]
    sampler.create(thermodynamic, [place] * len(temperatures), reporter)
    if minimize:
        sampler.minimize()
    return sampler


def _fingerprint(
    settings: MDSettings, topology: openmm.app.Topology, positions: np.ndarray, model: SiteModel
) -> dict[str, Any]:
    """What decides which replica exchange this is; ``steps`` may grow."""
    own = fingerprint_of(settings, topology, positions, model)
    own["temperatures"] = [float(each) for each in settings.replica_temperatures or ()]
    own["exchange_interval"] = settings.exchange_interval
    return {
        key: own[key] for key in own if key not in ("temperature", "temperature_end", "report_interval", "reporters")
    }


def _loop(sampler: Any, storage: ReplicaStorage, settings: MDSettings, progress: bool) -> str | None:
    wanted = settings.steps // settings.exchange_interval
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), disable=not progress)
    task = bar.add_task("replica exchange", total=wanted, completed=sampler.iteration)
    with Interruption(settings.max_hours) as interruption, bar:
        while sampler.iteration < wanted and interruption.reason is None:
            sampler.extend(1) if sampler.is_completed else sampler.run(1)
            storage.keep(sampler._reporter)
            bar.update(task, completed=sampler.iteration)
    return None if sampler.iteration >= wanted else interruption.reason


def _report(
    settings: MDSettings, temperatures: list[float], reporter: Any, iterations: int, stopped: str | None, seconds: float
) -> dict[str, Any]:
    folder = Path(settings.output)
    walk = np.asarray(reporter.read_replica_thermodynamic_states())[: iterations + 1]
    reduced = np.asarray(reporter.read_energies()[0])[: iterations + 1]  # iteration, replica, state
    kT = GAS_CONSTANT_KJ_PER_MOL_K * np.array(temperatures)
    potentials = []
    for state in range(len(temperatures)):
        where = walk == state
        # Reduced energies of a state in NPT hold P V, which is small change at a pressure of a few bar.
        potentials.append((reduced[..., state][where] * kT[state])[1:])
    accepted, proposed = (np.asarray(each) for each in reporter.read_mixing_statistics())
    ratio = accepted.sum(axis=0) / np.maximum(proposed.sum(axis=0), 1)
    statistics = [mean_and_error(each) for each in potentials]
    trajectories = _write_trajectories(settings, reporter, walk, temperatures)
    figure = folder / "replicas.png"
    _plot(figure, walk, potentials, temperatures)
    result = {
        "temperatures_K": temperatures,
        "iterations": iterations,
        "complete": stopped is None,
        "stopped": stopped,
        "steps": iterations * settings.exchange_interval,
        "potential_kj_mol": [{"mean": m, "error": None if np.isnan(e) else e} for m, e in statistics],
        "acceptance": [float(ratio[i, i + 1]) for i in range(len(temperatures) - 1)],
        "round_trips": round_trips(walk),
        "trajectories": trajectories,
        "output": str(folder),
        "figure": str(figure),
        "seconds": seconds,
    }
    with replacing(folder / REPORT) as temporary:
        temporary.write_text(
            json.dumps({**result, "settings": dataclasses.asdict(settings)}, indent=2), encoding="utf-8"
        )
    reporter.close()
    return result


def round_trips(walk: NDArray[np.int64]) -> int:
    """Journeys of replicas from the lowest state to the highest and back.

    Parameters
    ----------
    walk : array of int, shape (T, K)
        State of each replica.
    """
    top, count = walk.max(), 0
    for replica in walk.T:
        ends = replica[(replica == 0) | (replica == top)]
        turns = int((np.diff(ends) != 0).sum())
        count += turns // 2
    return count


def _write_trajectories(
    settings: MDSettings, reporter: Any, walk: NDArray[np.int64], temperatures: list[float]
) -> list[str]:
    """One DCD per temperature, and the topology beside them."""
    folder = Path(settings.output)
    topology, positions = read_structure(settings.structure)
    with replacing(folder / "topology.pdb") as temporary, open(temporary, "w", encoding="utf-8") as handle:
        openmm.app.PDBFile.writeFile(topology, positions * unit.nanometer, handle, keepIds=True)
    frames: list[list[NDArray[np.float64]]] = [[] for _ in temperatures]
    boxes: list[list[NDArray[np.float64]]] = [[] for _ in temperatures]
    for iteration in range(1, len(walk)):
        for replica, each in enumerate(reporter.read_sampler_states(iteration) or ()):
            frames[walk[iteration, replica]].append(each.positions.value_in_unit(unit.nanometer))
            if each.box_vectors is not None:
                boxes[walk[iteration, replica]].append(np.asarray(each.box_vectors.value_in_unit(unit.nanometer)))
    periodic = topology.getPeriodicBoxVectors() is not None
    written = []
    for temperature, some, cells in zip(temperatures, frames, boxes, strict=True):
        file = folder / f"temperature-{temperature:g}.dcd"
        trajectory = mdtraj.Trajectory(np.array(some), mdtraj.Topology.from_openmm(topology))
        if periodic:
            trajectory.unitcell_vectors = np.array(cells)
        with replacing(file) as temporary:
            trajectory.save_dcd(str(temporary))
        written.append(str(file))
    return written


def _plot(
    path: Path, walk: NDArray[np.int64], potentials: list[NDArray[np.float64]], temperatures: list[float]
) -> None:
    figure, axes = new_figure(2, 1, width=4.6, height=3.0)
    for replica in range(walk.shape[1]):
        color = (BLUE, RED)[replica % 2] if replica < 2 else f"{0.35 + 0.5 * replica / walk.shape[1]:.2f}"
        axes[0, 0].plot(np.array(temperatures)[walk[:, replica]], color=color, linewidth=0.9)
    axes[0, 0].set(xlabel="exchange", ylabel="temperature of a replica, K")
    low, high = (float(f(np.concatenate(potentials))) for f in (np.min, np.max))
    edges = np.linspace(low, high if high > low else low + 1.0, 40)
    for temperature, values in zip(temperatures, potentials, strict=True):
        axes[0, 1].hist(values, edges, histtype="step", density=True, label=f"{temperature:g} K")
    axes[0, 1].set(xlabel="potential energy, kJ/mol", ylabel="density")
    axes[0, 1].legend(fontsize=7, frameon=False)
    save_figure(figure, path)


def _import_openmmtools() -> tuple[Any, Any, Any, Any]:
    """Import openmmtools without its news about other packages."""
    level = logging.getLogger("pymbar").level
    logging.getLogger("pymbar").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from openmmtools import cache, mcmc, multistate, states
    except ImportError as error:
        raise missing_dependency("openmmtools", "replicas", "run replica exchange") from error
    finally:
        logging.getLogger("pymbar").setLevel(level)
    return multistate, mcmc, states, cache
