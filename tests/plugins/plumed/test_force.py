"""PLUMED in OpenMM: what is computed, and what counts as a step."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import openmm
import pytest
from openmm import app, unit

from halberd.plugins import PlumedForce
from halberd.potentials.errors import ConfigurationError, DataError, MissingDependencyError, OutputError

REFERENCE = openmm.Platform.getPlatformByName("Reference")
CHAIN = np.array([[0, 0, 0], [0.3, 0, 0], [0.5, 0.2, 0], [0.6, 0.1, 0.25]])
METAD = """
d: DISTANCE ATOMS=1,4
t: TORSION ATOMS=1,2,3,4
m: METAD ARG=d,t SIGMA=0.05,0.3 HEIGHT=1.2 PACE=5 FILE=HILLS BIASFACTOR=6 TEMP=300
PRINT ARG=d,t,m.bias STRIDE=2 FILE=COLVAR
"""


def chain(periodic: bool = False, charges: bool = False) -> openmm.System:
    """Four different masses on three springs."""
    system = openmm.System()
    for mass in (12.0, 16.0, 1.0, 20.0):
        system.addParticle(mass)
    bonds = openmm.HarmonicBondForce()
    for i in range(3):
        bonds.addBond(i, i + 1, 0.29, 2000.0)
    bonds.setUsesPeriodicBoundaryConditions(periodic)
    system.addForce(bonds)
    if charges:
        nonbonded = openmm.NonbondedForce()
        for charge in (0.4, -0.6, 0.5, -0.3):
            nonbonded.addParticle(charge, 0.2, 0.1)
        for i in range(3):
            nonbonded.addException(i, i + 1, 0, 1, 0)
        system.addForce(nonbonded)
    if periodic:
        system.setDefaultPeriodicBoxVectors(openmm.Vec3(2, 0, 0), openmm.Vec3(0.2, 2.1, 0), openmm.Vec3(-0.3, 0.4, 2.2))
    return system


def context_of(system: openmm.System, seed: int = 7) -> openmm.Context:
    integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.002)
    integrator.setRandomNumberSeed(seed)
    context = openmm.Context(system, integrator, REFERENCE)
    context.setPositions(CHAIN)
    context.setVelocitiesToTemperature(300, seed)
    return context


def rows(path) -> np.ndarray:
    return np.loadtxt(path, comments="#", ndmin=2)


def bias_of(context: openmm.Context, positions: np.ndarray) -> float:
    context.setPositions(positions)
    return context.getState(energy=True, groups={1}).getPotentialEnergy()._value


@pytest.mark.parametrize(
    ("script", "periodic", "charges"),
    [
        (METAD, False, False),
        (METAD, True, False),
        ("c: COM ATOMS=1,2\nd: DISTANCE ATOMS=c,4\nRESTRAINT ARG=d AT=0.1 KAPPA=50", False, False),
        ("p: DIPOLE GROUP=1-4\nRESTRAINT ARG=p AT=1.0 KAPPA=90", False, True),
        ("e: ENERGY\nRESTRAINT ARG=e AT=-20 KAPPA=0.04", False, True),
        ("e: ENERGY\nd: DISTANCE ATOMS=1,4\nRESTRAINT ARG=e,d AT=-20,0.2 KAPPA=0.04,50", True, False),
    ],
)
def test_forces_are_finite_differences_of_the_bias(script, periodic, charges, tmp_path):
    system = chain(periodic, charges)
    force = PlumedForce(script, system, timestep=0.002, folder=tmp_path, platform="Reference")
    force.setForceGroup(1)
    system.addForce(force)
    context = context_of(system)
    context.getIntegrator().step(60)  # hills, where there are any
    now = context.getState(positions=True).getPositions(asNumpy=True)._value
    forces = np.asarray(context.getState(forces=True, groups={1}).getForces(asNumpy=True)._value)
    assert np.abs(forces).max() > 1e-3
    generator = np.random.default_rng(0)
    for _ in range(4):
        direction = generator.standard_normal(now.shape)
        up, down = (bias_of(context, now + h * direction) for h in (1e-6, -1e-6))
        assert (down - up) / 2e-6 == pytest.approx(float((forces * direction).sum()), rel=1e-5, abs=1e-5)
    force.close()


def test_masses_charges_box_energy_and_temperature_reach_plumed(tmp_path):
    system = chain(periodic=True)
    charges = [0.4, -0.6, 0.5, -0.3]
    script = """
