"""Learning to take noise out: losses, validation, going on, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from halberd.potentials.diffusion.molecules import MoleculeSet
from halberd.potentials.diffusion.settings import DiffusionSettings
from halberd.potentials.diffusion.training import denoising_trainer, trained_diffusion
from halberd.potentials.errors import DataError, RestartError
from halberd.potentials.training.settings import TrainingSettings
from halberd.potentials.training.training import train
from tests.potentials.diffusion.models import MOLECULES, SMALL, trained_on_water

FREE = {key: value for key, value in SMALL.items() if key != "sigma_data"}


def trainer(molecules=MOLECULES, validation=None, choices=FREE, **settings):
    how = TrainingSettings(**{"batch_size": 2, "validation": 0.34, "epochs": 4, **settings})
    return denoising_trainer(molecules, DiffusionSettings(**choices), how, validation)


def numbers(each):
    return [(epoch.loss, epoch.validation, epoch.learning_rate) for epoch in each.history]


def test_one_molecule_is_memorised():
    """Of noise, elements included, the molecule comes back."""
    water = molecule("H2O")
    model, before, after = trained_on_water()
    assert after < 0.55 * before  # the molecule may be turned in any way, so that much noise hides it
    rng = np.random.default_rng(0)
    errors, right = [], 0
    for _ in range(20):
        x = water.positions - water.positions.mean(0) + 0.1 * rng.normal(size=(3, 3))
        h = model.elements_of(water.numbers) + 0.1 / 0.5 * rng.normal(size=(3, 3))
        clean = model.evaluate(x, h, 0.1)
        right += (clean.elements.argmax(1) == [2, 0, 0]).all()
        bonds = np.linalg.norm(clean.denoised[1:] - clean.denoised[0], axis=1)
        errors.append(np.abs(bonds - 0.9686).max())
    assert right == 20
    assert np.median(errors) < 0.04  # the larger of two that had been moved by 0.14 each, 0.16 in the median


def test_a_network_that_says_nothing_has_a_loss_of_about_one():
    """Of coordinates: (x0 - c_skip x) / c_out has variance one, less the three of the centre."""
    own = trainer([molecule("CH3CHO")] * 300, validation=[molecule("CH3CHO")] * 300, epochs=1)
    loss, bands = own.validated()
    # By hand: six of seven parts of the noise are left of three coordinates, and 1/3 of three elements is there.
    sd = own.choices.sigma_data
    levels = np.exp(-1.2 + 1.2 * np.random.default_rng(0).normal(size=100_000))
    skip, out = sd**2 / (levels**2 + sd**2), levels * sd / np.sqrt(levels**2 + sd**2)
    x = (1 - skip) ** 2 * 3 * sd**2 + skip**2 * levels**2 * 3 * 6 / 7
    h = (1 - skip) ** 2 * 1.5**2 + skip**2 * levels**2 * 3
    assert loss == pytest.approx(np.mean((x + h) / out**2) / 6, rel=0.03)
    assert set(bands) == {f"above {low} angstrom" for low in ("0", "0.1", "0.3", "1")}


def test_noise_of_validation_is_always_the_same_and_that_of_training_is_not():
    own = trainer(learning_rate=1e-12, average=None, epochs=3)
    train(own)
    losses = [epoch.loss for epoch in own.history]
    validations = [epoch.validation for epoch in own.history]
    assert len(set(losses)) == 3
    np.testing.assert_allclose(validations, validations[0], rtol=1e-9)


def test_seeds_and_going_on(tmp_path):
    whole = trainer(seed=3)
    train(whole)
    assert numbers(trainer(seed=4)) == []
    other = trainer(seed=4)
    train(other)
    assert numbers(other) != numbers(whole)
    file = tmp_path / "part.checkpoint"
    for _ in range(4):
        part = trainer(seed=3)
        train(part, checkpoint=file, stop=lambda: True)
    assert numbers(part) == numbers(whole)
    for first, second in zip(part.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(first, second)
    with pytest.raises(RestartError, match="other frames, other settings"):
        train(trainer(seed=3, choices={**FREE, "noise_mean": -1.0}), checkpoint=file)
    with pytest.raises(RestartError, match="other frames, other settings"):
        train(trainer([*MOLECULES[:5], molecule("H2O")], seed=3), checkpoint=file)


def test_killed_within_an_epoch(tmp_path):
    """What is written between two batches goes on with the noise of the next one."""
    whole, part = trainer(epochs=1, batch_size=1), trainer(epochs=1, batch_size=1)
    whole.epoch()
    file = tmp_path / "part.checkpoint"

    def after(done: int, _: int) -> None:
        if done == 2:
            part.save(file)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        part.epoch(after)
    again = trainer(epochs=1, batch_size=1)
    again.resume(file)
    again.epoch()
    assert numbers(again) == numbers(whole)


def test_what_is_kept_aside_and_told():
    own = trainer()
    assert (len(own.training), len(own.validation)) == (4, 2)
    train(own)
    model = trained_diffusion(own, "few")
    assert model.metadata["training"]["molecules"] == 4
    assert sum(model.sizes.values()) == 4
    assert model.settings.sigma_data == pytest.approx(own.training.sigma_data())
    water = molecule("H2O")
    assert MoleculeSet([water], (1, 8)).size_table() == {(1, 3): 1}
    centred = water.positions - water.positions.mean(0)
    assert MoleculeSet([water], (1, 8)).sigma_data() == pytest.approx(np.sqrt((centred**2).mean()))
    assert MoleculeSet([water, molecule("CH4")], (1, 6, 8)).neighbours() == pytest.approx((6 + 20) / 8)


@pytest.mark.parametrize(
    ("molecules", "message"),
    [
        ([], "There are no molecules"),
        ([Atoms("H")], r"Molecule 0 \(counted from 0\) is a single atom"),
        ([molecule("H2O"), bulk("C")], r"Molecule 1 \(counted from 0\) is periodic"),
        ([molecule("NH3")], "holds N, which is not among the elements"),
        ([Atoms("H2", [[0, 0, 0], [0, 0, 0.1]])], "two atoms 0.10 angstrom apart"),
        ([Atoms("H2", [[0, 0, 0], [0, 0, np.nan]])], "positions that are no numbers"),
    ],
)
def test_molecules_that_are_refused(molecules, message):
    with pytest.raises(DataError, match=message):
        MoleculeSet(molecules, (1, 6, 8))


def test_single_precision_learns_alike():
    double, single = trainer(precision="double"), trainer(precision="single")
    for each in (double, single):
        train(each)
    np.testing.assert_allclose(np.array(numbers(single)), np.array(numbers(double)), rtol=1e-3)
    assert dataclasses.asdict(single.choices) == dataclasses.asdict(double.choices)
