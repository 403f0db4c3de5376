"""Walkers and labels on a cluster of dask: a worker that dies changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "examples" / "hal_dask.py"


def learnt(folder: Path, *options: str) -> tuple[str, bytes]:
    """What the example says, and its database: twelve labels wait for two workers, then four walkers do."""
    command = [sys.executable, "-W", "ignore", EXAMPLE, "--iterations", "1", "--out", folder, *options]
    result = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    run = folder / "run"
    return result.stdout, b"".join((run / name).read_bytes() for name in ("fit.extxyz", "test.extxyz"))


def test_a_worker_that_is_killed_changes_nothing(tmp_path):
    said, expected = learnt(tmp_path / "whole")
    assert "a worker is dead" not in said
    assert expected
    said, found = learnt(tmp_path / "killed", "--kill")
    assert "a worker is dead" in said
    assert found == expected
