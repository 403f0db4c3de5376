"""Runs that blow up end as such, and runs that do not are left alone."""

from __future__ import annotations

import dataclasses
import json
import math

import ase
import ase.io
import numpy as np
import openmm
import pytest
from ase.build import bulk, molecule
from openmm import app

from halberd.plugins.forces.topology import topology_from_atoms
from halberd.potentials.constants import GAS_CONSTANT_KJ_PER_MOL_K
from halberd.potentials.errors import ConfigurationError, StabilityError
from halberd.potentials.sites.elements import bond_length
from halberd.potentials.sites.lennard_jones import lennard_jones
from halberd.samplers.md.production import run_md
from halberd.samplers.md.run import MolecularDynamics
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.md.stability import StabilityCheck, StabilitySettings, fragments, remark_on_fragments
from halberd.samplers.runs.log import read_log
from halberd.samplers.runs.restart import read_checkpoint
from tests.samplers.md.conftest import dimer, launched, settings, written


def check(atoms: ase.Atoms, conserves: bool = False, temperature: float = 300.0, **limits) -> StabilityCheck:
    topology, positions = topology_from_atoms(atoms)
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    chosen = StabilitySettings(**limits)
    return StabilityCheck(chosen, system, topology, positions, temperature=temperature, conserves_energy=conserves)


@pytest.mark.parametrize("timestep", [100.0, 300.0])
def test_a_step_that_is_too_long_is_no_complete_run(timestep, argon, tmp_path):
    """Numbers stay numbers, but the temperature is a thousandfold what was asked for."""
    wild = settings(argon, tmp_path, steps=3000, timestep=timestep, report_interval=10, ensemble="NVE")
    with pytest.raises(StabilityError, match=r"exploded at step \d+.*(temperature is|total energy|apart|not finite)"):
        run_md(wild, progress=False)
    frame = ase.io.read(tmp_path / "out" / "last_good.extxyz")
    assert np.isfinite(frame.positions).all()
    assert not (tmp_path / "out" / "report.json").exists()


def test_the_command_says_so_with_code_2(argon, tmp_path):
    wild = settings(argon, tmp_path, steps=3000, timestep=200.0, ensemble="NVE")
    process = launched(written(tmp_path, wild))
    out, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert out == ""
    assert error.strip().splitlines()[-1].startswith("halberd: error: The run exploded at step")


def test_without_limits_it_goes_on(argon, tmp_path):
    """What the limits are there for: the same run, unlooked at, ends as if nothing were wrong."""
    atoms = ase.io.read(argon["structure"])
    atoms.set_distance(0, 1, 2.0, mic=True)
    ase.io.write(argon["structure"], atoms, format="extxyz")
    # Two atoms fly apart with some 20 eV, which is thousands of K even when all 32 share it.
    hot = settings(argon, tmp_path, steps=200, timestep=1.0, ensemble="NVE")
    with pytest.raises(StabilityError, match="temperature is"):
        run_md(hot, progress=False)
    result = run_md(dataclasses.replace(hot, stability=None, output=str(tmp_path / "unlooked")), progress=False)
    assert result["complete"]
    assert result["mean"]["temperature_K"] > 10 * 300


def test_the_checkpoint_of_a_run_that_blew_up_is_good(argon, tmp_path):
    """Checkpoints fall between rows; one made of an exploded frame could never be gone on from."""
    run = settings(argon, tmp_path, steps=400, report_interval=400, checkpoint_interval=50, ensemble="NVE")
    prepared = MolecularDynamics(run)

    class Kick:
        def describeNextReport(self, simulation):
            return {"steps": 70 - simulation.currentStep % 70, "periodic": None, "include": []}

        def report(self, simulation, state):
            velocities = simulation.context.getState(velocities=True).getVelocities(asNumpy=True)._value
            simulation.context.setVelocities(velocities + 3e1 * np.sign(velocities))

    prepared.simulation.reporters.append(Kick())
    with pytest.raises(StabilityError, match=r"temperature is .* the fastest atoms are \d+ \(Ar\)"):
        prepared.run(progress=False)
    result = run_md(run, restart=True, progress=False)
    assert result["complete"]


