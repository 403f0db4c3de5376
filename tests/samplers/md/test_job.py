"""Everything around a run: stages, ensembles, masses, time steps, watching, biases, and ends of every kind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import ase.io
import mdtraj
import numpy as np
import pytest
from ase.build import molecule

from halberd.potentials.errors import ConfigurationError, OutputError, RestartError
from halberd.samplers.md.production import run_md
from halberd.samplers.md.run import MolecularDynamics
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.runs.log import mean_and_error, read_log
from halberd.samplers.runs.restart import InexactRestartWarning
from tests.samplers.md.conftest import METAD, dimer, launched, rows_of, settings, wait_for, written

# -- stages and ensembles ---------------------------------------------------------------------------------------


STAGES = [
    {"steps": 60, "ensemble": "NVT", "temperature": 5.0, "temperature_end": 40.0, "friction": 10.0},
    {"steps": 40, "ensemble": "NPT", "pressure": 500.0},
]


def test_stages_lead_into_each_other(argon, tmp_path):
    result = run_md(settings(argon, tmp_path, steps=40, equilibration=STAGES, minimize=True), progress=False)
    assert result["complete"]
    out = tmp_path / "out"
    first, second = out / "equilibration-1", out / "equilibration-2"
    for folder in (first, second, out):
        assert (folder / "log.csv").exists()
        assert (folder / "restart.zip").exists()
    warming = read_log(first / "log.csv")["temperature_K"]
    assert warming[0] < 15 < warming[-1]
    assert read_log(second / "log.csv")["volume_nm3"].std() > 0
    # The run starts in the box and at the time zero, with the velocities of the last stage.
    volume = read_log(second / "log.csv")["volume_nm3"][-1]
    assert read_log(out / "log.csv")["volume_nm3"][0] == pytest.approx(volume, rel=1e-9)
    assert list(read_log(out / "log.csv")["step"]) == [0, 10, 20, 30, 40]
    assert read_log(out / "log.csv")["time_ps"][1] == pytest.approx(0.02)


def test_a_stage_that_was_killed_before_its_report_gets_one(argon, tmp_path):
    """The report comes after the last checkpoint."""
    run = settings(argon, tmp_path, steps=20, equilibration=STAGES)
    run_md(run, progress=False)
    stage = tmp_path / "out" / "equilibration-2"
    (tmp_path / "out" / "restart.zip").unlink()
    for name in ("log.csv", "trajectory.dcd", "frames.extxyz"):
        (tmp_path / "out" / name).unlink(missing_ok=True)
    before = (stage / "log.csv").read_bytes()
    for name in ("report.json", "run.png"):
        (stage / name).unlink()
    assert run_md(run, restart=True, progress=False)["complete"]
    assert json.loads((stage / "report.json").read_text())["complete"]
    assert (stage / "run.png").exists()
    assert (stage / "log.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("number", "changed", "named"),
    [
        (0, {"temperature_end": 50.0}, "temperature_end"),
        (0, {"friction": 9.0}, "friction"),
        (1, {"pressure": 400.0}, "pressure"),
        (1, {"steps": 30}, "number of steps"),
    ],
)
def test_stages_that_are_made_must_be_those_of_the_job(number, changed, named, argon, tmp_path):
    """Settings of stages were edited, or the structure exchanged, between equilibration and run."""
    run = settings(argon, tmp_path, steps=20, equilibration=STAGES)
    run_md(run, progress=False)
    for name in ("restart.zip", "log.csv", "trajectory.dcd", "frames.extxyz"):
        (tmp_path / "out" / name).unlink(missing_ok=True)
    edited = [dict(each) for each in STAGES]
    edited[number].update(changed)
    with pytest.raises(RestartError, match=f"its {named} is"):
        run_md(dataclasses.replace(run, equilibration=edited), restart=True, progress=False)
    moved = ase.io.read(argon["structure"])
    moved.positions[0, 0] += 0.01
    ase.io.write(tmp_path / "moved.xyz", moved, format="extxyz")
    with pytest.raises(RestartError, match="its structure is"):
        run_md(dataclasses.replace(run, structure=str(tmp_path / "moved.xyz")), restart=True, progress=False)
    assert run_md(run, restart=True, progress=False)["complete"]


def test_a_longer_stage_is_gone_on_with_only_while_it_is_the_last(argon, tmp_path):
    run = settings(argon, tmp_path, steps=20, equilibration=[{"steps": 20}, {"steps": 20}])
    run_md(run, progress=False)
    for name in ("restart.zip", "log.csv", "trajectory.dcd", "frames.extxyz"):
        (tmp_path / "out" / name).unlink()
    longer = dataclasses.replace(run, equilibration=[{"steps": 40}, {"steps": 20}])
    with pytest.raises(RestartError, match="its number of steps is 20, this run has 40"):
        run_md(longer, restart=True, progress=False)
    longer = dataclasses.replace(run, equilibration=[{"steps": 20}, {"steps": 40}])
    assert run_md(longer, restart=True, progress=False)["complete"]
    assert list(read_log(tmp_path / "out" / "equilibration-2" / "log.csv")["step"]) == [0, 10, 20, 30, 40]


def test_an_npt_run_that_ends_between_checkpoints_says_what_it_loses(argon, tmp_path, monkeypatch):
    """OpenMM does not store the barostat's random stream; at checkpoints of the schedule it is started anew anyway."""
    from halberd.samplers.runs import interruption

    run = settings(argon, tmp_path, steps=120, ensemble="NPT", checkpoint_interval=40, barostat_interval=1)
    for looks, exact in ((4, True), (6, False)):
        pieces = dataclasses.replace(run, output=str(tmp_path / f"after-{looks}"))
        monkeypatch.setattr(interruption.Interruption, "reason", property(_after(looks)))
        stopped = run_md(pieces, progress=False)
        monkeypatch.undo()
        assert (stopped["steps"] % 40 == 0) is exact
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert run_md(pieces, restart=True, progress=False)["complete"]
        said = [str(each.message) for each in caught if each.category is InexactRestartWarning]
        assert len(said) == (0 if exact else 1)
    whole = dataclasses.replace(run, output=str(tmp_path / "whole"))
    run_md(whole, progress=False)
    logs = [(tmp_path / name / "log.csv").read_bytes() for name in ("whole", "after-4", "after-6")]
    assert logs[0] == logs[1] != logs[2]


