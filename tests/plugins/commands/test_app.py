"""The command line: JSON keys, exit codes, one line per mistake, nothing half-written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.io import write

from halberd.plugins import HalberdCalculator
from halberd.plugins.commands.doctor import _plugin_problems
from halberd.plugins.forces.backends import choose_backend, self_test
from tests.conftest import call


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``halberd`` as a user would."""
    command = [sys.executable, "-W", "ignore", "-m", "halberd.plugins.commands.app", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture
def labelled(tmp_path) -> Path:
    """Six frames labelled by the pretrained model, shifted by known amounts."""
    calculator = HalberdCalculator("gfn2-chnof", precision="double")
    frames = []
    for k, name in enumerate(["H2O", "CH4", "NH3", "CH3OH", "HF", "C2H6"]):
        atoms = molecule(name)
        atoms.rattle(0.05, seed=k)
        results = calculator.evaluate(atoms)
        atoms.info["REF_energy"] = results["energy"] + 0.003 * len(atoms) * (-1) ** k
        atoms.arrays["REF_forces"] = results["forces"] + 0.01
        atoms.info["config_type"] = "even" if k % 2 == 0 else "odd"
        frames.append(atoms)
    path = tmp_path / "labelled.xyz"
    write(path, frames, format="extxyz")
    return path


def test_evaluate_json(labelled, tmp_path, capsys, monkeypatch):
    plot, predictions = tmp_path / "parity.png", tmp_path / "predictions.xyz"
    code, out, _ = call(
        capsys, monkeypatch, "evaluate", "gfn2-chnof", labelled, "--precision", "double", "--json",
        "--plot", plot, "--predictions", predictions,
    )  # fmt: skip
    report = json.loads(out)
    assert code == 0
    assert report["n_frames"] == 6
    assert report["energy"]["mae"] == pytest.approx(0.003, rel=1e-4)
    assert report["forces"]["rmse"] == pytest.approx(0.01, rel=1e-4)
    assert set(report["per_config_type"]) == {"even", "odd"}
    assert report["per_config_type"]["odd"]["n_frames"] == 3
    assert report["seconds"] > 0
    assert plot.stat().st_size > 10_000
    again = ase.io.read(predictions, ":")
    assert again[2].info["halberd_energy"] == pytest.approx(again[2].info["REF_energy"] - 0.003 * 4, abs=1e-6)


def test_evaluate_table(labelled, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = call(capsys, monkeypatch, "evaluate", "gfn2-chnof", labelled)
    assert code == 0
    assert "MAE" in out
    assert "even" in out
    assert "all" in out


def test_evaluate_says_which_labels_are_missing(labelled, tmp_path, capsys, monkeypatch):
    """Errors "over 8 frames" would otherwise be those of the few that have an energy."""
    monkeypatch.setenv("COLUMNS", "120")
    frames = ase.io.read(labelled, ":")
    del frames[0].info["REF_energy"]
    ase.io.write(tmp_path / "fewer.xyz", frames, format="extxyz")
    code, out, _ = call(capsys, monkeypatch, "evaluate", "gfn2-chnof", tmp_path / "fewer.xyz", "--json")
    n = len(frames)
    assert json.loads(out)["n_labelled"] == {"energy": n - 1, "forces": n, "virial": 0}
    code, out, _ = call(capsys, monkeypatch, "evaluate", "gfn2-chnof", tmp_path / "fewer.xyz")
    assert code == 0
    assert f"energy in {n - 1} of {n}, forces in {n} of {n}" in " ".join(out.split())
    code, out, _ = call(capsys, monkeypatch, "evaluate", "gfn2-chnof", labelled)
    assert "Not every frame" not in out
    for atoms in frames:
        atoms.arrays["Forces"] = atoms.arrays.pop("REF_forces")
    ase.io.write(tmp_path / "mistyped.xyz", [atoms for atoms in frames if "REF_energy" in atoms.info], format="extxyz")
    code, out, _ = call(capsys, monkeypatch, "evaluate", "gfn2-chnof", tmp_path / "mistyped.xyz")
    assert f"forces in 0 of {n - 1}" in " ".join(out.split())


@pytest.mark.parametrize("what", ["energy", "forces"])
def test_evaluate_refuses_labels_that_are_no_numbers(what, labelled, tmp_path, capsys, monkeypatch):
    frames = ase.io.read(labelled, ":")
    if what == "energy":
        frames[1].info["REF_energy"] = float("nan")
    else:
        frames[1].arrays["REF_forces"][0, 2] = float("nan")
    ase.io.write(tmp_path / "nan.xyz", frames, format="extxyz")
    code, out, err = call(capsys, monkeypatch, "evaluate", "gfn2-chnof", tmp_path / "nan.xyz", "--json")
    assert code == 2
    assert out == ""
    assert "Frames 1 (counted from 0) hold positions or labels that are not finite" in err


def test_export_then_evaluate(labelled, mace_files, tmp_path, capsys, monkeypatch):
    target = tmp_path / "exported.pt"
    code, out, _ = call(
        capsys, monkeypatch, "export", mace_files["heads"], "-o", target, "--head", "mp2", "--elements", "H,C", "--json"
    )
    assert code == 0
    assert json.loads(out)["atomic_numbers"] == [1, 6]
    assert json.loads(out)["metadata"]["head"] == "mp2"
    from halberd.potentials import load

    assert load(target).symbols == ("H", "C")


def test_export_a_committee(mace_files, tmp_path, capsys, monkeypatch):
    members = [mace_files[f"member{k}"] for k in range(3)]
    code, out, _ = call(capsys, monkeypatch, "export", *members, "-o", tmp_path / "three.pt", "--json")
    assert code == 0
    assert json.loads(out)["n_columns"] == 3


MISTAKES = {
    "unknown element": (["evaluate", "{model}", "{frames}"], "is N, which model 'plain' was not made for"),
    "missing model": (["evaluate", "nope.model", "{frames}"], "Model file 'nope.model' does not exist"),
    "corrupt model": (["evaluate", "{broken}", "{frames}"], "damaged|neither"),
    "no mace model": (["export", "{pickle}", "-o", "out.pt"], "not a MACE model"),
    "missing frames": (["evaluate", "gfn2-chnof", "nope.xyz"], "'nope.xyz' does not exist"),
    "no such key": (["evaluate", "gfn2-chnof", "{frames}", "--energy-key", "dft"], "has no energy under 'dft'"),
    "unwritable plot": (["evaluate", "gfn2-chnof", "{frames}", "--plot", "no/where.png"], "does not exist"),
    "unwritable export": (["export", "{model}", "-o", "no/where.pt"], "does not exist"),
    "unknown device": (["evaluate", "gfn2-chnof", "{frames}", "--device", "tpu"], "write 'cpu', 'cuda'"),
    "unknown precision": (["export", "{model}", "-o", "out.pt", "--precision", "half"], "'single' or 'double'"),
    "head of a one-headed model": (["export", "{model}", "-o", "out.pt", "--head", "x"], "has no head 'x'"),
    "nothing to run": (["md"], "Nothing to run"),
    "missing structure": (["md", "--structure", "nope.xyz"], "'nope.xyz' does not exist"),
    "unknown platform": (["md", "--structure", "{frames}", "--platform", "Cpu"], "Did you mean 'CPU'"),
    "NPT without a cell": (["md", "--structure", "{frames}", "--ensemble", "npt"], "has no periodic cell"),
    "unknown ensemble": (["md", "--structure", "{frames}", "--ensemble", "NVP"], "must be one of NVE, NVT, NPT"),
    "unknown backend": (["md", "--structure", "{frames}", "--backend", "pyton"], "Did you mean 'python'"),
    "restart without a run": (["md", "--structure", "{frames}", "--restart"], "no restart file"),
    "unknown key in a file": (["md", "{config}"], "Unknown key 'temprature' in .*Did you mean 'temperature'"),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_mistakes_end_in_one_line_and_exit_code_2(
    mistake, labelled, mace_files, tmp_path, tmp_path_factory, capsys, monkeypatch
):
    inputs = tmp_path_factory.mktemp("inputs")
    (inputs / "broken.model").write_bytes(mace_files["plain"].read_bytes()[:20000])
    import torch

    torch.save({"a": 1}, inputs / "pickle.model")
    (inputs / "config.yaml").write_text("structure: x.xyz\ntemprature: 300\n")
    names = {
        "model": mace_files["plain"],
        "frames": labelled,
        "broken": inputs / "broken.model",
        "pickle": inputs / "pickle.model",
        "config": inputs / "config.yaml",
    }
    arguments, message = MISTAKES[mistake]
    work = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(work)
    code, out, err = call(capsys, monkeypatch, *(a.format(**names) for a in arguments))
    assert code == 2
    assert out == ""
    errors = [line for line in err.splitlines() if line.startswith("halberd: error: ")]
    assert len(errors) == 1
    assert "Traceback" not in err
    import re

    assert re.search(message, errors[0]), errors[0]
    assert not list(work.iterdir()), "something was half-written"


def test_a_real_process_exits_with_2():
    result = run("evaluate", "nope.model", "nope.xyz")
    assert result.returncode == 2
    assert result.stderr.startswith("halberd: error: Model file")
    assert result.stdout == ""
    assert run("md", "--no-such-flag").returncode == 2


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signals_outside_of_any_loop_end_in_one_line(name, inside):
    """While modules are imported, files read and models fitted; whatever has begun is cleaned up.

    ``inside`` of OpenMM, which calls Python for forces, and makes an error of its own of what is raised there.
    """
    force = (
        "import openmm\n"
        "def wait(state):\n    import numpy\n    time.sleep(60)\n"
        "    return 0.0, numpy.zeros((1, 3))\n"
        "def sleep(seconds):\n    system = openmm.System()\n    system.addParticle(1.0)\n"
        "    system.addForce(openmm.PythonForce(wait))\n"
        "    platform = openmm.Platform.getPlatformByName('Reference')\n"
        "    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)\n"
        "    context.setPositions([openmm.Vec3(0, 0, 0)])\n"
        "    context.getState(energy=True)\n"
    )
    code = (
        "import signal, time\nimport halberd.plugins.commands.app as app\n"
        # Ignored where the tests themselves run in the background.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"{force if inside else 'sleep = time.sleep'}\n"
        "def work():\n    try:\n        print('begun', flush=True)\n        sleep(60)\n"
        "    finally:\n        print('cleaned up', flush=True)\n"
        "app._run = work\napp.main()\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        time.sleep(2.0 if inside else 0.0)  # until OpenMM has called
        process.send_signal(signal.Signals[name])
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert out == "cleaned up\n"
    assert err == f"halberd: ended by {name}.\n"
    assert process.returncode == 128 + signal.Signals[name]


def test_doctor_json():
    result = run("doctor", "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 0
    assert report["backends"]["torchforce"] is True
    assert report["backends"]["python"] is True
    assert set(report) >= {"versions", "platforms", "backends", "problems"}
    assert {"openmm", "torch", "halberd-md"} <= set(report["versions"])
    assert {"Reference", "CPU"} <= set(report["platforms"])


def test_self_test_of_a_backend_that_crashes(monkeypatch, tmp_path):
    """A wheel that kills the interpreter is a finding, not a crash of the caller."""
    fake = tmp_path / "openmmtorch.py"
    fake.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "killed by signal 11" in str(self_test("torchforce"))
    assert self_test("python") is None


def test_auto_falls_back_to_python(monkeypatch, tmp_path):
    monkeypatch.setattr("halberd.plugins.forces.backends.cached_self_test", lambda backend: None)
    assert choose_backend("auto") == "torchforce"
    broken = {"torchforce": "killed", "python": None}
    monkeypatch.setattr("halberd.plugins.forces.backends.cached_self_test", lambda backend: broken[backend])
    assert choose_backend("auto") == "python"
    from halberd.potentials.errors import BackendError

    monkeypatch.setattr("halberd.plugins.forces.backends.cached_self_test", lambda backend: "broken")
    with pytest.raises(BackendError, match="torchforce: broken; python: broken"):
        choose_backend("auto")


def test_plugin_problems_are_boiled_down():
    failures = [
        "Error loading library /x/libA.so: libOpenCL.so.1: cannot open shared object file",
        "Error loading library /x/libB.so: libOpenCL.so.1: cannot open shared object file",
        "Error loading library /x/libC.so: libOpenMMOpenCL.so: cannot open shared object file",
    ]
    problems = _plugin_problems(failures)
    assert len(problems) == 1
    assert "libOpenCL.so.1" in problems[0]


def test_predictions_have_the_right_sign(labelled):
    """The table reports model minus label: a label raised by 3 meV/atom shows as an error of 3."""
    frame = ase.io.read(labelled, 0)
    assert frame.info["REF_energy"] > HalberdCalculator("gfn2-chnof").evaluate(frame)["energy"]
    assert np.isfinite(frame.arrays["REF_forces"]).all()
