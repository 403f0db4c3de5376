"""The short form of the campaign: bad inputs of every command, and jobs that are killed and disturbed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CAMPAIGN = Path(__file__).parent / "campaign"
#: Inputs that once ended in a traceback or took all memory, beside the first ones.
ONCE_BROKEN = (85, 185, 244, 385, 386)
#: Trials with kills, a full disk and a place that cannot be written, of stages, metadynamics, OPES and constant
#: pressure; some of them once failed. Two are ended by SIGTERM.
TRIALS = (90, 103, 204, 210, 213, 221, 225, 241)


def campaign(what, seeds, folder):
    """Run a part of the campaign; returns what it counted and what failed."""
    command = [sys.executable, "-W", "ignore", str(CAMPAIGN), what, "--out", str(folder), "--seeds", *map(str, seeds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=900)
    lines = [line for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    return result, [line for line in lines if '"verdict": "fine"' not in line]


def test_bad_inputs_end_in_one_sentence(tmp_path):
    seeds = (*range(40), *ONCE_BROKEN)
    result, failed = campaign("inputs", seeds, tmp_path)
    assert result.returncode == 0, "\n".join(failed) or result.stderr
    assert result.stdout.strip() == f"fine: {len(seeds)}"


def test_what_once_was_broken_is_refused_by_its_own_sentence(tmp_path):
    result, _ = campaign("corpus", [0], tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.strip().removeprefix("fine: ")) >= 31


def test_nothing_is_lost_or_doubled_when_jobs_are_disturbed(tmp_path):
    result, failed = campaign("kills", TRIALS, tmp_path)
    assert result.returncode == 0, "\n".join(failed) or result.stderr
    fine, kills = (int(part.split(": ")[1]) for part in result.stdout.strip().split(", "))
    assert fine == len(TRIALS)
    assert kills > 10