def test_a_stop_within_the_equilibration_is_gone_on_with(argon, tmp_path, monkeypatch):
    """Stopped in the second stage by the clock; the continued job makes the files of an uninterrupted one."""
    common = {"equilibration": STAGES, "checkpoint_interval": 10}
    whole = settings(argon, tmp_path, steps=40, output=str(tmp_path / "whole"), **common)
    run_md(whole, progress=False)
    pieces = dataclasses.replace(whole, output=str(tmp_path / "out"))
    from halberd.samplers.runs import interruption

    monkeypatch.setattr(interruption.Interruption, "reason", property(_after(9)))
    result = run_md(pieces, progress=False)
    monkeypatch.undo()
    assert result["stage"] == 2
    assert not result["complete"]
    run_md(pieces, start_or_restart=True, progress=False)
    for file in ("log.csv", "equilibration-1/log.csv", "equilibration-2/log.csv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "out" / file).read_bytes(), file


def _after(looks: int):
    """A reason to stop from some look on."""
    seen = []

    def reason(self):
        seen.append(1)
        return "the test says so" if len(seen) >= looks else None

    return reason


@pytest.mark.parametrize("barostat", ["anisotropic", "flexible"])
def test_cells_of_other_barostats(barostat, argon, tmp_path):
    pressure = [100.0, 200.0, 4000.0] if barostat == "anisotropic" else 1.0
    run = settings(
        argon, tmp_path, steps=600, ensemble="NPT", barostat=barostat, pressure=pressure, barostat_interval=2,
        reporters=["dcd", "xtc"], friction=5.0,
    )  # fmt: skip
    run_md(run, progress=False)
    out = tmp_path / "out"
    trajectory = mdtraj.load(out / "trajectory.dcd", top=out / "topology.pdb")
    lengths, angles = trajectory.unitcell_lengths[-20:].mean(0), trajectory.unitcell_angles[-20:]
    if barostat == "anisotropic":
        assert lengths[2] < lengths[:2].min() - 0.005  # squeezed along z
        np.testing.assert_allclose(angles, 90.0, atol=1e-3)
    else:
        assert np.abs(angles - 90.0).max() > 0.05
    xtc = mdtraj.load(out / "trajectory.xtc", top=out / "topology.pdb")
    np.testing.assert_allclose(xtc.xyz, trajectory.xyz, atol=2e-3)


def test_hydrogens_get_mass_from_their_neighbours(tmp_path):
    ase.io.write(tmp_path / "ethanol.xyz", molecule("CH3CH2OH"))
    common = {
        "structure": str(tmp_path / "ethanol.xyz"),
        "output": str(tmp_path / "out"),
        "force": {"precision": "single"},
    }
    run = MolecularDynamics(MDSettings.from_mapping({**common, "hydrogen_mass": 3.0}))
    masses = np.array([run.system.getParticleMass(i)._value for i in range(9)])
    plain = MolecularDynamics(MDSettings.from_mapping(common))
    before = np.array([plain.system.getParticleMass(i)._value for i in range(9)])
    hydrogens = before < 2
    np.testing.assert_allclose(masses[hydrogens], 3.0)
    assert masses.sum() == pytest.approx(before.sum())
    assert sorted(np.round(before - masses)[~hydrogens]) == [2.0, 4.0, 6.0]  # of OH, CH2, CH3
    with pytest.raises(ConfigurationError, match=r"atom 0 \(C\) would be left with"):
        MolecularDynamics(MDSettings.from_mapping({**common, "hydrogen_mass": 4.5}))


def test_multiple_time_steps_follow_the_model(argon, tmp_path):
    """Forces of both groups add up to the model's; with one inner step the dynamics are velocity Verlet's."""
    plain = MolecularDynamics(settings(argon, tmp_path, ensemble="NVE"))
    split = MolecularDynamics(
        settings(argon, tmp_path, ensemble="NVE", fast_model=str(tmp_path / "softer.pt"), inner_steps=1)
    )
    rattled = plain.positions + 0.01 * np.random.default_rng(0).standard_normal(plain.positions.shape)
    forces = []
    for run in (plain, split):
        run.simulation.context.setPositions(rattled)
        forces.append(run.simulation.context.getState(forces=True).getForces(asNumpy=True)._value)
    np.testing.assert_allclose(forces[0], forces[1], atol=1e-6)
    fast = split.simulation.context.getState(forces=True, groups={1}).getForces(asNumpy=True)._value
    assert 0.5 < np.linalg.norm(fast) / np.linalg.norm(forces[0]) < 1.5
    velocities = []
    for run in (plain, split):
        # OpenMM's Verlet is leapfrog: start it half a step late.
        context = run.simulation.context
        start = -0.001 * forces[0] / 39.948 if run is plain else np.zeros_like(forces[0])
        context.setVelocities(start)
        context.getIntegrator().step(50)
        velocities.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
    np.testing.assert_allclose(velocities[0], velocities[1], atol=1e-7)


def test_multiple_time_steps_conserve_energy_and_restart(argon, tmp_path):
    fast = {"fast_model": str(tmp_path / "softer.pt"), "inner_steps": 4}
    nve = settings(argon, tmp_path, steps=400, timestep=8.0, ensemble="NVE", output=str(tmp_path / "nve"), **fast)
    result = run_md(nve, progress=False)
    assert abs(result["drift"]) < 2e-5  # eV per atom and ps
    whole = settings(argon, tmp_path, steps=80, output=str(tmp_path / "whole"), checkpoint_interval=40, **fast)
    run_md(whole, progress=False)
    run_md(dataclasses.replace(whole, steps=40, output=str(tmp_path / "out")), progress=False)
    run_md(dataclasses.replace(whole, output=str(tmp_path / "out")), restart=True, progress=False)
    assert (tmp_path / "whole" / "log.csv").read_bytes() == (tmp_path / "out" / "log.csv").read_bytes()


# -- ends ---------------------------------------------------------------------------------------------------------


def test_sigterm_ends_a_run_with_a_checkpoint(argon, tmp_path):
    """A queue ends the job; the same command goes on and arrives where an uninterrupted run does."""
    run = settings(argon, tmp_path, steps=100_000, checkpoint_interval=10_000, output=str(tmp_path / "out"))
    config = written(tmp_path, run)
    process = launched(config, "--continue")
    wait_for(tmp_path / "out" / "log.csv", process)
    time.sleep(0.7)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    report = json.loads(out)
    assert not report["complete"]
    assert "SIGTERM" in report["stopped"]
    done = report["steps"]
    assert 0 < done < 100_000
    run_md(dataclasses.replace(run, steps=done + 40), start_or_restart=True, progress=False)
    run_md(dataclasses.replace(run, steps=done + 40, output=str(tmp_path / "whole")), progress=False)
    assert (tmp_path / "out" / "log.csv").read_bytes() == (tmp_path / "whole" / "log.csv").read_bytes()


FULL_DISK = """
import sys
from pathlib import Path
import warnings
warnings.simplefilter("ignore")
from halberd.potentials.errors import OutputError
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.md.production import run_md
settings = MDSettings.from_file(sys.argv[1])
try:
    run_md(settings, progress=False)
except OutputError as error:
    print("OutputError:", error)
else:
    sys.exit("nothing happened")
(Path(settings.output).parent / "ballast").unlink()
from dataclasses import replace
from halberd.samplers.runs.restart import read_checkpoint
step = read_checkpoint(Path(settings.output) / "restart.zip").step
print("step", step)
result = run_md(replace(settings, steps=step + 40), restart=True, progress=False)
print("complete", result["complete"])
"""


def test_a_full_disk(argon, tmp_path):
    """A small tmpfs runs full in the middle: one clear error, and the last checkpoint is good once there is room."""
    place = tmp_path / "small"
    place.mkdir()
    run = settings(
        argon, tmp_path, steps=200_000, report_interval=10, checkpoint_interval=100, output=str(place / "out")
    )
    config = written(tmp_path, run)
    script = f'mount -t tmpfs -o size=3m tmpfs {place} && head -c 2000000 /dev/zero > {place}/ballast && exec "$@"'
    command = ["sh", "-c", script, "sh", sys.executable, "-W", "ignore", "-c", FULL_DISK, str(config)]
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    probe = subprocess.run([*namespace, "sh", "-c", f"mount -t tmpfs tmpfs {place}"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this machine allows nobody to mount a tmpfs")
    result = subprocess.run([*namespace, *command], capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "No space left" in result.stdout
    assert "--restart" in result.stdout
    assert "complete True" in result.stdout


def test_full_device_without_a_mount(argon, tmp_path):
    """The same for one file alone, on any Linux."""
    run = settings(argon, tmp_path, steps=400, reporters=["csv", "extxyz"], checkpoint_interval=20)
    prepared = MolecularDynamics(run)
    (tmp_path / "out").mkdir()

    class Fill:
        def describeNextReport(self, simulation):
            return {"steps": 100 - simulation.currentStep % 100, "periodic": None, "include": []}

        def report(self, simulation, state):
            for reporter in simulation.reporters:
                if hasattr(reporter, "_out"):
                    reporter._out.close()
                    reporter._out = open("/dev/full", "w")  # noqa: SIM115

    prepared.simulation.reporters.append(Fill())
    with pytest.raises(OutputError, match="No space left"):
        prepared.run(progress=False)
    run_md(dataclasses.replace(run, steps=140), restart=True, progress=False)
    assert list(read_log(tmp_path / "out" / "log.csv")["step"]) == list(range(0, 150, 10))


def test_a_folder_that_becomes_read_only(argon, tmp_path):
    if os.geteuid() == 0:
        # Nobody forbids root anything: take the folder away instead.
        prepared = MolecularDynamics(settings(argon, tmp_path, steps=200, checkpoint_interval=50))

        class Remove:
            def describeNextReport(self, simulation):
                return {"steps": 70 - simulation.currentStep % 70, "periodic": None, "include": []}

            def report(self, simulation, state):
                (tmp_path / "out").rename(tmp_path / "elsewhere")

        prepared.simulation.reporters.append(Remove())
        with pytest.raises(OutputError, match=r"restart.zip.*does not exist"):
            prepared.run(progress=False)
        (tmp_path / "elsewhere").rename(tmp_path / "out")
    else:
        run_md(settings(argon, tmp_path, steps=50, checkpoint_interval=50), progress=False)
        (tmp_path / "out").chmod(0o555)
        try:
            with pytest.raises(OutputError, match="permission denied"):
                run_md(settings(argon, tmp_path, steps=100, checkpoint_interval=50), restart=True, progress=False)
        finally:
            (tmp_path / "out").chmod(0o755)
    result = run_md(settings(argon, tmp_path, steps=100, checkpoint_interval=50), restart=True, progress=False)
    assert result["complete"]


def test_checkpoints_by_the_clock_and_a_time_limit(argon, tmp_path):
    run = settings(argon, tmp_path, steps=1_000_000, checkpoint_interval=1_000_000, max_hours=2.0 / 3600)
    result = run_md(dataclasses.replace(run, checkpoint_minutes=0.3 / 60), progress=False)
    assert not result["complete"]
    assert "max_hours" in result["stopped"]
    assert result["ns_per_day"] > 0
    done = result["steps"]
    result = run_md(dataclasses.replace(run, steps=done + 20), restart=True, progress=False)
    assert result["steps"] == done + 20


@pytest.mark.parametrize("step", [5, 55])
def test_killed_before_a_file_is_known_to_a_checkpoint(step, unsure, tmp_path):
    """Before the first checkpoint, and between a checkpoint and the next one when a new file was begun."""
    (tmp_path / "plumed.dat").write_text(METAD)
    run = settings(
        {**unsure, **dimer(tmp_path)}, tmp_path, steps=100, checkpoint_interval=50, report_interval=5,
        watch={"interval": 53, "action": "save", "threshold": 0.0}, plumed=str(tmp_path / "plumed.dat"),
        reporters=["csv", "xtc", "dcd"],
    )  # fmt: skip
    run_md(dataclasses.replace(run, output=str(tmp_path / "whole")), progress=False)
    prepared = MolecularDynamics(run)

    class Killed(BaseException):
        pass

    class Kill:
        def describeNextReport(self, simulation):
            return {"steps": step - simulation.currentStep % step, "periodic": None, "include": []}

        def report(self, simulation, state):
            raise Killed

    attach = prepared._attach_reporters

    def attach_and_kill():
        attach()
        prepared.simulation.reporters.append(Kill())

    prepared._attach_reporters = attach_and_kill
    with pytest.raises(Killed):
        prepared.run(progress=False)
    assert run_md(run, start_or_restart=True, progress=False)["complete"]
    whole, found = (read_log(tmp_path / name / "log.csv") for name in ("whole", "out"))
    for column in whole:
        np.testing.assert_allclose(found[column], whole[column], rtol=1e-6, err_msg=column)
    assert [frame.info["step"] for frame in ase.io.read(tmp_path / "out" / "uncertain.extxyz", ":")] == [53]
    assert len((tmp_path / "out" / "uncertainty.csv").read_text().splitlines()) == 2
    for file in ("COLVAR", "HILLS"):
        np.testing.assert_allclose(rows_of(tmp_path / "whole" / file), rows_of(tmp_path / "out" / file), atol=1e-6)
    for file in ("trajectory.xtc", "trajectory.dcd"):
        assert len(mdtraj.load(tmp_path / "out" / file, top=tmp_path / "out" / "topology.pdb")) == 21


def test_a_run_shorter_than_its_report_interval(argon, tmp_path):
    result = run_md(settings(argon, tmp_path, steps=5, report_interval=10), progress=False)
    assert result["complete"]
    assert result["figure"] is None
    assert result["mean"]["temperature_K"] is None


def test_continuing_where_nothing_is(argon, tmp_path):
    with pytest.raises(RestartError, match="no restart file"):
        run_md(settings(argon, tmp_path, steps=20), restart=True, progress=False)
    assert run_md(settings(argon, tmp_path, steps=20), start_or_restart=True, progress=False)["complete"]
    assert run_md(settings(argon, tmp_path, steps=40), start_or_restart=True, progress=False)["steps"] == 40


# -- long -------------------------------------------------------------------------------------------------------------


MEMORY = """
import resource, sys, warnings
warnings.simplefilter("ignore")
from halberd.samplers.md.run import MolecularDynamics
from halberd.samplers.md.settings import MDSettings
settings = MDSettings.from_file(sys.argv[1])
run = MolecularDynamics(settings)
def resident():
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * resource.getpagesize() / 2**20
marks = []
inner = run._advance
def counted(steps):
    result = inner(steps)
    if run.simulation.currentStep % 5000 == 0:
        marks.append(resident())
    return result
run._advance = counted
run.run(progress=False)
print(*marks)
"""


@pytest.mark.long
@pytest.mark.physical
def test_memory_does_not_grow(argon, tmp_path):
    """50,000 steps with a bias, a watching committee, frames and checkpoints."""
    (tmp_path / "plumed.dat").write_text(
        "d: DISTANCE ATOMS=1,2\nRESTRAINT ARG=d AT=0.4 KAPPA=10\nPRINT ARG=d FILE=COLVAR STRIDE=100"
    )
    run = settings(
        {**argon, **dimer(tmp_path)}, tmp_path, steps=50_000, report_interval=500, checkpoint_interval=2500,
        plumed=str(tmp_path / "plumed.dat"),
        watch={"interval": 500, "threshold": 1e3, "model": [argon["model"], str(tmp_path / "softer.pt")]},
    )  # fmt: skip
    config = written(tmp_path, run)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY, str(config)], capture_output=True, text=True, check=True
    )
    marks = [float(word) for word in result.stdout.split()[-10:]]
    assert len(marks) == 10
    assert marks[-1] - marks[1] < 2.0, marks  # MB over 40,000 steps: below 50 bytes a step
    temperature, error = mean_and_error(read_log(tmp_path / "out" / "log.csv")["temperature_K"])
    assert np.isfinite(temperature)
    assert np.isfinite(error)
