"""Batched relaxation against ASE's, molecule by molecule."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule

from halberd.plugins import HalberdCalculator
from halberd.potentials import load
from halberd.potentials.errors import UnknownElementError
from halberd.samplers.generation.relaxation import relax


@pytest.fixture(scope="module")
def model():
    return load("gfn2-chnof@1", precision="double")


def rattled(names=("CH3CH2OH", "CH3CONH2", "CH4", "C6H6"), scale=0.08):
    made = []
    for k, name in enumerate(names):
        atoms = molecule(name)
        atoms.rattle(scale, seed=k)
        made.append(atoms)
    return made


def test_every_molecule_relaxes_as_it_would_alone(model):
    molecules = rattled()
    together = relax(model, [a.numbers for a in molecules], [a.positions for a in molecules], fmax=0.02)
    calculator = HalberdCalculator(model, energy="interaction")
    for k, atoms in enumerate(molecules):
        alone = relax(model, [atoms.numbers], [atoms.positions], fmax=0.02)
        np.testing.assert_allclose(together.positions[k], alone.positions[0], atol=1e-6)
        assert together.largest_force[k] <= 0.02
        results = calculator.evaluate(type(atoms)(atoms.numbers, positions=together.positions[k]))
        np.testing.assert_allclose(results["energy"], together.energies[k], atol=1e-8)
        np.testing.assert_allclose(
            np.linalg.norm(results["forces"], axis=1).max(), together.largest_force[k], atol=1e-6
        )
        assert together.energies[k] < calculator.evaluate(atoms)["energy"] - 0.1


def test_fixed_atoms_keep_their_coordinates_to_the_bit(model):
    molecules = rattled()
    fixed = [np.arange(len(a)) < 3 for a in molecules]
    found = relax(model, [a.numbers for a in molecules], [a.positions for a in molecules], fixed=fixed)
    for atoms, mask, positions in zip(molecules, fixed, found.positions, strict=True):
        np.testing.assert_array_equal(positions[mask], atoms.positions[mask])
        assert np.abs(positions[~mask] - atoms.positions[~mask]).max() > 0.01
    assert (found.largest_force <= 0.05).all()


def test_no_steps_evaluates_only_and_a_limit_is_kept(model):
    molecules = rattled()
    numbers, positions = [a.numbers for a in molecules], [a.positions for a in molecules]
    found = relax(model, numbers, positions, steps=0)
    np.testing.assert_array_equal(found.positions[1], positions[1])
    assert (found.steps == 1).all()
    some = relax(model, numbers, positions, steps=5)
    assert (some.steps <= 6).all()
    assert (some.energies < found.energies).all()


def test_unknown_elements_are_named(model):
    with pytest.raises(UnknownElementError, match="S"):
        relax(model, [np.array([16])], [np.zeros((1, 3))])
