"""The biasing force in OpenMM: gradient of ``mean - tau sigma`` for every kind of committee, and nothing at tau = 0."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
from openmm import app, unit

from halberd.plugins import HalberdCalculator, LearnedPotential
from halberd.plugins.reporters.committee_monitor import CommitteeMonitor
from halberd.plugins.reporters.disagreement import COLUMNS, DisagreementReporter
from halberd.potentials import committee, load
from halberd.potentials.ace.fit import AceFit
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.frames.labelled import Frame
from tests.conftest import fitted_last_layer, random_ace, topology_of

EV = 96.48533212331


@pytest.fixture(scope="module")
def models(mace_files, alloy, ethanol):
    """Everything that can disagree with itself."""
    basis, coefficients = random_ace(members=5, order=3, degree=6)
    layer = fitted_last_layer(mace_files, ethanol)
    fit = AceFit(AceSettings(("Al", "Si"), order=2, degree=6, cutoff=4.5))
    calculator = HalberdCalculator(ace_site_model(basis, coefficients[:, 0]))
    labelled = calculator.evaluate(alloy)
    fit.add([Frame(alloy, labelled["energy"], labelled["forces"], None, "default")])
    fitted = fit.solve()
    return {
        "ace": ace_site_model(basis, coefficients),
        "ace-exact": fitted.with_exact_sigma(),
        "mace": load([mace_files[f"member{k}"] for k in range(3)]),
        "last-layer": layer.model,
        "last-layer-exact": layer.with_exact_sigma(),
    }


def start(name, ethanol, alloy, periodic):
    if name.startswith("ace"):
        atoms = alloy.copy()
        if not periodic:
            atoms = atoms[:9]
    else:
        atoms = ethanol.copy()
        if periodic:
            atoms.set_cell([[5.0, 0, 0], [1.0, 5.5, 0], [0.5, -1.0, 6.0]])
    atoms.pbc = periodic
    return atoms


def context_of(model, atoms, platform="Reference", **options):
    topology, positions = topology_of(atoms)
    system = LearnedPotential(model).createSystem(topology, **options)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform))
    context.setPositions(positions)
    return context, np.array(positions)


def energy(context):
    return context.getState(energy=True).getPotentialEnergy()._value


@pytest.mark.parametrize("bias", ["sigma", "exponential"])
@pytest.mark.parametrize("periodic", [False, True], ids=["open", "periodic"])
@pytest.mark.parametrize("name", ["ace", "ace-exact", "mace", "last-layer", "last-layer-exact"])
def test_forces_are_the_gradient(models, ethanol, alloy, name, periodic, bias):
    atoms = start(name, ethanol, alloy, periodic)
    context, positions = context_of(models[name], atoms, bias=bias, bias_width=0.3)
    context.setParameter("hal_tau", 1.7)
    state = context.getState(forces=True, energy=True, parameterDerivatives=True)
    forces = state.getForces(asNumpy=True)._value
    largest = np.abs(forces).max()
    for atom, axis in [(0, 0), (4, 2), (7, 1)]:
        sides = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[atom, axis] += sign * 2e-5
            context.setPositions(moved)
            sides.append(energy(context))
        assert forces[atom, axis] == pytest.approx(-(sides[0] - sides[1]) / 4e-5, rel=1e-4, abs=1e-6 * largest)
    # The energy is what the members say it is, and its derivative by tau minus the measure of disagreement.
    results = HalberdCalculator(models[name], energy="interaction").evaluate(atoms)
    sigma = results["energy_std"]
    if bias == "exponential":
        sigma = 1 - np.exp(-(sigma**2) / (2 * len(atoms) * 0.09))
    assert state.getPotentialEnergy()._value == pytest.approx(EV * (results["energy"] - 1.7 * sigma), rel=1e-6)
    derivative = state.getEnergyParameterDerivatives()["hal_tau"]
    assert derivative == pytest.approx(-EV * sigma, rel=1e-4)


@pytest.mark.parametrize("name", ["ace", "mace"])
def test_without_strength_it_is_plain_md_to_the_bit(models, ethanol, alloy, name):
    atoms = start(name, ethanol, alloy, True)
    ends = []
    for options in ({}, {"bias": "sigma"}):
        topology, positions = topology_of(atoms)
        system = LearnedPotential(models[name]).createSystem(topology, **options)
        integrator = openmm.LangevinMiddleIntegrator(300, 1.0, 0.0005)
        integrator.setRandomNumberSeed(4)
        context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"))
        context.setPositions(positions)
        context.setVelocitiesToTemperature(300, 2)
        integrator.step(20)
        ends.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
    assert np.array_equal(*ends)


@pytest.mark.parametrize("kind", ["single", "identical"])
def test_nothing_to_disagree_about(mace_files, ethanol, kind):
    source = mace_files["member0"]
    model = load(source) if kind == "single" else committee([load(source), load(source)])
    context, _ = context_of(model, ethanol, bias="sigma")
    plain = context.getState(energy=True, forces=True)
    context.setParameter("hal_tau", 50.0)
    biased = context.getState(energy=True, forces=True)
    assert biased.getPotentialEnergy()._value == pytest.approx(plain.getPotentialEnergy()._value, abs=1e-3)
    difference = biased.getForces(asNumpy=True)._value - plain.getForces(asNumpy=True)._value
    assert np.abs(difference).max() < 1e-6


def test_bias_pushes_towards_disagreement(models, alloy):
    """The force that the bias adds is tau times the gradient of sigma: a step along it raises sigma by that much."""
    calculator, tau, length = HalberdCalculator(models["ace"]), 0.7, 1e-3
    for seed in range(3):
        atoms = alloy.copy()
        atoms.rattle(0.05, seed=seed)
        context, _ = context_of(models["ace"], atoms, bias="sigma")
        forces = []
        for strength in (0.0, tau):
            context.setParameter("hal_tau", strength)
            forces.append(context.getState(forces=True).getForces(asNumpy=True)._value / (10 * EV))
        gradient = (forces[1] - forces[0]) / tau  # eV/angstrom
        size = np.linalg.norm(gradient)
        assert size > 1e-3
        sigmas = []
        for sign in (-1, 1):
            moved = atoms.copy()
            moved.positions += sign * length * gradient / size
            sigmas.append(calculator.evaluate(moved)["energy_std"])
        assert (sigmas[1] - sigmas[0]) / (2 * length) == pytest.approx(size, rel=1e-4)


def test_python_backend_and_single_precision_agree(models, ethanol):
    reference, _ = context_of(models["mace"], ethanol, bias="sigma")
    reference.setParameter("hal_tau", 0.8)
    expected = energy(reference)
    for options, tolerance in (({"backend": "python"}, 1e-9), ({"precision": "single"}, 1e-3)):
        context, _ = context_of(models["mace"], ethanol, bias="sigma", **options)
        context.setParameter("hal_tau", 0.8)
        assert energy(context) == pytest.approx(expected, rel=tolerance)


def test_interpolation_and_bias_do_not_mix(models, ethanol):
    topology, _ = topology_of(ethanol)
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    with pytest.raises(ConfigurationError, match="leave out bias="):
        LearnedPotential(models["mace"]).createMixedSystem(topology, system, [0, 1, 2], interpolate=True, bias="sigma")
    with pytest.raises(ConfigurationError, match="bias is 'sigm'"):
        LearnedPotential(models["mace"], bias="sigm")


def test_reporter_writes_what_the_committee_says(models, alloy, tmp_path):
    topology, positions = topology_of(alloy)
    system = LearnedPotential(models["ace"]).createSystem(topology, bias="sigma")
    integrator = openmm.LangevinMiddleIntegrator(200, 1.0, 0.0005)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName("CPU"))
    simulation.context.setPositions(positions)
    simulation.context.setVelocitiesToTemperature(200, 1)
    called = []
    reporter = DisagreementReporter(
        tmp_path / "hal.csv",
        5,
        models["ace"],
        epsilon=0.3,
        frames=tmp_path / "hal.xyz",
        after=lambda simulation, seen, f: (called.append(f.max()), simulation.context.setParameter("hal_tau", 0.1)),
    )
    simulation.reporters.append(reporter)
    simulation.step(10)
    reporter.close()
    rows = np.genfromtxt(tmp_path / "hal.csv", delimiter=",", names=True)
    assert tuple(rows.dtype.names) == COLUMNS
    assert rows["step"].tolist() == [5, 10]
    assert rows["tau"].tolist() == [0.0, 0.1]
    assert rows["max_f"] == pytest.approx(called, rel=1e-8)

    import ase.io

    last = ase.io.read(tmp_path / "hal.xyz", index=-1)
    results = HalberdCalculator(models["ace"]).evaluate(last)
    assert rows["sigma_eV"][1] == pytest.approx(results["energy_std"], rel=1e-5)
    expected = results["forces_std"] / (np.linalg.norm(results["forces"], axis=1) + 0.3)
    assert last.arrays["relative_uncertainty"] == pytest.approx(expected, rel=1e-4)
    assert int(rows["atom"][1]) == expected.argmax()
    state = simulation.context.getState(energy=True)
    kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoules_per_mole)
    assert rows["temperature_K"][1] == pytest.approx(2 * kinetic / (3 * 31 * 0.00831446), rel=1e-4)
    volume = alloy.get_volume()
    assert rows["volume_A3"][1] == pytest.approx(volume, rel=1e-6)
    pressure = (2 * kinetic / 3 / EV - results["stress"][:3].mean() * volume) / volume * 1602176.634
    assert rows["pressure_bar"][1] == pytest.approx(pressure, rel=1e-3)


def test_monitor_needs_members(mace_files, models):
    for model in (load(mace_files["plain"]), models["ace-exact"]):
        with pytest.raises(ConfigurationError, match="has no members to compare"):
            CommitteeMonitor(model, [13], True)
