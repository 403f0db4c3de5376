"""Runs from settings to report: files, restart, explosions."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys

import ase.io
import mdtraj
import numpy as np
import openmm
import pytest
import yaml
from ase import Atoms
from ase.build import molecule
from openmm import app, unit

from halberd.plugins.forces.topology import read_structure, topology_from_atoms
from halberd.plugins.reporters.extxyz import ExtXYZReporter
from halberd.potentials.errors import (
    ConfigurationError,
    DataError,
    GeometryError,
    OutputError,
    RestartError,
    StabilityError,
)
from halberd.potentials.sites.lennard_jones import lennard_jones
from halberd.samplers.md.production import run_md
from halberd.samplers.md.run import MolecularDynamics
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.runs.log import energy_drift, mean_and_error, read_log
from tests.samplers.md.conftest import settings


def test_files_and_report(argon, tmp_path):
    result = run_md(settings(argon, tmp_path, steps=100, report_interval=20, ensemble="NPT"), progress=False)
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {
        "topology.pdb", "log.csv", "trajectory.dcd", "frames.extxyz", "restart.zip", "report.json", "run.png", ".lock",
    }  # fmt: skip
    assert set(result) >= {"trajectory", "steps", "us_per_atom_step", "mean", "drift"}
    assert set(result["mean"]) == {"temperature_K", "pressure_bar", "density_g_cm3"}
    trajectory = mdtraj.load(out / "trajectory.dcd", top=out / "topology.pdb")
    frames = ase.io.read(out / "frames.extxyz", ":")
    assert trajectory.n_frames == len(frames) == 6
    np.testing.assert_allclose(trajectory.xyz[-1] * 10, frames[-1].positions, atol=1e-4)
    # The first is where it started: modulo the box, which OpenMM wraps molecules into.
    start = ase.io.read(argon["structure"])
    offsets = (frames[0].positions - start.positions) @ np.linalg.inv(start.cell.array)
    np.testing.assert_allclose(offsets, np.rint(offsets), atol=1e-6)
    np.testing.assert_allclose(trajectory.unitcell_lengths[-1] * 10, frames[-1].cell.lengths(), atol=1e-4)
    log = read_log(out / "log.csv")
    assert list(log["step"]) == [0, 20, 40, 60, 80, 100]
    assert result["mean"]["temperature_K"] == pytest.approx(log["temperature_K"][1:].mean())
    # mass / volume, by hand
    volume = frames[-1].get_volume()
    assert log["density_g_cm3"][-1] == pytest.approx(32 * 39.948 * 1.66053907 / volume, rel=1e-4)
    energy = frames[-1].get_potential_energy() * 96.48533212
    assert log["potential_kj_mol"][-1] == pytest.approx(energy, rel=1e-6)
    report = json.loads((out / "report.json").read_text())
    assert report["settings"]["temperature"] == 40.0


def test_binary_trajectories_count_from_step_zero(argon, tmp_path):
    run = settings(argon, tmp_path, steps=40, report_interval=10, timestep=2.0, reporters=["dcd", "xtc"])
    run_md(run, progress=False)
    run_md(dataclasses.replace(run, steps=60), restart=True, progress=False)
    out = tmp_path / "out"
    header = (out / "trajectory.dcd").read_bytes()[8:24]
    assert struct.unpack("<4i", header) == (7, 0, 10, 60)  # frames, first step, interval, last step
    times = mdtraj.load(out / "trajectory.xtc", top=out / "topology.pdb").time
    np.testing.assert_allclose(times, 0.02 * np.arange(7), atol=1e-6)


def test_mean_pressure_is_the_barostats(argon, tmp_path):
    """The logged virial pressure and OpenMM's Monte Carlo barostat agree."""
    run = settings(
        argon, tmp_path, steps=6000, ensemble="NPT", pressure=2000.0, timestep=4.0, friction=5.0,
        barostat_interval=5, reporters=["csv"], temperature=60.0,
    )  # fmt: skip
    run_md(run, progress=False)
    pressures = read_log(tmp_path / "out" / "log.csv")["pressure_bar"][150:]
    mean, error = mean_and_error(pressures)
    assert error < 150
    assert abs(mean - 2000) < 3.5 * error


