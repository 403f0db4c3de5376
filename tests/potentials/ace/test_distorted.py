"""Molecules turned and stretched: where they may be cut, what becomes of them, and what a fit makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from ase.data import covalent_radii

from halberd.potentials.ace.distorted import CROWDED, CROWDED_SIGMA, DEPTH, MOST, STRETCHED, TURNED, bridges, distorted
from halberd.potentials.ace.fit import AceFit
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.regression.weighted_rows import FitWeights

E0S = {"H": -1.0, "C": -2.0, "O": -3.0}


def lengths(positions):
    return np.linalg.norm(positions[:, None] - positions[None], axis=-1)


def near(name, count, noise=0.03, seed=0):
    """Frames close to a molecule's tabulated structure, labelled by springs between all atoms and some noise."""
    atoms = molecule(name)
    generator = np.random.default_rng(seed)
    rest = lengths(atoms.positions)
    frames = []
    for _ in range(count):
        moved = Atoms(atoms.numbers, atoms.positions + generator.normal(scale=0.03, size=(len(atoms), 3)))
        now = lengths(moved.positions) + np.eye(len(atoms))
        pull = 2.0 * (now - rest - np.eye(len(atoms))) / now
        forces = -(pull[:, :, None] * (moved.positions[:, None] - moved.positions[None])).sum(axis=1)
        forces += generator.normal(scale=noise, size=forces.shape)
        energy = 0.5 * ((lengths(moved.positions) - rest) ** 2).sum() + sum(E0S[s] for s in moved.symbols)
        frames.append(Frame(moved, float(energy), forces, None, "near"))
    return frames


def test_bonds_of_rings_are_no_bridges():
    benzene = molecule("C6H6")
    assert len(bridges(benzene)) == 12  # hydrogens, both ways
    ethanol = molecule("CH3CH2OH")
    found = {(i, j): side for i, j, side in bridges(ethanol)}
    assert len(found) == 2 * 8
    for (i, j), side in found.items():
        assert j in side
        assert i not in side
        assert sorted([*side, *found[j, i]]) == list(range(9))
    two = ethanol + Atoms("CH4", molecule("CH4").positions + 20.0)
    assert len(bridges(two)) == 2 * 12
    assert all(len(side) < 9 for _, _, side in bridges(two))  # of their own molecule
    assert bridges(Atoms("Ar2", [[0, 0, 0], [4.0, 0, 0]])) == []


def test_turned_bonds_keep_all_lengths_and_stretched_ones_cost_what_morse_says():
    ethanol = molecule("CH3CH2OH")
    closest = np.full((9, 9), 0.9)
    made = distorted(ethanol, closest, 200, np.random.default_rng(1))
    assert len(made) == 200
    bonds = [(i, j) for i, j, _ in bridges(ethanol)]
    before = lengths(ethanol.positions)
    turned = [each for each in made if each.sigma == TURNED]
    stretched = [each for each in made if each.sigma == STRETCHED]
    assert len(turned) > 20 < len(stretched)
    for each in made:
        after = lengths(each.positions)
        grown = max(after[i, j] / before[i, j] for i, j in bonds)
        # A bond that is stretched three times may be longer than the longest single stretch.
        assert grown < 2.2**3
        if each.sigma == TURNED:
            assert each.rise == 0.0
            assert grown == pytest.approx(1.0, abs=1e-12)
            assert np.abs(after - before).max() > 1e-3
        else:
            assert 0.0 < each.rise < DEPTH
            longest = max(after[i, j] - before[i, j] for i, j in bonds)
            assert each.rise <= DEPTH * (1 - np.exp(-2.0 * longest)) ** 2 + 1e-12
    again = distorted(ethanol, closest, 200, np.random.default_rng(1))
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(made, again, strict=True))


def test_crowded_structures_are_uncertain_and_overlapping_ones_are_not_made():
    isobutane = molecule("isobutane")
    radii = covalent_radii[isobutane.numbers]
    sums = radii[:, None] + radii[None]
    free = lengths(isobutane.positions) > 1.25 * sums
    closest = np.where(free, lengths(isobutane.positions), 0.0)
    made = distorted(isobutane, closest, 100, np.random.default_rng(1))
    assert len(made) == 100
    crowded = [(lengths(each.positions) < 0.95 * closest)[free].any() for each in made]
    assert 5 < sum(crowded) < 100
    for each, close in zip(made, crowded, strict=True):
        assert (lengths(each.positions) > sums + 0.3)[free].all()
        if close:
            assert each.rise >= CROWDED
            assert each.sigma >= CROWDED_SIGMA


