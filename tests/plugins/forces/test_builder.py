"""The OpenMM force: numbers, boxes, parameters, serialisation, on both backends and both platforms."""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
import sys

import numpy as np
import openmm
import pytest
import torch
from ase import Atoms
from openmm import app, unit

from halberd.plugins import HalberdCalculator, LearnedPotential
from halberd.plugins.forces.builder import build_force
from halberd.plugins.forces.options import ForceOptions, check_device
from halberd.potentials import load
from halberd.potentials.constants import EV_IN_KJ_PER_MOL, EV_PER_ANGSTROM_IN_KJ_PER_MOL_NM
from halberd.potentials.errors import BackendError, ConfigurationError, UnknownElementError
from halberd.potentials.sites.compiled_list import LIST_OPERATOR
from halberd.potentials.sites.compiled_operators import CompiledOperator
from halberd.potentials.sites.lennard_jones import lennard_jones
from tests.conftest import topology_of

BACKENDS = ["torchforce", "python"]
PLATFORMS = ["Reference", "CPU"]
KJ = unit.kilojoules_per_mole
FORCE = unit.kilojoules_per_mole / unit.nanometer


def make_context(system, positions, platform="Reference", integrator=None):
    integrator = integrator or openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    return context


def energy_and_forces(context):
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy().value_in_unit(KJ), state.getForces(asNumpy=True).value_in_unit(FORCE)


