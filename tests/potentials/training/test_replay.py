"""Replay: heads that share layers, labels from the network itself, less forgetting, the same bits after a restart."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from halberd.potentials.errors import ConfigurationError, DataError, RestartError
from halberd.potentials.training.checks import LabelWarning
from halberd.potentials.training.graphs import GraphSet
from halberd.potentials.training.losses import evaluated
from halberd.potentials.training.replay import replayed, second_head
from halberd.potentials.training.settings import ScheduleSettings, TrainingSettings
from halberd.potentials.training.start import Start, new_network
from halberd.potentials.training.training import train, trainer_for
from tests.potentials.training.frames import E0S, alone, molecules
from tests.potentials.training.test_losses import SMALL


def unlabelled(frames):
    return [dataclasses.replace(frame, energy=None, forces=None) for frame in frames]


@pytest.fixture(scope="module")
def known():
    """A network that was trained on water with long and short bonds."""
    frames = molecules(40, seed=1, spread=0.2) + alone()
    start = new_network({**SMALL, "hidden": "8x0e"}, frames, "isolated")
    settings = TrainingSettings(epochs=60, validation=0.1, schedule=ScheduleSettings("cosine", 0.01))
    trainer = trainer_for(start, frames, settings)
    train(trainer)
    return Start(trainer.best_network(), start.atomic_numbers, start.e0s, {})


def further(known, frames, graphs=None, **settings):
    start = dataclasses.replace(known, network=copy.deepcopy(known.network))
    return trainer_for(start, frames, TrainingSettings(**{"validation": 0.2, **settings}), replay=graphs)


def stiffened(frames):
    """By another method: stiffer by a half."""
    alone = 2 * E0S["H"] + E0S["O"]
    return [dataclasses.replace(f, energy=1.5 * (f.energy - alone) + alone, forces=1.5 * f.forces) for f in frames]


def test_heads_share_their_layers(known):
    head = second_head(known.network)
    own = dict(known.network.named_parameters())
    for name, weight in head.named_parameters():
        assert (weight is own[name]) == (not name.startswith("readouts"))
        assert torch.equal(weight, own[name])
    assert known.network.readouts is not head.readouts


def test_frames_without_labels_get_those_of_the_network(known):
    frames = molecules(4, seed=5)
    graphs = replayed(known, [*unlabelled(frames[:2]), *frames[2:]])
    for number in range(2):
        found = evaluated(known.network, graphs[number])
        assert torch.allclose(graphs[number].forces, found.forces, atol=1e-10)
        assert torch.allclose(graphs[number].energy, found.energy, atol=1e-10)
    for number in (2, 3):
        assert np.array_equal(graphs[number].forces.numpy(), frames[number].forces)
    with pytest.raises(DataError, match="no frames"):
        replayed(known, alone())


def test_what_is_replayed_is_forgotten_less(known):
    """Trained further on another method and on short bonds alone; what it says of long ones is held in place."""
    everything = molecules(60, seed=1, spread=0.2)
    stiffer = stiffened(molecules(20, seed=2, spread=0.03))
    far = molecules(30, seed=9, spread=0.2)

    def error(network, frames):
        graphs = GraphSet(frames, known.atomic_numbers, known.e0s, known.network.edges.cutoff)
        errors = [(evaluated(network, graphs[n]).forces - graphs[n].forces).numpy() for n in range(len(frames))]
        return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))

    settings = {"epochs": 60, "learning_rate": 0.01, "average": None}
    plain = further(known, stiffer, **settings)
    train(plain)
    again = further(known, stiffer, replayed(known, unlabelled(everything)), **settings)
    train(again)
    # The head that is replayed, against the old read-outs on the layers as they became without replay.
    forgetful = plain.best_network()
    forgetful.readouts = known.network.readouts
    errors = [error(network, far) for network in (known.network, again.replay.network, forgetful)]
    assert errors[1] < min(1.2 * errors[0], 0.5 * errors[2])
    # And the frames that were trained on are learned as well.
    learned = [each.history[each.best - 1].errors["forces"]["rmse"] for each in (plain, again)]
    size = np.sqrt(np.mean([f.forces**2 for f in stiffer]))
    assert max(learned) < 0.2 * size


def test_a_replay_goes_on_to_the_same_bits(known, tmp_path):
    frames, old = molecules(8, seed=2), molecules(5, seed=3)
    graphs = replayed(known, unlabelled(old))
    settings = {"epochs": 3, "batch_size": 2, "replay": 1.5}
    whole = further(known, frames, graphs, **settings)
    seen = []
    train(whole, each_batch=lambda done, count: seen.append((done, count)))
    assert seen[-1] == (8, 8)  # three batches of six frames, and nine frames that are replayed in five
    for _ in range(3):
        part = further(known, frames, graphs, **settings)
        train(part, checkpoint=tmp_path / "a.checkpoint", stop=lambda: True)
    for one, other in zip(part.stepped.tensors, whole.stepped.tensors, strict=True):
        assert torch.equal(one, other)
    before = list(known.network.readouts.parameters())
    assert not any(torch.equal(one, other) for one, other in zip(part.replay.weights.values(), before, strict=True))
    with pytest.raises(RestartError, match="another"):
        train(further(known, frames, **settings), checkpoint=tmp_path / "a.checkpoint")
    with pytest.raises(ConfigurationError, match="replay is 0"):
        TrainingSettings(replay=0.0)


def test_labels_of_another_method_get_self_energies_of_their_own(known):
    frames = molecules(8, seed=5)
    others = [dataclasses.replace(f, energy=f.energy + 100.0 * len(f.atoms)) for f in frames]
    plain, again = replayed(known, frames), replayed(known, others)
    energies = [[float(graphs[n].energy) for n in range(8)] for graphs in (plain, again)]
    assert energies[1] == pytest.approx(energies[0], abs=0.5)
    # Frames without labels among them: what the network itself says, less no self-energies of the other method.
    mixed = replayed(known, [*others[:6], *unlabelled(others[6:])])
    for number in (6, 7):
        own = evaluated(known.network, mixed[number]).energy
        assert torch.allclose(mixed[number].energy, own, atol=1e-8)
    wrong = [dataclasses.replace(f, energy=23.06 * f.energy) for f in molecules(60, seed=5)]
    with pytest.warns(LabelWarning, match="Frames that are replayed: Energies change about 2"):
        replayed(known, wrong)