def test_extended_xyz_has_the_models_energies_and_forces(argon, tmp_path):
    run_md(settings(argon, tmp_path, steps=20, report_interval=10), progress=False)
    from halberd.plugins import HalberdCalculator

    frame = ase.io.read(tmp_path / "out" / "frames.extxyz", -1)
    results = HalberdCalculator(argon["model"]).evaluate(Atoms(frame.symbols, frame.positions, cell=frame.cell, pbc=1))
    assert frame.get_potential_energy() == pytest.approx(results["energy"], abs=1e-6)
    np.testing.assert_allclose(frame.get_forces(), results["forces"], atol=1e-6)
    assert frame.info["step"] == 20


def test_same_seed_same_bits(argon, tmp_path):
    ends = []
    for name in ("a", "b", "c"):
        seed = 3 if name != "c" else 4
        run_md(
            settings(argon, tmp_path, output=str(tmp_path / name), steps=60, report_interval=20, seed=seed),
            progress=False,
        )
        ends.append((tmp_path / name / "log.csv").read_bytes())
    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize("ensemble", ["NVE", "NVT", "NPT"])
def test_killed_run_resumes_to_the_same_files(ensemble, argon, tmp_path):
    """Stop between checkpoints, with rows and frames beyond the last one; the restarted run equals the whole one."""
    common = {"ensemble": ensemble, "report_interval": 10, "checkpoint_interval": 40, "barostat_interval": 4}
    run_md(settings(argon, tmp_path, output=str(tmp_path / "whole"), steps=120, **common), progress=False)
    interrupted = MolecularDynamics(settings(argon, tmp_path, steps=120, **common))

    class Killed(BaseException):
        pass

    class Kill:
        def describeNextReport(self, simulation):
            return {"steps": 75 - simulation.currentStep % 75, "periodic": None, "include": []}

        def report(self, simulation, state):
            raise Killed

    interrupted.simulation.reporters.append(Kill())
    with pytest.raises(Killed):
        interrupted.run(progress=False)
    out = tmp_path / "out"
    assert len(read_log(out / "log.csv")["step"]) == 8  # beyond the checkpoint at 40
    run_md(settings(argon, tmp_path, steps=120, **common), restart=True, progress=False)
    for name in ("log.csv", "frames.extxyz"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    whole, resumed = (
        mdtraj.load(folder / "trajectory.dcd", top=folder / "topology.pdb") for folder in (tmp_path / "whole", out)
    )
    np.testing.assert_array_equal(whole.xyz, resumed.xyz)
    assert (out / "trajectory.dcd").stat().st_size == (tmp_path / "whole" / "trajectory.dcd").stat().st_size


def test_restart_extends_a_finished_run(argon, tmp_path):
    run_md(settings(argon, tmp_path, steps=40), progress=False)
    run_md(settings(argon, tmp_path, steps=80), restart=True, progress=False)
    assert list(read_log(tmp_path / "out" / "log.csv")["step"])[-1] == 80


def test_restart_with_a_model_file_that_is_scripted_on_the_way(tmp_path, crystal, mace_files):
    """The fingerprint must not depend on whether the model was scripted when it was taken."""
    ase.io.write(tmp_path / "crystal.xyz", crystal, format="extxyz")
    common = {"structure": str(tmp_path / "crystal.xyz"), "model": str(mace_files["zbl"])}
    run = {**common, "output": str(tmp_path / "out"), "ensemble": "NVE", "timestep": 0.1, "reporters": ["csv"]}
    run_md(MDSettings.from_mapping({**run, "steps": 20}), progress=False)
    result = run_md(MDSettings.from_mapping({**run, "steps": 40}), restart=True, progress=False)
    assert result["steps"] == 40


def test_restart_of_another_system_is_refused(argon, tmp_path):
    run_md(settings(argon, tmp_path, steps=20), progress=False)
    before = (tmp_path / "out" / "log.csv").read_bytes()
    smaller = ase.io.read(argon["structure"])[:-1]
    ase.io.write(tmp_path / "smaller.xyz", smaller, format="extxyz")
    other = settings(argon, tmp_path, steps=40, structure=str(tmp_path / "smaller.xyz"))
    with pytest.raises(RestartError, match="belongs to another run"):
        run_md(other, restart=True, progress=False)
    with pytest.raises(RestartError, match=r"its temperature is 40.0, this run has 60.0"):
        run_md(settings(argon, tmp_path, steps=40, temperature=60.0), restart=True, progress=False)
    lennard_jones([18], epsilon=0.02).save(tmp_path / "other.pt")
    other_model = settings(argon, tmp_path, steps=40, model=str(tmp_path / "other.pt"))
    with pytest.raises(RestartError, match="its weights is"):
        run_md(other_model, restart=True, progress=False)
    assert (tmp_path / "out" / "log.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"structure": "moved.xyz"}, "structure"),
        ({"frame_sigma": True}, "frame_sigma"),
        ({"equilibration": [{"steps": 30}]}, "equilibration"),
        ({"equilibration": [{"steps": 20, "temperature": 41.0}]}, "equilibration"),
        ({"watch": {"interval": 10, "quantity": "sigma_per_atom"}}, "quantity of watch"),
        ({"variables": {"q": {"kind": "committee_sigma", "model": "softer.pt"}}}, "variables"),
        ({"fast_model": "softer.pt"}, "fast_model"),
        ({"watch": {"interval": 10, "model": ["lj.pt", "softer.pt"]}}, "model of watch"),
        ({"barostat_interval": 7}, "barostat_interval"),
    ],
)
def test_restart_with_other_settings_is_refused(changed, named, unsure, tmp_path):
    """What decides on numbers or columns belongs to a run; files count by what is in them."""
    moved = ase.io.read(unsure["structure"])
    moved.positions[0, 0] += 0.01
    ase.io.write(tmp_path / "moved.xyz", moved, format="extxyz")
    (tmp_path / "bias.dat").write_text("d: DISTANCE ATOMS=1,2\nq: EXTRACV NAME=q\nPRINT ARG=q STRIDE=10 FILE=q.dat\n")
    own = {
        "equilibration": [{"steps": 20}],
        "watch": {"interval": 10},
        "plumed": str(tmp_path / "bias.dat"),
        "variables": {"q": {"kind": "committee_sigma"}},
        "fast_model": unsure["model"][0],
    }
    run_md(settings(unsure, tmp_path, steps=20, **own), progress=False)
    before = (tmp_path / "out" / "log.csv").read_bytes()
    if "structure" in changed:
        changed = {"structure": str(tmp_path / "moved.xyz")}
    if "fast_model" in changed:
        changed = {"fast_model": str(tmp_path / "softer.pt")}
    if "model" in changed.get("watch", {}):
        changed = {"watch": {"interval": 10, "model": [str(tmp_path / name) for name in ("lj.pt", "softer.pt")]}}
    if "variables" in changed:
        changed = {"variables": {"q": {"kind": "committee_sigma", "model": [unsure["model"][0]] * 2}}}
    with pytest.raises(RestartError, match=f"its {named} is"):
        run_md(settings(unsure, tmp_path, steps=40, **{**own, **changed}), restart=True, progress=False)
    assert (tmp_path / "out" / "log.csv").read_bytes() == before