c: CENTER ATOMS=1-4 MASS
p: POSITION ATOM=c NOPBC
d: DIPOLE GROUP=1-4 NOPBC
b: CELL
e: ENERGY
PRINT ARG=p.x,p.y,d,b.ax,b.by,b.cz,b.cx,e FILE=COLVAR FMT=%.9f
METAD ARG=e PACE=100000 SIGMA=1 HEIGHT=1 BIASFACTOR=10 FILE=HILLS
"""
    force = PlumedForce(
        script, system, timestep=2 * unit.femtosecond, temperature=300 * unit.kelvin, folder=tmp_path, charges=charges,
        platform="Reference",
    )  # fmt: skip
    system.addForce(force)
    context = context_of(system)
    energy = context.getState(energy=True).getPotentialEnergy()._value
    context.getIntegrator().step(1)
    force.close(1)
    time, x, y, dipole, ax, by, cz, cx, e = rows(tmp_path / "COLVAR")[0]
    masses = np.array([12.0, 16.0, 1.0, 20.0])
    centre = masses @ CHAIN / masses.sum()
    assert (time, x, y) == pytest.approx((0.0, centre[0], centre[1]), abs=1e-8)
    assert dipole == pytest.approx(np.linalg.norm(np.array(charges) @ CHAIN), abs=1e-8)
    assert (ax, by, cz, cx) == pytest.approx((2.0, 2.1, 2.2, -0.3), abs=1e-8)
    assert e == pytest.approx(energy, rel=1e-8)
    assert "2.494" in (tmp_path / "plumed.log").read_text()  # kT of 300 K


def test_energy_follows_context_parameters(tmp_path):
    system = chain()
    wall = openmm.CustomExternalForce("strength*x^2")
    wall.addGlobalParameter("strength", 10.0)
    for i in range(4):
        wall.addParticle(i)
    system.addForce(wall)
    force = PlumedForce("e: ENERGY\nRESTRAINT ARG=e AT=0 SLOPE=1 KAPPA=0", system, timestep=0.001, folder=tmp_path)
    force.setForceGroup(1)
    system.addForce(force)
    context = context_of(system)
    for strength in (10.0, 25.0):
        context.setParameter("strength", strength)
        physical = context.getState(energy=True, groups={0}).getPotentialEnergy()._value
        assert bias_of(context, CHAIN) == pytest.approx(physical, rel=1e-6)
    force.close()


def test_multithermal_sampling_runs(tmp_path):
    script = """