@pytest.mark.parametrize(
    ("source", "structure", "backend", "platform"),
    [
        *itertools.product(["plain"], ["ethanol", "crystal"], BACKENDS, PLATFORMS),
        ("committee", "crystal", "torchforce", "CPU"),
        ("committee", "ethanol", "python", "Reference"),
    ],
)
def test_equals_the_ase_calculator(source, structure, backend, platform, mace_files, request):
    """The calculator equals mace-torch's (tests/potentials/mace/test_network.py), so the force does too."""
    atoms = request.getfixturevalue(structure)
    model = mace_files["plain"] if source == "plain" else [mace_files[f"member{k}"] for k in range(3)]
    topology, positions = topology_of(atoms)
    system = LearnedPotential(model).createSystem(topology, backend=backend, energy="total")
    energy, forces = energy_and_forces(make_context(system, positions, platform))
    results = HalberdCalculator(model).evaluate(atoms)
    assert energy == pytest.approx(results["energy"] * EV_IN_KJ_PER_MOL, rel=1e-12)
    expected = results["forces"] * EV_PER_ANGSTROM_IN_KJ_PER_MOL_NM
    if all(atoms.pbc):  # OpenMM's box is lower triangular; so is this cell, and nothing turned
        np.testing.assert_allclose(positions * 10, atoms.positions, atol=1e-12)
    np.testing.assert_allclose(forces, expected, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_forces_are_the_gradient(backend, platform, mace_files, crystal):
    topology, positions = topology_of(crystal)
    system = LearnedPotential(mace_files["zbl"]).createSystem(topology, backend=backend)
    context = make_context(system, positions, platform)
    _, forces = energy_and_forces(context)
    for atom, axis in [(0, 0), (1, 2), (3, 1), (4, 0)]:
        energies = []
        for step in (1e-5, -1e-5):
            moved = positions.copy()
            moved[atom, axis] += step
            context.setPositions(moved)
            energies.append(context.getState(energy=True).getPotentialEnergy().value_in_unit(KJ))
        slope = (energies[0] - energies[1]) / 2e-5
        assert forces[atom, axis] == pytest.approx(-slope, abs=1e-5 * np.abs(forces).max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_energy_follows_the_box_of_the_context(backend, mace_files, crystal):
    """Strain derivative of the OpenMM energy = the calculator's stress: what an NPT run rests on."""
    topology, positions = topology_of(crystal)
    system = LearnedPotential(mace_files["scale-shift"]).createSystem(topology, backend=backend)
    context = make_context(system, positions)
    stress = HalberdCalculator(mace_files["scale-shift"]).evaluate(crystal)["stress"]
    box = np.array(topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer))
    # Components that keep the box lower triangular: xx, yy, zz, and shears of b along a (Voigt xy is number 5).
    for (row, column), voigt in {(0, 0): 0, (1, 1): 1, (2, 2): 2, (1, 0): 5}.items():
        energies = []
        for step in (1e-5, -1e-5):
            strain = np.eye(3)
            strain[row, column] += step
            context.setPeriodicBoxVectors(*(openmm.Vec3(*v) for v in box @ strain))
            context.setPositions(positions @ strain)
            energies.append(context.getState(energy=True).getPotentialEnergy().value_in_unit(KJ))
        slope = (energies[0] - energies[1]) / 2e-5 / EV_IN_KJ_PER_MOL / crystal.get_volume()
        assert slope == pytest.approx(stress[voigt], abs=2e-6 * np.abs(stress).max())


def test_self_energies_are_included_by_choice(mace_files, ethanol):
    topology, positions = topology_of(ethanol)
    for variant in ("plain", "scale-shift"):
        energies = {}
        for kind in ("interaction", "total"):
            system = LearnedPotential(mace_files[variant]).createSystem(topology, energy=kind)
            energies[kind], _ = energy_and_forces(make_context(system, positions))
        difference = energies["total"] - energies["interaction"]
        expected = load(mace_files[variant]).self_energy(ethanol.numbers) * EV_IN_KJ_PER_MOL
        assert difference == pytest.approx(expected, rel=1e-12)
        assert expected < -1e5
    default = LearnedPotential(mace_files["plain"]).createSystem(topology)
    interaction = LearnedPotential(mace_files["plain"]).createSystem(topology, energy="interaction")
    assert energy_and_forces(make_context(default, positions))[0] == pytest.approx(
        energy_and_forces(make_context(interaction, positions))[0], rel=1e-14
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_xml_round_trip_in_a_fresh_process(backend, mace_files, ethanol, tmp_path):
    topology, positions = topology_of(ethanol)
    system = LearnedPotential(mace_files["plain"]).createSystem(topology, backend=backend)
    energy, _ = energy_and_forces(make_context(system, positions))
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    np.save(tmp_path / "positions.npy", positions)
    code = f"""
import numpy as np, openmm
from halberd.plugins import LearnedPotential
system = openmm.XmlSerializer.deserialize(open({str(tmp_path / "system.xml")!r}).read())
context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
context.setPositions(np.load({str(tmp_path / "positions.npy")!r}))
print(repr(context.getState(energy=True).getPotentialEnergy()._value))
context.getIntegrator().step(2)
"""
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) == energy


def argon_pair(backend):
    system = openmm.System()
    for _ in range(2):
        system.addParticle(39.9)
    system.addForce(build_force(lennard_jones([18]), [18, 18], options=ForceOptions(backend=backend)))
    return system


READ = """
import openmm
from halberd.plugins import LearnedPotential
system = openmm.XmlSerializer.deserialize(open("system.xml").read())
again = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
context = openmm.Context(again, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference"))
context.setPositions([[0, 0, 0], [0.4, 0, 0]])
print(repr(context.getState(energy=True).getPotentialEnergy()._value))
"""


@pytest.mark.skipif(LIST_OPERATOR.problem() is not None, reason="no compiled operator")
@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_xml_where_nothing_is_compiled(backend, portable, tmp_path, monkeypatch):
    """It ends in words, not in a signal; and what was made without operators needs none."""
    if portable:
        monkeypatch.setattr(CompiledOperator, "problem", lambda self: self.not_wanted)
    system = argon_pair(backend)
    energy, _ = energy_and_forces(make_context(system, np.array([[0, 0, 0], [0.4, 0, 0]])))
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    bare = {**os.environ, "HALBERD_CACHE_DIR": str(tmp_path), "PATH": "", "CXX": ""}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ],
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        text=True,
        check=False,
    )
    if portable:
        assert float(result.stdout) == pytest.approx(energy, rel=1e-12)
    else:
        assert result.returncode == 1
        assert "_VerletPairs" in result.stderr
        if backend == "python":
            assert "no C++ compiler found" in result.stderr
            assert "HALBERD_LIST=torch" in result.stderr


