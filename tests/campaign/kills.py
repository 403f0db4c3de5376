"""Jobs that are killed, starved of disk, locked out and started twice: in the end, what an undisturbed run makes."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from children import alive, start, wait
from jobs import JOBS, LOOSELY, Job, prepare
from trials import PROMISED, make_trials

#: Most kills of one trial.
KILLS = 20


@dataclasses.dataclass
class Trial:
    """A job in a place of its own, and what disturbs it.

    Attributes
    ----------
    generator : numpy.random.Generator
    job : Job
    place : path
    whole : path
        The place of the undisturbed run.
    seconds : float
        That the undisturbed run took.
    kills : int
        So far.
    """

    generator: np.random.Generator
    job: Job
    place: Path
    whole: Path
    seconds: float
    kills: int = 0


class Failure(Exception):  # noqa: N818
    """A trial that did not end well: verdict and details."""


def try_kills(seeds: Sequence[int], folder: Path) -> dict[str, int]:
    """Make the trials of seeds; goes on where an earlier call was ended.

    Parameters
    ----------
    seeds : sequence of int
    folder : path
        Gets ``kills.jsonl``, one line per trial, and the folder of every trial that failed.

    Returns
    -------
    dict
        Verdict -> number of trials: ``fine``, ``lost``, ``left``, ``traceback``, ``code``, ``hang``, ``orphans``,
        ``both``; and ``kills``, the number of SIGKILLs.
    """
    outcomes = make_trials(seeds, folder / "kills.jsonl", folder / "jobs", prepare, try_one)
    verdicts = Counter(outcome["verdict"] for outcome in outcomes)
    return {**verdicts, "kills": sum(outcome["kills"] for outcome in outcomes)}


def undisturbed(name: str, folder: Path, good: Path) -> tuple[Path, float]:
    """The folder of a job that nobody disturbed, made when it is first needed, and the seconds it took."""
    whole, timed = folder / f"whole-{name}", folder / f"whole-{name}.seconds"
    if not timed.exists():
        shutil.rmtree(whole, ignore_errors=True)
        shutil.copytree(good, whole)
        began = time.monotonic()
        code = wait(start(whole, JOBS[name].command), began + JOBS[name].patience)
        if code not in (0, 1):  # generate ends with 1 if fewer molecules came out than were asked for
            raise RuntimeError(f"{name} does not work at all (code {code}): {(whole / 'stderr.txt').read_text()}")
        timed.write_text(str(time.monotonic() - began))
    return whole, float(timed.read_text())


def try_one(seed: int, folder: Path, good: Path) -> dict[str, Any]:
    """One trial in a folder of its own, which stays if it failed."""
    generator = np.random.default_rng(seed)
    often = np.array([job.often for job in JOBS.values()], dtype=float)
    name = str(generator.choice(list(JOBS), p=often / often.sum()))
    disturb = DISTURBANCES[int(generator.choice(len(DISTURBANCES), p=(0.6, 0.1, 0.1, 0.1, 0.1)))]
    whole, seconds = undisturbed(name, folder, good)
    place = folder / f"kill-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(good, place)
    began, verdict, details = time.monotonic(), "fine", ""
    trial = Trial(generator, JOBS[name], place, whole, seconds)
    try:
        disturb(trial)
        _finish(place, trial.job)
        _compare(whole, place, trial.job)
    except Failure as failure:
        verdict, details = failure.args
    if verdict == "fine":
        shutil.rmtree(place)
    return {
        "seed": seed, "job": name, "disturbance": disturb.__name__, "kills": trial.kills, "verdict": verdict,
        "details": details, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def killed(trial: Trial) -> None:
    """SIGKILL at random moments: the process alone or all it has started."""
    for _ in range(KILLS):
        child = start(trial.place, trial.job.command)
        time.sleep(trial.generator.exponential(0.3 * trial.seconds))
        if trial.generator.random() < 0.5:
            os.killpg(child, signal.SIGKILL)
        else:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == -signal.SIGKILL:
            trial.kills += 1
        elif code not in PROMISED:
            raise Failure("code", f"{code}: {_said(trial.place)[-300:]}")
        deadline = time.monotonic() + 15.0
        while alive(child):
            if time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
                raise Failure("orphans", "processes that it had started went on")
            time.sleep(0.02)
        if code != -signal.SIGKILL:
            return


def terminated(trial: Trial) -> None:
    """SIGTERM at random moments, as queues send it: a checkpoint, a sentence, and nothing is lost."""
    for _ in range(5):
        child = start(trial.place, trial.job.command)
        time.sleep(trial.generator.exponential(0.3 * trial.seconds))
        os.kill(child, signal.SIGTERM)
        code = wait(child, time.monotonic() + 30.0)
        if code is None:
            raise Failure("hang", "thirty seconds after SIGTERM")
        if "Traceback (most recent call last)" in _said(trial.place):
            raise Failure("traceback", _said(trial.place)[-400:])
        # Before it has said what is to be done with signals, a process just ends.
        if code not in (*PROMISED, 128 + signal.SIGTERM, -signal.SIGTERM):
            raise Failure("code", f"{code} after SIGTERM: {_said(trial.place)[-300:]}")


def full_disk(trial: Trial) -> None:
    """No file may grow beyond some size: one sentence, and nothing is lost once there is room."""
    sizes = [file.stat().st_size for file in trial.whole.rglob("*") if file.is_file()]
    limit = max(4096, int(trial.generator.uniform(0.0, 1.0) * max(sizes)))
    _expect(trial.place, trial.job, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))


def read_only(trial: Trial) -> None:
    """A place that may not be written, from the start or after a kill: one sentence."""
    if trial.generator.random() < 0.5:
        child = start(trial.place, trial.job.command)
        time.sleep(trial.generator.uniform(0.2, 0.8) * trial.seconds)
        os.killpg(child, signal.SIGKILL)
        trial.kills += int(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0)
    for name in ("stdout.txt", "stderr.txt"):
        (trial.place / name).touch()
    folders = [trial.place, *(each for each in trial.place.rglob("*") if each.is_dir())]
    for each in folders:
        each.chmod(0o555)
    try:
        _expect(trial.place, trial.job, _obey_permissions)
    finally:
        for each in folders:
            each.chmod(0o755)


def twice(trial: Trial) -> None:
    """Two processes at once: one of them is turned away, or both end well, one after the other."""
    first = start(trial.place, trial.job.command)
    time.sleep(trial.generator.uniform(0.0, 0.9 * trial.seconds))
    second = start(trial.place, trial.job.command, name="second")
    deadline = time.monotonic() + trial.job.patience
    codes = [wait(child, deadline) for child in (first, second)]
    said = _said(trial.place) + _said(trial.place, "second")
    if "Traceback (most recent call last)" in said:
        raise Failure("traceback", said[-400:])
    if None in codes:
        raise Failure("hang", f"codes {codes}")
    if not any(code in (0, 1) for code in codes) or any(code not in PROMISED for code in codes):
        raise Failure("both", f"codes {codes}: {said[-300:]}")


DISTURBANCES = (killed, terminated, full_disk, read_only, twice)


def _obey_permissions() -> None:
    """Give up what lets root write anywhere: Linux capabilities 1 and 2, of this process and those it starts."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
        for kind in (0, 1, 2):
            data[kind] &= ~(1 << capability)
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _said(place: Path, name: str = "std") -> str:
    file = place / f"{name}err.txt"
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def _expect(place: Path, job: Job, before: Callable[[], None]) -> None:
    """Run a job under a limit: it may fail, but with a code and a sentence."""
    code = wait(start(place, job.command, before), time.monotonic() + job.patience)
    said = _said(place)
    if "Traceback (most recent call last)" in said:
        raise Failure("traceback", said[-600:])
    if code not in PROMISED:
        raise Failure("hang" if code is None else "code", f"{code}: {said[-300:]}")
    if code in (1, 2) and not said.strip() and "generate" not in job.command:
        raise Failure("code", f"{code} without a word")


