"""Trainings of which matrices change by products of low rank."""

from __future__ import annotations

import math

import pytest
import torch

from halberd.potentials.errors import ConfigurationError, RestartError
from halberd.potentials.training.precision import LowRank, Stepped
from halberd.potentials.training.settings import TrainingSettings
from halberd.potentials.training.training import train
from tests.potentials.training.test_loop import trainer, whole_and_in_parts

RANK = 2


def is_low(weight: torch.Tensor) -> bool:
    """Fewer numbers in the factors than in the matrix."""
    return weight.dim() > 1 and RANK * (weight.shape[-2] + weight.shape[-1]) < weight.shape[-2] * weight.shape[-1]


def test_gradients_of_factors_are_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((3, 7, 9), generator=generator, dtype=torch.float64).requires_grad_()
    start = weight.detach().clone()
    target = torch.randn((3, 7, 9), generator=generator, dtype=torch.float64)
    own = Stepped({"w": weight}, torch.float64, RANK, seed=1)
    assert list(own.named) == ["w.left", "w.right"]
    assert torch.equal(own.values()[0], start)
    left, right = (each.detach().clone().requires_grad_() for each in own.tensors)
    optimisers = [torch.optim.Adam(tensors, lr=0.05) for tensors in (own.tensors, [left, right])]
    for _ in range(5):
        (weight - target).pow(4).sum().backward()
        own.take_gradients()
        expected = (start + left @ right / math.sqrt(RANK) - target).pow(4).sum()
        optimisers[1].zero_grad()
        expected.backward()
        for tensor, other in zip(own.tensors, (left, right), strict=True):
            torch.testing.assert_close(tensor.grad, other.grad, rtol=1e-12, atol=1e-12)
        for optimiser in optimisers:
            optimiser.step()
        own.give_weights()
        assert weight.grad is None
    torch.testing.assert_close(weight.detach(), start + (left @ right).detach() / math.sqrt(RANK))
    assert all(torch.linalg.matrix_rank(each) == RANK for each in (weight.detach() - start))


@pytest.mark.parametrize("precision", ["double", "mixed", "single"])
def test_only_changes_of_low_rank_come_and_the_first_errors_are_those_of_the_network(precision):
    _, plain = trainer(precision=precision, average=None)
    _, own = trainer(precision=precision, lora_rank=RANK, average=None)
    before = {name: weight.detach().clone() for name, weight in own.network.named_parameters()}
    assert own.validated() == plain.validated()
    train(own)
    low = 0
    for name, weight in own.network.named_parameters():
        change = (weight.detach() - before[name]).double()
        assert change.abs().max() > 0, name
        if is_low(weight):
            low += 1
            values = torch.linalg.svdvals(change)
            noise = 1e-12 if precision == "double" else 1e-4
            assert (values[..., RANK:] < noise * values[..., :1]).all(), name
            assert (values[..., RANK - 1] > 1e-3 * values[..., 0]).all(), name
    assert low >= 5
    assert own.history[-1].loss < own.history[0].loss
    first = LowRank(torch.zeros(40, 50), torch.float64, 1, torch.Generator().manual_seed(0))
    assert sum(each.numel() for each in first.tensors.values()) == 90


def test_a_killed_training_of_low_rank_goes_on_to_the_same_bits(tmp_path):
    whole, part, starts = whole_and_in_parts(tmp_path / "a.checkpoint", lora_rank=RANK, epochs=4)
    assert len(starts) == 4
    for one, other in zip(
        part.best_network().state_dict().values(), whole.best_network().state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


def test_another_rank_is_another_training(tmp_path):
    file = tmp_path / "a.checkpoint"
    train(trainer(lora_rank=RANK)[1], checkpoint=file, stop=lambda: True)
    for rank in (RANK + 1, None):
        with pytest.raises(RestartError, match="another"):
            train(trainer(lora_rank=rank)[1], checkpoint=file)


def test_factors_are_of_the_seed():
    weight = torch.zeros(40, 50)
    one, same, other = (Stepped({"w": weight}, torch.float64, 1, seed=seed).named["w.left"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    first, second = (trainer(lora_rank=RANK, seed=seed)[1].stepped.named for seed in (1, 2))
    lefts = [name for name in first if name.endswith(".left")]
    assert len(lefts) >= 5
    assert not any(torch.equal(first[name], second[name]) for name in lefts)


def test_what_is_averaged_are_weights_and_not_factors():
    _, own = trainer(lora_rank=RANK, average=0.5, epochs=1)
    weights = [[each.clone() for each in own.stepped.values()]]
    update = own.average.update

    def watched(values: list[torch.Tensor]) -> None:
        weights.append([each.clone() for each in own.stepped.values()])
        assert all(map(torch.equal, values, weights[-1]))
        update(values)

    own.average.update = watched
    train(own)
    expected = weights[0]
    for step, after in enumerate(weights[1:], 1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, after, strict=True)]
    for one, other in zip(own.average.averages, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_ranks_that_are_none_are_refused():
    for rank in (0, -1, 1.5):
        with pytest.raises(ConfigurationError, match="lora_rank"):
            TrainingSettings(lora_rank=rank)
    with pytest.raises(ConfigurationError, match="lora_rank is 1000: no matrix of this network"):
        trainer(lora_rank=1000)
