"""Trainings in mixed precision: computed in single, summed and stepped in double."""

from __future__ import annotations

import copy
import dataclasses

import torch

from halberd.potentials.training.losses import evaluated
from halberd.potentials.training.precision import DTYPES, Stepped
from halberd.potentials.training.replay import replayed
from halberd.potentials.training.settings import TrainingSettings
from halberd.potentials.training.start import new_network
from halberd.potentials.training.training import train, trainer_for
from tests.potentials.training.frames import alone, molecules
from tests.potentials.training.test_loop import numbers, trainer, whole_and_in_parts
from tests.potentials.training.test_losses import SMALL


def test_steps_too_small_for_single_precision_add_up():
    """A thousand steps of 1e-9 move a weight of 1 by 1e-6; in single precision each is rounded away."""
    found = {}
    for precision, (computed, stepped) in DTYPES.items():
        weight = torch.nn.Parameter(torch.ones(1, dtype=computed))
        own = Stepped({"w": weight}, stepped)
        optimiser = torch.optim.SGD(own.tensors, lr=1e-9)
        for _ in range(1000):
            optimiser.zero_grad()
            (-weight).sum().backward()
            own.take_gradients()
            optimiser.step()
            own.give_weights()
        found[precision] = weight.item() - 1.0
    assert found["single"] == 0.0
    assert abs(found["double"] - 1e-6) < 1e-12
    assert abs(found["mixed"] - 1e-6) < 6e-8  # as near as single precision can write it


def test_mixed_precision_is_near_double_and_its_weights_are_single():
    _, double = trainer(epochs=3)
    _, mixed = trainer(epochs=3, precision="mixed")
    _, single = trainer(epochs=3, precision="single")
    for each in (double, mixed, single):
        train(each)
    for one, other in zip(double.history, mixed.history, strict=True):
        assert abs(one.loss / other.loss - 1) < 1e-4
    assert numbers(mixed) != numbers(single)
    assert all(weight.dtype == torch.float32 for weight in mixed.best_network().parameters())
    assert all(each.dtype == torch.float64 for each in mixed.stepped.tensors + mixed.average.averages)


def test_energies_of_many_atoms_are_summed_in_double():
    """Of the same sites in single precision: in single, ones that are added to 2^24 are lost."""
    _, own = trainer(precision="mixed")
    one = own.training[0]

    def energies(labels: torch.dtype) -> float:
        graph = one.to("cpu", torch.float32, labels)
        return float(evaluated(lambda species, index, vectors: many + 0 * vectors.sum(), graph).energy[0])

    count = len(one.species)
    many = torch.full((count,), 16_777_216.0)
    many[1:] = 1.0
    assert energies(torch.float64) == 16_777_216.0 + count - 1
    assert energies(torch.float32) == 16_777_216.0


def test_a_mixed_training_goes_on_to_the_same_bits(tmp_path):
    whole, part, starts = whole_and_in_parts(tmp_path / "a.checkpoint", precision="mixed", epochs=4)
    assert len(starts) == 4
    for one, other in zip(part.stepped.tensors, whole.stepped.tensors, strict=True):
        assert torch.equal(one, other)


def test_read_outs_that_replay_are_stepped_in_double():
    frames = molecules(8) + alone()
    start = new_network(SMALL, frames, "isolated")
    settings = TrainingSettings(precision="mixed", epochs=1, validation=0.25)
    graphs = replayed(dataclasses.replace(start, network=copy.deepcopy(start.network)), frames[:4])
    own = trainer_for(start, frames, settings, replay=graphs)
    before = [weight.detach().clone() for weight in own.replay.weights.values()]
    train(own)
    assert len(own.stepped.tensors) == len(list(own.network.parameters())) + len(before)
    for weight, old, stepped in zip(
        own.replay.weights.values(), before, own.stepped.tensors[-len(before) :], strict=True
    ):
        assert not torch.equal(weight, old)
        assert torch.equal(weight, stepped.float())
