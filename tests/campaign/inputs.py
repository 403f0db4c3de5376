"""Bad inputs by the thousand: whatever comes in, an answer or one sentence comes out."""

from __future__ import annotations

import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from children import start, wait
from mutations import bad_invocation
from oracles import wrong_result
from places import prepare
from trials import PROMISED, make_trials

#: Seconds after which an input counts as a hang.
PATIENCE = 60.0
#: Bytes that an input may take; more is a failure, and must not end the campaign.
MEMORY = 4 * 2**30


def try_inputs(seeds: Sequence[int], folder: Path) -> dict[str, int]:
    """Try the inputs that seeds make; goes on where an earlier call was ended.

    Parameters
    ----------
    seeds : sequence of int
    folder : path
        Gets ``results.jsonl``, one line per input, and the folder of every input that failed.

    Returns
    -------
    dict
        Verdict -> number of inputs: ``fine``, ``traceback``, ``crash``, ``hang``, ``half-written``, ``code``,
        ``silent`` (refused without a word), ``wrong`` (code 0, but results that cannot be).
    """
    outcomes = make_trials(seeds, folder / "results.jsonl", folder / "good", prepare, try_one)
    return dict(Counter(outcome["verdict"] for outcome in outcomes))


def try_one(seed: int, folder: Path, good: Path) -> dict[str, Any]:
    """Try one input in a process of its own, forked from this one; its folder stays if it failed."""
    place = folder / f"input-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(good, place)
    name, mutation, command = bad_invocation(seed, place)
    before = set(place.rglob("*"))
    began = time.monotonic()
    code = wait(start(place, command, bounded), began + PATIENCE, gently=10.0)
    errors = place / "stderr.txt"
    said = errors.read_text(encoding="utf-8", errors="replace") if errors.exists() else ""
    left = [file.name for file in place.rglob(".*") if file not in before and file.name not in (".lock",)]
    verdict = "fine"
    long = time.monotonic() - began > PATIENCE
    running = long and _was_running(place, command)
    if running and code == 128 + signal.SIGTERM:
        code = 3
    if code is None or (long and not running):
        verdict = "hang"
    elif code < 0:
        verdict = "crash"
    elif "Traceback (most recent call last)" in said:
        verdict = "traceback"
    elif code not in PROMISED:
        verdict = "code"
    elif left:
        verdict = "half-written"
    elif code == 2 and not said.strip():
        verdict = "silent"
    elif code == 0 and (problem := wrong_result(place, good, command)) is not None:
        verdict, said = "wrong", problem
    if verdict == "fine":
        shutil.rmtree(place, ignore_errors=True)
    return {
        "seed": seed, "name": name, "mutation": mutation, "command": command, "code": code, "verdict": verdict,
        "seconds": round(time.monotonic() - began, 2), "said": said[-400:], "left": left,
    }  # fmt: skip


def _was_running(place: Path, command: list[str]) -> bool:
    """Whether a long job was asked for, and was still writing its results when it was asked to end."""
    if command[:1] not in (["md"], ["hal"], ["generate"]):
        return False
    written = [file.stat().st_mtime for file in place.rglob("*") if file.is_file() and not file.name.startswith("std")]
    return time.time() - max(written) < PATIENCE / 2


def bounded() -> None:
    """Limit the memory of a process."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
