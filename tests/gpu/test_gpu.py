"""What needs a GPU: every kind of model, force and run on the CUDA platform against the Reference platform.

``bash tests/gpu/run.sh`` installs what is needed and runs them.
"""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import openmm
import pytest
import torch
from ase.neighborlist import neighbor_list
from openmm import app, unit

from halberd.plugins import HalberdCalculator, LearnedPotential
from halberd.plugins.forces.selftest import main as selftest
from halberd.potentials import load
from halberd.potentials.errors import HalberdError
from tests.conftest import call, topology_of
from tests.gpu.conftest import COMMITTEES, MODELS

KJ = unit.kilojoules_per_mole
FORCE = unit.kilojoules_per_mole / unit.nanometer


def make_context(system, positions, platform="CUDA", integrator=None, **properties):
    integrator = integrator or openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform), properties)
    context.setPositions(positions)
    return context


def energy_and_forces(context):
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy().value_in_unit(KJ), state.getForces(asNumpy=True).value_in_unit(FORCE)


def compare(found, expected, tolerance):
    scale = np.abs(expected[1]).max()
    assert scale > 1
    np.testing.assert_allclose(found[1], expected[1], atol=tolerance * scale)
    assert found[0] == pytest.approx(expected[0], rel=10 * tolerance, abs=10 * tolerance)


@pytest.mark.parametrize("precision", ["double", "single"])
@pytest.mark.parametrize("name", MODELS)
def test_the_gpu_gives_the_numbers_of_the_cpu(name, precision, model_of, structures):
    topology, positions = topology_of(structures[MODELS[name]])
    dtype = torch.float64 if precision == "double" else torch.float32
    model = model_of(name).to(dtype)
    system = LearnedPotential(model).createSystem(topology)
    expected = energy_and_forces(make_context(system, positions, "Reference"))
    found = energy_and_forces(make_context(system, positions, Precision=precision))
    compare(found, expected, 1e-9 if precision == "double" else 2e-4)


@pytest.mark.parametrize("name", ["family mace", "family density", "pretrained", "sevennet"])
def test_networks_run_on_kernels_and_never_wait(name, model_of, structures):
    """Nothing asks the GPU for a number, and the same edges give the same bits."""
    model = model_of(name).to(torch.float32)
    module = model.scripted().to("cuda")
    assert module.on_gpu is not None
    atoms = structures[MODELS[name]]
    i, j, vectors = neighbor_list("ijD", atoms, model.cutoff)
    edge_index = torch.tensor(np.array([i, j]), device="cuda")
    species = model.species_of(atoms.numbers).cuda()
    given = torch.tensor(vectors, dtype=torch.float32, device="cuda")

    def evaluate():
        moving = given.clone().requires_grad_()
        energies = module(species, edge_index, moving)
        (gradient,) = torch.autograd.grad(energies.sum(), moving)
        return energies.detach(), gradient

    for _ in range(3):
        evaluate()  # compiles, loads, and measures itself
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        try:
            torch.cuda.set_sync_debug_mode("error")
            results = [evaluate() for _ in range(2)]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("bias", ["sigma", "exponential"])
@pytest.mark.parametrize("name", COMMITTEES)
def test_a_biased_force(name, bias, model_of, structures):
    topology, positions = topology_of(structures[MODELS[name]])
    system = LearnedPotential(model_of(name).to(torch.float64)).createSystem(topology, bias=bias)
    results = []
    for platform, properties in (("Reference", {}), ("CUDA", {"Precision": "double"})):
        context = make_context(system, positions, platform, **properties)
        for tau in (0.0, 0.7):
            context.setParameter("hal_tau", tau)
            results.append(energy_and_forces(context))
    for expected, found in zip(results[:2], results[2:], strict=True):
        compare(found, expected, 1e-9)
    assert abs(results[0][0] - results[1][0]) > 1e-3


@pytest.mark.parametrize("name", ["mace", "ace", "family mace", "pretrained"])
def test_energy_is_conserved(name, model_of, structures):
    """200 fs without a thermostat; mixed precision."""
    atoms = structures[MODELS[name]]
    topology, positions = topology_of(atoms)
    system = LearnedPotential(model_of(name)).createSystem(topology)
    context = make_context(system, positions, integrator=openmm.VerletIntegrator(0.0002), Precision="mixed")
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=50)
    context.setVelocitiesToTemperature(200, 1)
    totals, kinetic = [], []
    for _ in range(50):
        context.getIntegrator().step(20)
        state = context.getState(energy=True)
        kinetic.append(state.getKineticEnergy().value_in_unit(KJ))
        totals.append(state.getPotentialEnergy().value_in_unit(KJ) + kinetic[-1])
    assert np.std(totals) < 0.03 * np.mean(kinetic)


