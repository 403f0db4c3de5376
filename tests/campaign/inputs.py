"""Bad inputs by the thousand: whatever comes in, an answer or one sentence comes out."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mutations import bad_invocation
from places import prepare

#: Seconds after which an input counts as a hang.
PATIENCE = 60.0
#: Bytes that an input may take; more is a failure, and must not end the campaign.
MEMORY = 4 * 2**30
#: Exit codes that halberd promises.
PROMISED = (0, 1, 2, 3)


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
        Verdict -> number of inputs: ``fine``, ``traceback``, ``crash``, ``hang``, ``half-written``, ``code``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    done = {json.loads(line)["seed"] for line in results.read_text().splitlines()} if results.exists() else set()
    good = folder / "good"
    if not good.exists():
        good.mkdir()
        prepare(good)
    _import_everything()
    for seed in seeds:
        if seed not in done:
            verdict = try_one(seed, folder, good)
            with open(results, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(verdict) + "\n")
    counts: dict[str, int] = {}
    for line in results.read_text().splitlines():
        verdict = json.loads(line)
        if verdict["seed"] in seeds:
            counts[verdict["verdict"]] = counts.get(verdict["verdict"], 0) + 1
    return counts


def try_one(seed: int, folder: Path, good: Path) -> dict[str, Any]:
    """Try one input in a process of its own, forked from this one; its folder stays if it failed."""
    place = folder / f"input-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(good, place)
    name, mutation, command = bad_invocation(seed, place)
    before = set(place.rglob("*"))
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(place, command)
    code = _wait(child, start + PATIENCE)
    said = (
        (place / "stderr.txt").read_text(encoding="utf-8", errors="replace") if (place / "stderr.txt").exists() else ""
    )
    left = [file.name for file in place.rglob(".*") if file not in before and file.name not in (".lock",)]
    verdict = "fine"
    if code is None:
        verdict = "hang"
    elif code < 0:
        verdict = "crash"
    elif "Traceback (most recent call last)" in said:
        verdict = "traceback"
    elif code not in PROMISED:
        verdict = "code"
    elif left:
        verdict = "half-written"
    if verdict == "fine":
        shutil.rmtree(place, ignore_errors=True)
    return {
        "seed": seed, "name": name, "mutation": mutation, "command": command, "code": code, "verdict": verdict,
        "seconds": round(time.monotonic() - start, 2), "said": said[-400:], "left": left,
    }  # fmt: skip


def _wait(child: int, deadline: float) -> int | None:
    """Exit code of a child, minus the signal that ended it, or ``None`` if it had to be ended."""
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _run(place: Path, command: list[str]) -> None:
    """What the forked process does: the command line, as if it had been typed in that folder."""
    code = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        os.chdir(place)
        for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, number)
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        sys.argv = ["halberd", *command]
        from halberd.plugins.commands.app import main

        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _import_everything() -> None:
    """Once, before any fork: imports take seconds, and an input a fraction of one."""
    import ase.calculators.emt  # noqa: F401
    import torch

    import halberd.plugins.commands.fit_file
    import halberd.plugins.evaluation.evaluate
    import halberd.samplers.generation.generator
    import halberd.samplers.hal.loop
    import halberd.samplers.md.production  # noqa: F401

    torch.set_num_threads(1)  # pools of threads do not survive a fork
