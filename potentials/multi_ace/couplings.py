"""Couplings of features: two to a third, and products of many equal ones to one.

Signs are those of e3nn's ``wigner_3j``, in which weights of MACE and NequIP are kept: the tensor of three degrees is
symmetric under permutations of them if their sum is even, antisymmetric if it is odd; what is left open is fixed below.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.ace.couplings import invariant_tensors, real_clebsch_gordan

#: Sorted degrees with an odd sum whose tensor e3nn keeps with the other sign than ours.
_FLIPPED = {(1, 2, 2), (1, 3, 3), (1, 4, 4), (1, 5, 5), (3, 3, 3), (3, 4, 4), (3, 5, 5), (5, 5, 5)}
#: Of singular values, which are 0 or at least a few tenths here.
_RANK_TOLERANCE = 1e-6


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Invariant tensor of three degrees, of norm 1, shape (2 l1 + 1, 2 l2 + 1, 2 l3 + 1); real, in e3nn's signs."""
    degrees = (l1, l2, l3)
    order = sorted(range(3), key=lambda slot: degrees[slot])
    low, middle, high = (degrees[slot] for slot in order)
    tensor = real_clebsch_gordan(low, middle, high) / math.sqrt(2 * high + 1)
    total = l1 + l2 + l3
    if total % 2 == 0:
        tensor = tensor * (-1) ** ((low + middle - high) // 2)
    elif (low, middle, high) in _FLIPPED:
        tensor = -tensor
    inversions = sum(order[i] > order[j] for i in range(3) for j in range(i + 1, 3))
    sign = -1 if total % 2 and inversions % 2 else 1
    return np.ascontiguousarray(sign * np.transpose(tensor, np.argsort(order)))


class ProductCoupling(NamedTuple):
    """How products of components of equal features couple to one kind.

    Attributes
    ----------
    factors : array, int, shape (T, order)
        Products that occur, as positions of components, sorted.
    coefficients : array, shape (T, 2 L + 1, P)
        Of every product in every component of every coupling.
    """

    factors: NDArray[np.int64]
    coefficients: NDArray[np.float64]


def merged_products(factors: NDArray[np.int64], coefficients: NDArray[np.float64]) -> ProductCoupling:
    """Add up products that are the same number but for the order of their factors."""
    unique, inverse = np.unique(np.sort(factors, axis=1), axis=0, return_inverse=True)
    summed = np.zeros((len(unique), *coefficients.shape[1:]))
    np.add.at(summed, inverse.ravel(), coefficients)
    used = np.abs(summed).max(axis=(1, 2), initial=0.0) > 1e-12
    return ProductCoupling(unique[used], summed[used])


def product_coupling(
    kinds: Sequence[tuple[int, int]], order: int, target: tuple[int, int], reduced: bool = True
) -> ProductCoupling:
    """Couplings of products of ``order`` equal features to one kind.

    Parameters
    ----------
    kinds : sequence of (int, int)
        Degrees and parities whose components stand one after the other in the features.
    order : int
    target : tuple of int
    reduced : bool
        Linearly independent couplings only. Otherwise one for every order of factors and every chain of intermediate
        degrees, as in the MACE paper: more weights for the same functions.
    """
    starts = np.concatenate([[0], np.cumsum([2 * degree + 1 for degree, _ in kinds])])
    factors: list[NDArray[np.int64]] = []
    parts: list[NDArray[np.float64]] = []
    n_couplings = 0
    for chosen in itertools.product(range(len(kinds)), repeat=order):
        if (reduced and list(chosen) != sorted(chosen)) or math.prod(kinds[c][1] for c in chosen) != target[1]:
            continue
        tensors = _chains(tuple(kinds[c][0] for c in chosen), target[0])
        if reduced and len(tensors):
            tensors = _independent(tensors, chosen)
        if not len(tensors):
            continue
        flat = tensors.reshape(len(tensors), -1, 2 * target[0] + 1)
        used = np.flatnonzero(np.abs(flat).max(axis=(0, 2)) > 1e-12)
        places = np.stack(np.unravel_index(used, tensors.shape[1:-1]), axis=1)
        factors.append(places + starts[list(chosen)])
        parts.append(flat[:, used].transpose(1, 2, 0))
        n_couplings += len(tensors)
    coefficients = np.zeros((sum(map(len, factors)), 2 * target[0] + 1, n_couplings))
    row = column = 0
    for part in parts:
        coefficients[row : row + len(part), :, column : column + part.shape[2]] = part
        row, column = row + len(part), column + part.shape[2]
    empty = np.zeros((0, order), dtype=np.int64)
    return merged_products(np.concatenate(factors) if factors else empty, coefficients)


def _chains(degrees: tuple[int, ...], target: int) -> NDArray[np.float64]:
    """Tensors of all chains of intermediate degrees, shape (chains, m_1, ..., m_n, m)."""
    return math.sqrt(2 * target + 1) * invariant_tensors((*degrees, target))


def _independent(tensors: NDArray[np.float64], chosen: Sequence[int]) -> NDArray[np.float64]:
    """What is left of tensors that multiply a symmetric product: orthogonal, of the size of one chain."""
    n = len(chosen)
    swaps = [p for p in itertools.permutations(range(n)) if all(chosen[p[t]] == chosen[t] for t in range(n))]
    symmetric = sum(np.transpose(tensors, (0, *(1 + t for t in p), n + 1)) for p in swaps) / len(swaps)
    flat = np.asarray(symmetric).reshape(len(tensors), -1)
    _, sizes, rows = np.linalg.svd(flat, full_matrices=False)
    kept = rows[sizes > _RANK_TOLERANCE * max(float(sizes[0]), 1.0)]
    # Rows of an SVD have free signs and, in degenerate spaces, directions: the same ones every time on one machine.
    return np.asarray(kept * math.sqrt(tensors.shape[-1])).reshape(-1, *tensors.shape[1:])
