from __future__ import annotations

import numpy as np
import pytest
import scipy.spatial.transform
import torch

from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.design_rows import DesignAssembler
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError, UnknownElementError
from tests.conftest import cluster


def counts(basis: AceBasis) -> list[int]:
    return [coupling.shape[0] for coupling in basis.couplings]


@pytest.mark.parametrize(
    ("order", "degree", "expected"),
    [
        (2, 6, [6, 11]),
        (3, 8, [8, 23, 23]),
        (3, 10, [10, 41, 59]),
        (3, 12, [12, 67, 132]),
        (4, 12, [12, 67, 132, 127]),
        (4, 16, [16, 147, 505, 777]),
        (3, (16, 12, 8), [16, 67, 23]),
        (3, (20, 16, 12), [20, 147, 132]),
        (3, (25, 21, 17), [25, 314, 677]),
    ],
)
def test_number_of_functions_for_one_element(order, degree, expected):
    """Recounted independently from the definition of the truncation."""
    basis = AceBasis(AceSettings(("Si",), order=order, degree=degree, pair_degree=0))
    assert counts(basis) == expected
    assert basis.n_functions == sum(expected)


def test_number_of_functions_for_two_elements():
    basis = AceBasis(AceSettings(("Ti", "Al"), order=3, degree=6, pair_degree=0))
    assert [2 * n for n in counts(basis)] == [24, 80, 92]
    # The pair functions replace order 1: 190, as the published tutorial reports.
    assert AceBasis(AceSettings(("Ti", "Al"), order=3, degree=6)).n_functions == 190


