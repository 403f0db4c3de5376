"""``halberd web`` as it is typed."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml


@contextlib.contextmanager
def started(*flags: str, cwd):
    """A server that says where it listens."""
    command = [sys.executable, "-W", "ignore", "-m", "halberd.plugins.commands.app", "web", "--no-browser", *flags]
    process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    try:
        while not (found := re.search(r"http://\S+", "".join(lines[-1:]))):
            line = process.stderr.readline()
            assert line, "".join(lines)
            lines.append(line)
        yield process, found.group(), "".join(lines)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_it_starts_answers_ends_and_comes_back_with_its_token(tmp_path):
    with started("--port", "0", cwd=tmp_path) as (process, address, said):
        assert address.startswith("http://127.0.0.1:")
        assert "other machines" not in said
        # Whoever keeps no cookie is refused after the token was taken.
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address)
    with started("--port", "0", cwd=tmp_path) as (process, again, _):
        assert again.split("token=")[1] == address.split("token=")[1]
        end, workers = time.monotonic() + 60, []
        while not workers and time.monotonic() < end:  # whichever of its threads has started it
            tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
            workers = [each for file in tasks for each in file.read_text().split()]
        worker = workers[0]
        file = tmp_path / "halberd-web" / "token"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE((file.parent / "rooms").stat().st_mode) == 0o700
        # Two servers do not share a folder.
        command = [sys.executable, "-W", "ignore", "-m", "halberd.plugins.commands.app", "web", "--no-browser"]
        second = subprocess.run(
            [*command, "--port", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert second.returncode == 2
        assert "halberd: error:" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) in (-signal.SIGTERM, 128 + signal.SIGTERM)
    end = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{worker}").exists()  # its worker has gone with it


def test_folders_that_were_there_keep_their_permissions_and_models_are_found(tmp_path):
    (tmp_path / "shared").mkdir(mode=0o755)
    with started("--port", "0", "--folder", "shared", cwd=tmp_path):
        assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755
        assert stat.S_IMODE((tmp_path / "shared" / "rooms").stat().st_mode) == 0o700


def test_addresses_that_others_reach_are_warned_about(tmp_path):
    with started("--port", "0", "--host", "0.0.0.0", cwd=tmp_path) as (_, address, said):
        assert "other machines" in " ".join(said.split())
        assert address.startswith("http://0.0.0.0:")


def test_bad_settings(tmp_path):
    def refused(*flags: str) -> str:
        command = [sys.executable, "-W", "ignore", "-m", "halberd.plugins.commands.app", "web", "--no-browser", *flags]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 2, result.stderr
        assert result.stderr.count("\n") == 1
        return result.stderr

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "Nothing can listen on 127.0.0.1" in refused("--port", str(taken.getsockname()[1]))
    assert "port" in refused("--port", "70000")
    assert "job_seconds" in refused("--job-seconds", "0")
    (tmp_path / "web.yaml").write_text(yaml.safe_dump({"prot": 1}))
    assert "Did you mean 'port'" in refused("--config", "web.yaml")
    (tmp_path / "file").write_text(json.dumps({}))
    assert "file" in refused("--folder", "file")
