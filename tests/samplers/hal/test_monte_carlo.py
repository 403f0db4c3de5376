"""Cell and swap moves sample the right distributions."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import openmm
import pytest
import scipy.linalg
import scipy.stats

from halberd.samplers.hal.monte_carlo import (
    MonteCarloMoves,
    compactness,
    log_cell_acceptance,
    standard_cell,
    strain_factor,
    usual_amplitude,
)

R = 0.00831446261815324


def context_of(system, positions, box=None):
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*box)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    return context


def test_acceptance_by_hand():
    # dE = 2, P dV = 3 * (1.1 - 1.0) = 0.3, kT = 0.5, N = 4
    value = log_cell_acceptance((1.0, 3.0), (1.0, 1.1), pressure=3.0, n_atoms=4, kT=0.5)
    assert value == pytest.approx(-2.3 / 0.5 + 5 * np.log(1.1))


def test_moves_and_their_reverse_are_alike():
    generator = np.random.default_rng(0)
    volumes = np.array([np.log(np.linalg.det(strain_factor("shape", 0.05, generator))) for _ in range(4000)])
    assert abs(volumes.mean()) < 4 * volumes.std() / np.sqrt(len(volumes))
    assert scipy.stats.skew(volumes) == pytest.approx(0.0, abs=0.15)
    isotropic = strain_factor("isotropic", 0.1, generator)
    assert np.allclose(isotropic, isotropic[0, 0] * np.eye(3))
    assert usual_amplitude(500.0, 40) == pytest.approx(0.01)


def test_no_direction_is_special_to_strains():
    """The density of S is a function of tr(S^2) and the same after a rotation, else moves and reverses differ."""
    generator = np.random.default_rng(1)
    strains = np.array([scipy.linalg.logm(strain_factor("shape", 0.05, generator)) for _ in range(3000)])
    assert np.allclose(strains, strains.transpose(0, 2, 1), atol=1e-10)
    rotation = scipy.stats.special_ortho_group.rvs(3, random_state=4)
    for each in (strains, rotation.T @ strains @ rotation):
        diagonal, others = each[:, [0, 1, 2], [0, 1, 2]], each[:, [0, 0, 1], [1, 2, 2]]
        assert diagonal.std() == pytest.approx(0.05, rel=0.04)
        assert others.std() == pytest.approx(0.05 / np.sqrt(2), rel=0.04)
        assert np.abs(np.cov(np.hstack([diagonal, others]).T) - np.diag(3 * [0.0025] + 3 * [0.00125])).max() < 2e-4


class CellOnly:
    """A Context of an ideal gas whose energy is a function of the cell."""

    def __init__(self, energy, edge):
        self.energy, self.box = energy, edge * np.eye(3)
        self.positions = np.zeros((1, 3))

    def setPeriodicBoxVectors(self, *box):
        self.box = np.array(box)

    def setPositions(self, positions):
        self.positions = positions

    setVelocities = setPositions

    def getState(self, **_):
        return copy.copy(self)

    def getPeriodicBoxVectors(self, asNumpy):
        return SimpleNamespace(_value=self.box)

    def getPositions(self, asNumpy):
        return SimpleNamespace(_value=self.positions)

    getVelocities = getPositions

    def getPotentialEnergy(self):
        return SimpleNamespace(_value=self.energy(self.box))


def test_shapes_of_cells_are_distributed_as_they_should():
    """Cells with E = k/2 tr(L^2), L the logarithm of the stretch, whose eigenvalues have a known density.

    It is ``prod_(i<j) |sinh(l_i - l_j)| exp((N + 1) tr L - (E + P V) / kT)``: the measure of positive matrices.
    """
    stiffness, temperature, n = 800.0, 300.0, 1
    kT = R * temperature

    def stretch(box):
        return 0.5 * np.log(np.linalg.eigvalsh(box @ box.T))

    context = CellOnly(lambda box: 0.5 * stiffness * (stretch(box) ** 2).sum(), 1.0)
    moves = MonteCarloMoves(context, np.full(n, 18), 7, "shape", amplitude=0.06)
    found = []
    for step in range(24000):
        moves.move_cell(temperature, 0.0)
        if step > 200 and step % 8 == 0:
            found.append(stretch(context.box))
    found = np.array(found)
    # Independent points with the same density, by weights, of Gaussian ones.
    points = np.random.default_rng(0).normal(scale=np.sqrt(kT / stiffness), size=(400_000, 3))
    weights = np.exp((n + 1) * points.sum(1))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        weights *= np.abs(np.sinh(points[:, i] - points[:, j]))
    for name, of in (("shear", lambda x: np.ptp(x, axis=1)), ("volume", lambda x: x.sum(1))):
        order = np.argsort(of(points))
        cumulated = np.cumsum(weights[order]) / weights.sum()
        edges = np.interp(np.linspace(0, 1, 11)[1:-1], cumulated, of(points)[order])
        counts = np.bincount(np.searchsorted(edges, of(found)), minlength=10)
        # Neighbouring samples depend on each other a little: chi squared is scaled by how much.
        series = of(found) - of(found).mean()
        correlation = sum(float((series[k:] * series[:-k]).mean() / series.var()) for k in range(1, 12))
        chi2 = ((counts - len(found) / 10) ** 2 / (len(found) / 10)).sum() / (1 + 2 * max(0.0, correlation))
        assert scipy.stats.chi2.sf(chi2, 9) > 1e-3, (name, counts)


def test_standard_cell_keeps_the_lattice():
    generator = np.random.default_rng(3)
    for _ in range(20):
        cell = 3 * np.eye(3) + generator.normal(size=(3, 3))
        if np.linalg.det(cell) < 1:
            continue
        new, rotation = standard_cell(cell)
        assert np.allclose(new, np.tril(new))
        assert (np.diag(new) > 0).all()
        assert np.allclose(rotation @ rotation.T, np.eye(3))
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        assert abs(new[1, 0]) <= 0.5 * new[0, 0] + 1e-12
        assert abs(new[2, 0]) <= 0.5 * new[0, 0] + 1e-12
        assert abs(new[2, 1]) <= 0.5 * new[1, 1] + 1e-12
        # The same lattice, turned: whole-number combinations of each other.
        whole = new @ np.linalg.inv(cell @ rotation)
        assert np.allclose(whole, np.round(whole), atol=1e-6)
        assert abs(np.linalg.det(np.round(whole))) == pytest.approx(1.0)
        assert compactness(new) >= compactness(cell) - 1e-9


@pytest.mark.parametrize("kind", ["isotropic", "shape"])
def test_ideal_gas_has_its_volume_distribution(kind):
    """p(V) ~ V^N exp(-PV/kT): a gamma distribution of N + 1. A missing or wrong N kT ln V shows at once."""
    n, temperature, pressure = 6, 300.0, 20.0
    system = openmm.System()
    for _ in range(n):
        system.addParticle(10.0)
    bond = openmm.HarmonicBondForce()  # of no strength: it only makes the System periodic
    bond.addBond(0, 1, 0.0, 0.0)
    bond.setUsesPeriodicBoundaryConditions(True)
    system.addForce(bond)
    kT = R * temperature
    expected = (n + 1) * kT / (pressure / 16.6053906717)
    positions = np.random.default_rng(0).uniform(0, 2, size=(n, 3))
    context = context_of(system, positions, expected ** (1 / 3) * np.eye(3))
    moves = MonteCarloMoves(context, np.full(n, 18), 5, kind, amplitude=0.35 if kind == "isotropic" else 0.2)
    volumes = []
    for step in range(12000):
        moves.move_cell(temperature, pressure)
        if step % 4 == 0:
            volumes.append(context.getState().getPeriodicBoxVolume()._value)
    volumes = np.array(volumes[100:])
    # Honest error of the mean: block averages.
    blocks = volumes[: len(volumes) // 20 * 20].reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(20)
    assert volumes.mean() == pytest.approx(expected, abs=4 * error)
    assert error < 0.05 * expected
    assert volumes.std() / volumes.mean() == pytest.approx(1 / np.sqrt(n + 1), rel=0.12)
    accepted, tried = moves.counts["cell"]
    assert tried == 12000
    assert 0.1 < accepted / tried < 0.95


def test_rejected_moves_leave_no_trace():
    system = openmm.System()
    for _ in range(3):
        system.addParticle(1.0)
    bond = openmm.HarmonicBondForce()
    bond.addBond(0, 1, 0.3, 1e9)
    bond.setUsesPeriodicBoundaryConditions(True)
    system.addForce(bond)
    positions = np.array([[0, 0, 0], [0.3, 0, 0], [0.5, 0.5, 0.5]])
    context = context_of(system, positions, 2 * np.eye(3))
    context.setVelocitiesToTemperature(300, 1)
    before = context.getState(positions=True, velocities=True)
    moves = MonteCarloMoves(context, np.array([1, 1, 8]), 1, "shape", amplitude=0.3)
    assert not moves.move_cell(300.0, 1.0)
    after = context.getState(positions=True, velocities=True)
    for get in ("getPositions", "getVelocities"):
        assert np.array_equal(*(getattr(s, get)(asNumpy=True)._value for s in (before, after)))
    assert np.array_equal(*(s.getPeriodicBoxVectors(asNumpy=True)._value for s in (before, after)))


def test_swaps_obey_boltzmann():
    """Two unlike atoms in two wells of different depth for one of them: the ratio of states is exp(-dE/kT)."""
    temperature, depth = 300.0, 2.0
    system = openmm.System()
    for mass in (27.0, 28.0, 28.0):
        system.addParticle(mass)
    well = openmm.CustomExternalForce(f"{depth}*step(x-0.5)")
    well.addParticle(0)
    system.addForce(well)
    context = context_of(system, np.array([[0.0, 0, 0], [1.0, 0, 0], [0.0, 1.0, 0]]))
    context.setVelocitiesToTemperature(300, 1)
    velocities = context.getState(velocities=True).getVelocities(asNumpy=True)._value
    moves = MonteCarloMoves(context, np.array([13, 14, 14]), 9)
    high = []
    for _ in range(8000):
        moves.swap(temperature)
        high.append(context.getState(positions=True).getPositions(asNumpy=True)._value[0, 0] > 0.5)
    # One site of three is the high one.
    weight = np.exp(-depth / (R * temperature))
    expected = weight / (2 + weight)
    blocks = np.array(high).reshape(20, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(20)
    assert np.mean(high) == pytest.approx(expected, abs=4 * error)
    assert error < 0.1 * expected
    # Every atom kept its own velocity.
    assert np.array_equal(context.getState(velocities=True).getVelocities(asNumpy=True)._value, velocities)


def test_one_element_has_nothing_to_swap():
    system = openmm.System()
    for _ in range(2):
        system.addParticle(1.0)
    moves = MonteCarloMoves(context_of(system, np.zeros((2, 3))), np.array([1, 1]), 0)
    assert not moves.swap(300.0)
    assert moves.counts["swap"] == [0, 0]


def test_state_repeats_the_stream():
    import json

    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(openmm.CMMotionRemover())
    context = context_of(system, np.zeros((1, 3)), np.eye(3))
    first, second = (MonteCarloMoves(context, np.array([1]), seed, "isotropic") for seed in (3, 4))
    first.generator.random(5)
    second.set_state(json.loads(json.dumps(first.get_state())))
    assert first.generator.random(3).tolist() == second.generator.random(3).tolist()
