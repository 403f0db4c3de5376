"""Bonds and hydrogens: known molecules come out as they are, impossible ones not at all."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule

from halberd.potentials.errors import UnknownElementError
from halberd.potentials.simgen.valence import Valences, assign_valences, bond_lengths


def heavy(name):
    atoms = molecule(name)
    keep = atoms.numbers > 1
    distances = np.linalg.norm(atoms.positions[~keep][:, None] - atoms.positions[keep][None], axis=2)
    counts = np.bincount(distances.argmin(1), minlength=int(keep.sum())) if (~keep).any() else np.zeros(keep.sum())
    return atoms.numbers[keep], atoms.positions[keep], counts.astype(int)


CASES = {
    "CH3CH2OH": [1, 1],
    "C6H6": [1, 1, 1, 2, 2, 2],
    "CH3CN": [1, 3],
    "CH3CONH2": [1, 1, 2],
    "HCOOH": [1, 2],
    "C2H2": [3],
    "CH3CHO": [1, 2],
    "C5H5N": [1, 1, 1, 2, 2, 2],
    "C3H4_C3v": [1, 3],
    "butadiene": [1, 2, 2],
}


@pytest.mark.parametrize("name", CASES)
def test_bonds_and_hydrogens_of_known_molecules_from_lengths_alone(name):
    numbers, positions, counts = heavy(name)
    found = assign_valences(numbers, positions)
    assert found is not None
    np.testing.assert_array_equal(found.hydrogens, counts)
    assert sorted(found.bonds.values()) == CASES[name]
    assert found.is_connected()


def test_votes_decide_where_lengths_do_not():
    numbers, positions = np.array([6, 6]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.43]])
    vote = np.full((2, 5), -9.0)
    vote[:, 2] = 0.0
    assert assign_valences(numbers, positions, vote).bonds == {(0, 1): 2}
    vote[:, 2], vote[:, 3] = -9.0, 0.0
    assert assign_valences(numbers, positions, vote).bonds == {(0, 1): 1}


def test_every_valence_is_filled():
    rng = np.random.default_rng(3)
    for _ in range(20):
        numbers = rng.choice([6, 7, 8], size=6)
        positions = rng.normal(scale=1.3, size=(6, 3))
        found = assign_valences(numbers, positions)
        if found is None:
            continue
        orders = np.zeros(6, dtype=int)
        for (i, j), order in found.bonds.items():
            orders[[i, j]] += order
        wanted = np.array([{6: 4, 7: 3, 8: 2}[z] for z in numbers])
        np.testing.assert_array_equal(orders + found.hydrogens, wanted)


def test_no_assignment_for_a_crowded_oxygen():
    corners = 1.4 * np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1]]) / np.sqrt(3)
    numbers, positions = np.array([8, 6, 6, 6]), np.concatenate([np.zeros((1, 3)), corners])
    assert assign_valences(numbers, positions) is None


def test_known_bonds_are_kept_and_forbidden_ones_left_out():
    numbers, positions, _ = heavy("CH3CH2OH")
    pairs = list(assign_valences(numbers, positions).bonds)
    found = assign_valences(numbers, positions, known_bonds={pairs[0]: 0})
    assert pairs[0] not in found.bonds
    assert not found.is_connected()
    assert len(set(found.fragments())) == 2
    numbers, positions, _ = heavy("C2H6")
    assert assign_valences(numbers, positions, known_bonds={(1, 0): 2}).bonds == {(0, 1): 2}


def test_one_by_one_is_the_likeliest_order_of_each_bond():
    numbers, positions, _ = heavy("C6H6")
    found = assign_valences(numbers, positions, joint=False)
    # 1.39 angstrom is nearer to a double bond: six of them, and no room for hydrogens.
    assert set(found.bonds.values()) == {2}
    assert found.hydrogens.sum() == 0


def test_lengths_and_elements():
    assert bond_lengths(8, 6) == bond_lengths(6, 8)
    assert bond_lengths(5, 6)[0] == pytest.approx(1.6, abs=0.1)
    with pytest.raises(UnknownElementError, match="26"):
        assign_valences(np.array([26]), np.zeros((1, 3)))
    assert Valences({}, np.array([4]), 0.0).is_connected()