def test_xml_of_the_python_backend_brings_its_operators(tmp_path):
    """In a process that has not loaded them, and where nothing of halberd is imported before."""
    system = argon_pair("python")
    energy, _ = energy_and_forces(make_context(system, np.array([[0, 0, 0], [0.4, 0, 0]])))
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    code = READ.replace("from halberd.plugins import LearnedPotential\n", "")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(result.stdout) == energy


@pytest.mark.parametrize("backend", BACKENDS)
def test_deepcopy_keeps_everything(backend, mace_files, ethanol):
    topology, positions = topology_of(ethanol)
    system = LearnedPotential(mace_files["plain"]).createSystem(topology, backend=backend, forceGroup=3)
    twin = copy.deepcopy(system)
    assert system.getForce(0).getName() == "halberd: plain"  # names do not survive in OpenMM; groups do
    assert twin.getForce(0).getForceGroup() == 3
    first = energy_and_forces(make_context(system, positions))
    second = energy_and_forces(make_context(twin, positions))
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", ["checkpoint", "state"])
def test_restart_reproduces_the_trajectory(how, backend, platform, mace_files, ethanol):
    topology, positions = topology_of(ethanol)
    system = LearnedPotential(mace_files["plain"]).createSystem(topology, backend=backend)

    def context():
        # A State does not hold random streams, hence NVE for it.
        if how == "state":
            return make_context(system, positions, platform)
        integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.0005)
        integrator.setRandomNumberSeed(7)
        return make_context(system, positions, platform, integrator)

    original = context()
    original.setVelocitiesToTemperature(300, 1)
    original.getIntegrator().step(10)
    if how == "checkpoint":
        saved = original.createCheckpoint()
    else:
        state = original.getState(positions=True, velocities=True, parameters=True, integratorParameters=True)
        saved = openmm.XmlSerializer.serialize(state)
    original.getIntegrator().step(15)
    restarted = context()
    if how == "checkpoint":
        restarted.loadCheckpoint(saved)
    else:
        restarted.setState(openmm.XmlSerializer.deserialize(saved))
    restarted.getIntegrator().step(15)
    ends = [c.getState(positions=True).getPositions(asNumpy=True)._value for c in (original, restarted)]
    # A Verlet list rebuilt at another moment sums the same terms in another order.
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-11, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reads_nothing_into_repeated_evaluations(backend, mace_files, crystal):
    """Extra getState calls, or a far jump and back, change nothing."""
    topology, positions = topology_of(crystal)
    system = LearnedPotential(mace_files["plain"]).createSystem(topology, backend=backend)
    context = make_context(system, positions)
    first, forces = energy_and_forces(context)
    context.setPositions(positions + 30.0)
    far, _ = energy_and_forces(context)
    context.setPositions(np.random.default_rng(0).permutation(positions) * 1.1)
    energy_and_forces(context)
    context.setPositions(positions)
    again, forces_again = energy_and_forces(context)
    assert far == pytest.approx(first, rel=1e-10)
    assert again == pytest.approx(first, rel=1e-12)
    np.testing.assert_allclose(forces_again, forces, atol=1e-10 * np.abs(forces).max())


