"""Rotation invariants of products of spherical harmonics, with permutation symmetry.

A product of N atomic bases ``A_{c_1 m_1} ... A_{c_N m_N}`` is summed over the m with a tensor that couples the N
angular momenta to zero (Drautz, Phys. Rev. B 99, 014104 (2019); Dusson et al., J. Comput. Phys. 454, 110946 (2022)).
The tensors are built by recursion over Clebsch-Gordan coefficients in the basis of *real* spherical harmonics,
symmetrised over equal factors, and reduced to an orthonormal basis of what is left.

Real harmonics: order m = -l ... l, ``Y_{lm} ~ (-1)^m sqrt(2) Re Y_l^m`` for m > 0 and ``(-1)^m sqrt(2) Im Y_l^|m|``
for m < 0, so that l = 1 is (y, z, x): the convention of sphericart and e3nn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.cache import cache_folder
from halberd.potentials.errors import OutputError
from halberd.potentials.files import replacing

#: Raise when the numbers below change, so that old caches are not read.
CACHE_VERSION = 1
#: Symmetrising projects: its singular values are 0 or 1, anything in between is rounding.
RANK_TOLERANCE = 0.5


@dataclasses.dataclass(frozen=True)
class CouplingBlock:
    """All independent invariants of one tuple of angular momenta.

    Attributes
    ----------
    m_indices : array, int, shape (T, N)
        The products that occur, as positions 0 ... 2 l_t of every factor; equal factors are sorted, each product
        is listed once.
    coefficients : array, shape (rank, T)
        One row per invariant. If the A were independent Gaussian numbers of unit variance, every invariant would
        have about unit variance, and different ones would be uncorrelated.
    """

    m_indices: NDArray[np.int64]
    coefficients: NDArray[np.float64]


def clebsch_gordan(first: tuple[int, int], second: tuple[int, int], coupled: tuple[int, int]) -> float:
    """Clebsch-Gordan coefficient <l1 m1 l2 m2 | l3 m3>, Condon-Shortley phase.

    Racah's sum in exact integers; only the final square root is rounded.

    Parameters
    ----------
    first, second, coupled : tuple of int
        (l1, m1), (l2, m2) and (l3, m3).
    """
    (l1, m1), (l2, m2), (l3, m3) = first, second, coupled
    if m1 + m2 != m3 or not abs(l1 - l2) <= l3 <= l1 + l2 or abs(m1) > l1 or abs(m2) > l2 or abs(m3) > l3:
        return 0.0
    f = math.factorial
    total = 0
    # Common denominator of the sum: a product that every term's denominator divides.
    common = f(l1 + l2 - l3) * f(l1 - m1) * f(l2 + m2) * f(l1 + l2 + l3) * f(l1 + l2 + l3)
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        denominator = f(k) * f(l1 + l2 - l3 - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
        denominator *= f(l3 - l2 + m1 + k) * f(l3 - l1 - m2 + k)
        total += (-1) ** k * (common // denominator)
    numerator = (2 * l3 + 1) * f(l3 + l1 - l2) * f(l3 - l1 + l2) * f(l1 + l2 - l3)
    numerator *= f(l3 + m3) * f(l3 - m3) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
    root = math.sqrt(numerator * total * total / (f(l1 + l2 + l3 + 1) * common * common))
    return math.copysign(root, total) if total else 0.0


@cache
def real_from_complex(degree: int) -> NDArray[np.complex128]:
    """Unitary matrix from complex to real spherical harmonics of one degree; rows are real m = -l ... l."""
    matrix = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    matrix[degree, degree] = 1.0
    for m in range(1, degree + 1):
        sign = (-1) ** m
        matrix[degree + m, degree + m] = sign / math.sqrt(2)
        matrix[degree + m, degree - m] = 1 / math.sqrt(2)
        matrix[degree - m, degree + m] = -1j * sign / math.sqrt(2)
        matrix[degree - m, degree - m] = 1j / math.sqrt(2)
    return matrix


@cache
def real_clebsch_gordan(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Coupling of two real harmonics to a third, shape (2 l1 + 1, 2 l2 + 1, 2 l3 + 1).

    Of unit-norm columns; for odd l1 + l2 + l3 the phase i is dropped, which makes it real.
    """
    table = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            table[l1 + m1, l2 + m2, l3 + m1 + m2] = clebsch_gordan((l1, m1), (l2, m2), (l3, m1 + m2))
    u1, u2, u3 = (real_from_complex(degree) for degree in (l1, l2, l3))
    coupled = np.einsum("aA,bB,ABC,cC->abc", u1.conj(), u2.conj(), table, u3, optimize=True)
    return np.ascontiguousarray(coupled.real if (l1 + l2 + l3) % 2 == 0 else coupled.imag)