def test_a_folder_that_was_moved_holds_the_same_run(unsure, tmp_path):
    """The script names a file beside it, which PLUMED gets by its whole name."""
    place = tmp_path / "here"
    place.mkdir()
    system = ase.io.read(unsure["structure"])[:4]
    system.set_cell(None)
    system.pbc = False
    ase.io.write(place / "small.xyz", system, format="extxyz")
    topology, positions = topology_from_atoms(system)
    with open(place / "ref.pdb", "w") as handle:
        app.PDBFile.writeFile(topology, positions * unit.nanometer, handle)
    text = (place / "ref.pdb").read_text().splitlines()
    atoms = [f"{line[:54]}  1.00  1.00" for line in text if line.startswith(("ATOM", "HETATM"))]
    (place / "ref.pdb").write_text("\n".join([*atoms, "END"]) + "\n")
    (place / "p.dat").write_text("r: RMSD REFERENCE=ref.pdb TYPE=OPTIMAL\nPRINT ARG=r FILE=COLVAR STRIDE=10\n")
    values = {
        "structure": "small.xyz", "model": unsure["model"], "output": "out", "plumed": "p.dat", "steps": 20,
        "temperature": 40.0, "report_interval": 10,
    }  # fmt: skip
    (place / "run.yaml").write_text(yaml.safe_dump(values))
    run_md(MDSettings.from_file(place / "run.yaml"), progress=False)
    moved = place.rename(tmp_path / "there")
    longer = MDSettings.from_file(moved / "run.yaml", {"steps": 40})
    assert run_md(longer, restart=True, progress=False)["complete"]
    (moved / "ref.pdb").write_text((moved / "ref.pdb").read_text().replace("1.00  1.00", "1.00  0.50", 1))
    with pytest.raises(RestartError, match="its PLUMED script is"):
        run_md(MDSettings.from_file(moved / "run.yaml", {"steps": 60}), restart=True, progress=False)


