"""Files appear whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from halberd.potentials.errors import OutputError
from halberd.potentials.files import check_writable, replacing


def test_success_replaces(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_failure_keeps_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as temporary:
        temporary.write_text(f"half of the n{1 // 0}")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_full_disk_is_a_clear_error(tmp_path):
    with pytest.raises(OutputError, match="No space left"), replacing(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_links_and_devices_are_left_alone(tmp_path):
    """Renaming would replace the link; as root it would replace the device, /dev/null say."""
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("link.txt", "it is a link"), ("pipe", "no regular file")):
        with pytest.raises(OutputError, match=what), replacing(tmp_path / name) as temporary:
            temporary.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "old"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(OutputError, match="no regular file"), replacing("/dev/null"):
        pass
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_missing_folder(tmp_path):
    with pytest.raises(OutputError, match=r"does not exist\. Create it first"):
        check_writable(tmp_path / "no" / "a.txt")


def test_what_a_killed_process_left_is_used_again(tmp_path):
    """Otherwise one half-written file stays for every kill."""
    killed = (
        "import os, sys\nfrom halberd.potentials.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n    temporary.write_text('half of')\n    os.kill(os.getpid(), 9)\n"
    )
    target = tmp_path / "a.txt"
    for _ in range(2):
        process = subprocess.run([sys.executable, "-c", killed, str(target)], check=False)
        assert process.returncode == -signal.SIGKILL
        assert [file.read_text() for file in tmp_path.iterdir()] == ["half of"]
    with replacing(target) as temporary:
        assert temporary.read_text() == ""
        temporary.write_text("new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_two_writers_of_one_file_have_files_of_their_own(tmp_path):
    target = tmp_path / "a.txt"
    with replacing(target) as one:
        one.write_text("one")
        with replacing(target) as other:
            assert one != other
            other.write_text("other")
        assert target.read_text() == "other"
    assert target.read_text() == "one"
    assert list(tmp_path.iterdir()) == [target]


def test_a_temporary_name_that_is_a_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("somebody's")
    (tmp_path / ".a-partial.txt").symlink_to(victim)
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert victim.read_text() == "somebody's"
