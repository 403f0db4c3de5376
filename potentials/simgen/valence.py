"""Bonds and hydrogens of a heavy-atom skeleton, chosen together so that every valence is filled.

Distances say which bonds are likely and of which order; a vote of similar atoms says how many hydrogens are likely.
Taken one at a time they contradict each other as soon as a geometry is a little off. Here they are one integer
programme: the most likely assignment among those in which bond orders and hydrogens of every atom add up to its
valence, which is what a closed-shell neutral molecule is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from halberd.potentials.errors import UnknownElementError

#: Valence of the neutral atom.
VALENCE: Mapping[int, int] = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1, 14: 4, 15: 3, 16: 2, 17: 1, 35: 1}

#: Typical lengths of single, double and triple bonds, angstrom; means over QM9 where it has them.
BOND_LENGTHS: Mapping[tuple[int, int], tuple[float, ...]] = {
    (6, 6): (1.53, 1.34, 1.20),
    (6, 7): (1.46, 1.28, 1.16),
    (6, 8): (1.42, 1.21),
    (7, 7): (1.42, 1.25, 1.10),
    (7, 8): (1.41, 1.22),
    (8, 8): (1.46,),
    (6, 9): (1.35,),
    (7, 9): (1.40,),
    (8, 9): (1.42,),
    (6, 14): (1.87,),
    (8, 14): (1.64,),
    (6, 15): (1.85, 1.67),
    (8, 15): (1.63, 1.48),
    (6, 16): (1.82, 1.63),
    (7, 16): (1.70, 1.53),
    (8, 16): (1.65, 1.45),
    (16, 16): (2.05,),
    (6, 17): (1.76,),
    (6, 35): (1.93,),
}
MOST_HYDROGENS = 4
#: Largest cost of a number of hydrogens that nobody votes for.
_SURE = 50.0

#: Spread of bond lengths, how far a single bond may be stretched, and from where on a close pair may be unbonded,
#: angstrom beyond the single bond.
_SPREAD = 0.08
_LONGEST = 0.35
_UNBONDED = 0.15
#: Spread of the dihedral angles of a double bond, degrees.
_TWIST_SPREAD = 12.0
#: Cosine of the smallest angle of a carbon with two double bonds or a triple one, 135 degrees.
_STRAIGHT = -0.71


@dataclasses.dataclass(frozen=True)
class Valences:
    """An assignment.

    Attributes
    ----------
    bonds : dict
        Pair (i, j), i < j, of atoms -> order 1, 2 or 3.
    hydrogens : array of int, shape (n,)
    cost : float
        Minus its log-likelihood.
    """

    bonds: dict[tuple[int, int], int]
    hydrogens: NDArray[np.int64]
    cost: float

    def is_connected(self) -> bool:
        """Whether the bonds hold all atoms together."""
        return bool(np.all(self.fragments() == 0))

    def fragments(self) -> NDArray[np.int64]:
        """Fragment each atom belongs to, numbered from 0, shape (n,)."""
        from scipy.sparse.csgraph import connected_components

        n = len(self.hydrogens)
        pairs = np.array(list(self.bonds)).reshape(-1, 2)
        graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
        return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def bond_lengths(first: int, second: int) -> tuple[float, ...]:
    """Typical lengths of the bonds between two elements, single first, angstrom.

    Pairs that are not tabulated get the sum of covalent radii for a single bond.
    """
    from ase.data import covalent_radii

    pair = (min(first, second), max(first, second))
    return BOND_LENGTHS.get(pair, (float(covalent_radii[first] + covalent_radii[second]),))


#: What it belongs to, its number, its cost, {atom: valence it takes}: a binary variable of the programme.
Option: TypeAlias = tuple[tuple[str, object], int, float, dict[int, int]]


def assign_valences(
    numbers: NDArray[np.int64],
    positions: NDArray[np.float64],
    hydrogen_log_probability: NDArray[np.float64] | None = None,
    *,
    known_bonds: Mapping[tuple[int, int], int] | None = None,
    joint: bool = True,
) -> Valences | None:
    """Find the most likely bonds and hydrogens of heavy atoms.

    Parameters
    ----------
    numbers : array of int, shape (n,)
        Atomic numbers, no hydrogen among them.
    positions : array, shape (n, 3), angstrom
    hydrogen_log_probability : array, shape (n, 5), optional
        Logarithm of the probability of 0 to 4 hydrogens; all the same if omitted: bond lengths alone decide.
    known_bonds : mapping, optional
        Pairs (i, j) whose order is known; 0 forbids a bond.
    joint : bool
        If not, every bond gets its likeliest order by itself and hydrogens fill up what is left of a valence: what
        generators commonly do, for comparison.

    Returns
    -------
    Valences or None
        ``None`` if no assignment fills every valence.

    Raises
    ------
    UnknownElementError
        If an element has no valence here.
    """
    unknown = sorted({int(z) for z in numbers} - set(VALENCE))
    if unknown:
        raise UnknownElementError(f"Atomic numbers {unknown} have no valence here; known are {sorted(VALENCE)}.")
    n = len(numbers)
    bonds = {(min(pair), max(pair)): order for pair, order in (known_bonds or {}).items()}
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    if not joint:
        return _one_by_one(numbers, distances, bonds)
    options = _options(numbers, positions, hydrogen_log_probability, bonds)
    groups = {owner: row for row, owner in enumerate(dict.fromkeys(option[0] for option in options))}
    rows, columns, values = [], [], []
    for column, (owner, _, _, taken) in enumerate(options):
        rows.append(groups[owner])
        columns.append(column)
        values.append(1.0)
        for atom, valence in taken.items():
            rows.append(len(groups) + atom)
            columns.append(column)
            values.append(float(valence))
    matrix = coo_array((values, (rows, columns)), shape=(len(groups) + n, len(options))).tocsr()
    target = np.array([1.0] * len(groups) + [float(VALENCE[int(z)]) for z in numbers])
    constraints = [LinearConstraint(matrix, target, target)]
    excluded = _bent_pairs(numbers, positions, options)
    if excluded:
        pairs = coo_array(
            (np.ones(2 * len(excluded)), (np.repeat(np.arange(len(excluded)), 2), np.ravel(excluded))),
            shape=(len(excluded), len(options)),
        )
        constraints.append(LinearConstraint(pairs.tocsr(), 0, 1))
    result = milp(
        np.array([option[2] for option in options]),
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        constraints=constraints,
    )
    if not result.success:
        return None
    chosen = [options[k] for k in np.nonzero(result.x > 0.5)[0]]
    hydrogens = np.zeros(n, dtype=np.int64)
    found: dict[tuple[int, int], int] = {}
    for (kind, which), number, _, _ in chosen:
        if kind == "hydrogens":
            assert isinstance(which, int)
            hydrogens[which] = number
        elif number:
            assert isinstance(which, tuple)
            found[which] = number
    return Valences(found, hydrogens, float(result.fun))


def _options(
    numbers: NDArray[np.int64],
    positions: NDArray[np.float64],
    hydrogen_log_probability: NDArray[np.float64] | None,
    bonds: Mapping[tuple[int, int], int],
) -> list[Option]:
    """Every order that every bond may have, and every number of hydrogens of every atom."""
    n = len(numbers)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    options: list[Option] = []
    near = [_close(numbers, distances, i) for i in range(n)]
    for i in range(n):
        for j in range(i + 1, n):
            for order, cost in _bond_options(int(numbers[i]), int(numbers[j]), distances[i, j], bonds.get((i, j))):
                if order == 2 and (i, j) not in bonds:
                    cost += 0.5 * (_twist(positions, i, j, near) / _TWIST_SPREAD) ** 2
                options.append((("bond", (i, j)), order, cost, {i: order, j: order}))
        for count in range(MOST_HYDROGENS + 1):
            cost = 0.0 if hydrogen_log_probability is None else -max(float(hydrogen_log_probability[i, count]), -_SURE)
            options.append((("hydrogens", i), count, cost, {i: count}))
    return options


def certain_hydrogens(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log probabilities for :func:`assign_valences` that say how many hydrogens every atom has, shape (n, 5)."""
    known = np.full((len(counts), MOST_HYDROGENS + 1), -_SURE)
    known[np.arange(len(counts)), np.minimum(counts, MOST_HYDROGENS)] = 0.0
    return known