def invariant_tensors(degrees: tuple[int, ...]) -> NDArray[np.float64]:
    """Orthonormal basis of the rotation invariants in a product of angular momenta, by recursion.

    Parameters
    ----------
    degrees : tuple of int
        l_1 ... l_N.

    Returns
    -------
    array, shape (paths, 2 l_1 + 1, ..., 2 l_N + 1)
        One tensor per chain of intermediate angular momenta; no row if there is no invariant.
    """
    shape = tuple(2 * degree + 1 for degree in degrees)
    # path tensors that couple the first t factors to an intermediate L: L -> (paths, m_1 .. m_t, M)
    partial = {degrees[0]: np.eye(shape[0])[None]}
    for t, degree in enumerate(degrees[1:], start=2):
        following: dict[int, list[NDArray[np.float64]]] = {}
        for low, tensors in partial.items():
            allowed = [0] if t == len(degrees) else range(abs(low - degree), low + degree + 1)
            for high in allowed:
                if abs(low - degree) <= high <= low + degree:
                    coupled = np.tensordot(tensors, real_clebsch_gordan(low, degree, high), axes=(-1, 0))
                    following.setdefault(high, []).append(coupled)
        partial = {high: np.concatenate(parts) for high, parts in following.items()}
    if 0 not in partial:
        return np.zeros((0, *shape))
    return partial[0].reshape(-1, *shape)


@cache
def coupling_block(degrees: tuple[int, ...], classes: tuple[int, ...]) -> CouplingBlock:
    """Independent invariants of a product with equal factors.

    Parameters
    ----------
    degrees : tuple of int
        l of every factor.
    classes : tuple of int
        Equal numbers mark equal factors (same element, radial function and l). Equal factors are neighbours.

    Returns
    -------
    CouplingBlock
        From memory, else from the cache on disk, else computed and written there.
    """
    name = "-".join(map(str, degrees)) + "_" + "-".join(map(str, classes)) + ".npz"
    file = cache_folder(f"couplings-v{CACHE_VERSION}") / name
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError), np.load(file) as stored:
        return CouplingBlock(stored["m_indices"], stored["coefficients"])
    block = _compute_block(degrees, classes)
    if len(degrees) > 2:  # the others are computed faster than read
        with contextlib.suppress(OSError, OutputError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary:
                np.savez(temporary, m_indices=block.m_indices, coefficients=block.coefficients)
    return block


def _compute_block(degrees: tuple[int, ...], classes: tuple[int, ...]) -> CouplingBlock:
    n = len(degrees)
    tensors = invariant_tensors(degrees) if sum(degrees) % 2 == 0 else np.zeros((0, *(2 * d + 1 for d in degrees)))
    permutations = [p for p in itertools.permutations(range(n)) if all(classes[p[t]] == classes[t] for t in range(n))]
    if len(tensors):
        symmetric = sum(np.transpose(tensors, (0, *(1 + t for t in p))) for p in permutations) / len(permutations)
        flat = np.asarray(symmetric).reshape(len(tensors), -1)
        _, singular, rows = np.linalg.svd(flat @ flat.T)
        # The Gramian of a projected orthonormal set has eigenvalues 0 and 1; its eigenvectors combine the paths.
        flat = rows[singular > RANK_TOLERANCE] @ flat
    else:
        flat = np.zeros((0, int(np.prod([2 * d + 1 for d in degrees]))))
    used = np.flatnonzero(np.abs(flat).max(axis=0, initial=0.0) > 1e-12)
    indices = np.stack(np.unravel_index(used, [2 * d + 1 for d in degrees]), axis=1).astype(np.int64)
    for c in set(classes):  # sort the m of equal factors: their products are the same number
        slots = [t for t in range(n) if classes[t] == c]
        indices[:, slots] = np.sort(indices[:, slots], axis=1)
    unique, inverse = np.unique(indices.reshape(-1, n), axis=0, return_inverse=True)
    folded = np.zeros((len(flat), len(unique)))
    np.add.at(folded.T, inverse.ravel(), flat[:, used].T)
    return CouplingBlock(unique, folded / math.sqrt(len(permutations)))