e: ENERGY
v: ECV_MULTITHERMAL ARG=e TEMP_MAX=500
o: OPES_EXPANDED ARG=v.* PACE=10 FILE=DeltaFs OBSERVATION_STEPS=10
PRINT ARG=e,o.bias STRIDE=10 FILE=COLVAR
"""
    system = chain()
    force = PlumedForce(script, system, timestep=0.002, temperature=300, folder=tmp_path, platform="Reference")
    system.addForce(force)
    context = context_of(system)
    context.getIntegrator().step(400)
    force.close(400)
    assert len(rows(tmp_path / "COLVAR")) == 40
    assert np.ptp(rows(tmp_path / "COLVAR")[:, 2]) > 0


def test_only_steps_that_are_made_count(tmp_path):
    """Energies asked for between steps, box moves and a minimisation: the files of a plain run, hill by hill."""
    for name in ("plain", "busy"):
        folder = tmp_path / name
        folder.mkdir()
        system = chain(periodic=True)
        force = PlumedForce(METAD, system, timestep=0.002, folder=folder)
        system.addForce(force)
        context = context_of(system)
        if name == "busy":
            openmm.LocalEnergyMinimizer.minimize(context, 1.0, 20)
            context.setPositions(CHAIN)
            context.setVelocitiesToTemperature(300, 7)
        for _ in range(50):
            context.getIntegrator().step(1)
            if name == "busy":
                for _ in range(3):
                    context.getState(energy=True, forces=True)
                kept = context.getState(positions=True).getPositions()
                context.setPositions(CHAIN)  # a trial move that is taken back
                context.getState(energy=True)
                context.setPositions(kept)
        force.close(50)
    for file in ("COLVAR", "HILLS"):
        plain = (tmp_path / "plain" / file).read_bytes()
        assert plain == (tmp_path / "busy" / file).read_bytes()
        assert len(plain.splitlines()) > 9


def test_barostat_trials_deposit_nothing(tmp_path):
    system = chain(periodic=True)
    force = PlumedForce(METAD, system, timestep=0.002, folder=tmp_path)
    system.addForce(force)
    barostat = openmm.MonteCarloBarostat(1.0, 300, 2)
    barostat.setRandomNumberSeed(1)
    system.addForce(barostat)
    context = context_of(system)
    context.getIntegrator().step(100)
    force.close(100)
    steps = np.rint(rows(tmp_path / "HILLS")[:, 0] / 0.002).astype(int)
    assert list(steps) == list(range(5, 100, 5))
    assert list(np.rint(rows(tmp_path / "COLVAR")[:, 0] / 0.002).astype(int)) == list(range(0, 100, 2))


@pytest.mark.parametrize("stop", [20, 23])
def test_a_restart_equals_the_uninterrupted_run(stop, tmp_path):
    """Also where a hill is due at the very step of the restart, which METAD alone would leave out."""
    ends = {}
    for name, pieces in (("whole", [50]), ("pieces", [stop, 50 - stop])):
        folder = tmp_path / name
        folder.mkdir()
        checkpoint = None
        for steps in pieces:
            system = chain()
            force = PlumedForce(METAD, system, timestep=0.002, folder=folder, restart=checkpoint is not None)
            system.addForce(force)
            context = context_of(system)
            if checkpoint is not None:
                context.loadCheckpoint(checkpoint)
            context.getIntegrator().step(steps)
            checkpoint = context.createCheckpoint()
            force.close(context.getStepCount())
        ends[name] = context.getState(positions=True).getPositions(asNumpy=True)._value
    np.testing.assert_allclose(ends["whole"], ends["pieces"], atol=1e-9)
    for file in ("COLVAR", "HILLS"):
        np.testing.assert_allclose(rows(tmp_path / "whole" / file), rows(tmp_path / "pieces" / file), atol=2e-6)


def test_files_are_what_plumed_driver_makes_of_the_trajectory(tmp_path):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    theirs.mkdir()
    system = chain()
    force = PlumedForce(METAD, system, timestep=0.002, folder=mine)
    system.addForce(force)
    context = context_of(system)
    with open(theirs / "trajectory.xyz", "w", encoding="utf-8") as trajectory:
        for _ in range(40):
            positions = context.getState(positions=True).getPositions(asNumpy=True)._value
            lines = [f"X {x:.15f} {y:.15f} {z:.15f}" for x, y, z in positions]
            trajectory.write("\n".join(["4", "0 0 0", *lines]) + "\n")
            context.getIntegrator().step(1)
    force.close(40)
    (theirs / "plumed.dat").write_text(METAD)
    driver = """
