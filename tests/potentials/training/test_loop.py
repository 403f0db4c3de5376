"""Trainings: that they learn, go on where they were ended, and say what went wrong."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from ase import Atoms

from halberd.plugins.hosts.ase_calculator import HalberdCalculator
from halberd.potentials import load
from halberd.potentials.errors import ConfigurationError, DataError, RestartError, TrainingError
from halberd.potentials.multi_ace.model import multi_ace_model
from halberd.potentials.multi_ace.sites import network_in
from halberd.potentials.training.checks import LabelWarning
from halberd.potentials.training.losses import evaluated
from halberd.potentials.training.settings import (
    LossSettings,
    ScheduleSettings,
    SecondPhase,
    TrainingSettings,
    named_loss,
)
from halberd.potentials.training.start import network_of_model, new_network
from halberd.potentials.training.training import set_aside, train, trained_model, trainer_for
from tests.potentials.training.frames import alone, labelled, molecules
from tests.potentials.training.test_losses import SMALL

FRAMES = molecules(12) + alone()
#: Mean loss of every epoch of the first test's training.
LOSSES = [6315.954279, 3092.225765, 1556.369295, 1479.440735]


def trainer(frames=FRAMES, network=SMALL, **settings):
    start = new_network(network, frames, "isolated", seed=settings.get("seed", 0))
    return start, trainer_for(start, frames, TrainingSettings(**{"validation": 0.25, "epochs": 4, **settings}))


def numbers(each):
    return [(epoch.loss, epoch.validation, epoch.learning_rate) for epoch in each.history]


def whole_and_in_parts(file, **settings):
    """A training, the same one ended after every epoch, which comes to the same numbers; and what parts began with."""
    _, whole = trainer(**settings)
    train(whole)
    starts = []
    for _ in range(20):
        start, part = trainer(**settings)
        train(part, checkpoint=file, stop=lambda: True)
        starts.append(start)
        if part.done:
            break
    assert numbers(part) == numbers(whole)
    return whole, part, starts


def test_the_loss_curve_is_the_one_that_it_was():
    """Stored from the day this was written; what changes it is a change of what trainings do."""
    _, own = trainer(loss=named_loss("mace-paper"))
    train(own)
    expected = LOSSES
    assert [epoch.loss for epoch in own.history] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["plateau", "exponential", "cosine", "constant"])
def test_a_training_goes_on_to_the_same_bits(kind, tmp_path):
    settings = {
        "schedule": ScheduleSettings(kind, factor=0.5, patience=1),
        "second_phase": SecondPhase(5, LossSettings(energy=50.0), learning_rate=2e-3),
        "epochs": 7,
    }
    file = tmp_path / "a.checkpoint"
    whole, part, starts = whole_and_in_parts(file, **settings)
    assert len(starts) == 7
    assert part.best == whole.best >= 5  # a phase with another loss has a best of its own
    for one, other in zip(part.best_network().parameters(), whole.best_network().parameters(), strict=True):
        assert torch.equal(one, other)
    assert len({epoch.learning_rate for epoch in whole.history}) > 1
    # Further epochs may be asked for, other settings may not.
    if kind != "cosine":
        train(trainer(**{**settings, "epochs": 8})[1], checkpoint=file)
    with pytest.raises(RestartError, match="another"):
        train(trainer(**{**settings, "learning_rate": 0.02})[1], checkpoint=file)
    with pytest.raises(RestartError, match="another"):
        train(trainer(frames=FRAMES[1:], **settings)[1], checkpoint=file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RestartError, match="cannot be read"):
        train(trainer(**settings)[1], checkpoint=file)
    assert starts[-1].network is part.network


def test_a_training_goes_on_within_an_epoch(tmp_path, monkeypatch):
    """Ended after every batch: what comes out are the bits of a training that never was."""
    monkeypatch.setattr("halberd.potentials.training.training.EVERY", 0.0)
    settings = {"epochs": 2, "batch_size": 2}
    _, whole = trainer(**settings)
    train(whole)
    file = tmp_path / "a.checkpoint"

    class EndedError(Exception):
        pass

    def end(done, count):
        if ran[0] == 1:  # the batch before has been saved
            raise EndedError
        ran[0] += 1

    ends = 0
    while True:
        _, part = trainer(**settings)
        ran = [0]
        try:
            train(part, checkpoint=file, each_batch=end)
        except EndedError:
            ends += 1
            assert ends < 40
            continue
        break
    assert ends >= 8
    assert numbers(part) == numbers(whole)
    for one, other in zip(part.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_ten_frames_are_learned_to_a_millielectronvolt_per_angstrom():
    frames = molecules(14, spread=0.03) + alone()
    network = {**SMALL, "hidden": "32x0e", "layers": 1, "correlation": 3, "max_ell": 1, "radial_widths": (64, 64, 64)}
    schedule = ScheduleSettings("cosine", 0.001)
    _, own = trainer(frames, network, epochs=1600, schedule=schedule, optimiser="adam")
    train(own)
    errors = [
        (evaluated(own.network, own.training[n]).forces - own.training[n].forces).abs().mean().item()
        for n in range(len(own.training))
    ]
    assert len(errors) == 10
    assert np.mean(errors) < 1e-3
    # And what was kept aside is better than always saying nothing by far.
    null = np.mean([np.abs(frame.forces).mean() for frame in own.validation.frames])
    assert own.history[own.best - 1].errors["forces"]["mae"] < 0.1 * null


def test_what_is_saved_says_what_was_trained(tmp_path):
    """Energies and forces of the file, with operators and splines, against those in training; E0s are added."""
    start, own = trainer(epochs=3)
    train(own)
    model = trained_model(start, own, "water")
    model.save(tmp_path / "water.pt")
    calculator = HalberdCalculator(load(tmp_path / "water.pt"))
    network = own.best_network()
    for number, frame in enumerate(own.validation.frames):
        found = evaluated(network, own.validation[number])
        results = calculator.evaluate(frame.atoms)
        assert np.abs(results["forces"] - found.forces.numpy()).max() < 1e-9
        assert results["energy"] == pytest.approx(float(found.energy) - 2 * 1.5 - 7.0, abs=1e-9)
    assert json.loads(json.dumps(model.metadata))["training"]["best_epoch"] == own.best


def test_the_best_epoch_is_kept_with_averaged_weights():
    _, own = trainer(epochs=6, learning_rate=0.2)
    train(own)
    validation = [epoch.validation for epoch in own.history]
    assert own.best == int(np.argmin(validation)) + 1
    best = own.best_network()
    for name, weight in own.network.named_parameters():
        assert not torch.equal(weight, dict(best.named_parameters())[name])


def test_early_stop_waits_for_its_patience():
    _, own = trainer(epochs=50, learning_rate=0.5, early_stop=2, average=None)
    train(own)
    assert len(own.history) == own.best + 2 < 50


def test_a_training_that_diverges_keeps_the_best():
    _, own = trainer(epochs=60, learning_rate=30.0, clip=None, average=None, optimiser="adam")
    with pytest.raises(TrainingError, match="diverged in epoch"):
        train(own)
    assert all(torch.isfinite(weight).all() for weight in own.best_network().parameters())


def test_single_precision_learns_the_same_at_first():
    _, double = trainer(epochs=2)
    _, single = trainer(epochs=2, precision="single")
    train(double)
    train(single)
    assert single.history[-1].loss == pytest.approx(double.history[-1].loss, rel=0.02)
    assert next(single.network.parameters()).dtype == torch.float32


RATES = {
    "constant": ({"kind": "constant"}, [0.01] * 5),
    "exponential": ({"kind": "exponential", "factor": 0.5}, [0.01, 0.005, 0.0025, 0.00125, 0.000625]),
    # Towards a tenth, half way between the ends in the middle.
    "cosine": (
        {"kind": "cosine", "factor": 0.1},
        [0.001 + 0.009 * 0.5 * (1 + np.cos(np.pi * n / 5)) for n in range(5)],
    ),
}


@pytest.mark.parametrize("kind", RATES)
def test_learning_rates_of_every_epoch(kind):
    schedule, rates = RATES[kind]
    _, own = trainer(epochs=5, schedule=ScheduleSettings(**schedule))
    train(own)
    assert [epoch.learning_rate for epoch in own.history] == pytest.approx(rates, rel=1e-12)


@pytest.mark.parametrize("falls", [False, True])
def test_the_plateau_is_one_of_validation(falls):
    """The rate is halved when the loss of validation, and not that of training, has not fallen for two epochs."""
    _, own = trainer(epochs=8, schedule=ScheduleSettings("plateau", 0.5, 2), learning_rate=1e-6, average=None)
    number = iter(range(8))
    own.validated = lambda: (10.0 - (next(number) if falls else 0.0), {})
    own._step = lambda *_: torch.tensor(1.0 if falls else 10.0 - len(own.history))
    train(own)
    rates = [epoch.learning_rate / 1e-6 for epoch in own.history]
    assert rates == pytest.approx([1.0] * 8 if falls else [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25])


@pytest.mark.parametrize("kind", [*RATES, "plateau"])
def test_the_rate_of_a_second_phase_is_constant(kind):
    schedule = ScheduleSettings(**RATES[kind][0]) if kind in RATES else ScheduleSettings("plateau", 0.5, 1)
    given = SecondPhase(3, LossSettings(energy=50.0), learning_rate=2e-3)
    for phase, rate in ((given, 2e-3), (SecondPhase(3, LossSettings(energy=50.0)), 1e-3)):
        _, own = trainer(epochs=6, schedule=schedule, second_phase=phase)
        train(own)
        assert [epoch.learning_rate for epoch in own.history[2:]] == [pytest.approx(rate)] * 4
        assert own.history[0].learning_rate == 0.01


@pytest.mark.parametrize("rate", [0.0, -0.01])
def test_rates_that_make_no_sense(rate):
    with pytest.raises(ConfigurationError, match="learning_rate is"):
        TrainingSettings(learning_rate=rate)
    with pytest.raises(ConfigurationError, match="learning_rate of second_phase is"):
        SecondPhase(2, learning_rate=rate)


def test_no_batch_has_more_edges_than_are_asked_for():
    """Neither of training nor of validation; waters have six edges each."""
    _, own = trainer(max_edges=13, batch_size=5)
    seen = []
    placed = own._placed
    own._placed = lambda graph: seen.append(graph.edge_index.shape[1]) or placed(graph)
    own.epoch()
    assert seen == [12] * 4 + [6] + [12, 6]  # nine waters, and three that are kept aside


def test_other_frames_of_validation_are_another_training(tmp_path):
    start = new_network(SMALL, FRAMES, "isolated")
    file = tmp_path / "a.checkpoint"

    def own(validation):
        again = new_network(SMALL, FRAMES, "isolated")
        return trainer_for(again, FRAMES[:6], TrainingSettings(epochs=2), validation)

    train(own(FRAMES[6:9]), checkpoint=file, stop=lambda: True)
    with pytest.raises(RestartError, match="another"):
        train(own(FRAMES[7:10]), checkpoint=file)
    assert start.e0s.tolist() == [-1.5, -7.0]


@pytest.mark.parametrize("damage", ["nothing", "half", "byte"])
def test_damaged_checkpoints_are_refused(damage, tmp_path):
    file = tmp_path / "a.checkpoint"
    _, own = trainer()
    train(own, checkpoint=file, stop=lambda: True)
    content = bytearray(file.read_bytes())
    if damage == "byte":
        content[content.index(own.average.averages[0].numpy().tobytes()) + 5] ^= 1
    else:
        del content[(0 if damage == "nothing" else len(content) // 2) :]
    file.write_bytes(content)
    with pytest.raises(RestartError, match=r"cannot be read: .*\w\. Remove it to begin anew\."):
        trainer()[1].resume(file)


def test_frames_are_named_by_their_number_in_the_files():
    close = labelled(Atoms("OHH", [[0, 0, 0], [0.17, 0, 0], [0, 1, 0]]))
    frames = [*alone(), *molecules(4), close, *molecules(4, seed=3)]
    for seed in range(4):  # to train on, or kept aside
        with pytest.raises(DataError, match=r"Frame 6 \(counted from 0, in all files together\) has two atoms 0.17"):
            trainer(frames=frames, seed=seed)


def test_energies_far_off_the_self_energies_are_warned_about():
    frames = [dataclasses.replace(frame, energy=23.06 * frame.energy) for frame in molecules(4)]
    with pytest.warns(LabelWarning, match=r"eV per atom off the self-energies \(isolated\)"):
        new_network(SMALL, [*frames, *shifted(alone(), 50.0)], "isolated")


def test_no_self_energy_is_averaged_of_no_frame():
    with pytest.raises(ConfigurationError, match="No frame holds N, whose self-energy can then not be averaged"):
        new_network({**SMALL, "elements": ["H", "N", "O"]}, molecules(4), "average")


def test_a_network_that_is_trained_further_has_a_tenth_of_the_learning_rate():
    start, own = trainer(epochs=1)
    assert own.optimiser.param_groups[0]["lr"] == 0.01
    train(own)
    model = trained_model(start, own, "first")
    further = trainer_for(network_of_model(model, FRAMES), FRAMES, TrainingSettings(epochs=1))
    assert further.settings.learning_rate == further.optimiser.param_groups[0]["lr"] == 0.001
    given = TrainingSettings(epochs=1, learning_rate=0.02)
    assert trainer_for(network_of_model(model, FRAMES), FRAMES, given).settings.learning_rate == 0.02


def test_training_further_begins_with_the_errors_of_the_model():
    start, own = trainer(epochs=5)
    train(own)
    model = trained_model(start, own, "first")
    again = network_of_model(model, FRAMES)
    weights = [weight.clone() for weight in network_in(model.module).parameters()]
    train(trainer_for(network_of_model(model, FRAMES), FRAMES, TrainingSettings(epochs=1)))
    assert all(map(torch.equal, weights, network_in(model.module).parameters()))  # the model stays what it is
    further = trainer_for(again, FRAMES, TrainingSettings(validation=0.25, learning_rate=1e-12, epochs=1))
    assert further.validated()[0] == pytest.approx(own.history[own.best - 1].validation, rel=1e-9)
    # Frames of another reference: their own self-energies, and the errors of the model all the same.
    shifted = [dataclasses.replace(frame, energy=frame.energy + 5.0 * len(frame.atoms)) for frame in FRAMES]
    moved = network_of_model(model, shifted, "isolated")
    assert moved.e0s == pytest.approx(np.array(model.e0s) + 5.0)
    other = trainer_for(moved, shifted, TrainingSettings(validation=0.25, epochs=1))
    assert other.validated()[0] == pytest.approx(own.history[own.best - 1].validation, rel=1e-6)
    frozen = trainer_for(
        network_of_model(model, FRAMES), FRAMES, TrainingSettings(epochs=1, frozen=("layers",), average=None)
    )
    before = {name: weight.detach().clone() for name, weight in frozen.network.named_parameters()}
    train(frozen)
    for name, weight in frozen.network.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith("layers")
    from halberd.potentials import committee

    with pytest.raises(ConfigurationError, match="no single network"):
        network_of_model(committee([model, model]), FRAMES)
    carbon = [dataclasses.replace(FRAMES[0], atoms=FRAMES[0].atoms.copy())]
    carbon[0].atoms.numbers[0] = 6
    with pytest.raises(ConfigurationError, match="numbers"):
        network_of_model(model, carbon)
    assert isinstance(multi_ace_model(again.network, again.atomic_numbers).name, str)


def test_second_phases_are_checked():
    with pytest.raises(ConfigurationError, match="would not come"):
        TrainingSettings(epochs=3, second_phase=SecondPhase(4))
    with pytest.raises(ConfigurationError, match="config types"):
        TrainingSettings(second_phase=SecondPhase(4, LossSettings(per_config_type={"a": 1.0})))
    with pytest.raises(DataError, match="on the stress"):
        trainer(second_phase=SecondPhase(2, LossSettings(stress=1.0)))


def test_frames_are_set_aside_by_the_seed():
    frames = molecules(20) + alone()
    own, kept = set_aside(frames, 0.2, 3)
    assert (len(own), len(kept)) == (18, 4)
    assert all(len(frame.atoms) > 1 for frame in kept)
    again = set_aside(frames, 0.2, 3)[1]
    assert [id(each) for each in kept] == [id(each) for each in again]
    assert [id(each) for each in kept] != [id(each) for each in set_aside(frames, 0.2, 4)[1]]


def test_scale_and_shift_are_of_the_frames():
    start = new_network(SMALL, FRAMES, "isolated")
    forces = np.concatenate([frame.forces.ravel() for frame in FRAMES if len(frame.atoms) > 1])
    assert float(start.network.scale) == pytest.approx(np.sqrt(np.mean(forces**2)))
    energies = [(frame.energy + 10.0) / 3 for frame in FRAMES if len(frame.atoms) > 1]
    assert start.network.shift == pytest.approx(np.mean(energies))
    assert start.metadata["settings"]["neighbours"] == pytest.approx(2.0)


@pytest.mark.parametrize("label", ["energy", "forces", "virial"])
def test_other_labels_are_another_training(label, tmp_path):
    frames = molecules(6, periodic=True)
    network = {**SMALL, "cutoff": 3.0}

    def own(labelled):
        start = new_network(network, frames, {"H": -1.5, "O": -7.0})
        return trainer_for(start, labelled, TrainingSettings(epochs=2, loss=LossSettings(stress=1.0), validation=0.3))

    train(own(frames), checkpoint=tmp_path / "a.checkpoint", stop=lambda: True)
    changed = [dataclasses.replace(f, **{label: getattr(f, label) * 1.01}) for f in frames]
    with pytest.raises(RestartError, match="another"):
        train(own(changed), checkpoint=tmp_path / "a.checkpoint")
    train(own(frames), checkpoint=tmp_path / "a.checkpoint")


def test_early_stop_does_not_keep_a_second_phase_from_coming():
    phase = SecondPhase(6, LossSettings(energy=50.0), learning_rate=0.5)
    _, own = trainer(epochs=50, learning_rate=0.5, early_stop=2, average=None, second_phase=phase)
    train(own)
    assert own.best >= 6
    assert len(own.history) == own.best + 2 < 50


def test_weights_of_config_types_and_copies():
    loss = LossSettings(per_config_type={"even": 3.0})
    _, own = trainer(frames=[*FRAMES, FRAMES[0], FRAMES[3]], loss=loss)
    assert len(own.training) + len(own.validation) == 12
    for graphs in (own.training, own.validation):
        for number, frame in enumerate(graphs.frames):
            assert float(graphs[number].weight) == (3.0 if frame.config_type == "even" else 1.0)


def test_frames_of_both_sets_are_told():
    start = new_network(SMALL, FRAMES, "isolated")
    with pytest.warns(LabelWarning, match="3 frames to train on are for validation, too"):
        trainer_for(start, FRAMES, TrainingSettings(), FRAMES[:3])


def test_an_atom_in_a_large_cell_is_not_trained_on():
    far = [dataclasses.replace(f, atoms=Atoms(f.atoms.symbols, cell=[20.0] * 3, pbc=True)) for f in alone()]
    start, own = trainer(frames=[*molecules(6), *far])
    assert len(own.training) + len(own.validation) == 6
    assert start.e0s.tolist() == [-1.5, -7.0]


def shifted(frames, per_atom):
    """By another method: so much more for every atom."""
    added = {1: per_atom, 8: -3.0 * per_atom}
    return [dataclasses.replace(f, energy=f.energy + sum(added[int(z)] for z in f.atoms.numbers)) for f in frames]


def test_labels_of_another_reference_are_told_and_fitted_to():
    start, own = trainer(epochs=30)
    train(own)
    model = trained_model(start, own, "water")
    # A hydrogen molecule, so that elements do not always come together.
    pair = labelled(Atoms("H2", [[0, 0, 0], [1.0, 0, 0]]))
    others = shifted([*molecules(8, seed=3), pair], 40.0)
    with pytest.warns(LabelWarning, match="eV per atom off those of 'water'"):
        network_of_model(model, others)
    further = network_of_model(model, others, "average")
    assert further.e0s == pytest.approx([-1.5 + 40.0, -7.0 - 120.0], abs=1.0)
    trained = trainer_for(further, others, TrainingSettings(validation=0.25))
    assert trained.validated()[1]["energy"]["mae"] < 0.3
    # Only elements that the frames hold change theirs.
    hydrogen = network_of_model(model, [pair], {"H": -1.6})
    assert hydrogen.e0s.tolist() == [-1.6, -7.0]


def test_validation_is_of_frames_and_by_the_loss_of_the_phase():
    """Whatever the batches are; and ten times the loss is ten times the number."""
    losses = [trainer(batch_size=size)[1].validated()[0] for size in (1, 2, 5)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-10)
    tenfold = SecondPhase(3, LossSettings(energy=10.0, forces=1000.0), learning_rate=1e-14)
    _, own = trainer(epochs=3, second_phase=tenfold, average=None)
    train(own)
    assert own.history[2].validation == pytest.approx(10.0 * own.history[1].validation, rel=1e-6)
