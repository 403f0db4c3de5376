"""Element moves: the probabilities they state, counted."""

from __future__ import annotations

import numpy as np
import pytest

from halberd.potentials.errors import ConfigurationError
from halberd.samplers.generation.element_moves import ElementMoves, inverse_temperature, softmax

MOVES = ElementMoves((1, 2, 3), (1.0, 1.0, 2.0), 0.4)
DRAWS = 20000


def frequencies_agree(counts, probabilities):
    """Within four standard errors of a multinomial count."""
    total = sum(counts)
    errors = 4 * np.sqrt(total * np.asarray(probabilities) * (1 - np.asarray(probabilities))) + 1
    assert (np.abs(np.asarray(counts) - total * np.asarray(probabilities)) < errors).all(), (counts, probabilities)


def test_inverse_temperature_as_published():
    np.testing.assert_allclose(
        [inverse_temperature(s) for s in (1.0, 0.5, 0.1, 0.01)], [1e-6, 3.16e-3, 2.0, 8.51], rtol=0.01
    )


@pytest.mark.parametrize("sigma", [1.0, 0.14, 0.1])
def test_selection_is_by_boltzmann_weight(sigma):
    energies = np.array([0.0, 0.3, 1.0, np.nan])
    rng = np.random.default_rng(1)
    counts = np.bincount([MOVES.select(energies, sigma, rng) for _ in range(DRAWS)], minlength=4)
    weights = np.exp(-inverse_temperature(sigma) * energies[:3])
    frequencies_agree(counts, [*(weights / weights.sum()), 0.0])


def test_atoms_are_picked_by_energy_and_elements_by_weight():
    species = np.array([1, 2, 3, 1, 7])
    energies = np.array([0.0, 0.5, 1.0, -0.5, 9.0])
    free = np.array([True, True, True, True, True])
    sigma = 0.15
    spawned = ElementMoves((1, 2, 3), (1.0, 1.0, 2.0), 0.2).spawn(
        species, energies, free, DRAWS, sigma, np.random.default_rng(2)
    )
    changed = spawned != species
    assert (changed.sum(1) == 1).all()  # a fifth of five atoms
    assert not changed[:, 4].any()  # species 7 takes no part
    probabilities = softmax(inverse_temperature(sigma) * energies[:4])
    frequencies_agree(changed[:, :4].sum(0), probabilities)
    first = spawned[changed[:, 0], 0]
    frequencies_agree([np.sum(first == s) for s in (2, 3)], [1 / 3, 2 / 3])


def test_distinct_atoms_change_and_only_free_ones():
    species = np.array([1, 1, 1, 1, 1, 2])
    free = np.array([True, True, True, True, True, False])
    spawned = MOVES.spawn(species, np.zeros(6), free, 500, 0.5, np.random.default_rng(0))
    changed = spawned != species
    assert (changed.sum(1) == 2).all()  # 0.4 of five free atoms
    assert not changed[:, 5].any()
    frequencies_agree(changed[:, :5].sum(0) / 2, [0.2] * 5)


def test_picking_without_putting_back():
    """Pairs of distinct atoms come with the probability of two draws in a row."""
    species, energies = np.array([1, 1, 1]), np.array([0.0, 0.4, 0.9])
    moves = ElementMoves((1, 2), (1.0, 1.0), 0.6)
    spawned = moves.spawn(species, energies, np.ones(3, dtype=bool), DRAWS, 0.12, np.random.default_rng(5))
    left_out = np.argmax(spawned == 1, axis=1)
    p = softmax(inverse_temperature(0.12) * energies)
    pairs = dict.fromkeys(range(3), 0.0)
    for i in range(3):
        for j in range(3):
            if i != j:
                pairs[3 - i - j] += p[i] * p[j] / (1 - p[i])
    frequencies_agree(np.bincount(left_out, minlength=3), list(pairs.values()))


def test_limits():
    assert softmax(np.array([np.nan, -np.inf])).tolist() == [0.5, 0.5]
    assert softmax(np.array([0.0, np.nan, 900.0])).tolist() == [0.0, 0.0, 1.0]
    idle = ElementMoves((1,), (1.0,))
    assert idle.are_idle
    same = idle.spawn(np.array([1, 1]), np.zeros(2), np.ones(2, dtype=bool), 3, 0.1, np.random.default_rng(0))
    assert (same == 1).all()
    for arguments in (((), ()), ((1, 1), (1.0, 1.0)), ((1, 2), (1.0,)), ((1, 2), (0.0, 0.0))):
        with pytest.raises(ConfigurationError, match="Element moves"):
            ElementMoves(*arguments)
    with pytest.raises(ConfigurationError, match="fraction"):
        ElementMoves((1, 2), (1.0, 1.0), 0.0)