import numpy, plumed
tool = plumed.Plumed()
tool.cmd("CLTool setArgvLine", "plumed driver --plumed plumed.dat --ixyz trajectory.xyz --timestep 0.002")
tool.cmd("CLTool run", numpy.zeros(1, dtype=numpy.int32))
tool.finalize()
"""
    for needed in ("patches", "scripts"):  # the command line tool looks into its installation
        (tmp_path / "root" / needed).mkdir(parents=True)
    environment = {**os.environ, "PLUMED_ROOT": str(tmp_path / "root")}
    subprocess.run([sys.executable, "-c", driver], cwd=theirs, env=environment, check=True, capture_output=True)
    for file in ("COLVAR", "HILLS"):
        assert rows(mine / file).shape[0] > 6
        np.testing.assert_allclose(rows(mine / file), rows(theirs / file), atol=2e-6)


def test_plumed_stops_a_run(tmp_path):
    """COMMITTOR ends the run at the step where the basin was reached, and the Context can go on."""
    system = openmm.System()
    for _ in range(2):
        system.addParticle(10.0)
    script = "d: DISTANCE ATOMS=1,2\nCOMMITTOR ARG=d STRIDE=1 BASIN_LL1=0.5 BASIN_UL1=9.0 FILE=basin"
    force = PlumedForce(script, system, timestep=0.01, folder=tmp_path)
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.01), REFERENCE)
    context.setPositions([[0, 0, 0], [0.3, 0, 0]])
    context.setVelocities([[0, 0, 0], [1.0, 0, 0]])  # 0.01 nm per step: the basin is entered in step 20
    with pytest.raises(openmm.OpenMMException, match=r"PLUMED asked to stop; the last step it counted is (20|21)"):
        context.getIntegrator().step(1000)
    assert force.stopped
    assert context.getStepCount() in (21, 22)
    context.getIntegrator().step(5)
    assert context.getState(positions=True).getPositions(asNumpy=True)._value[1, 0] > 0.5
    force.close()


def test_variables_of_ones_own(tmp_path):
    """EXTRACV: value and force of something PLUMED knows nothing of."""

    class Radius:
        def evaluate(self, positions, box):
            return float((positions**2).sum()), 2 * positions

    system = chain()
    script = "r: EXTRACV NAME=radius\nRESTRAINT ARG=r AT=0.5 KAPPA=30\nPRINT ARG=r FILE=COLVAR FMT=%.12f"
    force = PlumedForce(script, system, timestep=0.002, folder=tmp_path, variables={"radius": Radius()})
    force.setForceGroup(1)
    system.addForce(force)
    context = context_of(system)
    radius = float((CHAIN**2).sum())
    assert bias_of(context, CHAIN) == pytest.approx(15 * (radius - 0.5) ** 2)
    forces = context.getState(forces=True, groups={1}).getForces(asNumpy=True)._value
    np.testing.assert_allclose(forces, -30 * (radius - 0.5) * 2 * CHAIN, atol=1e-9)
    context.getIntegrator().step(1)
    force.close(1)
    assert rows(tmp_path / "COLVAR")[0, 1] == pytest.approx(radius, abs=1e-11)


def test_a_models_uncertainty_as_an_argument(mace_files, ethanol, tmp_path):
    from halberd.plugins.forces.topology import topology_from_atoms
    from halberd.plugins.forces.variables import committee_sigma

    topology, positions = topology_from_atoms(ethanol)
    sigma = committee_sigma([str(mace_files["member0"]), str(mace_files["member1"])], topology)
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    script = "s: EXTRACV NAME=sigma\nRESTRAINT ARG=s AT=0 SLOPE=-0.5 KAPPA=0"
    force = PlumedForce(script, system, timestep=0.0005, folder=tmp_path, variables={"sigma": sigma})
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.0005), REFERENCE)
    context.setPositions(positions)
    value, gradient = sigma.evaluate(positions)
    state = context.getState(energy=True, forces=True)
    assert state.getPotentialEnergy()._value == pytest.approx(-0.5 * value, rel=1e-9)
    np.testing.assert_allclose(state.getForces(asNumpy=True)._value, 0.5 * gradient, rtol=1e-9, atol=1e-9)
    force.close()
    with pytest.raises(openmm.OpenMMException, match="has been closed"):
        context.getState(energy=True)
    again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    context = openmm.Context(again, openmm.VerletIntegrator(0.0005), REFERENCE)
    context.setPositions(positions)
    assert context.getState(energy=True).getPotentialEnergy()._value == pytest.approx(-0.5 * value, rel=1e-9)


def test_xml_and_copies_hold_the_recipe(tmp_path):
    system = chain()
    script = "d: DISTANCE ATOMS=1,4\nRESTRAINT ARG=d AT=0.2 KAPPA=100\nPRINT ARG=d FILE=COLVAR"
    force = PlumedForce(script, system, timestep=0.002, folder=tmp_path)
    system.addForce(force)
    before = context_of(system).getState(energy=True).getPotentialEnergy()._value
    copied = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    with pytest.raises(openmm.OpenMMException, match=r"another simulation in this program is writing.*COLVAR"):
        context_of(copied).getState(energy=True)
    force.close()
    context = context_of(copied)
    assert context.getState(energy=True).getPotentialEnergy()._value == pytest.approx(before, rel=1e-12)


def test_scripts_from_files_find_their_input_files(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    pdb = "".join(
        f"ATOM  {i + 1:5d}  C{i}  ALA A   1    {x * 10:8.3f}{y * 10:8.3f}{z * 10:8.3f}  1.00  1.00\n"
        for i, (x, y, z) in enumerate(CHAIN)
    )
    (tmp_path / "in" / "reference.pdb").write_text(pdb + "END\n")
    (tmp_path / "in" / "plumed.dat").write_text(
        "r: RMSD REFERENCE=reference.pdb TYPE=OPTIMAL\nPRINT ARG=r FILE=COLVAR\n"
    )
    system = chain()
    force = PlumedForce(tmp_path / "in" / "plumed.dat", system, timestep=0.002, folder=tmp_path / "out")
    system.addForce(force)
    context = context_of(system)
    context.getIntegrator().step(1)
    force.close(1)
    assert rows(tmp_path / "out" / "COLVAR")[0, 1] == pytest.approx(0.0, abs=1e-4)


def test_what_is_refused(tmp_path, monkeypatch):
    system = chain()
    options = {"timestep": 0.002, "folder": tmp_path}
    with pytest.raises(ConfigurationError, match=r"does not accept the script.*METAAD"):
        PlumedForce("m: METAAD ARG=d", system, **options)
    with pytest.raises(ConfigurationError, match="does not accept the script"):
        PlumedForce("d: DISTANCE ATOMS=1,9", system, **options)
    with pytest.raises(DataError, match=r"'nothing\.dat' does not exist"):
        PlumedForce("nothing.dat", system, **options)
    with pytest.raises(ConfigurationError, match="empty"):
        PlumedForce("# nothing\n", system, **options)
    with pytest.raises(ConfigurationError, match="positive time"):
        PlumedForce(METAD, system, timestep=0.0)
    with pytest.raises(ConfigurationError, match="2 charges were given for 4"):
        PlumedForce(METAD, system, charges=[1, 2], **options)
    with pytest.raises(OutputError, match="does not exist"):
        PlumedForce(METAD, system, timestep=0.002, folder=tmp_path / "no")
    force = PlumedForce("e: ENERGY\nRESTRAINT ARG=e AT=0 KAPPA=1", system, energy=False, **options)
    system.addForce(force)
    with pytest.raises(openmm.OpenMMException, match="made without an energy"):
        context_of(system).getState(energy=True)
    force.close()
    monkeypatch.setenv("PLUMED_KERNEL", str(tmp_path / "libplumedKernel.so"))
    with pytest.raises(MissingDependencyError, match="not a file"):
        PlumedForce(METAD, chain(), **options)
    monkeypatch.delenv("PLUMED_KERNEL")
    monkeypatch.setitem(sys.modules, "plumed", None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps hillclimber"):
        PlumedForce(METAD, chain(), **options)


def test_a_second_context_may_look_and_leaves_no_trace(tmp_path):
    """An energy decomposition beside the run, at other geometries, before, within and between its steps."""
    for name in ("plain", "watched"):
        folder = tmp_path / name
        folder.mkdir()
        system = chain()
        force = PlumedForce(METAD, system, timestep=0.002, folder=folder)
        force.setForceGroup(1)
        system.addForce(force)
        other = openmm.Context(system, openmm.VerletIntegrator(0.001), REFERENCE)
        context = context_of(system)
        biases = []
        for step in range(50):
            if name == "watched":
                other.setStepCount(step if step % 3 else 0)
                biases.append(bias_of(other, CHAIN + 0.01 * (step % 2)))
            context.getIntegrator().step(1)
            if name == "watched":
                biases.append(bias_of(other, CHAIN))
        if name == "watched":
            assert bias_of(other, CHAIN) > biases[0] + 1.0  # it sees the hills of the run
        force.close(50)
    for file in ("COLVAR", "HILLS"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "watched" / file).read_bytes()


def test_two_contexts_that_make_steps_are_an_error(tmp_path):
    system = chain()
    force = PlumedForce(METAD, system, timestep=0.002, folder=tmp_path)
    system.addForce(force)
    first, second = context_of(system), context_of(system, seed=8)
    first.getIntegrator().step(8)
    with pytest.raises(openmm.OpenMMException, match="Two Contexts of one System make steps"):
        second.getIntegrator().step(8)
    first.getIntegrator().step(3)
    force.close(11)
    assert len(rows(tmp_path / "HILLS")) == 2


def test_a_step_number_that_jumps_is_an_error(tmp_path):
    system = chain()
    force = PlumedForce(METAD, system, timestep=0.002, folder=tmp_path)
    system.addForce(force)
    context = context_of(system)
    checkpoint = context.createCheckpoint()
    context.getIntegrator().step(12)
    context.loadCheckpoint(checkpoint)
    with pytest.raises(openmm.OpenMMException, match="jumped from 11 to 0"):
        context.getIntegrator().step(1)
    force.close()


def test_averages_begin_anew_at_a_restart_and_count_no_step_twice(tmp_path):
    script = "d: DISTANCE ATOMS=1,4\na: AVERAGE ARG=d STRIDE=1\nPRINT ARG=d,a FILE=COLVAR STRIDE=1 FMT=%.12f"
    system = chain()
    force = PlumedForce(script, system, timestep=0.002, folder=tmp_path)
    system.addForce(force)
    context = context_of(system)
    context.getIntegrator().step(10)
    checkpoint = context.createCheckpoint()
    force.close(10)
    system = chain()
    force = PlumedForce(script, system, timestep=0.002, folder=tmp_path, restart=True)
    system.addForce(force)
    context = context_of(system)
    context.loadCheckpoint(checkpoint)
    context.getIntegrator().step(10)
    force.close(20)
    _, distances, averages = rows(tmp_path / "COLVAR").T
    assert len(distances) == 20
    # PLUMED leaves the first step of a run out of its averages, and begins them anew at a restart.
    for piece in (slice(1, 10), slice(10, 20)):
        values = distances[piece]
        np.testing.assert_allclose(averages[piece], np.cumsum(values) / np.arange(1, len(values) + 1), atol=2e-6)


def test_a_variable_that_nobody_gives_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"EXTRACV NAME=q, but no variable.*there is none"):
        PlumedForce("q: EXTRACV NAME=q\nPRINT ARG=q FILE=C", chain(), timestep=0.002, folder=tmp_path)


def double_well() -> openmm.System:
    """One particle in 10 (x^2 - 1)^2, kJ/mol with x in units of 0.1 nm, and tightly held across."""
    system = openmm.System()
    system.addParticle(40.0)
    well = openmm.CustomExternalForce("12*((10*x)^2-1)^2 + 2*(10*x) + 2000*(y^2+z^2)")
    well.addParticle(0)
    system.addForce(well)
    return system


@pytest.mark.physical
@pytest.mark.long
def test_well_tempered_metadynamics_finds_the_exact_profile(tmp_path):
    system = double_well()
    script = """