def test_temperature_limit_of_one_fast_atom():
    atoms = ase.Atoms("Ar8", np.arange(24.0).reshape(8, 3) * 3)
    looking = check(atoms)
    velocities = np.zeros((8, 3))
    # 3 N - 3 degrees of freedom are none here: nothing removes the motion of the centre.
    limit = 10 * 300 * 24 * 0.00831446261815324 / 39.95
    velocities[5, 1] = math.sqrt(0.99 * limit)
    looking.check_motion(velocities)
    velocities[5, 1] = math.sqrt(1.02 * limit)
    with pytest.raises(StabilityError, match=r"limit of 3000 K; the fastest atoms are 5 \(Ar\)"):
        looking.check_motion(velocities)


def test_a_few_atoms_may_fluctuate():
    """A million thermal draws of two atoms stay below the limit, though many pass ten times the temperature."""
    looking = check(ase.Atoms("Ar2", [[0, 0, 0], [0, 0, 4]]))
    generator = np.random.default_rng(0)
    kT, mass = 300 * 0.00831446261815324, 39.95
    energies = (generator.standard_normal((1_000_000, 6)) ** 2).sum(axis=1)
    hottest = np.sqrt(kT / mass) * np.sqrt(energies.max() / 6)
    looking.check_motion(np.full((2, 3), hottest))
    assert looking._hottest > 12 * 300


@pytest.mark.parametrize(("change", "fine"), [(0.99, True), (1.01, False), (-1.01, False), (float("nan"), False)])
def test_energy_of_nve(change, fine):
    atoms = ase.Atoms("Ar8", np.arange(24.0).reshape(8, 3) * 3)
    looking = check(atoms, conserves=True)
    looking.check_energy(-120.0)
    energy = -120.0 + change * 24 * 0.00831446261815324 * 300
    if fine:
        looking.check_energy(energy)
    else:
        with pytest.raises(StabilityError, match="kT per degree of freedom"):
            looking.check_energy(energy)
    check(atoms).check_energy(energy)  # with a thermostat nothing is conserved


def test_distances_across_a_tilted_cell():
    cell = np.array([[6.0, 0, 0], [2.0, 6.0, 0], [1.0, -2.0, 6.0]])
    atoms = ase.Atoms("CO", [[0.1, 0.1, 0.1], [0, 0, 0]], cell=cell, pbc=True)
    atoms.positions[1] = atoms.positions[0] + cell[0] + cell[2] + [0, 0.9, 0]
    looking = check(atoms)
    looking.check_distances(0, atoms.positions / 10, cell / 10)
    atoms.positions[1] = atoms.positions[0] + cell[0] + cell[2] + [0, 0.5, 0]
    looking.check_distances(249, atoms.positions / 10, cell / 10)  # not looked at again so soon
    with pytest.raises(StabilityError, match=r"atoms 0 \(C\) and 1 \(O\) are 0\.50 angstrom apart"):
        looking.check_distances(250, atoms.positions / 10, cell / 10)


def test_bonds_are_looked_at_where_that_is_asked_for():
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    carbon, oxygen = (topology.addAtom(name, app.Element.getBySymbol(name), residue) for name in "CO")
    topology.addBond(carbon, oxygen)
    system = openmm.System()
    for mass in (12, 16):
        system.addParticle(mass)
    positions = np.array([[0, 0, 0], [0.12, 0, 0]])
    limits = StabilitySettings(bond=2.0)
    looking = StabilityCheck(limits, system, topology, positions, temperature=300, conserves_energy=False)
    looking.check_distances(0, positions, None)
    looking.check_distances(300, 1.9 * positions, None)
    with pytest.raises(StabilityError, match=r"0 \(C\), 1 \(O\) is 2\.52 angstrom long, 2\.1 times"):
        looking.check_distances(600, 2.1 * positions, None)