@pytest.mark.parametrize(("order", "degree", "elements"), [(2, 9, 1), (3, 7, 2), (4, 6, 2), (4, 9, 1)])
def test_functions_are_linearly_independent(order, degree, elements):
    """As many independent values as functions: nothing is counted twice, nothing is zero."""
    symbols = ("Si", "Al")[:elements]
    basis = AceBasis(AceSettings(symbols, order=order, degree=degree, pair_degree=5, cutoff=4.0))
    assembler = DesignAssembler(basis)
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(3 * basis.n_site // 20 + 12):
        frames.append(cluster(generator, symbols, 20))
    rows = np.concatenate(
        [b.energy for _, b in assembler.blocks(frames)]
        + [f.reshape(-1, basis.n_functions) for _, b in assembler.blocks(frames) for f in b.forces]
    )
    rows = rows[:, np.linalg.norm(rows, axis=0) > 0]
    assert rows.shape[1] == basis.n_functions
    singular = np.linalg.svd(rows / np.linalg.norm(rows, axis=0), compute_uv=False)
    assert singular[-1] > 1e-9 * singular[0]


@pytest.mark.parametrize(("order", "degree"), [(1, 8), (2, 10), (3, 9), (4, 8)])
@pytest.mark.parametrize("symbols", [("Si",), ("Al", "Si")])
def test_rotation_inversion_and_permutation(order, degree, symbols):
    """Every single function of every order, in many environments, to 1e-10."""
    basis = AceBasis(AceSettings(symbols, order=order, degree=degree, cutoff=4.5))
    assembler = DesignAssembler(basis)
    generator = np.random.default_rng(order)
    frames = [cluster(generator, symbols, 9) for _ in range(12)]
    before = assembler.rows(frames)
    scale = np.abs(before.energy).max(axis=0) + 1.0
    turns = scipy.spatial.transform.Rotation.random(len(frames), random_state=3)
    turned, mirrored, shuffled, orders = [], [], [], []
    for atoms, turn in zip(frames, turns, strict=True):
        turned.append(atoms.copy())
        turned[-1].positions = turn.apply(atoms.positions) + 3.0
        mirrored.append(atoms.copy())
        mirrored[-1].positions = -atoms.positions
        orders.append(generator.permutation(len(atoms)))
        shuffled.append(atoms[orders[-1]])
    for changed in (turned, mirrored, shuffled):
        assert (np.abs(assembler.rows(changed).energy - before.energy) / scale).max() < 1e-10
    for k, turn in enumerate(turns):
        rotated = np.einsum("ab,nbm->nam", turn.as_matrix(), before.forces[k])
        assert np.abs(assembler.rows(turned).forces[k] - rotated).max() < 1e-9 * np.abs(rotated).max()
        assert (
            np.abs(assembler.rows(shuffled).forces[k] - before.forces[k][orders[k]]).max()
            < 1e-9 * np.abs(rotated).max()
        )


def test_rows_are_derivatives_of_the_energy_rows():
    symbols = ("Al", "Si")
    basis = AceBasis(AceSettings(symbols, order=3, degree=7, cutoff=4.0, pair_cutoffs={"Si-Al": 3.4}))
    assembler = DesignAssembler(basis)
    generator = np.random.default_rng(5)
    atoms = cluster(generator, symbols, 8)
    atoms.set_cell([[5.5, 0, 0], [0.7, 6.0, 0], [-0.4, 0.9, 5.8]])
    atoms.pbc = True
    block = assembler.rows([atoms])
    step = 1e-4

    def energy(changed):
        return assembler.rows([changed]).energy[0]

    for atom, axis in [(0, 0), (3, 1), (7, 2)]:
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            ends.append(energy(moved))
        numeric = -(ends[0] - ends[1]) / (2 * step)
        analytic = block.forces[0][atom, axis]
        assert np.abs(numeric - analytic).max() < 1e-6 * np.abs(block.forces[0]).max()
    for row, (a, b) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        ends = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += 0.5 * sign * step
            strain[b, a] += 0.5 * sign * step
            strained = atoms.copy()
            strained.set_cell(np.array(atoms.cell) @ strain, scale_atoms=True)
            ends.append(energy(strained))
        numeric = -(ends[0] - ends[1]) / (2 * step)
        assert np.abs(numeric - block.virial[0, row]).max() < 1e-6 * np.abs(block.virial).max()


def test_blocks_hold_the_memory_bound_and_change_nothing():
    symbols = ("Al", "Si")
    basis = AceBasis(AceSettings(symbols, order=3, degree=6, cutoff=4.0))
    generator = np.random.default_rng(7)
    frames = [cluster(generator, symbols, int(n)) for n in generator.integers(2, 12, size=14)]
    whole = list(DesignAssembler(basis, 1e4).blocks(frames))
    parts = list(DesignAssembler(basis, 2.0).blocks(frames))
    assert len(whole) == 1
    assert len(parts) > 3
    assert [i for indices, _ in parts for i in indices] == list(range(14))
    together = np.concatenate([block.energy for _, block in parts])
    assert np.abs(together - whole[0][1].energy).max() < 1e-9
    forces = [f for _, block in parts for f in block.forces]
    for ours, theirs in zip(forces, whole[0][1].forces, strict=True):
        assert np.abs(ours - theirs).max() < 1e-9


def test_per_pair_cutoffs_and_inner_cutoff():
    settings = AceSettings(("H", "C"), order=2, degree=6, cutoff=5.0, pair_cutoffs={"H-H": 2.5}, inner_cutoff=0.4)
    basis = AceBasis(settings)
    first = 1 + basis.n_pair
    grid = torch.arange(basis.table.shape[1]) * basis.spacing
    beyond = basis.table[0, grid > 2.5 + basis.spacing][:, :, first:]
    assert torch.abs(beyond).max() == 0.0
    assert torch.abs(basis.table[3, grid > 2.6][:, 0, first:]).max() > 0.1
    assert torch.abs(basis.table[:, grid < 0.4][..., first:]).max() == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 5}, "must be 1, 2, 3 or 4"),
        ({"order": 3, "degree": (12, 10)}, "one for each order"),
        ({"degree": 0}, "between 1 and 60"),
        ({"cutoff": -1.0}, "length in angstrom"),
        ({"cutoff": 6.0, "pair_cutoff": 5.0}, "shorter than cutoff"),
        ({"inner_cutoff": 2.5}, "longer than a bond"),
        ({"pair_cutoffs": {"Si-Ge": 4.0}}, "The pairs of these elements are Si-Si"),
        ({"pair_cutoffs": {"Si-Si": 9.0}}, "at most the"),
        ({"envelope": (2, 2)}, "must be 3 or more"),
        ({"transform": (4, 2)}, "0 < p <= q"),
        ({"transform": (1, 1)}, "steepest nowhere"),
        ({"l_weight": 0.0}, "must be positive"),
        ({"pair_degree": -1}, "whole number"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(ConfigurationError, match=message):
        AceSettings(("Si",), **options)


def test_other_refusals():
    with pytest.raises(UnknownElementError, match="'Xx' is not a chemical element"):
        AceSettings(("Xx",))
    with pytest.raises(ConfigurationError, match="Lower the degree"):
        AceBasis(AceSettings(("H", "C", "N", "O"), order=4, degree=16))


def test_settings_survive_json():
    import json

    settings = AceSettings(("Si", 13), order=2, degree=(8, 6), pair_cutoffs={"Al-Si": 4.5}, core_radii={"Si-Al": 1.8})
    again = AceSettings(**json.loads(json.dumps(settings.to_dict())))
    assert again == settings
    assert settings.symbols == ("Al", "Si")