p: POSITION ATOM=1 NOPBC
m: METAD ARG=p.x SIGMA=0.01 HEIGHT=0.6 PACE=150 BIASFACTOR=8 TEMP=300 FILE=HILLS ...
    GRID_MIN=-0.3 GRID_MAX=0.3 GRID_BIN=600
...
"""
    script = script.replace(" ...\n    GRID", " GRID").replace("600\n...", "600")
    force = PlumedForce(script, system, timestep=0.005, folder=tmp_path)
    system.addForce(force)
    integrator = openmm.LangevinMiddleIntegrator(300, 2.0, 0.005)
    integrator.setRandomNumberSeed(11)
    context = openmm.Context(system, integrator, REFERENCE)
    context.setPositions([[0.1, 0, 0]])
    context.setVelocitiesToTemperature(300, 11)
    integrator.step(300_000)
    force.close(300_000)
    hills = rows(tmp_path / "HILLS")
    x = np.linspace(-0.13, 0.13, 131)
    # The heights in the file are multiplied by gamma / (gamma - 1): their sum is minus the free energy itself. Averaged
    # over the last half, which takes the noise of the latest hills out.
    profiles = []
    for count in np.linspace(len(hills) // 2, len(hills), 40).astype(int):
        centres, width, height = hills[:count, 1], hills[:count, 2], hills[:count, 3]
        exponent = -0.5 * ((x[:, None] - centres) / width) ** 2
        profile = -(height * np.exp(exponent)).sum(axis=1)
        profiles.append(profile - profile.mean())
    found = np.mean(profiles, axis=0)
    exact = 12 * ((10 * x) ** 2 - 1) ** 2 + 2 * (10 * x)
    error = found - (exact - exact.mean())
    assert np.sqrt((error**2).mean()) < 0.6  # kJ/mol; kT is 2.5, the barrier 12
    assert np.abs(error).max() < 1.5


@pytest.mark.long
@pytest.mark.physical
def test_plumed_and_openmms_metadynamics_agree_on_a_molecule(tmp_path):
    """The distance of oxygen and a hydrogen of formaldehyde, with the pretrained model."""
    from ase.build import molecule

    from halberd.plugins import LearnedPotential
    from halberd.plugins.forces.topology import topology_from_atoms

    topology, positions = topology_from_atoms(molecule("H2CO"))
    low, high, width = 0.15, 0.25, 0.004
    grid = np.linspace(low, high, 241)
    profiles = {}
    for engine in ("plumed", "openmm"):
        system = LearnedPotential("gfn2-chnof").createSystem(topology, precision="single")
        sampler = force = None
        if engine == "plumed":
            script = (
                "d: DISTANCE ATOMS=1,3\n"
                f"METAD ARG=d SIGMA={width} HEIGHT=0.3 PACE=20 BIASFACTOR=3 TEMP=300 FILE=HILLS "
                f"GRID_MIN={low - 0.05} GRID_MAX={high + 0.08} GRID_BIN=1000"
            )
            force = PlumedForce(script, system, timestep=0.0005, folder=tmp_path)
            system.addForce(force)
        else:
            distance = openmm.CustomBondForce("r")
            distance.addBond(0, 2)
            variable = app.metadynamics.BiasVariable(distance, low, high, width, False, gridWidth=len(grid))
            sampler = app.metadynamics.Metadynamics(system, [variable], 300, 3.0, 0.3, 20)
        integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.0005)
        integrator.setRandomNumberSeed(5)
        simulation = app.Simulation(topology, system, integrator, REFERENCE)
        simulation.context.setPositions(positions)
        simulation.context.setVelocitiesToTemperature(300, 5)
        if sampler is not None:
            sampler.step(simulation, 3500)
            profiles[engine] = np.asarray(sampler.getFreeEnergy()._value)
        else:
            simulation.step(3500)
            force.close(3500)
            hills = rows(tmp_path / "HILLS")
            exponent = -0.5 * ((grid[:, None] - hills[:, 1]) / hills[:, 2]) ** 2
            profiles[engine] = -(hills[:, 3] * np.exp(exponent)).sum(axis=1)
    bottoms = [grid[profile.argmin()] for profile in profiles.values()]
    assert np.ptp(bottoms) < 0.008
    near = np.abs(grid - np.mean(bottoms)) < 0.012
    first, second = (profile[near] - profile[near].mean() for profile in profiles.values())
    assert np.sqrt(((first - second) ** 2).mean()) < 0.8  # kJ/mol
