"""Energies of noisy molecules: their gradients, symmetries, forms and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from halberd.potentials.diffusion.energy import NoisyEnergy, RecordedEnergy
from halberd.potentials.diffusion.model import DiffusionModel
from halberd.potentials.diffusion.network import SoftHarmonics
from halberd.potentials.diffusion.settings import DiffusionSettings
from halberd.potentials.errors import ConfigurationError, DataError, ModelFileError, UnknownElementError
from halberd.potentials.sites.block_list import owners, pairs_of_blocks
from halberd.potentials.sites.harmonics import SphericalHarmonics
from tests.potentials.diffusion.models import SMALL, model, noisy


@pytest.mark.parametrize("kind", ["edm", "iddpm"])
@pytest.mark.parametrize("sigma", [0.05, 0.5, 4.0])
def test_the_score_is_minus_the_gradient(kind, sigma):
    own = model(preconditioning=kind)
    positions, elements, sizes = noisy()
    found = own.evaluate(positions, elements, sigma, sizes)
    step = 1e-5

    def difference(array, index):
        energies = []
        for sign in (1, -1):
            array[index] += sign * step
            energies.append(own.evaluate(positions, elements, sigma, sizes).energy.sum())
            array[index] -= sign * step
        return (energies[0] - energies[1]) / (2 * step)

    for index in [(0, 0), (2, 1), (5, 2), (8, 0)]:
        assert -difference(positions, index) == pytest.approx(found.score[index], rel=1e-6, abs=1e-7)
    for index in [(0, 0), (4, 1), (8, 2)]:
        # The energy counts elements in angstrom, and the score is by those numbers that were given.
        assert -difference(elements, index) == pytest.approx(found.element_score[index], rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("kind", ["edm", "iddpm"])
def test_the_score_leads_to_the_denoised_molecule(kind):
    own = model(preconditioning=kind)
    positions, elements, sizes = noisy()
    found = own.evaluate(positions, elements, 0.7, sizes)
    scale = own.settings.element_scale
    place = (torch.tensor(positions), torch.tensor(elements * scale), torch.full((2,), 0.7, dtype=torch.float64))
    clean, kinds = own.energy.denoised(*place, pairs_of_blocks(sizes), owners(sizes))
    np.testing.assert_allclose(found.denoised, clean.numpy(), atol=1e-10)
    np.testing.assert_allclose(found.elements, kinds.numpy() / scale, atol=1e-10)


def test_scores_stay_bounded_where_atoms_meet():
    """Directions jump where two atoms meet; what the network makes of them fades there, and with it the score."""
    own = model()
    positions, elements, sizes = noisy()
    largest = []
    for gap in (0.3, 1e-2, 1e-4, 1e-6):
        positions[1] = positions[0] + [gap, 0.0, 0.0]
        largest.append(float(np.abs(own.evaluate(positions, elements, 1.0, sizes).score).max()))
    assert max(largest) < 3 * largest[0]
    # Farther away they are the harmonics.
    plain = SphericalHarmonics(2)
    soft = SoftHarmonics(plain, 2, 0.1)
    vectors = torch.tensor([[1.5, 0.0, 0.0], [0.0, 1.2, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(soft(vectors), plain(vectors), rtol=5e-3, atol=0.0)
    assert not torch.equal(soft(vectors), plain(vectors))


def test_what_has_learnt_nothing_draws_to_the_centre_alone():
    own = model(blank=True)
    positions, elements, sizes = noisy()
    found = own.evaluate(positions, elements, 0.7, sizes)
    centre = np.repeat([positions[:3].mean(0), positions[3:].mean(0)], sizes, axis=0)
    np.testing.assert_allclose(found.score, -(positions - centre) / (0.7**2 + 1.3**2), atol=1e-12)
    blank = model(blank=True, preconditioning="iddpm").evaluate(positions, elements, 0.7, sizes)
    np.testing.assert_array_equal(blank.score, 0.0)


def test_symmetries_and_that_molecules_do_not_see_each_other():
    own = model()
    positions, elements, sizes = noisy()
    sigma = np.array([0.3, 0.9])
    found = own.evaluate(positions, elements, sigma, sizes)
    turn = -Rotation.random(random_state=0).as_matrix()  # mirrored, too
    moved = own.evaluate(positions @ turn.T + [5.0, -3.0, 1.0], elements, sigma, sizes)
    np.testing.assert_allclose(moved.energy, found.energy, rtol=1e-10)
    np.testing.assert_allclose(moved.score, found.score @ turn.T, atol=1e-9)
    np.testing.assert_allclose(moved.denoised, found.denoised @ turn.T, atol=1e-9)
    np.testing.assert_allclose(moved.element_score, found.element_score, atol=1e-9)
    order = np.array([2, 0, 1, *np.random.default_rng(0).permutation(np.arange(3, 9))])
    other = own.evaluate(positions[order], elements[order], sigma, sizes)
    np.testing.assert_allclose(other.score, found.score[order], atol=1e-9)
    for k, part in enumerate((slice(0, 3), slice(3, 9))):
        alone = own.evaluate(positions[part], elements[part], sigma[k])
        np.testing.assert_allclose(alone.energy, found.energy[k], rtol=1e-10)
        np.testing.assert_allclose(alone.score, found.score[part], atol=1e-10)
    assert not np.allclose(own.evaluate(positions, elements, 0.3, sizes).score[3:], found.score[3:])


@pytest.mark.parametrize("kind", ["edm", "iddpm"])
def test_all_forms_agree_and_recordings_take_other_molecules(kind):
    own = model(preconditioning=kind)
    recorded = RecordedEnergy(own.energy)
    positions, elements, sizes = noisy()
    for count in (1, 2):
        counts = sizes[:count]
        known = (
            torch.tensor(positions[: sum(counts)]),
            torch.tensor(elements[: sum(counts)]),
            torch.linspace(0.2, 0.4, count, dtype=torch.float64),
            pairs_of_blocks(counts),
            owners(counts),
        )
        plain = NoisyEnergy(own.network, own.preconditioning)(*known)
        for form in (own.energy, recorded.portable, recorded):
            torch.testing.assert_close(form(*known), plain, rtol=1e-9, atol=1e-9)


def test_files(tmp_path):
    own = model()
    file = tmp_path / "small.diffusion"
    own.save(file)
    again = DiffusionModel.load(file)
    positions, elements, sizes = noisy()
    first, second = (each.evaluate(positions, elements, 0.3, sizes) for each in (own, again))
    np.testing.assert_array_equal(first.score, second.score)
    assert (again.settings, again.sizes, again.metadata) == (own.settings, own.sizes, own.metadata)
    assert not any(weight.requires_grad for weight in again.network.parameters())


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04 broken"])
def test_files_that_are_none(tmp_path, content):
    file = tmp_path / "other.diffusion"
    file.write_bytes(content)
    with pytest.raises(ModelFileError, match="is no diffusion model of halberd, or damaged"):
        DiffusionModel.load(file)
    with pytest.raises(ModelFileError, match="missing"):
        DiffusionModel.load(tmp_path / "missing")


def test_what_does_not_fit_is_refused():
    own = model()
    positions, elements, sizes = noisy()
    with pytest.raises(DataError, match=r"give \(N, 3\), \(N, 3\) and sizes that sum to N"):
        own.evaluate(positions, elements, 0.3, [3])
    with pytest.raises(DataError, match=r"elements \(9, 2\)"):
        own.evaluate(positions, elements[:, :2], 0.3, sizes)
    with pytest.raises(DataError, match="a noise level is not positive"):
        own.evaluate(positions, elements, 0.0, sizes)
    with pytest.raises(DataError, match="no finite numbers"):
        own.evaluate(positions * np.nan, elements, 0.3, sizes)
    with pytest.raises(UnknownElementError, match=r"does not know the elements with the numbers \[7\]"):
        own.elements_of([1, 7])
    np.testing.assert_array_equal(own.elements_of([8, 1]), [[0, 0, 1], [1, 0, 0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elements": ()}, "elements are"),
        ({"elements": ("C", "C")}, "each once"),
        ({"noise_functions": 3}, "must be even"),
        ({"element_scale": 0.0}, "element_scale is 0.0"),
        ({"noise_std": -1.0}, "noise_std is -1.0"),
        ({"hidden": "4x0e+8x1o"}, "products multiply channel by channel"),
    ],
)
def test_choices_that_make_no_sense(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        DiffusionSettings(**{**SMALL, **changes})