def test_restart_from_another_place_is_the_same_run(unsure, tmp_path, monkeypatch):
    """Files that were moved together, a limit that was changed: nothing of that makes another run."""
    (tmp_path / "bias.dat").write_text("q: EXTRACV NAME=q\nPRINT ARG=q STRIDE=10 FILE=q.dat\n")
    own = {
        "plumed": "bias.dat",
        "variables": {"q": {"kind": "committee_sigma", "model": ["lj.pt", "softer.pt"]}},
        "fast_model": "softer.pt",
        "watch": {"interval": 10, "threshold": 5.0},
    }
    monkeypatch.chdir(tmp_path)
    run_md(settings(unsure, tmp_path, steps=20, **own), progress=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    own = {
        "plumed": "../bias.dat",
        "variables": {"q": {"kind": "committee_sigma", "model": ["../lj.pt", "../softer.pt"]}},
        "fast_model": "../softer.pt",
        "watch": {"interval": 20, "threshold": 9.0},
        "stability": {"temperature": 20},
    }
    assert run_md(settings(unsure, tmp_path, steps=40, **own), restart=True, progress=False)["complete"]


def test_damaged_and_missing_restart_files(argon, tmp_path):
    with pytest.raises(RestartError, match="no restart file"):
        run_md(settings(argon, tmp_path, steps=20), restart=True, progress=False)
    run_md(settings(argon, tmp_path, steps=20), progress=False)
    restart = tmp_path / "out" / "restart.zip"
    whole = restart.read_bytes()
    restart.write_bytes(whole[:200])
    with pytest.raises(RestartError, match="damaged"):
        run_md(settings(argon, tmp_path, steps=40), restart=True, progress=False)
    restart.write_bytes(whole)
    (tmp_path / "out" / "trajectory.dcd").unlink()
    with pytest.raises(RestartError, match="missing or shorter"):
        run_md(settings(argon, tmp_path, steps=40), restart=True, progress=False)


@pytest.mark.parametrize("backend", ["torchforce", "python"])
def test_a_structure_that_explodes_at_once_is_named_as_the_cause(backend, argon, tmp_path):
    atoms = ase.io.read(argon["structure"])
    atoms.positions[7] = atoms.positions[3]  # infinite energy, forces that are not a number
    ase.io.write(tmp_path / "bad.xyz", atoms, format="extxyz")
    wild = settings(argon, tmp_path, structure=str(tmp_path / "bad.xyz"), steps=50, force={"backend": backend})
    with pytest.raises(StabilityError, match=r"cannot start.*3 \(Ar\), 7 \(Ar\).*Mend the structure"):
        run_md(wild, progress=False)
    assert not (tmp_path / "out" / "last_good.extxyz").exists()


def test_an_explosion_from_outside_names_the_atoms_with_the_largest_forces(argon, tmp_path):
    """One atom is given a velocity that is not a number, in the middle of a run."""
    run = MolecularDynamics(settings(argon, tmp_path, steps=50, ensemble="NVE"))

    class Poison:
        def describeNextReport(self, simulation):
            return {"steps": 20 - simulation.currentStep % 20, "periodic": None, "include": []}

        def report(self, simulation, state):
            velocities = np.zeros((32, 3))
            velocities[5] = np.nan
            simulation.context.setVelocities(velocities)

    run.simulation.reporters.append(Poison())
    with pytest.raises(
        StabilityError, match=r"largest forces before it, up to \S+ eV/angstrom, were on atoms \d+ \(Ar\)"
    ):
        run.run(progress=False)
    assert (tmp_path / "out" / "last_good.extxyz").exists()


def test_one_atom_alone_is_no_run(argon, tmp_path):
    ase.io.write(tmp_path / "one.xyz", ase.Atoms("Ar"), format="extxyz")
    with pytest.raises(ConfigurationError, match="holds one atom"):
        run_md(settings(argon, tmp_path, structure=str(tmp_path / "one.xyz")), progress=False)


def test_the_placeholder_cell_of_pdb_files_is_no_cell(tmp_path):
    """Files from NMR and microscopy hold one of 1 angstrom, because the format wants a line."""
    atoms = molecule("CH3CH2OH")
    atoms.set_cell([1.0, 1.0, 1.0])
    atoms.pbc = True
    ase.io.write(tmp_path / "nmr.pdb", atoms)
    lines = (tmp_path / "nmr.pdb").read_text().splitlines()
    assert lines[0].startswith("CRYST1    1.000    1.000    1.000")
    topology, positions = read_structure(tmp_path / "nmr.pdb")  # names repeat, so ASE reads it
    assert topology.getPeriodicBoxVectors() is None
    np.testing.assert_allclose(10 * positions, atoms.positions, atol=1e-3)
    topology, positions = topology_from_atoms(molecule("CH3CH2OH"))
    topology.setPeriodicBoxVectors(0.1 * np.eye(3))
    with open(tmp_path / "named.pdb", "w") as handle:
        app.PDBFile.writeFile(topology, positions * unit.nanometer, handle)
    assert "1.000" in (tmp_path / "named.pdb").read_text().splitlines()[1]
    assert read_structure(tmp_path / "named.pdb")[0].getPeriodicBoxVectors() is None
    topology.setPeriodicBoxVectors(2.0 * np.eye(3))
    with open(tmp_path / "named.pdb", "w") as handle:
        app.PDBFile.writeFile(topology, positions * unit.nanometer, handle)
    assert read_structure(tmp_path / "named.pdb")[0].getPeriodicBoxVectors() is not None


def test_bad_structures(argon, tmp_path):
    atoms = ase.io.read(argon["structure"])
    atoms.positions[3, 0] = np.nan
    ase.io.write(tmp_path / "nan.xyz", atoms, format="extxyz")
    with pytest.raises(GeometryError, match=r"not finite, the first are 3 \(Ar\)"):
        MolecularDynamics(settings(argon, tmp_path, structure=str(tmp_path / "nan.xyz")))
    slab = ase.io.read(argon["structure"])
    slab.pbc = [True, True, False]
    ase.io.write(tmp_path / "slab.xyz", slab, format="extxyz")
    with pytest.raises(ConfigurationError, match="three directions or none"):
        MolecularDynamics(settings(argon, tmp_path, structure=str(tmp_path / "slab.xyz")))
    (tmp_path / "text.xyz").write_text("hello")
    with pytest.raises(DataError, match="cannot be read as structures"):
        MolecularDynamics(settings(argon, tmp_path, structure=str(tmp_path / "text.xyz")))
    assert not (tmp_path / "out").exists()


def test_a_run_is_never_overwritten(argon, tmp_path):
    run_md(settings(argon, tmp_path, steps=20), progress=False)
    before = (tmp_path / "out" / "log.csv").read_bytes()
    with pytest.raises(OutputError, match="holds a run already"):
        run_md(settings(argon, tmp_path, steps=20, seed=9), progress=False)
    assert (tmp_path / "out" / "log.csv").read_bytes() == before


def test_output_that_is_a_file(argon, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        MolecularDynamics(settings(argon, tmp_path, output=str(tmp_path / "file")))


def test_a_rotated_left_handed_cell_keeps_its_energy(argon, tmp_path):
    """Cells of any orientation become OpenMM's; the physics stays."""
    atoms = ase.io.read(argon["structure"])
    atoms.set_cell(atoms.cell.array @ np.array([[1, 0.02, 0], [0, 1, 0.03], [0.01, 0, 1]]), scale_atoms=True)
    atoms.rattle(0.1, seed=1)
    turned = atoms.copy()
    turned.rotate(73, (1, 2, 3), rotate_cell=True)
    turned.set_cell(turned.cell.array[[1, 0, 2]])
    energies = []
    for k, each in enumerate((atoms, turned)):
        ase.io.write(tmp_path / f"{k}.xyz", each, format="extxyz")
        run = MolecularDynamics(
            settings(argon, tmp_path, structure=str(tmp_path / f"{k}.xyz"), force={"precision": "double"})
        )
        energies.append(run.simulation.context.getState(energy=True).getPotentialEnergy()._value)
    assert energies[0] == pytest.approx(energies[1], rel=1e-6)


def test_config_file_with_relative_paths_and_flags(argon, tmp_path, monkeypatch):
    config = {"structure": "argon.xyz", "model": "lj.pt", "output": "out", "steps": 20, "temperature": 40}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir("/")
    read = MDSettings.from_file(tmp_path / "run.yaml", {"steps": 30})
    assert read.structure == str(tmp_path / "argon.xyz")
    assert read.model == str(tmp_path / "lj.pt")
    assert (read.steps, read.temperature) == (30, 40.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": "hot"}, "temperature is 'hot', which is not a float"),
        ({"steps": 2.5}, "steps is 2.5, which is not a int"),
        ({"steps": 0}, "at least 1"),
        ({"timestep": 0.0}, "must be positive"),
        ({"temperature": -1.0}, r"temperature is -1 K; it must be between 0 and 1e\+08"),
        ({"temperature": 1e308}, r"temperature is 1e\+308 K; it must be between"),
        ({"temperature_end": 1e9}, "temperature_end is"),
        ({"minimize": "yes"}, "not a bool"),
        ({"reporters": ["dcd", "nc"]}, "no reporter 'nc'"),
        ({"pressure": [1.0, 2.0]}, "pressure is"),
        ({"pressure": [1.0, 2.0, 3.0]}, "need barostat: anisotropic"),
        ({"barostat": "berendsen"}, "one of isotropic, anisotropic, flexible"),
        ({"ensemble": "NVE", "temperature_end": 100}, "needs a thermostat"),
        ({"watch": {"threshold": 0.1}}, "lacks 'interval'"),
        ({"watch": 10}, "keys and values of its own"),
        ({"force": {"bias": "sigma"}}, "is for scripts"),
        ({"force": {"energy": "total"}}, "is for scripts"),
        ({"force": 3}, "keys and values of its own"),
        ({"watch_interval": 5}, r"watch: \{interval: ...\}"),
        ({"precision": "single"}, r"force: \{precision: ...\}"),
        ({"watch": {"interval": 10, "action": "scream"}}, "one of warn, save, stop"),
        ({"walkers": 2}, "share a PLUMED bias"),
        ({"variables": {"s": {}}}, "are for a PLUMED script"),
        ({"replica_temperatures": [300]}, "two positive temperatures"),
        ({"replica_temperatures": [300, 400], "ensemble": "NVE"}, "runs in NVT or NPT"),
        ({"equilibration": [{"temperature": 10}]}, "stage 1 of equilibration has no steps"),
        ({"equilibration": [{"steps": 10, "presure": 10}]}, "Did you mean 'pressure'"),
        ({"equilibration": [{"steps": 10}, {"steps": 10, "ensemble": "NPX"}]}, "ensemble is 'NPX'"),
        ({"hydrogen_mass": 0.0}, "must be positive"),
        ({"stepz": 3}, "Did you mean 'steps'"),
    ],
)
def test_bad_settings(values, message, argon):
    with pytest.raises(ConfigurationError, match=message):
        MDSettings.from_mapping({**argon, **values})


def test_md_command_in_a_real_process(argon, tmp_path):
    command = [
        sys.executable, "-W", "ignore", "-m", "halberd.plugins.commands.app", "md", "--structure", argon["structure"],
        "--model", argon["model"], "-o", tmp_path / "cli", "--steps", "60", "--ensemble", "NVE", "--temperature", "40",
        "--json", "--reporter", "dcd", "--report-interval", "10",
    ]  # fmt: skip
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
    report = json.loads(result.stdout)
    assert report["steps"] == 60
    assert abs(report["drift"]) < 1e-4
    assert {p.name for p in (tmp_path / "cli").iterdir()} >= {"trajectory.dcd", "log.csv"}
    assert not (tmp_path / "cli" / "frames.extxyz").exists()


def test_block_averaging_on_a_known_process():
    """AR(1) with correlation a: the error of the mean is sigma sqrt((1+a)/(1-a)/n)."""
    generator = np.random.default_rng(0)
    a, n = 0.9, 40_000
    noise = generator.normal(size=n)
    series = np.zeros(n)
    for i in range(1, n):
        series[i] = a * series[i - 1] + np.sqrt(1 - a * a) * noise[i]
    mean, error = mean_and_error(series)
    exact = np.sqrt((1 + a) / (1 - a) / n)
    assert abs(mean) < 4 * exact
    assert 0.7 * exact < error < 1.8 * exact
    assert np.isnan(mean_and_error(np.ones(3))[1])


def test_energy_drift_of_a_straight_line():
    log = {"time_ps": np.linspace(0, 2, 21), "total_kj_mol": 100 + 3.0 * np.linspace(0, 2, 21)}
    assert energy_drift(log, 10) == pytest.approx(3.0 / 96.48533212 / 10)


def test_extxyz_reporter_in_an_unwritable_place():
    with pytest.raises(OutputError, match="Cannot write"):
        ExtXYZReporter("/no/such/folder/a.xyz", 1)


def test_molecule_from_sdf_and_pdb(tmp_path):
    """PDB keeps its residues, other formats go by way of ASE."""
    from openmm import app

    from halberd.plugins.forces.topology import read_structure

    water = molecule("H2O")
    ase.io.write(tmp_path / "w.pdb", water)
    topology, positions = read_structure(tmp_path / "w.pdb")
    assert isinstance(topology, app.Topology)
    np.testing.assert_allclose(positions * 10, water.positions, atol=2e-3)
    assert openmm.__version__
