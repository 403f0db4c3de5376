"""What a committee says about a structure, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from halberd.potentials.committees.disagreement import disagreement, softmax
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.frames.distance_guard import DistanceGuard

ENERGIES = np.array([1.0, 3.0])
FORCES = np.array([[[1.0, 0, 0], [0, 0, 0]], [[0, 2.0, 0], [0, 0, 4.0]]])


def test_measures_by_hand():
    seen = disagreement(ENERGIES, FORCES)
    assert seen.sigma == pytest.approx(1.0)
    assert np.allclose(seen.forces, [[0.5, 1.0, 0.0], [0.0, 0.0, 2.0]])
    # (1/(K sigma)) sum_k (E_k - E)(F_k - F) = ((-1)(-d/2) + (1)(d/2)) / 2 with d = F_2 - F_1
    assert np.allclose(seen.sigma_forces, [[-0.5, 1.0, 0.0], [0.0, 0.0, 2.0]])
    assert np.allclose(seen.deviation, [np.sqrt(1.25), 2.0])
    assert np.allclose(seen.relative(0.2), [np.sqrt(1.25) / (np.sqrt(1.25) + 0.2), 2.0 / 2.2])


def test_forms_differ_where_members_do():
    forces = np.zeros((3, 1, 3))
    forces[0, 0, 0] = 3.0
    rms, mean = (disagreement(np.zeros(3), forces, form).deviation[0] for form in ("rms", "mean"))
    assert rms == pytest.approx(np.sqrt((4 + 1 + 1) / 3))
    assert mean == pytest.approx((2 + 1 + 1) / 3)
    with pytest.raises(ConfigurationError, match="'rms' or 'mean'"):
        disagreement(np.zeros(3), forces, "median")


def test_agreement_has_no_direction():
    seen = disagreement(np.full(3, 2.0), np.repeat(FORCES[:1], 3, axis=0))
    assert seen.sigma == 0.0
    assert not seen.sigma_forces.any()
    assert not seen.deviation.any()


def test_softmax_sums_to_one():
    assert softmax(np.array([1.0, 1.0])).tolist() == [0.5, 0.5]
    assert softmax(np.array([0.0, 1000.0]))[1] == 1.0


def test_guard_finds_close_pairs_across_the_boundary():
    atoms = Atoms("AlSi", positions=[[0.1, 0, 0], [7.0, 0, 0]], cell=[8.0, 8.0, 8.0], pbc=True)
    assert "atoms 0 (Al) and 1 (Si) are 1.10 angstrom apart, closer than" in DistanceGuard([13, 14]).violation(atoms)
    assert DistanceGuard([13, 14], {"Si-Al": 1.0}).violation(atoms) is None
    assert DistanceGuard([13, 14], 1.0).violation(atoms) is None
    atoms.pbc = False
    assert DistanceGuard([13, 14]).violation(atoms) is None


def test_guard_finds_molecules_that_fell_apart():
    atoms = Atoms("H3", positions=[[0, 0, 0], [0.9, 0, 0], [6.0, 0, 0]])
    assert "come apart into 2 pieces" in DistanceGuard([1], connected_within=4.5).violation(atoms)
    assert DistanceGuard([1], connected_within=5.5).violation(atoms) is None
    assert DistanceGuard([1]).violation(atoms) is None


def test_guard_refuses_nonsense():
    with pytest.raises(ConfigurationError, match="names 'Al-Cu'; pairs of Al, Si"):
        DistanceGuard([13, 14], {"Al-Cu": 2.0})
    with pytest.raises(ConfigurationError, match="0 or positive"):
        DistanceGuard([13], -1.0)
