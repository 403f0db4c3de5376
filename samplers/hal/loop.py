"""Hyperactive learning: fit, run towards disagreement, label, fit again, until the tolerance holds.

References
----------
van der Oord, Sachs, Kovacs, Ortner, Csanyi, npj Comput. Mater. 9, 168 (2023), arXiv 2210.04225.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor
from pathlib import Path
from typing import Any

import ase.data
import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from rich.console import Console
from threadpoolctl import threadpool_limits

from halberd.plugins.evaluation.prediction import predict
from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.plugins.labelling.reference import label_to_file
from halberd.potentials.errors import ConfigurationError, DataError, GeometryError, HalberdError
from halberd.potentials.files import replacing
from halberd.potentials.frames.distance_guard import DistanceGuard
from halberd.potentials.frames.electrons import bare, tell
from halberd.potentials.frames.error_table import error_report
from halberd.potentials.frames.labelled import Frame, read_frames, to_atoms
from halberd.potentials.locks import locked
from halberd.potentials.sites.torchscript import set_threads
from halberd.samplers.hal.folder import Iteration, RunFolder, write_json
from halberd.samplers.hal.learners import learner_for
from halberd.samplers.hal.learning import Current, Lesson, silent
from halberd.samplers.hal.report import describe, draw_learning, report_iteration
from halberd.samplers.hal.settings import HALSettings
from halberd.samplers.hal.tasks import WalkerTask, run_walker
from halberd.samplers.hal.walker import SELECTED, Outcome
from halberd.samplers.runs.processes import make_executor


class HyperactiveLearning:
    """One run, new or to be continued.

    Parameters
    ----------
    settings : HALSettings
    executor : concurrent.futures.Executor, optional
        Where walkers and labels run: dask.distributed, Parsl and mpi4py provide one. It must see the run's folder. A
        pool of ``settings.workers`` processes if omitted.
    progress : bool
        Print a line per iteration on standard error.

    Raises
    ------
    DataError, ConfigurationError, GeometryError
        Before anything is computed: unreadable files, elements of starts that no initial frame has, starts closer
        than the distance guard.
    """

    def __init__(self, settings: HALSettings, executor: Executor | None = None, progress: bool = True) -> None:
        self.settings = settings
        self.console = Console(stderr=True, quiet=not progress, highlight=False)
        self.initial = read_frames(settings.initial)
        self.starts = [frame.atoms for frame in self.initial if len(frame.atoms) > 1]
        if settings.starts is not None:
            self.starts = [frame.atoms for frame in read_frames(settings.starts)]
        if not self.starts:
            raise DataError("There is no structure of two atoms or more to start from; give starts.")
        elements = {int(z) for frame in self.initial for z in frame.atoms.numbers}
        self._check_starts(elements)
        self.learner = learner_for(settings, sorted(elements))
        self.learner.check([frame.atoms for frame in self.initial])
        self.folder = RunFolder(Path(settings.output))
        self._executor = executor
        self._tell: Callable[[str], None] = silent

    def _check_starts(self, elements: set[int]) -> None:
        for number, atoms in enumerate(self.starts):
            missing = {int(z) for z in atoms.numbers} - elements
            if missing:
                names = ", ".join(ase.data.chemical_symbols[z] for z in sorted(missing))
                raise ConfigurationError(
                    f"Start {number} holds {names}, which no initial frame has. Add initial frames with {names}."
                )
        guard = DistanceGuard(sorted(elements), self.settings.md.min_distance)
        for number, atoms in enumerate(self.starts):
            problem = guard.violation(atoms)
            if problem is not None:
                raise GeometryError(f"Start {number} (from 0) cannot be used: {problem}. Change it, or min_distance.")
        if self.settings.md.cell_move != "none" and not all(atoms.pbc.all() for atoms in self.starts):
            raise ConfigurationError("cell_move needs periodic starts; some are not.")

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Run until converged or the budget is spent.

        Returns
        -------
        dict
            ``database``, ``model``, ``n_labels``, ``n_failed_labels``, ``iterations``, ``converged``, ``ended``
            (why), ``seconds`` {``md``, ``label``, ``fit`` and their sum ``total``, of all calls and processes;
            ``this_call``, by the clock}, ``errors``.

        Raises
        ------
        RestartError
            If the folder belongs to another run; says what differs.
        OutputError
            If another process is at work in it.
        ConfigurationError
            If the initial frames are too few for the basis, or the calculator cannot be made.
        HalberdError
            If a worker process died; the same call goes on.
        """
        set_threads(self.settings.threads)
        start = time.perf_counter()
        # Linear algebra rounds differently on another number of threads, whatever the environment sets.
        with locked(self.folder.path), threadpool_limits(self.settings.threads):
            inputs = {"initial": [frame.atoms for frame in self.initial], "starts": self.starts}
            self.folder.claim(self.settings, inputs)
            history = self.folder.finished()
            if history:
                self.folder.publish(history)
                self.console.print(f"going on after iteration {history[-1].number}", style="bold")
            executor = self._executor or make_executor(self.settings.workers)
            try:
                while not history or not self._ended(history):
                    history.append(self._iterate(executor, history))
                finishing = time.perf_counter()
                final = self._finish(executor, history)
                finishing = time.perf_counter() - finishing
            except BrokenExecutor as error:
                raise HalberdError(
                    f"A worker process died ({error}). Nothing is lost: the same command goes on. If it dies again, "
                    "set workers: 0 to see why."
                ) from error
            finally:
                if self._executor is None:
                    executor.shutdown(cancel_futures=True)
            draw_learning(history, self.settings, self.folder.path / "learning.png")
            return self._report(history, final, (finishing, time.perf_counter() - start))

    def _ended(self, history: Sequence[Iteration]) -> str | None:
        """Why the run is over, or ``None``."""
        settings, last = self.settings, history[-1]
        n_labels = sum(len(it.fit) + len(it.test) for it in history)
        if last.held >= settings.converged_after:
            return "the tolerance holds"
        if n_labels >= settings.max_labels:
            return f"max_labels, {settings.max_labels}, are spent"
        if last.number >= settings.max_iterations:
            return f"max_iterations, {settings.max_iterations}, are made"
        return None

    def _iterate(self, executor: Executor, history: list[Iteration]) -> Iteration:
        number = len(history)
        folder = self.folder.iteration(number)
        folder.mkdir(exist_ok=True)
        begun = time.perf_counter()
        outcomes: list[Outcome] = []
        tasks = self._tasks(history) if number else []
        n_duplicates = 0
        if number == 0:
            to_label = {f"initial{k:04d}": frame for k, frame in enumerate(self.initial)}
        else:
            with self.console.status(f"iteration {number}: {self.settings.walkers} walkers"):
                outcomes = self._walk(tasks, executor)
            with self.console.status(f"iteration {number}: choosing frames"):
                to_label, n_duplicates = self._select(outcomes, tasks, history)
        walked = time.perf_counter()
        with self.console.status(f"iteration {number}: {len(to_label)} labels"):
            good, n_failed = self._label(executor, to_label, folder)
        labelled = time.perf_counter()
        fit_files, test_files = self._split(good, number)
        tolerance = self._tolerance(history)
        held = history[-1].held if number else 0
        for task, outcome in zip(tasks, outcomes, strict=True):
            whole = task.first_step == 0 and tolerance <= self.settings.md.tolerance
            held = held + whole if outcome.held else 0
        with self.console.status(f"iteration {number}: fitting") as status:
            self._tell = lambda text: status.update(f"iteration {number}: {text}")
            iteration, closest = self._learn(executor, history, fit_files, test_files)
            iteration = dataclasses.replace(
                iteration,
                n_failed=n_failed,
                n_duplicates=n_duplicates,
                tolerance=tolerance,
                held=held,
                walkers=[
                    {**dataclasses.asdict(outcome), "first_step": task.first_step, "start": task.start}
                    for task, outcome in zip(tasks, outcomes, strict=True)
                ],
                seconds={"md": walked - begun, "label": labelled - walked, "fit": time.perf_counter() - labelled},
            )
            report_iteration(iteration, self.settings, folder, closest, self.folder.path / iteration.model)
        self.folder.finish(iteration, history)
        line = describe(iteration, [*history, iteration], self.settings)
        self.console.print(line, markup=False, soft_wrap=True)
        return iteration

    def _tolerance(self, history: Sequence[Iteration]) -> float:
        return self.settings.tolerance_after(sum(walker["held"] for it in history for walker in it.walkers))

    # -- walkers ------------------------------------------------------------------------------------------------

    def _walk(self, tasks: Sequence[WalkerTask], executor: Executor) -> list[Outcome]:
        return [future.result() for future in [executor.submit(run_walker, task) for task in tasks]]

    def _tasks(self, history: Sequence[Iteration]) -> list[WalkerTask]:
        """What the walkers of the next iteration do: go on where one was stopped, or begin at the next start."""
        number, settings = len(history), self.settings
        md = dataclasses.replace(settings.md, tolerance=self._tolerance(history))
        begun = sum(walker["first_step"] == 0 for it in history for walker in it.walkers)
        labelled = [frame.atoms for name in ("fit", "test") for frame in self.folder.frames(history, name)]
        tasks = []
        for walker in range(settings.walkers):
            atoms, first_step, start = self._handed_over(history, walker)
            if atoms is None:
                start = begun % len(self.starts)
                atoms = self.starts[start]
                begun += 1
            tasks.append(
                WalkerTask(
                    model=str(self.folder.path / history[-1].model),
                    drive=str(self.folder.path / history[-1].drive),
                    atoms=bare(atoms, self.starts[start]),
                    settings=md,
                    folder=str(self.folder.iteration(number) / f"walker{walker}"),
                    seed=int(np.random.SeedSequence([settings.seed, number, walker]).generate_state(1)[0]),
                    first_step=first_step,
                    start=start,
                    known_start=any(_same(atoms, other) for other in labelled),
                )
            )
        return tasks

    def _handed_over(self, history: Sequence[Iteration], walker: int) -> tuple[Atoms | None, int, int]:
        """Frame, step and start of a trajectory to go on with, if there is one."""
        before = history[-1]
        if not self.settings.relay or walker >= len(before.walkers):
            return None, 0, 0
        last = before.walkers[walker]
        folder = self.folder.iteration(before.number)
        if last["reason"] != "uncertain" or last["step"] == 0 or (folder / f"walker{walker}.failed.json").exists():
            return None, 0, 0
        atoms = ase.io.read(folder / f"walker{walker}" / SELECTED)
        assert isinstance(atoms, Atoms)
        return atoms, int(last["step"]), int(last["start"])

    def _select(
        self, outcomes: Sequence[Outcome], tasks: Sequence[WalkerTask], history: Sequence[Iteration]
    ) -> tuple[dict[str, Frame], int]:
        """Frames worth labelling, and how many were not because another one tells the same."""
        number, settings = len(history), self.settings
        names, candidates = [], []
        for walker, (outcome, task) in enumerate(zip(outcomes, tasks, strict=True)):
            if outcome.selected_step is not None:
                atoms = ase.io.read(self.folder.iteration(number) / f"walker{walker}" / SELECTED)
                assert isinstance(atoms, Atoms)
                atoms.info["max_f"] = outcome.max_f
                atoms.arrays["forces"] = atoms.get_forces()
                tell(atoms, task.atoms)
                names.append(f"walker{walker}")
                candidates.append(atoms)
        current = Current(int(Path(history[-1].model).parent.name), self._state(history))
        tolerance = self._tolerance(history)
        chosen = self.learner.choose(candidates, current, tolerance, settings.md.epsilon) if candidates else []
        n_duplicates = len(candidates) - len(chosen)
        left = settings.max_labels - sum(len(it.fit) + len(it.test) for it in history)
        frames = {names[k]: Frame(candidates[k], None, None, None, "hal") for k in sorted(chosen[:left])}
        return frames, n_duplicates

    # -- labels -------------------------------------------------------------------------------------------------

    def _label(self, executor: Executor, frames: dict[str, Frame], folder: Path) -> tuple[list[Path], int]:
        """Files of the labelled frames, in order, and the number of failures."""
        files, futures = [], {}
        for name, frame in frames.items():
            path = folder / f"{name}.extxyz"
            files.append(path)
            if frame.energy is not None and frame.forces is not None:
                if not path.is_file():
                    with replacing(path) as temporary:
                        ase.io.write(temporary, to_atoms(frame), format="extxyz")
            elif not path.is_file() and not path.with_suffix(".failed.json").is_file():
                atoms = bare(frame.atoms)
                atoms.info.update({k: v for k, v in frame.atoms.info.items() if k in ("step", "sigma", "max_f")})
                futures[name] = executor.submit(label_to_file, atoms, self.settings.label, path, frame.config_type)
        for name, future in futures.items():
            answer = future.result()
            if not answer["ok"]:
                self.console.print(f"  label of {name} failed: {answer['reason']}", style="yellow", markup=False)
        good = [path for path in files if path.is_file()]
        return good, len(files) - len(good)

    def _split(self, files: Sequence[Path], number: int) -> tuple[list[str], list[str]]:
        """Assign labelled frames to the fit or, with the given probability, to the test set."""
        generator = np.random.default_rng([self.settings.seed, number, 77])
        fit: list[str] = []
        test: list[str] = []
        for path in files:
            is_test = number > 0 and generator.random() < self.settings.test_fraction
            (test if is_test else fit).append(self.folder.relative(path))
        return fit, test

    # -- fit ----------------------------------------------------------------------------------------------------

    def _learn(
        self, executor: Executor, history: Sequence[Iteration], fit_files: list[str], test_files: list[str]
    ) -> tuple[Iteration, NDArray[np.float64] | None]:
        """The iteration with its fit, and the shortest distances of the frames if there is a new one."""
        number = len(history)
        new = [frame for file in fit_files for frame in self.folder.read(file)]
        test = [*self.folder.frames(history, "test"), *(f for file in test_files for f in self.folder.read(file))]
        if history and not new:
            last = history[-1]
            errors = last.errors
            if test_files:
                errors = {**errors, **_errors({"test": test}, self.folder.path / last.model)}
            return dataclasses.replace(last, number=number, fit=[], test=test_files, errors=errors), None
        if not history and not new:
            raise DataError("No initial frame could be labelled; see the .failed.json files for the reasons.")
        frames = [*self.folder.frames(history, "fit"), *new]
        learnt = self.learner.learn(self._lesson(history, frames, new, self.folder.iteration(number)), executor)
        errors = _errors({"fit": frames, "test": test}, learnt.model)
        iteration = Iteration(
            number=number,
            fit=fit_files,
            test=test_files,
            n_failed=0,
            n_duplicates=0,
            tolerance=0.0,
            held=0,
            model=self.folder.relative(learnt.model),
            drive=self.folder.relative(learnt.drive),
            state=None if learnt.state is None else self.folder.relative(learnt.state),
            n_functions=learnt.n_functions,
            n_rows=learnt.n_rows,
            walkers=[],
            errors=errors,
            seconds={},
            details=learnt.details,
        )
        return iteration, learnt.closest

    def _lesson(
        self, history: Sequence[Iteration], frames: Sequence[Frame], new: Sequence[Frame], folder: Path
    ) -> Lesson:
        model = self.folder.path / history[-1].model if history else None
        return Lesson(
            number=len(history),
            frames=frames,
            new=new,
            folder=folder,
            model=model,
            state=self._state(history),
            tell=self._tell,
        )

    def _state(self, history: Sequence[Iteration]) -> Path | None:
        state = history[-1].state if history else None
        return None if state is None else self.folder.path / state

    def _finish(self, executor: Executor, history: Sequence[Iteration]) -> dict[str, Any] | None:
        """What the learner makes of the whole database in the end: errors of its model, ``None`` if it made none."""
        folder = self.folder.final(history[-1].number)
        frames = self.folder.frames(history, "fit")
        with self.console.status("a last fit") as status:
            self._tell = lambda text: status.update(f"a last fit: {text}")
            model = self.learner.finish(self._lesson(history, frames, (), folder), executor)
        if model is None:
            return None
        self.folder.publish_model(model)
        return _errors({"fit": frames, "test": self.folder.frames(history, "test")}, model)

    def _report(
        self, history: Sequence[Iteration], final: dict[str, Any] | None, seconds: tuple[float, float]
    ) -> dict[str, Any]:
        parts = {key: sum(it.seconds[key] for it in history) for key in ("md", "label", "fit")}
        parts["fit"] += seconds[0]
        n_fit, n_test = (sum(len(getattr(it, name)) for it in history) for name in ("fit", "test"))
        result = {
            "database": str(self.folder.path / "fit.extxyz"),
            "model": str(self.folder.path / "model.pt"),
            "n_labels": n_fit + n_test,
            "n_fit": n_fit,
            "n_test": n_test,
            "n_failed_labels": sum(it.n_failed for it in history),
            "n_duplicates": sum(it.n_duplicates for it in history),
            "iterations": history[-1].number,
            "converged": history[-1].held >= self.settings.converged_after,
            "ended": self._ended(history),
            "errors": final or history[-1].errors,
            "seconds": {**parts, "total": sum(parts.values()), "this_call": seconds[1]},
            "figure": str(self.folder.path / "learning.png"),
        }
        write_json(self.folder.path / "report.json", result)
        return result


def _errors(sets: dict[str, list[Frame]], model: Path) -> dict[str, Any]:
    """Error reports of a model, by the name of the frames; none where there are no frames."""
    calculator = HalberdCalculator(model)
    return {name: error_report(frames, predict(calculator, frames)) for name, frames in sets.items() if frames}


def _same(one: Atoms, other: Atoms) -> bool:
    """Whether two structures are the same but for the digits that files hold."""
    return bool(
        np.array_equal(one.numbers, other.numbers)
        and np.abs(one.positions - other.positions).max() < 1e-5
        and np.abs(np.asarray(one.cell) - np.asarray(other.cell)).max() < 1e-5
    )


def run_hal(settings: HALSettings, executor: Executor | None = None, progress: bool = True) -> dict[str, Any]:
    """Run hyperactive learning; see :meth:`HyperactiveLearning.run`."""
    return HyperactiveLearning(settings, executor, progress).run()
