"""A committee from one MACE: features, rows, posterior, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule

from halberd.plugins import HalberdCalculator
from halberd.potentials import LastLayerFit, load
from halberd.potentials.errors import ConfigurationError, DataError, ModelError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.mace.last_layer_features import mace_features
from halberd.potentials.sites.portable import WithPortable
from halberd.potentials.sites.site_model import SiteModel
from halberd.potentials.sites.structure_energy import StructureEnergy
from tests.conftest import random_ace


def features_of(features, atoms):
    module = StructureEnergy(features, features.species_of(atoms.numbers), 0.0)
    cell = torch.tensor(atoms.cell.array)
    with torch.no_grad():
        return module(torch.tensor(atoms.positions), cell, torch.tensor(np.asarray(atoms.pbc))).numpy()


def shaken(count, seed=0, scale=0.08):
    frames = []
    for k in range(count):
        atoms = molecule(("CH3CH2OH", "H2O", "CH3OH", "H2CO")[k % 4])
        atoms.rattle(scale, seed=seed + k)
        frames.append(atoms)
    return frames


@pytest.mark.parametrize("name", ["scale-shift", "plain", "scalars-only", "heads", "pretrained"])
def test_energy_is_linear_in_the_features(mace_files, name):
    """The site energies of the network lie in the span of its features and a constant per element."""
    options = {"head": "mp2"} if name == "heads" else {}
    source = "gfn2-chnof" if name == "pretrained" else mace_files[name]
    model = load(source, elements=["H", "C", "O"], precision="double", **options)
    features = mace_features(model)
    values, species = [], []
    for atoms in shaken(40):
        values.append(features_of(features, atoms))
        species.append(model.species_of(atoms.numbers).numpy())
    table, kinds = np.concatenate(values), np.concatenate(species)
    matrix = np.column_stack([table[:, 1:], np.eye(len(model.atomic_numbers))[kinds]])
    assert len(matrix) > 2 * matrix.shape[1]
    solution = np.linalg.lstsq(matrix, table[:, 0], rcond=None)[0]
    assert np.abs(matrix @ solution - table[:, 0]).max() < 1e-7 * np.abs(table[:, 0]).max()
    # A constant per element alone does not do it.
    constant = matrix[:, -len(model.atomic_numbers) :]
    alone = constant @ np.linalg.lstsq(constant, table[:, 0], rcond=None)[0]
    assert np.abs(alone - table[:, 0]).max() > 1e-3 * np.abs(table[:, 0]).max()


@pytest.fixture(scope="module")
def fit(mace_files):
    """The MACE 'scale-shift' with labels of another network, periodic frames included."""
    base, truth = load(mace_files["scale-shift"]), HalberdCalculator(mace_files["member0"])
    frames = []
    for atoms in shaken(8):
        if len(atoms) == 9:
            atoms.set_cell([6.0, 6.5, 7.0])
            atoms.pbc = True
        results = truth.evaluate(atoms)
        virial = None
        if "stress" in results:
            stress = results["stress"]
            full = np.array([[stress[0], stress[5], stress[4]], [0, stress[1], stress[3]], [0, 0, stress[2]]])
            virial = -atoms.get_volume() * (full + np.triu(full, 1).T)
        frames.append(Frame(atoms, results["energy"], results["forces"], virial, "default"))
    fit = LastLayerFit(base)
    fit.add(frames)
    return fit, frames


def test_rows_are_derivatives_of_the_features(fit):
    fit, frames = fit
    frame = frames[0]
    rows = fit.frame_rows(frame)
    n = len(frame.atoms)
    assert len(rows) == 1 + 3 * n + 6
    features = fit.features

    def total(atoms):
        return features_of(features, atoms)[:, 1:].sum(axis=0)

    h = 1e-4
    moved = [frame.atoms.copy() for _ in range(2)]
    for sign, atoms in zip((1, -1), moved, strict=True):
        atoms.positions[2, 1] += sign * h
    numerical = -(total(moved[0]) - total(moved[1])) / (2 * h)
    assert np.abs(rows[1 + 3 * 2 + 1, :-1] - numerical).max() < 1e-6 * max(np.abs(numerical).max(), 1.0)
    strained = [frame.atoms.copy() for _ in range(2)]
    for sign, atoms in zip((1, -1), strained, strict=True):
        atoms.set_cell(atoms.cell.array @ np.diag([1 + sign * h, 1, 1]), scale_atoms=True)
    numerical = -(total(strained[0]) - total(strained[1])) / (2 * h)
    weight = fit.weights.virial / np.sqrt(n)
    assert np.abs(rows[1 + 3 * n, :-1] / weight - numerical).max() < 1e-6 * max(np.abs(numerical).max(), 1.0)


def test_correction_reduces_the_error_it_was_fitted_to(fit):
    fit, frames = fit
    errors = {}
    for correction in (False, True):
        calculator = HalberdCalculator(fit.solve(correction=correction).model)
        deviations = [calculator.evaluate(f.atoms)["forces"] - f.forces for f in frames]
        errors[correction] = np.sqrt(np.mean(np.concatenate([d.ravel() for d in deviations]) ** 2))
    plain = HalberdCalculator(fit.base).evaluate(frames[1].atoms)
    untouched = HalberdCalculator(fit.solve(correction=False).model).evaluate(frames[1].atoms)
    assert untouched["energy"] == pytest.approx(plain["energy"], abs=1e-9)
    assert errors[True] < 0.8 * errors[False]


def test_committee_is_centred_and_sigma_exact(fit, tmp_path):
    fit, frames = fit
    atoms = frames[3].atoms.copy()
    atoms.rattle(0.1, seed=9)
    fitted = fit.solve(committee=300, seed=1, correction=True)
    committee = HalberdCalculator(fitted.model).evaluate(atoms)
    mean = HalberdCalculator(fit.solve(correction=True).model).evaluate(atoms)
    assert committee["energy"] == pytest.approx(mean["energy"], abs=1e-8)
    exact_model = fitted.with_exact_sigma()
    exact_model.save(tmp_path / "sigma.pt")
    exact = HalberdCalculator(exact_model).evaluate(atoms)
    by_hand = np.linalg.norm(fitted.posterior.factor.T @ features_of(fit.features, atoms)[:, 1:].sum(axis=0))
    assert exact["energy_std"] == pytest.approx(by_hand, rel=1e-9)
    assert committee["energy_std"] == pytest.approx(by_hand, rel=0.13)  # three times 1/sqrt(2 K)
    again = HalberdCalculator(SiteModel.load(tmp_path / "sigma.pt")).evaluate(atoms)
    assert again["energy_std"] == pytest.approx(exact["energy_std"], rel=1e-9)
    loaded = load(tmp_path / "sigma.pt")
    assert isinstance(loaded.module, WithPortable)
    assert HalberdCalculator(loaded).evaluate(atoms)["energy_std"] == pytest.approx(exact["energy_std"], rel=1e-9)
    h = 1e-4
    sides = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0, 2] += sign * h
        sides.append(HalberdCalculator(exact_model).evaluate(moved)["energy_std"])
    assert exact["sigma_forces"][0, 2] == pytest.approx(-(sides[0] - sides[1]) / (2 * h), rel=1e-5, abs=1e-9)


def test_frames_added_later_count_the_same(fit, tmp_path):
    fit, frames = fit
    first = LastLayerFit(fit.base)
    first.add(frames[:5])
    first.save(tmp_path / "state.npz")
    later = LastLayerFit.load(tmp_path / "state.npz", fit.base)
    first.add(frames[5:])
    later.add(frames[5:])
    assert later.n_rows == first.n_rows == fit.n_rows
    assert later.solve(correction=True).coefficients == pytest.approx(
        first.solve(correction=True).coefficients, rel=1e-6, abs=1e-9
    )


def test_bad_input(fit, tmp_path, mace_files):
    fit, _ = fit
    basis, coefficients = random_ace(order=2, degree=5)
    from halberd.potentials.ace.model import ace_site_model

    with pytest.raises(ModelError, match="it is not a MACE"):
        LastLayerFit(ace_site_model(basis, coefficients))
    with pytest.raises(ConfigurationError, match="is a committee"):
        LastLayerFit(load([mace_files["member0"], mace_files["member1"]]))
    with pytest.raises(DataError, match="No labelled frame"):
        LastLayerFit(fit.base).solve()
    fit.save(tmp_path / "state.npz")
    with pytest.raises(DataError, match="is the state of a fit to 'scale-shift', not to 'member1'"):
        LastLayerFit.load(tmp_path / "state.npz", load(mace_files["member1"]))
    with pytest.raises(DataError, match="does not exist"):
        LastLayerFit.load(tmp_path / "nothing.npz", fit.base)


def test_features_of_both_implementations_agree(mace_files):
    """With one head. Of several, mace-torch's hidden units are those of all heads."""
    atoms = shaken(1)[0]
    values = [
        features_of(mace_features(load(mace_files["scale-shift"], implementation=each)), atoms)
        for each in ("mace-torch", "multi-ace")
    ]
    np.testing.assert_allclose(values[0], values[1], atol=1e-9 * np.abs(values[0]).max())
