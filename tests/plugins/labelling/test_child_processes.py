"""Processes that end with their parent."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

#: The parent is killed while the child still imports; run again in the child, under another name.
EARLY = """
import multiprocessing, os, signal, sys, time
from pathlib import Path

def work(folder):
    from halberd.plugins.labelling.child_processes import die_with_parent
    die_with_parent()
    Path(folder, "went_on").touch()

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work, args=(sys.argv[1],)).start()
    while not Path(sys.argv[1], "child").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
else:
    Path(sys.argv[1], "child.new").write_text(str(os.getpid()))
    Path(sys.argv[1], "child.new").rename(Path(sys.argv[1], "child"))
    time.sleep(1.0)
"""


def test_a_parent_that_has_ended_before_the_kernel_was_asked(tmp_path):
    """A walker whose run is killed at the start must not run for weeks on its own."""
    script = tmp_path / "early.py"
    script.write_text(EARLY)
    parent = subprocess.run([sys.executable, "-W", "ignore", str(script), str(tmp_path)], check=False, timeout=60)
    assert parent.returncode == -signal.SIGKILL
    child = Path("/proc", (tmp_path / "child").read_text())
    deadline = time.monotonic() + 60
    while child.exists() and "Z" not in (child / "stat").read_text().rpartition(")")[2].split()[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (tmp_path / "went_on").exists()
