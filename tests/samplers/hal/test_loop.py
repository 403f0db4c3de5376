"""The whole loop on a small alloy labelled by EMT: files, resuming after kills, failing labels, bad input."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
import yaml

from halberd.plugins import LearnedPotential
from halberd.potentials.ace.fit import AceFit
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError, DataError, GeometryError, OutputError, RestartError
from halberd.potentials.frames.labelled import read_frames
from halberd.potentials.locks import locked
from halberd.samplers.hal.loop import HyperactiveLearning, run_hal
from halberd.samplers.hal.settings import HALSettings
from tests.conftest import call, topology_of
from tests.samplers.conftest import BASIS, copper_gold, emt_frame

MD = {
    "steps": 60,
    "temperature": 900.0,
    "friction": 5.0,
    "check_interval": 5,
    "tau_history": 10,
    "tolerance": 0.08,
    "checkpoint_interval": 20,
    "swap_interval": 20,
}


def values_of(initial, output, **changes):
    values = {
        "initial": str(initial),
        "output": str(output),
        "seed": 3,
        "label": {"calculator": "emt", "timeout": 60.0},
        "model": {"basis": dict(BASIS), "committee": 5},
        "md": dict(MD),
        "walkers": 2,
        "workers": 0,
        "max_labels": 14,
        "max_iterations": 6,
        "test_fraction": 0.2,
        "first_tolerance": 0.08,
    }
    if "tolerance" in changes.get("md", {}):
        values["first_tolerance"] = None
    for key, value in changes.items():
        if isinstance(value, dict):
            values[key] = {**values[key], **value}
        else:
            values[key] = value
    return values


def run(initial, output, executor=None, **changes):
    return run_hal(HALSettings.from_mapping(values_of(initial, output, **changes)), executor, progress=False)


@pytest.fixture(scope="module")
def finished(initial_file, tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("hal") / "run"
    return run(initial_file, folder), folder


def database(folder):
    return (folder / "fit.extxyz").read_bytes() + (folder / "test.extxyz").read_bytes()


def test_a_run_leaves_everything_behind(finished):
    result, folder = finished
    assert {"database", "model", "n_labels", "n_failed_labels", "iterations", "converged", "seconds"} <= set(result)
    assert set(result["seconds"]) >= {"md", "label", "fit", "total", "this_call"}
    assert result["ended"] in ("max_labels, 14, are spent", f"max_iterations, {result['iterations']}, are made")
    assert 8 < result["n_labels"] <= 14
    fit, test = read_frames(folder / "fit.extxyz"), ase.io.read(folder / "test.extxyz", ":")
    assert len(fit) + len(test) == result["n_labels"]
    for frame in fit[:8]:
        expected = emt_frame(frame.atoms)
        assert frame.energy == pytest.approx(expected.energy, abs=1e-5)
        assert np.abs(frame.forces - expected.forces).max() < 1e-5
        assert np.abs(frame.virial - expected.virial).max() < 1e-4
    last = folder / "iterations" / f"{result['iterations']:04d}"
    for name in ("iteration.json", "errors.csv", "walkers.png", "walker0/walker.csv", "walker0/trajectory.extxyz"):
        assert (last / name).stat().st_size > 0
    first = folder / "iterations" / "0000"
    assert (first / "dimers.png").stat().st_size > 0
    stored = json.loads((folder / "run.json").read_text())
    assert stored["settings"]["md"]["tolerance"] == 0.08
    assert stored["settings"]["seed"] == 3
    assert (folder / "learning.png").stat().st_size > 0
    assert json.loads((folder / "report.json").read_text())["n_labels"] == result["n_labels"]


IONS = '''
from ase.calculators.emt import EMT

class Ions(EMT):
    """EMT of ions, and of nothing else."""

    def calculate(self, atoms=None, *arguments, **keywords):
        if atoms.get_initial_charges().sum() != 1.0 or atoms.info.get("spin") != 2:
            raise ValueError("not told the charge")
        super().calculate(atoms, *arguments, **keywords)
'''


def test_charges_go_along_with_every_label(tmp_path):
    """Also of frames that trajectories chose, and that trajectories begun there chose."""
    (tmp_path / "ions.py").write_text(IONS)
    ions = [copper_gold(seed) for seed in range(8)]
    for atoms in ions:
        atoms.set_initial_charges([1.0, *[0.0] * 7])
        atoms.info["spin"] = 2
    ase.io.write(tmp_path / "ions.xyz", ions, format="extxyz")
    label = {"calculator": f"{tmp_path / 'ions.py'}:Ions"}
    result = run(tmp_path / "ions.xyz", tmp_path / "run", label=label, relay=True, max_labels=12, max_iterations=3)
    assert result["n_failed_labels"] == 0
    assert result["n_labels"] > 8
    frames = [f for name in ("fit", "test") for f in ase.io.read(tmp_path / "run" / f"{name}.extxyz", ":")]
    assert all(f.get_initial_charges().tolist() == [1.0, *[0.0] * 7] and f.info["spin"] == 2 for f in frames)


def test_what_was_uncertain_is_better_known_afterwards(finished):
    """Posterior force uncertainty of the frames that were chosen, from the first fit and from the last."""
    _, folder = finished
    frames = read_frames(folder / "fit.extxyz")
    chosen = [frame for frame in frames if frame.config_type == "hal"]
    assert chosen
    uncertainty = []
    for data in (frames[:8], frames):
        fit = AceFit(AceSettings(("Cu", "Au"), **BASIS))
        fit.add(data)
        factor = fit.solve().posterior.factor
        rows = [fit.frame_rows(dataclasses.replace(f, energy=None, virial=None))[:, :-1] @ factor for f in chosen]
        uncertainty.append(np.array([np.linalg.norm(r, axis=1).mean() for r in rows]))
    assert (uncertainty[1] < uncertainty[0]).all()
    assert uncertainty[1].mean() < 0.9 * uncertainty[0].mean()


def test_the_potential_runs(finished):
    import openmm

    _, folder = finished
    topology, positions = topology_of(copper_gold(20))
    system = LearnedPotential(folder / "model.pt").createSystem(topology)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("CPU"))
    context.setPositions(positions)
    context.getIntegrator().step(5)
    assert np.isfinite(context.getState(energy=True).getPotentialEnergy()._value)


def test_a_finished_run_is_not_run_again(finished, initial_file):
    result, folder = finished
    before = database(folder)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("iterations/*/*.extxyz")}
    again = run(initial_file, folder)
    assert again["n_labels"] == result["n_labels"]
    assert database(folder) == before
    assert {path: path.stat().st_mtime_ns for path in folder.glob("iterations/*/*.extxyz")} == stamps


def test_other_settings_are_refused_but_the_budget_may_grow(finished, initial_file, tmp_path):
    result, folder = finished
    with pytest.raises(RestartError, match=r"settings.md.temperature was 900.0 and is 800.0"):
        run(initial_file, folder, md={"temperature": 800.0})
    ase.io.write(tmp_path / "other.xyz", [copper_gold(seed) for seed in range(1, 9)])
    with pytest.raises(RestartError, match=r"inputs.initial was"):
        run(tmp_path / "other.xyz", folder)
    shutil.copytree(folder, tmp_path / "copy")
    more = run(initial_file, tmp_path / "copy", max_iterations=result["iterations"] + 1, max_labels=100)
    assert more["iterations"] == result["iterations"] + 1


def test_two_runs_cannot_share_a_folder(tmp_path, initial_file):
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"), pytest.raises(OutputError, match="Another run is at work"):
        run(initial_file, tmp_path / "run")


SLOW = """
import time
from ase.calculators.emt import EMT