def _finish(place: Path, job: Job) -> None:
    """The same command once more, undisturbed."""
    code = wait(start(place, job.command), time.monotonic() + job.patience)
    said = _said(place)
    if "Traceback (most recent call last)" in said:
        raise Failure("traceback", said[-600:])
    if code is None:
        raise Failure("hang", "the last call")
    if code != 0 and not (code == 1 and job.command[0] == "generate"):
        raise Failure("code", f"{code} in the end: {said[-400:]}")


def _compare(whole: Path, place: Path, job: Job) -> None:
    """Raise a Failure if files are not those of the undisturbed run.

    Runs at constant pressure that end between two checkpoints go on with other moves of the cell, and say so.
    """
    other_moves = "between two checkpoints" in _said(place)
    for name, same in job.files.items():
        if other_moves:
            same = LOOSELY.get(Path(name).suffix, same)
        found, expected = (folder / job.output / name if name else folder / job.output for folder in (place, whole))
        if not found.exists():
            raise Failure("lost", f"no {name or job.output}")
        if not same(found, expected):
            raise Failure("lost", f"{name or job.output} differs")
    names = [{str(file.relative_to(folder)) for file in folder.rglob("*")} for folder in (place, whole)]
    left = {name for name in names[0] ^ names[1] if not name.startswith(("std", "second"))}
    if left:
        raise Failure("left", f"files that only one of the two has: {', '.join(sorted(left)[:8])}")