def forces_off(fit, fitted, frames):
    return float(np.mean([np.abs(fit.design(f).forces @ fitted.coefficients - f.forces).mean() for f in frames]))


@pytest.mark.parametrize(("count", "noise"), [(40, 0.03), (40, 1e-4), (8, 1e-3)])
def test_a_fit_knows_more_where_it_has_no_frames_and_loses_nothing_where_it_has(count, noise):
    """Springs between all atoms, which know nothing of what molecules do when they are turned."""
    fit = AceFit(AceSettings(("H", "C", "O"), order=3, degree=9, cutoff=4.0), e0s=E0S)
    fit.add(near("CH3CH2OH", count, noise))
    free, tied = (fit.solve(distortions=each, calibrate=False) for each in (0, 5))
    assert fit.n_rows == count * 28  # nothing of it is kept
    unseen = near("CH3CH2OH", 20, noise, seed=9)
    assert forces_off(fit, tied, unseen) < 1.2 * forces_off(fit, free, unseen)
    start = molecule("CH3CH2OH")
    far = distorted(start, np.full((9, 9), 0.9), 60, np.random.default_rng(7))
    rows = [fit.design(Frame(Atoms(start.numbers, each.positions), 0.0, None, None, "x")).energy for each in far]
    level = fit.design(Frame(start, 0.0, None, None, "x")).energy
    off = [
        np.sqrt(np.mean([((row - level) @ f.coefficients - e.rise) ** 2 for row, e in zip(rows, far, strict=True)]))
        for f in (free, tied)
    ]
    assert off[1] < 0.7 * off[0]


def test_weights_that_are_all_multiplied_change_nothing():
    frames, unseen = near("CH3CH2OH", 30), near("CH3CH2OH", 10, seed=9)
    found = []
    for scale in (1.0, 0.01, 100.0):
        fit = AceFit(
            AceSettings(("H", "C", "O"), order=3, degree=7, cutoff=4.0), FitWeights(30 * scale, scale, scale), E0S
        )
        fit.add(frames)
        found.append(forces_off(fit, fit.solve(calibrate=False), unseen))
    assert found[1:] == pytest.approx(2 * [found[0]], rel=0.02)


def test_rows_are_energies_in_units_of_their_uncertainty_and_few():
    fit = AceFit(AceSettings(("H", "C", "O"), order=2, degree=6, cutoff=4.0), e0s=E0S)
    frames = near("CH3CH2OH", 40)
    fit.add(frames)
    most = int(MOST * fit.n_rows)
    known = fit._known_of_distortions(np.full((3, 3), 0.9), 5)
    assert 0.5 * most < len(known) <= most
    level = np.mean([f.energy - sum(E0S[s] for s in f.atoms.symbols) for f in frames])
    targets = np.sort(np.unique(np.round(known[:, -1], 1)))
    assert targets[-1] <= (level + DEPTH) / STRETCHED + 0.5
    assert targets[0] >= 0.5 * level
    assert fit.system(distortions=5).n_rows == fit.system().n_rows + len(known)
    # Fewer of each where there are few labels; none where energies count for nothing.
    few = AceFit(AceSettings(("H", "C", "O"), order=2, degree=6, cutoff=4.0), e0s=E0S)
    few.add(frames[:2])
    assert len(few._known_of_distortions(np.full((3, 3), 0.9), 5)) <= int(MOST * 2 * 28)
    blind = AceFit(AceSettings(("H", "C", "O"), order=2, degree=6, cutoff=4.0), FitWeights(energy=0.0), E0S)
    blind.add(frames)
    assert len(blind._known_of_distortions(np.full((3, 3), 0.9), 5)) == 0


def test_crystals_and_frames_without_energy_make_none():
    crystal = bulk("Ar", cubic=True) * (2, 1, 1)
    crystal.rattle(0.1, seed=0)
    crystal.calc = LennardJones(sigma=3.4, epsilon=0.01, rc=5.4, smooth=True)
    fit = AceFit(AceSettings(("Ar",), order=2, degree=6, cutoff=5.5))
    fit.add([Frame(crystal, crystal.get_potential_energy(), crystal.get_forces(), None, "crystal")])
    assert fit.system(distortions=5).n_rows == fit.system(distortions=0).n_rows
    forces_only = AceFit(AceSettings(("H", "C", "O"), order=2, degree=6, cutoff=4.0), e0s=E0S)
    forces_only.add([Frame(f.atoms, None, f.forces, None, "near") for f in near("CH3CH2OH", 6)])
    assert forces_only.system(distortions=5).n_rows == forces_only.system(distortions=0).n_rows
