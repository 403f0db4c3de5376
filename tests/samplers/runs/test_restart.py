"""Restart files: what is brought back, and what they must never touch."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import openmm
import pytest

from halberd.potentials.errors import OutputError, RestartError
from halberd.potentials.locks import UnlockedFolderWarning, locked
from halberd.samplers.md.production import run_md
from halberd.samplers.runs.restart import InexactRestartWarning, cut_outputs, read_checkpoint
from tests.samplers.md.conftest import dimer, settings

METAD = "d: DISTANCE ATOMS=1,2\nMETAD ARG=d SIGMA=0.02 HEIGHT=0.1 PACE=10\nPRINT ARG=d STRIDE=5 FILE=COLVAR\n"
OPES = "d: DISTANCE ATOMS=1,2\nOPES_METAD ARG=d PACE=10 BARRIER=5 TEMP=60 SIGMA=0.02\nPRINT ARG=d STRIDE=5 FILE=C\n"
#: The state goes with the checkpoint, whatever was written since.
OPES_STATE = (
    "d: DISTANCE ATOMS=1,2\n"
    "OPES_METAD ...\n ARG=d PACE=10 BARRIER=5 TEMP=60 SIGMA=0.02\n STATE_WFILE=STATE STATE_RFILE=STATE\n...\n"
    "PRINT ARG=d STRIDE=5 FILE=COLVAR\n"
)


def rows(file: Path) -> np.ndarray:
    return np.loadtxt([line for line in file.read_text().splitlines() if not line.startswith("#")], ndmin=2)


def rewritten(file: Path, **changes) -> None:
    """The same restart file with other facts."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    facts = {**json.loads(entries["facts.json"]), **changes}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {**entries, "facts.json": json.dumps(facts).encode()}.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("script", "file"),
    [(METAD, "HILLS"), (OPES, "KERNELS"), (OPES_STATE, "KERNELS")],
    ids=["HILLS", "KERNELS", "STATE"],
)
def test_a_killed_bias_has_every_hill_once(script, file, argon, tmp_path):
    """The files of a run that was killed at step 180 with a checkpoint of step 100: no FILE= names them."""
    (tmp_path / "bias.dat").write_text(script)
    values = {**argon, **dimer(tmp_path), "plumed": str(tmp_path / "bias.dat"), "checkpoint_interval": 100}
    whole = settings(values, tmp_path, steps=240, output=str(tmp_path / "whole"))
    run_md(whole, progress=False)
    run_md(settings(values, tmp_path, steps=100), progress=False)
    out = tmp_path / "out"
    shutil.copyfile(out / "restart.zip", tmp_path / "kept.zip")
    run_md(settings(values, tmp_path, steps=180), restart=True, progress=False)
    shutil.copyfile(tmp_path / "kept.zip", out / "restart.zip")
    run_md(settings(values, tmp_path, steps=240), restart=True, progress=False)
    found, expected = rows(out / file), rows(tmp_path / "whole" / file)
    assert list(found[:, 0]) == sorted(set(found[:, 0]))
    np.testing.assert_allclose(found[:, 0], expected[:, 0])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    printed = "COLVAR" if "COLVAR" in script else "C"
    assert list(rows(out / printed)[:, 0]) == list(rows(tmp_path / "whole" / printed)[:, 0])
    assert not list(out.glob("bck.[0-9]*"))


def test_a_state_that_is_older_than_the_checkpoint_is_not_gone_on_from(argon, tmp_path):
    """Kernels since then would be missing without a word; the list of kernels has them."""
    (tmp_path / "bias.dat").write_text(OPES_STATE.replace("STATE_WFILE", "STATE_WSTRIDE=40 STATE_WFILE"))
    values = {**argon, **dimer(tmp_path), "plumed": str(tmp_path / "bias.dat"), "checkpoint_interval": 100}
    run_md(settings(values, tmp_path, steps=100), progress=False)
    with pytest.warns(InexactRestartWarning, match="older than the checkpoint"):
        run_md(settings(values, tmp_path, steps=140), restart=True, progress=False)
    times = rows(tmp_path / "out" / "KERNELS")[:, 0] / 0.002
    assert list(np.rint(times).astype(int)) == list(range(10, 140, 10))


def test_a_bias_that_has_not_begun_begins(argon, tmp_path):
    """OPES measures its width for ten strides first; PLUMED refuses to restart from a file without kernels."""
    (tmp_path / "bias.dat").write_text(OPES.replace(" SIGMA=0.02", ""))
    values = {**argon, **dimer(tmp_path), "plumed": str(tmp_path / "bias.dat"), "checkpoint_interval": 50}
    run_md(settings(values, tmp_path, steps=50), progress=False)
    run_md(settings(values, tmp_path, steps=240), restart=True, progress=False)
    assert len(rows(tmp_path / "out" / "KERNELS")) > 5
    assert not list((tmp_path / "out").glob("bck.*"))