@pytest.mark.parametrize("skin", [0.0, 0.5, 1.5])
def test_the_skin_changes_nothing(skin, mace_files, crystal):
    topology, positions = topology_of(crystal)
    system = LearnedPotential(mace_files["plain"]).createSystem(topology, skin=skin)
    reference = LearnedPotential(mace_files["plain"]).createSystem(topology, skin=0.0)
    contexts = [make_context(each, positions) for each in (system, reference)]
    for context in contexts:
        context.setVelocitiesToTemperature(500, 2)
    for _ in range(5):
        for context in contexts:
            context.getIntegrator().step(10)
        ends = [c.getState(positions=True).getPositions(asNumpy=True)._value for c in contexts]
        np.testing.assert_allclose(ends[0], ends[1], atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inside_a_custom_cv_force(backend, mace_files, ethanol):
    topology, positions = topology_of(ethanol)
    system = LearnedPotential(mace_files["plain"]).createSystem(topology, backend=backend, removeCMMotion=False)
    energy, forces = energy_and_forces(make_context(system, positions))
    outer = openmm.System()
    for i in range(system.getNumParticles()):
        outer.addParticle(system.getParticleMass(i))
    cv = openmm.CustomCVForce("0.5*ml^2")
    cv.addCollectiveVariable("ml", copy.deepcopy(system.getForce(0)))
    outer.addForce(cv)
    outer_energy, outer_forces = energy_and_forces(make_context(outer, positions))
    assert outer_energy == pytest.approx(0.5 * energy**2, rel=1e-10)
    np.testing.assert_allclose(outer_forces, energy * forces, rtol=1e-8, atol=1e-8 * np.abs(energy * forces).max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_minimiser(backend):
    """A strained argon trimer relaxes to the equilateral triangle."""
    model = lennard_jones([18], cutoff=20.0)
    topology, positions = topology_of(Atoms("Ar3", positions=[[0, 0, 0], [4.3, 0, 0], [1.5, 3.0, 0.2]]))
    system = LearnedPotential(model).createSystem(topology, backend=backend)
    context = make_context(system, positions)
    openmm.LocalEnergyMinimizer.minimize(context, 1e-4)
    end = context.getState(positions=True).getPositions(asNumpy=True)._value
    distances = [np.linalg.norm(end[i] - end[j]) for i, j in ((0, 1), (1, 2), (0, 2))]
    assert np.ptp(distances) < 1e-4
    assert distances[0] == pytest.approx(0.34 * 2 ** (1 / 6), rel=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_atoms_subset(backend, mace_files, ethanol):
    """The model sees the chosen atoms, in the order given; the others feel nothing."""
    solvent = Atoms("Ar2", positions=[[10.0, 0, 0], [0, 11.0, 0]])
    topology, positions = topology_of(solvent[:1] + ethanol + solvent[1:])
    chosen = list(range(1, 10))
    system = LearnedPotential(mace_files["plain"]).createSystem(topology, atoms=chosen[::-1], backend=backend)
    energy, forces = energy_and_forces(make_context(system, positions))
    alone, alone_positions = topology_of(ethanol)
    alone_system = LearnedPotential(mace_files["plain"]).createSystem(alone)
    expected, expected_forces = energy_and_forces(make_context(alone_system, alone_positions))
    assert energy == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(forces[1:10], expected_forces, atol=1e-8 * np.abs(expected_forces).max())
    assert not forces[[0, 10]].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_positions_stop_the_run_and_name_the_atoms(backend, mace_files, ethanol):
    topology, positions = topology_of(ethanol)
    system = LearnedPotential(mace_files["plain"]).createSystem(topology, backend=backend)
    broken = positions.copy()
    broken[4, 0] = np.nan
    context = make_context(system, broken)
    with pytest.raises(openmm.OpenMMException, match=r"not finite for 1 of 9 atoms, the first are \[4\]"):
        context.getState(energy=True)


def test_group_name_and_scale_parameter(ethanol, mace_files):
    _, positions = topology_of(ethanol)
    for backend in BACKENDS:
        system = openmm.System()
        for _ in ethanol:
            system.addParticle(1.0)
        options = ForceOptions(backend=backend, forceGroup=31)
        model = load(mace_files["plain"])
        force = build_force(model, ethanol.numbers, options=options, scale_parameter="fade", name="mine")
        assert (force.getName(), force.getForceGroup()) == ("mine", 31)
        system.addForce(force)
        context = make_context(system, positions)
        whole, forces = energy_and_forces(context)
        context.setParameter("fade", 0.25)
        part, part_forces = energy_and_forces(context)
        assert part == pytest.approx(0.25 * whole, rel=1e-12)
        np.testing.assert_allclose(part_forces, 0.25 * forces, rtol=1e-10, atol=1e-9)


def test_threads(mace_files, ethanol):
    topology, _ = topology_of(ethanol)
    before = torch.get_num_threads()
    try:
        LearnedPotential(mace_files["plain"]).createSystem(topology, threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"precison": "double"}, "Unknown keyword 'precison'. Did you mean 'precision'"),
        ({"precision": "half"}, "'single' or 'double'"),
        ({"backend": "torchforces"}, "Did you mean 'torchforce'"),
        ({"energy": "all"}, "'interaction' or 'total'"),
        ({"forceGroup": 32}, "groups 0 to 31"),
        ({"threads": 0}, "at least 1"),
        ({"skin": -1.0}, "0 or a positive length"),
        ({"device": "gpu"}, "write 'cpu', 'cuda'"),
        ({"device": "mps"}, "runs on 'cpu' and 'cuda'"),
    ],
)
def test_bad_options(keywords, message, mace_files, ethanol):
    topology, _ = topology_of(ethanol)
    potential = LearnedPotential(mace_files["plain"])
    with pytest.raises(ConfigurationError, match=message):
        potential.createSystem(topology, **keywords)
    with pytest.raises(ConfigurationError, match=message):
        LearnedPotential(mace_files["plain"], **keywords)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_cuda_without_a_gpu():
    with pytest.raises(BackendError, match="torch finds no usable GPU"):
        check_device("cuda")