def test_npt_barostat(model_of, structures):
    topology, positions = topology_of(structures["metal"])
    system = LearnedPotential(model_of("ace")).createSystem(topology)
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0, 5))
    context = make_context(system, positions, integrator=openmm.LangevinMiddleIntegrator(300, 1.0, 0.001))
    volumes = []
    for _ in range(20):
        context.getIntegrator().step(10)
        volumes.append(context.getState().getPeriodicBoxVolume().value_in_unit(unit.nanometer**3))
    assert np.isfinite(volumes).all()
    assert len(set(volumes)) > 2


def test_xml_and_back(model_of, structures):
    topology, positions = topology_of(structures["water"])
    system = LearnedPotential(model_of("mace")).createSystem(topology)
    first = energy_and_forces(make_context(system, positions, Precision="double"))
    copy = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    compare(energy_and_forces(make_context(copy, positions, Precision="double")), first, 1e-12)


FRESH = """
import sys
import numpy as np, openmm
from halberd.plugins import LearnedPotential
system = openmm.XmlSerializer.deserialize(open(sys.argv[1]).read())
platform = openmm.Platform.getPlatformByName("CUDA")
context = openmm.Context(system, openmm.VerletIntegrator(0.0005), platform, {"Precision": "double"})
context.setPositions(np.load(sys.argv[2]))
print(context.getState(energy=True).getPotentialEnergy()._value)
"""


def test_xml_in_a_process_that_never_loaded_the_model(tmp_path, model_of, structures):
    """Kernels come from the cache."""
    topology, positions = topology_of(structures["ethanol"])
    system = LearnedPotential(model_of("family mace").to(torch.float64)).createSystem(topology)
    expected, _ = energy_and_forces(make_context(system, positions, Precision="double"))
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    np.save(tmp_path / "positions.npy", np.array(positions))
    command = [sys.executable, "-c", FRESH, str(tmp_path / "system.xml"), str(tmp_path / "positions.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["mace", "ace", "family mace"])
def test_a_checkpoint_goes_on_where_it_was(name, model_of, structures):
    """To rounding: sums by atomic operations come in any order."""
    topology, positions = topology_of(structures[MODELS[name]])
    system = LearnedPotential(model_of(name).to(torch.float64)).createSystem(topology)
    ends = []
    integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.0005)
    integrator.setRandomNumberSeed(5)
    context = make_context(system, positions, integrator=integrator, Precision="double", DeterministicForces="true")
    context.setVelocitiesToTemperature(300, 1)
    integrator.step(10)
    checkpoint = context.createCheckpoint()
    for _ in range(2):
        context.loadCheckpoint(checkpoint)
        integrator.step(20)
        ends.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-7)


def test_python_backend_and_calculator(model_of, structures):
    atoms = structures["water"]
    topology, positions = topology_of(atoms)
    model = model_of("mace").to(torch.float64)
    system = LearnedPotential(model).createSystem(topology)
    expected = energy_and_forces(make_context(system, positions, "Reference"))
    carried = LearnedPotential(model).createSystem(topology, backend="python", device="cuda")
    compare(energy_and_forces(make_context(carried, positions, Precision="double")), expected, 1e-9)
    compare(energy_and_forces(make_context(carried, positions, "Reference")), expected, 1e-9)
    on_gpu = HalberdCalculator(model, device="cuda").evaluate(atoms)
    on_cpu = HalberdCalculator(model).evaluate(atoms)
    for key in ("energy", "forces", "stress", "energies"):
        np.testing.assert_allclose(on_gpu[key], on_cpu[key], rtol=1e-9, atol=1e-9)


def test_a_device_that_is_asked_for(model_of, structures):
    topology, positions = topology_of(structures["water"])
    system = LearnedPotential(model_of("mace")).createSystem(topology, device="cuda")
    with pytest.raises(openmm.OpenMMException, match="device='cuda'"):
        energy_and_forces(make_context(system, positions, "Reference"))
    energy, _ = energy_and_forces(make_context(system, positions))
    assert np.isfinite(energy)


def test_subset_of_particles_beside_other_forces(model_of, structures):
    topology, positions = topology_of(structures["ethanol"])
    system = LearnedPotential(model_of("family mace").to(torch.float64)).createSystem(topology)
    extra = openmm.CustomExternalForce("x^2 + y^2 + z^2")
    for k in range(len(positions)):
        extra.addParticle(k, [])
    system.addForce(extra)
    results = [
        energy_and_forces(make_context(system, positions, "Reference")),
        energy_and_forces(make_context(system, positions, Precision="double")),
    ]
    compare(results[1], results[0], 1e-9)


EXPLODED = """
import numpy as np, openmm, torch
from ase.build import molecule
from halberd.plugins import LearnedPotential, topology_from_atoms
topology, positions = topology_from_atoms(molecule("CH3CH2OH"))
system = LearnedPotential("gfn2-chnof").createSystem(topology)
context = openmm.Context(system, openmm.VerletIntegrator(0.0005), openmm.Platform.getPlatformByName("CUDA"))
bad = np.array(positions)
bad[2] = np.nan
context.setPositions(bad)
try:
    energy = context.getState(energy=True).getPotentialEnergy()._value
    print("energy", energy)
except Exception as error:
    print("error", str(error)[:300])
context.setPositions(positions)
print("after", context.getState(energy=True).getPotentialEnergy()._value)
print("torch", float(torch.ones(3, device="cuda").sum()))
"""