@pytest.mark.parametrize("name", ["../victim.txt", "/{tmp}/victim.txt", "link.txt", "folder"])
def test_a_restart_file_touches_nothing_but_the_runs_own_files(name, argon, tmp_path):
    run = settings(argon, tmp_path, steps=40)
    run_md(run, progress=False)
    out = tmp_path / "out"
    (tmp_path / "victim.txt").write_text("precious")
    (out / "link.txt").symlink_to(tmp_path / "victim.txt")
    (out / "folder").mkdir()
    before = {file: file.read_bytes() for file in out.iterdir() if file.is_file()}
    sizes = read_checkpoint(out / "restart.zip").sizes
    rewritten(out / "restart.zip", sizes={**sizes, name.replace("{tmp}", str(tmp_path).strip("/")): 3})
    with pytest.raises(RestartError, match=r"no file of this run|no regular file"):
        run_md(settings(argon, tmp_path, steps=80), restart=True, progress=False)
    assert (tmp_path / "victim.txt").read_text() == "precious"
    after = {file: file.read_bytes() for file in out.iterdir() if file.is_file()}
    assert {file.name for file in before if before[file] != after[file]} == {"restart.zip"}


def test_copies_cannot_leave_the_folder(tmp_path, argon):
    run_md(settings(argon, tmp_path, steps=40), progress=False)
    out = tmp_path / "out"
    with zipfile.ZipFile(out / "restart.zip", "a") as archive:
        archive.writestr("copies/../../victim.txt", "overwritten")
    with pytest.raises(RestartError, match="no file of this run"):
        run_md(settings(argon, tmp_path, steps=80), restart=True, progress=False)
    assert not (tmp_path / "victim.txt").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"step": "40"}, {"step": -1}, {"step": None}, {"sizes": {"log.csv": 1.5}}, {"sizes": {"log.csv": -1}},
        {"sizes": [1]}, {"fingerprint": 3}, {"extra": []},
    ],
)  # fmt: skip
def test_facts_that_are_none(changes, argon, tmp_path):
    run_md(settings(argon, tmp_path, steps=40), progress=False)
    rewritten(tmp_path / "out" / "restart.zip", **changes)
    with pytest.raises(RestartError, match=r"restart\.zip' is damaged"):
        read_checkpoint(tmp_path / "out" / "restart.zip")


def test_damaged_bytes_of_a_restart_file(argon, tmp_path):
    """Every one is refused, or holds what it held."""
    run_md(settings(argon, tmp_path, steps=40), progress=False)
    file = tmp_path / "out" / "restart.zip"
    whole, good = file.read_bytes(), read_checkpoint(file)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        at = int(generator.integers(len(content)))
        content[at : at + 4] = generator.bytes(4)
        file.write_bytes(bytes(content[: len(content) if generator.random() < 0.8 else at]))
        try:
            found = read_checkpoint(file)
        except RestartError:
            refused += 1
        else:
            assert (found.step, found.sizes, found.binary, found.state) == (
                good.step, good.sizes, good.binary, good.state
            )  # fmt: skip
    assert refused > 150


def test_an_inexact_restart_says_so(argon, tmp_path, monkeypatch):
    run_md(settings(argon, tmp_path, steps=40), progress=False)

    def refuse(*_):
        raise openmm.OpenMMException("Checkpoint was created with a different hardware model")

    monkeypatch.setattr(openmm.Context, "loadCheckpoint", refuse)
    with pytest.warns(InexactRestartWarning, match="different hardware model.*random numbers start anew"):
        run_md(settings(argon, tmp_path, steps=80), restart=True, progress=False)


def test_a_dcd_that_is_none(tmp_path):
    (tmp_path / "a.dcd").write_bytes(b"x" * 400)
    state = type("C", (), {"sizes": {"a.dcd": 300}, "copies": {}})()
    with pytest.raises(RestartError, match="does not begin as a DCD file"):
        cut_outputs(tmp_path, state)


def test_one_run_at_a_time_in_a_folder(argon, tmp_path):
    run = settings(argon, tmp_path, steps=40)
    run_md(run, progress=False)
    out = tmp_path / "out"
    before = {file: file.read_bytes() for file in out.iterdir() if file.name != ".lock"}
    with locked(out), pytest.raises(OutputError, match=rf"at work in .*out' \(process {os.getpid()} on "):
        run_md(settings(argon, tmp_path, steps=80), restart=True, progress=False)
    assert before == {file: file.read_bytes() for file in out.iterdir() if file.name != ".lock"}
    assert run_md(settings(argon, tmp_path, steps=80), restart=True, progress=False)["complete"]


def test_a_file_system_without_locks_is_announced(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(UnlockedFolderWarning, match="No locks available"), locked(tmp_path):
        pass


def test_a_ramp_cannot_be_stretched(argon, tmp_path):
    """Half-way through 40 to 80 K it would jump back to 50."""
    run_md(settings(argon, tmp_path, steps=40, temperature_end=80.0), progress=False)
    with pytest.raises(RestartError, match="its steps is 40, this run has 80"):
        run_md(settings(argon, tmp_path, steps=80, temperature_end=80.0), restart=True, progress=False)