@pytest.mark.filterwarnings("ignore:.*several times slower on GPUs")
def test_device_must_be_the_contexts(mace_files, ethanol, monkeypatch):
    """What a user on the CPU platform sees who asked for a GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    topology, positions = topology_of(ethanol)
    system = LearnedPotential(mace_files["plain"]).createSystem(topology, device="cuda")
    with pytest.raises(openmm.OpenMMException, match="device='cuda' was asked for, but the Context computes on 'cpu'"):
        make_context(system, positions).getState(energy=True)


def test_unknown_element_names_the_atom(mace_files):
    topology, _ = topology_of(Atoms("H2Si", positions=[[0, 0, 0], [0.7, 0, 0], [0, 2, 0]]))
    with pytest.raises(UnknownElementError, match="Atom 2 is Si"):
        LearnedPotential(mace_files["plain"]).createSystem(topology)


def test_a_topology_without_elements_is_refused(mace_files):
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    topology.addAtom("M", None, residue)
    with pytest.raises(UnknownElementError, match=r"Atom 0 \(M in residue X\) has no element"):
        LearnedPotential(mace_files["plain"]).createSystem(topology)


def test_callbacks_of_before_the_folders_load(tmp_path, monkeypatch):
    """XML of the python backend holds a pickle that names its module; OpenMM crashes if that is gone."""
    from halberd.plugins.forces.python_force import ModuleCallback

    system = argon_pair("python")
    monkeypatch.setattr(ModuleCallback, "__module__", "halberd.plugins.python_force")
    xml = openmm.XmlSerializer.serialize(system)
    (tmp_path / "system.xml").write_text(xml)
    code = """
import openmm
from halberd.plugins import LearnedPotential
system = openmm.XmlSerializer.deserialize(open("system.xml").read())
context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference"))
context.setPositions([[0, 0, 0], [0.4, 0, 0]])
assert context.getState(energy=True).getPotentialEnergy()._value < 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, check=True)