@pytest.mark.parametrize(("steps", "rows"), [(60, 10), (60, 1000), (190, 50), (240, 10), (600, 1000)])
def test_the_verdict_does_not_depend_on_steps_and_rows(steps, rows, tmp_path):
    """Two atoms fall towards each other; whoever looks must see it, and no checkpoint may hold it."""
    lennard_jones([18], epsilon=0.1, sigma=2.5).save(tmp_path / "lj.pt")
    ase.io.write(tmp_path / "pair.xyz", ase.Atoms("Ar2", [[0, 0, 0], [4.2, 0, 0]]), format="extxyz")
    fall = MDSettings.from_mapping({
        "structure": str(tmp_path / "pair.xyz"), "model": str(tmp_path / "lj.pt"), "output": str(tmp_path / "out"),
        "ensemble": "NVE", "temperature": 0.0, "timestep": 20.0, "steps": steps, "report_interval": rows,
        "checkpoint_interval": 20, "reporters": ["csv"],
    })  # fmt: skip
    free = dataclasses.replace(fall, output=str(tmp_path / "free"), report_interval=1, steps=60)
    run_md(dataclasses.replace(free, reporters=["extxyz"]), progress=False)
    distances = [atoms.get_distance(0, 1) for atoms in ase.io.read(tmp_path / "free" / "frames.extxyz", ":")]
    limit = 3.65
    assert min(distances[20:61:20]) < limit < distances[0], distances
    bonds = limit / bond_length(18)
    strict = dataclasses.replace(fall, stability=StabilitySettings(distance=bonds))
    with pytest.raises(StabilityError, match=r"exploded at step .* apart, closer than 3\.65"):
        run_md(strict, progress=False)
    with pytest.raises(StabilityError, match="exploded at step"):  # not complete the second time, either
        run_md(strict, restart=True, progress=False)
    assert ase.io.read(tmp_path / "out" / "last_good.extxyz").get_distance(0, 1) >= limit


def test_a_checkpoint_beyond_a_new_limit_is_said_to_be(argon, tmp_path):
    close = settings(argon, tmp_path, steps=20, ensemble="NVE", temperature=0.0)
    atoms = ase.Atoms("Ar2", [[0, 0, 0], [3.6, 0, 0]])
    ase.io.write(tmp_path / "argon.xyz", atoms, format="extxyz")
    run_md(close, progress=False)
    far = dataclasses.replace(close, steps=40, stability=StabilitySettings(distance=0.99))
    with pytest.raises(StabilityError, match=r"checkpoint of step 20 is beyond a limit: atoms 0 .*or start anew"):
        run_md(far, restart=True, progress=False)


@pytest.mark.parametrize("rows", [10, 1000])
def test_energy_is_looked_at_before_checkpoints(rows, argon, tmp_path):
    """However rare rows are."""
    run = settings(
        argon, tmp_path, steps=100, ensemble="NVE", timestep=20.0, report_interval=rows, checkpoint_interval=50,
        stability={"energy": 1e-6},
    )  # fmt: skip
    with pytest.raises(StabilityError, match="total energy has changed"):
        run_md(run, progress=False)


def test_a_report_does_not_outlive_its_run(argon, tmp_path):
    """A complete run that is extended and ends badly has no report of being complete."""
    run_md(settings(argon, tmp_path, steps=20), progress=False)
    report = tmp_path / "out" / "report.json"
    assert json.loads(report.read_text())["complete"]
    longer = MolecularDynamics(settings(argon, tmp_path, steps=2000))

    class Broken:
        def describeNextReport(self, simulation):
            return {"steps": 30 - simulation.currentStep % 30, "periodic": None, "include": []}

        def report(self, simulation, state):
            raise StabilityError("it is broken.")

    longer.simulation.reporters.append(Broken())
    with pytest.raises(StabilityError):
        longer.run(restart=True, progress=False)
    assert not report.exists()


def test_energy_is_compared_with_the_first_one_after_a_restart_too(argon, tmp_path):
    """A drift in many short pieces is a drift."""
    run = settings(argon, tmp_path, steps=40, ensemble="NVE")
    run_md(run, progress=False)
    file = tmp_path / "out" / "restart.zip"
    first = read_checkpoint(file).extra["first energy"]
    assert first == pytest.approx(read_log(tmp_path / "out" / "log.csv")["total_kj_mol"][0], rel=1e-6)
    forged = MolecularDynamics(dataclasses.replace(run, steps=80))
    forged._check.first_energy = first - 2 * 32 * 3 * GAS_CONSTANT_KJ_PER_MOL_K * 300  # two kT for each
    forged.simulation.context.loadCheckpoint(read_checkpoint(file).binary)
    forged.simulation.currentStep = 40
    forged._checkpoint(file)
    with pytest.raises(StabilityError, match="total energy has changed"):
        run_md(dataclasses.replace(run, steps=80), restart=True, progress=False)


def test_atoms_in_one_place_are_the_structures_fault(argon, tmp_path):
    """There is no last good frame then."""
    atoms = ase.io.read(argon["structure"])
    atoms.positions[3] = atoms.positions[2] + 1e-3
    ase.io.write(tmp_path / "twice.xyz", atoms, format="extxyz")
    with pytest.raises(StabilityError, match=r"cannot start.*2 \(Ar\), 3 \(Ar\).*Mend the structure"):
        run_md(settings(argon, tmp_path, structure=str(tmp_path / "twice.xyz")), progress=False)
    assert not (tmp_path / "out" / "last_good.extxyz").exists()


