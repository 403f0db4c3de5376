"""The short form of the campaign: bad inputs of every command, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CAMPAIGN = Path(__file__).parent / "campaign"
#: Inputs that once ended in a traceback or took all memory, beside the first ones.
ONCE_BROKEN = (85, 185, 244, 385, 386)


def test_bad_inputs_end_in_one_sentence(tmp_path):
    seeds = [str(seed) for seed in (*range(40), *ONCE_BROKEN)]
    command = [sys.executable, "-W", "ignore", str(CAMPAIGN), "inputs", "--out", str(tmp_path), "--seeds", *seeds]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=900)
    failed = [line for line in (tmp_path / "results.jsonl").read_text().splitlines() if '"verdict": "fine"' not in line]
    assert result.returncode == 0, "\n".join(failed)
    assert result.stdout.strip() == f"fine: {len(seeds)}"
