from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.spatial.transform
import sphericart.torch
import torch
from scipy.special import sph_harm_y

from halberd.potentials.ace.couplings import (
    CouplingBlock,
    clebsch_gordan,
    coupling_block,
    invariant_tensors,
    real_clebsch_gordan,
    real_from_complex,
)

TUPLES = [
    ((0,), (0,)),
    ((2, 2), (0, 0)),
    ((1, 1, 2), (0, 0, 1)),
    ((2, 2, 2), (0, 0, 0)),
    ((1, 2, 3), (0, 1, 2)),
    ((1, 1, 1, 1), (0, 0, 0, 0)),
    ((1, 1, 2, 2), (0, 0, 1, 1)),
    ((1, 2, 2, 3), (0, 1, 1, 2)),
    ((2, 2, 2, 2), (0, 1, 2, 3)),
]


def harmonics(l_max: int, vectors: np.ndarray) -> np.ndarray:
    return sphericart.torch.SphericalHarmonics(l_max)(torch.from_numpy(vectors)).numpy()


def evaluate(block: CouplingBlock, degrees, vectors: np.ndarray) -> np.ndarray:
    """Invariants of one vector per factor."""
    y = harmonics(max(degrees), vectors)
    factors = np.stack([y[t, d * d + block.m_indices[:, t]] for t, d in enumerate(degrees)])
    return block.coefficients @ factors.prod(axis=0)


def test_known_coefficients():
    assert clebsch_gordan((1, 0), (1, 0), (0, 0)) == pytest.approx(-math.sqrt(1 / 3), abs=1e-15)
    assert clebsch_gordan((1, 1), (1, -1), (2, 0)) == pytest.approx(math.sqrt(1 / 6), abs=1e-15)
    assert clebsch_gordan((2, 1), (1, 0), (2, 1)) == pytest.approx(math.sqrt(1 / 6), abs=1e-15)
    assert clebsch_gordan((1, 1), (1, 1), (1, 2)) == 0.0
    # Factorials beyond 64 bits.
    total = sum(clebsch_gordan((15, m), (15, -m), (20, 0)) ** 2 for m in range(-15, 16))
    assert total == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize(("l1", "l2", "l3"), [(1, 1, 0), (1, 1, 1), (2, 1, 2), (3, 2, 4)])
def test_real_coefficients_are_orthonormal(l1, l2, l3):
    table = real_clebsch_gordan(l1, l2, l3)
    assert np.abs(np.einsum("abc,abd->cd", table, table) - np.eye(2 * l3 + 1)).max() < 1e-13


def test_real_harmonics_are_those_of_sphericart():
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    theta, phi = np.arccos(unit[:, 2]), np.arctan2(unit[:, 1], unit[:, 0])
    for degree in range(5):
        complex_y = np.stack([sph_harm_y(degree, m, theta, phi) for m in range(-degree, degree + 1)])
        real = real_from_complex(degree) @ complex_y
        ours = harmonics(4, vectors)[:, degree * degree : (degree + 1) ** 2].T
        assert np.abs(real.imag).max() < 1e-13
        assert np.abs(real.real - ours).max() < 1e-13


@pytest.mark.parametrize(("degrees", "classes"), TUPLES)
def test_invariant_under_rotation_and_inversion(degrees, classes):
    block = coupling_block(degrees, classes)
    assert len(block.coefficients) > 0
    generator = np.random.default_rng(1)
    # Equal factors are the same atomic base, so they get the same vector sums.
    distinct = {c: generator.normal(size=3) for c in classes}
    vectors = np.stack([distinct[c] for c in classes])
    before = evaluate(block, degrees, vectors)
    for rotation in scipy.spatial.transform.Rotation.random(5, random_state=2):
        assert np.abs(evaluate(block, degrees, rotation.apply(vectors)) - before).max() < 1e-12
    assert np.abs(evaluate(block, degrees, -vectors) - before).max() < 1e-12


def test_number_of_invariants_is_that_of_group_theory():
    # Multiplicity of L = 0 in a product of angular momenta, from the characters of SO(3).
    angle = np.linspace(0, np.pi, 4001)
    weight = (1 - np.cos(angle)) / np.pi

    def multiplicity(degrees):
        character = np.ones_like(angle)
        for degree in degrees:
            character = character * sum(np.cos(m * angle) for m in range(-degree, degree + 1))
        return round(float(np.trapezoid(weight * character, angle)))

    for degrees in itertools.combinations_with_replacement(range(4), 4):
        assert len(invariant_tensors(degrees)) == multiplicity(degrees), degrees


def test_odd_sums_and_antisymmetric_tensors_give_nothing():
    assert len(coupling_block((1, 1, 1), (0, 1, 2)).coefficients) == 0
    # (1 1)->1 and (1 1)->1 is antisymmetric in equal factors: of three couplings of four vectors one survives.
    assert len(coupling_block((1, 1, 1, 1), (0, 1, 2, 3)).coefficients) == 3
    assert len(coupling_block((1, 1, 1, 1), (0, 0, 0, 0)).coefficients) == 1


@pytest.mark.parametrize(("degrees", "classes"), [t for t in TUPLES if len(t[0]) > 1])
def test_unit_variance_for_gaussian_factors(degrees, classes):
    """Rows are uncorrelated, and of unit variance where all factors differ."""
    block = coupling_block(degrees, classes)
    if len(set(classes)) == len(classes):
        assert np.abs(block.coefficients @ block.coefficients.T - np.eye(len(block.coefficients))).max() < 1e-12


def test_cache_is_used_and_damage_is_survived(tmp_path, monkeypatch):
    monkeypatch.setenv("HALBERD_CACHE_DIR", str(tmp_path))
    coupling_block.cache_clear()
    first = coupling_block((1, 2, 3), (0, 1, 2))
    files = list(tmp_path.rglob("*.npz"))
    assert [file.name for file in files] == ["1-2-3_0-1-2.npz"]
    files[0].write_bytes(b"not a zip file")
    coupling_block.cache_clear()
    again = coupling_block((1, 2, 3), (0, 1, 2))
    assert np.array_equal(first.coefficients, again.coefficients)
    coupling_block.cache_clear()
    assert np.array_equal(coupling_block((1, 2, 3), (0, 1, 2)).coefficients, first.coefficients)
    coupling_block.cache_clear()