def test_a_flat_cell_is_found(argon, tmp_path):
    """Atoms and their images meet where a cell is nearly flat."""
    atoms = ase.io.read(argon["structure"])
    atoms.set_cell(atoms.cell.array * [[1], [1], [0.3]], scale_atoms=True)
    ase.io.write(tmp_path / "flat.xyz", atoms, format="extxyz")
    with pytest.raises(StabilityError, match=r"cannot start: atoms 0 \(Ar\) and 4 \(Ar\) are 1\.59"):
        run_md(settings(argon, tmp_path, structure=str(tmp_path / "flat.xyz"), steps=500), progress=False)


def test_a_thermostat_that_cannot_keep_up_is_remarked_on(tmp_path, argon):
    """A weak one leaves a relaxed crystal at half its temperature; the report must not be silent about it."""
    run = settings(argon, tmp_path, steps=4000, friction=0.001, report_interval=4, minimize=True)
    result = run_md(run, progress=False)  # velocities are drawn at 40 K, half of which the relaxed crystal takes
    assert result["complete"]
    assert result["mean"]["temperature_K"] < 0.7 * 40
    assert "mean temperature" in result["remarks"][0]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["remarks"] == result["remarks"]


def test_a_structure_that_came_apart_is_remarked_on(tmp_path):
    """Its temperature is as it should be at every look: a thermostat cools what an explosion leaves."""
    start = molecule("CH3CH2OH")
    gas = start.copy()
    gas.positions *= 20.0
    (text,) = remark_on_fragments(start, gas)
    assert "had 9 atoms, now it has 1" in text
    assert list(fragments(start)) == [9]
    rattled, crystal = start.copy(), bulk("Cu", cubic=True) * (3, 3, 3)
    rattled.rattle(0.15, seed=1)
    molten = crystal.copy()
    molten.rattle(0.5, seed=1)
    split = start.copy()
    split.positions[-1] += 5.0  # one bond that breaks is chemistry
    for before, after in ((start, rattled), (crystal, molten), (gas, gas), (start, split)):
        assert remark_on_fragments(before, after) == []
    lennard_jones([55]).save(tmp_path / "lj.pt")
    ase.io.write(
        tmp_path / "four.xyz", ase.Atoms("Cs4", 3.8 * np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 1.414)
    )
    run = MDSettings(
        str(tmp_path / "four.xyz"), str(tmp_path / "lj.pt"), str(tmp_path / "out"), temperature=3000.0, steps=1000,
        timestep=10.0, report_interval=500,
    )  # fmt: skip
    result = run_md(run, progress=False)
    assert any("had 4 atoms, now it has 1" in remark for remark in result["remarks"])


def test_looks_are_not_left_to_the_interval_of_rows(argon, tmp_path):
    wild = settings(
        argon, tmp_path, steps=3000, timestep=100.0, report_interval=3000, checkpoint_interval=3000, ensemble="NVE"
    )
    with pytest.raises(StabilityError, match="exploded at step"):
        run_md(wild, progress=False)
    frame = ase.io.read(tmp_path / "out" / "last_good.extxyz")
    assert np.isfinite(frame.positions).all()


def test_a_plain_run_has_no_remarks(argon, tmp_path):
    result = run_md(settings(argon, tmp_path, steps=3000, friction=20.0, timestep=4.0), progress=False)
    assert result["remarks"] == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": 0.5}, "must be above 1"),
        ({"energy": 0}, "must be above 0"),
        ({"distance": 1.5}, "below 1"),
        ({"bond": float("nan")}, "bond is nan, which is not a float"),
        ({"bond": 0.9}, "must be above 1"),
        ({"temprature": 3}, "Did you mean 'temperature'"),
    ],
)
def test_bad_limits(values, message, argon, tmp_path):
    with pytest.raises(ConfigurationError, match=message):
        settings(argon, tmp_path, stability=values)


def test_a_dimer_is_no_explosion(tmp_path, argon):
    run = settings({**argon, **dimer(tmp_path)}, tmp_path, steps=2000, temperature=5.0, seed=4)
    assert run_md(run, progress=False)["complete"]