class Slow(EMT):
    def calculate(self, *arguments, **keywords):
        time.sleep(0.4)
        super().calculate(*arguments, **keywords)
"""


def test_killed_in_md_in_labelling_and_in_the_fit(finished, initial_file, tmp_path):
    """Three times SIGKILL, three times the same command: the database is that of the uninterrupted run, to the byte."""
    (tmp_path / "slow.py").write_text(SLOW)
    values = values_of(initial_file, "run", label={"calculator": "slow.py:Slow"})
    (tmp_path / "hal.yaml").write_text(yaml.safe_dump(values))
    iterations = tmp_path / "run" / "iterations"

    def labels(number):
        return [p for p in (iterations / f"{number:04d}").glob("*.extxyz") if not p.name.startswith(".")]

    def in_labelling():
        return 2 <= len(labels(0)) < 8

    def in_md():
        folder = iterations / "0001"
        return (folder / "walker0" / "walker.csv").exists() and not (folder / "walker1" / "outcome.json").exists()

    def in_fit():
        folder = iterations / "0001"
        if not (folder / "walker1" / "outcome.json").exists() or (folder / "iteration.json").exists():
            return False
        selected = len(list(folder.glob("walker*/selected.extxyz")))
        return selected > 0 and len(labels(1)) == selected

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "halberd.plugins.commands.app", "hal", str(tmp_path / "hal.yaml"), "--json"]
    for moment in (in_labelling, in_md, in_fit):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while not moment():
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline, f"never came to be {moment.__name__}"
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
    before = {path: path.stat().st_mtime_ns for path in labels(0)}
    assert len(before) == 8
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["n_labels"] == finished[0]["n_labels"]
    assert database(tmp_path / "run") == database(finished[1])
    assert {path: path.stat().st_mtime_ns for path in labels(0)} == before  # nothing was labelled twice


FAILING = '''
import time
import numpy as np
from ase.calculators.emt import EMT

class Failing(EMT):
    """Fails in three ways, depending on the structure."""

    def calculate(self, atoms=None, *arguments, **keywords):
        super().calculate(atoms, *arguments, **keywords)
        kind = int(1e6 * abs(atoms.positions.sum())) % 4
        if kind == 0:
            raise RuntimeError("not converged")
        if kind == 1:
            self.results["energy"] = float("nan")
        if kind == 2:
            time.sleep(600)
'''


def test_failing_labels_neither_stop_the_loop_nor_enter_the_database(initial_file, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    frames = [emt_frame(copper_gold(seed)) for seed in range(8)]
    from halberd.potentials.frames.labelled import to_atoms

    ase.io.write(tmp_path / "labelled.xyz", [to_atoms(frame) for frame in frames])
    result = run(
        tmp_path / "labelled.xyz",
        tmp_path / "run",
        label={"calculator": f"{tmp_path / 'failing.py'}:Failing", "timeout": 3.0},
        max_iterations=4,
        walkers=3,
        md={"tolerance": 0.05},
    )
    reasons = [json.loads(p.read_text())["reason"] for p in (tmp_path / "run").glob("iterations/*/*.failed.json")]
    assert result["n_failed_labels"] == len(reasons) > 0
    assert result["iterations"] == 4
    known = ("not converged", "not finite", "no result within 3 s")
    assert all(any(k in reason for k in known) for reason in reasons)
    for frame in read_frames(tmp_path / "run" / "fit.extxyz"):
        expected = emt_frame(frame.atoms)
        assert frame.energy == pytest.approx(expected.energy, abs=1e-5)


def test_stopped_trajectories_go_on_where_they_were(finished):
    """Relay: same start, the step and frame at which it stopped; other walkers begin at the next start."""
    result, folder = finished
    history = [
        json.loads((folder / "iterations" / f"{k:04d}" / "iteration.json").read_text())
        for k in range(result["iterations"] + 1)
    ]
    begun, relayed = 0, 0
    for before, now in itertools.pairwise(history):
        for walker, task in enumerate(now["walkers"]):
            last = before["walkers"][walker] if before["walkers"] else None
            if last and last["reason"] == "uncertain" and last["step"] > 0:
                relayed += 1
                assert (task["first_step"], task["start"]) == (last["step"], last["start"])
                at = [folder / "iterations" / f"{it['number']:04d}" / f"walker{walker}" for it in (before, now)]
                selected, first = ase.io.read(at[0] / "selected.extxyz"), ase.io.read(at[1] / "trajectory.extxyz", 0)
                assert first.info["step"] == last["step"]
                assert np.allclose(first.positions, selected.positions, atol=1e-6)
            else:
                assert (task["first_step"], task["start"]) == (0, begun % 8)
                begun += 1
    assert relayed > 0


def test_tolerance_begins_wide_and_narrows(initial_file, tmp_path):
    """Every trajectory that holds lowers it by a fifth; only those at the final one count."""
    result = run(
        initial_file,
        tmp_path / "run",
        md={"tolerance": 4.0, "steps": 10},
        first_tolerance=7.0,
        converged_after=2,
        walkers=1,
    )
    tolerances = [
        json.loads((tmp_path / "run" / "iterations" / f"{k:04d}" / "iteration.json").read_text())["tolerance"]
        for k in range(1, result["iterations"] + 1)
    ]
    assert tolerances == pytest.approx([7.0, 5.6, 4.48, 4.0, 4.0])
    assert result["converged"]
    assert result["ended"] == "the tolerance holds"
    settings = HALSettings.from_mapping(values_of(initial_file, tmp_path, md={"tolerance": 0.2}))
    assert settings.tolerance_after(0) == pytest.approx(0.6)
    assert settings.tolerance_after(50) == 0.2
    with pytest.raises(ConfigurationError, match=r"first_tolerance is 0\.1; it must not"):
        HALSettings.from_mapping(
            {**values_of(initial_file, tmp_path), "first_tolerance": 0.1, "md": {"tolerance": 0.2}}
        )


def test_processes_give_what_one_process_gives(finished, initial_file, tmp_path):
    """Any executor will do; here a pool of two."""
    from halberd.samplers.runs.processes import make_executor

    with make_executor(2) as pool:
        run(initial_file, tmp_path / "run", pool)
    assert database(tmp_path / "run") == database(finished[1])


def test_quiet_walkers_converge(initial_file, tmp_path):
    quiet = {"tolerance": 5.0, "steps": 10}
    result = run(initial_file, tmp_path / "run", md=quiet, first_tolerance=5.0, converged_after=3)
    assert result["converged"]
    assert result["ended"] == "the tolerance holds"
    assert (result["iterations"], result["n_labels"]) == (2, 8)


def test_degree_is_selected_and_exact_sigma_drives(initial_file, tmp_path):
    result = run(
        initial_file,
        tmp_path / "run",
        model={"select_degrees": [4, 5, 6], "select_every": 1, "sigma": "exact"},
        max_iterations=1,
    )
    assert result["iterations"] == 1
    iteration = json.loads((tmp_path / "run" / "iterations" / "0001" / "iteration.json").read_text())
    assert iteration["drive"].endswith("drive.pt")
    assert iteration["n_functions"] > 0


@pytest.mark.long
def test_last_layer_of_a_mace(mace_files, ethanol, tmp_path):
    frames = []
    for seed in range(4):
        atoms = ethanol.copy()
        atoms.rattle(0.05, seed=seed)
        frames.append(atoms)
    ase.io.write(tmp_path / "initial.xyz", frames)
    values = values_of(
        tmp_path / "initial.xyz",
        tmp_path / "run",
        label={"calculator": "halberd", "kwargs": {"model": str(mace_files["member0"])}},
        md={"steps": 10, "timestep": 0.2, "temperature": 100.0, "swap_interval": 0, "tolerance": 0.2},
        max_iterations=2,
    )
    values["model"] = {"kind": "last_layer", "base": str(mace_files["scale-shift"]), "committee": 4}
    result = run_hal(HALSettings.from_mapping(values), progress=False)
    assert result["n_labels"] >= 4
    assert result["errors"]["fit"]["n_frames"] >= 4


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": {"basis": {**BASIS, "degree": 16, "order": 3}}}, ConfigurationError, "too few for a basis of"),
        ({"model": {"basis": {"cutof": 4.0}}}, ConfigurationError, "Unknown key 'cutof' in basis. Did you mean"),
        (
            {"model": {"kind": "last_layer"}},
            ConfigurationError,
            "basis belongs to kind .ace., and kind is .last_layer.|needs the MACE",
        ),
        ({"md": {"min_distance": 3.0}}, GeometryError, r"Start 0 \(from 0\) cannot be used: atoms"),
        ({"md": {"tau_rel": 3.0}}, ConfigurationError, "tau_rel is 3.0"),
        ({"md": {"tolerance": -1.0}}, ConfigurationError, "tolerance is -1.0"),
        ({"md": {"temprature": 1.0}}, ConfigurationError, "Unknown key 'temprature' in 'md' of the settings. Did you"),
        ({"label": {"command": "nonesuch {input} {output}", "calculator": None}}, ConfigurationError, "is not found"),
        ({"walkers": 0}, ConfigurationError, "walkers is 0"),
        ({"test_fraction": 1.0}, ConfigurationError, "test_fraction is 1.0"),
        ({"seed": "one"}, ConfigurationError, "seed is 'one'"),
        ({"starts": "nothing.xyz"}, DataError, "does not exist"),
    ],
)
def test_bad_input(initial_file, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run(initial_file, tmp_path / "run", **changes)


def test_elements_missing_from_the_initial_frames(initial_file, tmp_path):
    atoms = copper_gold(0)
    atoms.numbers[3] = 13
    ase.io.write(tmp_path / "starts.xyz", atoms)
    with pytest.raises(ConfigurationError, match="Start 0 holds Al, which no initial frame has"):
        HyperactiveLearning(
            HALSettings.from_mapping(values_of(initial_file, tmp_path, starts=str(tmp_path / "starts.xyz")))
        )


def test_paths_in_a_file_are_relative_to_it(tmp_path):
    (tmp_path / "label it.sh").write_text("")
    label = {"command": "bash 'label it.sh' --in={input} {output}"}
    (tmp_path / "hal.yaml").write_text(yaml.safe_dump({"initial": "a.xyz", "output": "out", "label": label}))
    settings = HALSettings.from_file(tmp_path / "hal.yaml", {"seed": 5})
    assert settings.initial == str(tmp_path / "a.xyz")
    assert settings.output == str(tmp_path / "out")
    assert settings.seed == 5
    words = [word.format(input="I", output="O") for word in shlex.split(settings.label.command)]
    assert words == ["bash", str(tmp_path / "label it.sh"), "--in=I", "O"]


def test_command_line(initial_file, tmp_path, capsys, monkeypatch):
    (tmp_path / "hal.yaml").write_text(yaml.safe_dump(values_of(initial_file, "out", max_iterations=1)))
    code, out, err = call(capsys, monkeypatch, "hal", tmp_path / "hal.yaml", "--max-labels", 9)
    assert code == 0
    assert "ended because" in out
    assert "initial frames" in err
    assert (tmp_path / "out" / "model.pt").exists()
    code, _, err = call(capsys, monkeypatch, "hal", tmp_path / "hal.yaml", "--seed", 4)
    assert code == 2
    assert "settings.seed was 3 and is 4" in err
    (tmp_path / "bad.yaml").write_text("initial: x.xyz\nlable: {}\n")
    code, _, err = call(capsys, monkeypatch, "hal", tmp_path / "bad.yaml")
    assert code == 2
    assert "Unknown key 'lable'" in err
    assert "Did you mean 'label'?" in err