def test_positions_that_are_no_numbers_leave_the_gpu_usable():
    done = subprocess.run([sys.executable, "-c", EXPLODED], capture_output=True, text=True, timeout=300)
    print(done.stdout, done.stderr[-2000:])
    assert done.returncode == 0
    assert "torch 3.0" in done.stdout
    assert "energy nan" in done.stdout or "halberd" in done.stdout


def test_memory_does_not_grow(model_of, structures):
    """10,000 steps of a changing list of edges."""
    topology, positions = topology_of(structures["metal"])
    system = LearnedPotential(model_of("ace")).createSystem(topology)
    context = make_context(system, positions, integrator=openmm.LangevinMiddleIntegrator(300, 1.0, 0.001))
    used = []
    for _ in range(5):
        context.getIntegrator().step(2000)
        free, total = torch.cuda.mem_get_info()
        used.append((total - free) / 1e6)
    print("MB", used)
    assert used[-1] - used[1] < 30


MD = """
model: gfn2-chnof
structure: start.xyz
output: {output}
steps: 400
temperature: 300
timestep: 0.5
seed: 1
platform: CUDA
report_interval: 100
checkpoint_interval: 100
"""


def test_md_command(tmp_path, monkeypatch, capsys, structures):
    structures["water"].write(tmp_path / "start.xyz", format="extxyz")
    settings = tmp_path / "md.yaml"
    settings.write_text(MD.format(output=tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    code, _, error = call(capsys, monkeypatch, "md", settings)
    assert code == 0, error
    assert (tmp_path / "run").exists()


def test_score_of_similarity():
    from halberd.plugins import similarity_force
    from halberd.plugins.forces.simgen import SIMGEN_SIGMA, carriers, n_carriers
    from halberd.potentials.mace.descriptor import mace_descriptor
    from halberd.potentials.simgen.reference_set import ReferenceSet
    from halberd.potentials.simgen.score import SimilarityScore

    score = SimilarityScore(mace_descriptor(load("gfn2-chnof@1", precision="double")), ReferenceSet.load("qm9-small"))
    references, n = score.references, 2
    positions = np.concatenate([references.positions[k] for k in range(n)])
    positions += np.random.default_rng(4).normal(scale=0.1, size=positions.shape)
    species = score.descriptor.species_of(np.concatenate([references.numbers[k] for k in range(n)])).numpy()
    sizes = [len(references.numbers[k]) for k in range(n)]
    system = openmm.System()
    for k in range(len(positions) + n_carriers(len(positions))):
        system.addParticle(1.0 if k < len(positions) else 0.0)
    system.addForce(similarity_force(score, sizes, 1, "torchforce"))
    results = []
    for platform, properties in (("Reference", {}), ("CUDA", {"Precision": "double"})):
        context = make_context(system, np.concatenate([positions / 10, carriers(species)]), platform, **properties)
        context.setParameter(SIMGEN_SIGMA, 0.1)
        results.append(energy_and_forces(context))
    compare(results[1], results[0], 1e-8)


def test_generate_on_the_gpu(tmp_path):
    pytest.importorskip("rdkit")
    from halberd.samplers import GenerationSettings, SamplerOptions, generate

    sampler = SamplerOptions(platform="CUDA")
    settings = GenerationSettings(
        n=2, heavy_atoms="5", seed=1, batch=4, max_attempts=4, device="cuda", sampler=sampler, references="qm9-small"
    )
    made = generate(settings)
    assert len(made.molecules) >= 1


def test_doctor(capsys, monkeypatch):
    code, out, error = call(capsys, monkeypatch, "doctor")
    print(out, error)
    assert code == 0
    assert "platform CUDA" not in out + error


@pytest.mark.parametrize("backend", ["torchforce", "python"])
def test_selftest(backend):
    selftest(backend, "CUDA")


def test_errors_are_ours(model_of, structures):
    with pytest.raises(HalberdError):
        HalberdCalculator(model_of("mace"), device="cuda:99")
    with pytest.raises(HalberdError):
        LearnedPotential(model_of("mace")).createSystem(topology_of(structures["water"])[0], device="cuda:99")


def test_simulation_with_reporters(tmp_path, model_of, structures):
    from halberd.plugins import ThermoReporter

    topology, positions = topology_of(structures["metal"])
    system = LearnedPotential(model_of("ace")).createSystem(topology)
    simulation = app.Simulation(
        topology, system, openmm.LangevinMiddleIntegrator(300, 1.0, 0.001), openmm.Platform.getPlatformByName("CUDA")
    )
    simulation.context.setPositions(positions)
    simulation.reporters.append(ThermoReporter(str(tmp_path / "log.csv"), 10))
    simulation.step(50)
    assert len((tmp_path / "log.csv").read_text().splitlines()) >= 5