def hydrogen_parents(
    light: NDArray[np.float64], heavy: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The heavy atom nearest to each hydrogen, and how far it is.

    Parameters
    ----------
    light, heavy : array, shape (h, 3) and (m, 3), angstrom
        Positions of the hydrogens and of the heavy atoms; there must be one of these.

    Returns
    -------
    parents : array of int, shape (h,)
    distances : array, shape (h,), angstrom
    """
    distances = np.linalg.norm(light[:, None] - heavy[None], axis=2)
    return distances.argmin(axis=1), distances.min(axis=1)


def _close(numbers: NDArray[np.int64], distances: NDArray[np.float64], atom: int) -> list[int]:
    """Atoms that are surely bonded to one, as far as distances tell."""
    return [
        other
        for other in range(len(numbers))
        if other != atom
        and distances[atom, other] < bond_lengths(int(numbers[atom]), int(numbers[other]))[0] + _UNBONDED
    ]


def _twist(positions: NDArray[np.float64], first: int, second: int, near: list[list[int]]) -> float:
    """Largest deviation from flatness of the neighbours of a bond, degrees; a double bond is flat."""
    worst = 0.0
    axis = positions[second] - positions[first]
    for left in near[first]:
        for right in near[second]:
            if left in (second, right) or right == first:
                continue
            a = np.cross(positions[left] - positions[first], axis)
            b = np.cross(positions[right] - positions[second], axis)
            sizes = float(np.linalg.norm(a) * np.linalg.norm(b))
            if sizes > 1e-6:
                worst = max(worst, math.degrees(math.acos(min(1.0, abs(float(a @ b)) / sizes))))
    return worst


def _bent_pairs(
    numbers: NDArray[np.int64],
    positions: NDArray[np.float64],
    options: list[Option],
) -> list[tuple[int, int]]:
    """Pairs of options that exclude each other: carbon with two double bonds, or a triple one, is straight."""
    at_atom: dict[int, list[tuple[int, int, int]]] = {}
    for column, ((kind, _), order, _, taken) in enumerate(options):
        if kind == "bond" and order:
            for atom in taken:
                (other,) = set(taken) - {atom}
                at_atom.setdefault(atom, []).append((other, order, column))
    excluded = []
    for atom, bonds in at_atom.items():
        if numbers[atom] != 6:
            continue
        for place, (first, order, column) in enumerate(bonds):
            for second, other_order, other_column in bonds[place + 1 :]:
                if first == second or order + other_order < 4:
                    continue
                a, b = positions[first] - positions[atom], positions[second] - positions[atom]
                if a @ b > _STRAIGHT * np.linalg.norm(a) * np.linalg.norm(b):
                    excluded.append((column, other_column))
    return excluded


def _one_by_one(
    numbers: NDArray[np.int64], distances: NDArray[np.float64], known: Mapping[tuple[int, int], int]
) -> Valences:
    found, cost = {}, 0.0
    left = np.array([VALENCE[int(z)] for z in numbers])
    for i in range(len(numbers)):
        for j in range(i + 1, len(numbers)):
            options = _bond_options(int(numbers[i]), int(numbers[j]), distances[i, j], known.get((i, j)))
            order, least = min(options, key=lambda option: option[1], default=(0, 0.0))
            cost += least
            left[[i, j]] -= order
            if order:
                found[i, j] = order
    return Valences(found, np.maximum(left, 0), cost)


def _bond_options(first: int, second: int, distance: float, known: int | None) -> list[tuple[int, float]]:
    """Orders a pair may have, with minus the logarithm of their likelihood."""
    if known is not None:
        return [(known, 0.0)]
    lengths = bond_lengths(first, second)
    beyond = distance - lengths[0]
    if beyond > _LONGEST:
        return []
    # A length far below that of its order is a squeezed bond, no reason for a higher order than there is.
    options = [(order, _penalty(distance - length)) for order, length in enumerate(lengths, 1)]
    if beyond > _UNBONDED:
        options.append((0, _penalty(_LONGEST + 0.1 - beyond)))
    return options


def _penalty(deviation: float) -> float:
    return min(0.5 * (deviation / _SPREAD) ** 2, 20.0)
