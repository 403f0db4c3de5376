"""Graphs, energies with their derivatives, losses against their formulas, averages, optimisers, labels."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.training.averaging import MovingAverage
from halberd.potentials.training.checks import LabelWarning, check_labels
from halberd.potentials.training.graphs import GraphSet, groups, joined
from halberd.potentials.training.losses import Errors, Evaluated, evaluated, loss_of
from halberd.potentials.training.optimisers import optimiser_of, trained_weights
from halberd.potentials.training.precision import Stepped
from halberd.potentials.training.settings import LossSettings, TrainingSettings, named_loss
from halberd.potentials.training.start import new_network
from tests.potentials.training.frames import alone, labelled, molecules

SMALL = {"hidden": "4x0e+4x1o", "radial_widths": (8,), "max_ell": 2, "correlation": 2, "cutoff": 4.0, "n_radial": 5}


def graphs_of(frames, start):
    return GraphSet(frames, start.atomic_numbers, start.e0s, start.network.edges.cutoff)


def test_stress_of_a_label_is_what_ase_calls_stress():
    """Minus the virial over the volume: positive where the cell is stretched."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell * [1.06, 1.04, 1.02], scale_atoms=True)
    atoms.calc = EMT()
    stress = atoms.get_stress(voigt=False)
    assert np.trace(stress) > 0
    frame = Frame(atoms, atoms.get_potential_energy(), atoms.get_forces(), -atoms.get_volume() * stress, "stretched")
    graph = GraphSet([frame], [29], np.zeros(1), 4.0)[0]
    np.testing.assert_allclose(graph.stress[0].numpy(), stress, atol=1e-12)


def test_forces_and_stress_are_derivatives_of_the_energy():
    """Central differences of the energy of a periodic frame and of a molecule, in one graph."""
    frames = molecules(1, periodic=True) + molecules(1, seed=1)
    start = new_network(SMALL, frames + alone(), "isolated", seed=1)
    found = evaluated(start.network, joined([graphs_of(frames, start)[n] for n in range(2)]))

    def energy(atoms):
        return float(evaluated(start.network, graphs_of([labelled(atoms)], start)[0]).energy)

    offset = 0
    for frame, total in zip(frames, found.energy, strict=True):
        assert float(total) == pytest.approx(energy(frame.atoms), rel=1e-12)
        for atom, axis in ((0, 0), (1, 2), (2, 1)):
            values = []
            for step in (1e-5, -1e-5):
                moved = frame.atoms.copy()
                moved.positions[atom, axis] += step
                values.append(energy(moved))
            assert -(values[0] - values[1]) / 2e-5 == pytest.approx(float(found.forces[offset + atom, axis]), abs=1e-7)
        offset += len(frame.atoms)
    atoms = frames[0].atoms
    for a, b in ((0, 0), (1, 2)):
        values = []
        for step in (1e-5, -1e-5):
            strain = np.eye(3)
            strain[a, b] += step / 2
            strain[b, a] += step / 2
            strained = atoms.copy()
            strained.set_cell(np.array(atoms.cell) @ strain, scale_atoms=True)
            values.append(energy(strained))
        expected = (values[0] - values[1]) / 2e-5 / atoms.get_volume()
        assert float(found.stress[0, a, b]) == pytest.approx(expected, abs=1e-7)
    assert found.stress[1].isnan().all()  # a molecule has no volume


def test_losses_are_what_their_formulas_say():
    frames = molecules(2, periodic=True) + molecules(1)
    start = new_network(SMALL, frames + alone(), "isolated")
    graph = joined([graphs_of(frames, start)[n] for n in range(3)])
    graph = dataclasses.replace(graph, weight=torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64))
    torch.manual_seed(0)
    found = Evaluated(graph.energy + torch.randn(3), graph.forces + torch.randn(graph.forces.shape), graph.stress + 0.1)
    sizes = np.array([6, 6, 3])
    of_atom = np.repeat([1.0, 3.0, 0.5], sizes)[:, None]
    de = (found.energy - graph.energy).numpy()
    df = (found.forces - graph.forces).numpy()
    weight = np.array([1.0, 3.0, 0.5])
    forces = (of_atom * df**2).mean()
    cases = {
        "mace": (weight * (de / sizes) ** 2).mean() + 100 * forces,
        "mace-paper": (weight * de**2).mean() + 1000 * forces,
        "botnet": 27 * (weight * de**2 / sizes).mean() + 729 * forces,
        "forces": 100 * forces,
    }
    for name, expected in cases.items():
        assert float(loss_of(found, graph, named_loss(name))) == pytest.approx(expected, rel=1e-12)
    stress = LossSettings(energy=0, forces=0, stress=2.0)  # of the two frames that have one
    assert float(loss_of(found, graph, stress)) == pytest.approx(2.0 * 0.01 * (1.0 + 3.0) / 2)
    huber = named_loss("mace", kind="huber", delta=0.5)
    linear = np.where(np.abs(df) < 0.5, df**2, 0.5 * (2 * np.abs(df) - 0.5))
    per_atom = de / sizes
    of_energy = np.where(np.abs(per_atom) < 0.5, per_atom**2, 0.5 * (2 * np.abs(per_atom) - 0.5))
    expected = (weight * of_energy).mean() + 100 * (of_atom * linear).mean()
    assert float(loss_of(found, graph, huber)) == pytest.approx(expected, rel=1e-12)
    errors = Errors()
    errors.add(found, graph)
    assert errors.summary()["forces"]["rmse"] == pytest.approx(np.sqrt((df**2).mean()))
    assert errors.summary()["energy"]["mae"] == pytest.approx(np.abs(per_atom).mean())
    assert errors.counts == {"energy": 3, "forces": 45, "stress": 18}


def test_labels_that_are_missing_do_not_count():
    frames = molecules(3)
    frames[1] = dataclasses.replace(frames[1], forces=None)
    frames[2] = dataclasses.replace(frames[2], energy=None)
    start = new_network(SMALL, frames + alone(), "isolated")
    graph = joined([graphs_of(frames, start)[n] for n in range(3)])
    found = evaluated(start.network, graph)
    own = joined([graphs_of(frames, start)[n] for n in (0, 2)])
    forces = LossSettings(energy=0, forces=1)
    assert float(loss_of(found, graph, forces)) == pytest.approx(
        float(loss_of(evaluated(start.network, own), own, forces)), rel=1e-12
    )
    # A prediction that is no number is not a missing label.
    broken = dataclasses.replace(found, energy=found.energy * float("nan"))
    assert np.isnan(float(loss_of(broken, graph, LossSettings())))


@pytest.mark.parametrize("kind", ["squared", "huber"])
def test_gradients_know_nothing_of_labels_that_are_missing(kind):
    """Of open frames, which have no stress, above all: what is masked may not come back as NaN in the gradient."""
    frames = molecules(1, periodic=True) + molecules(1, seed=1) + molecules(1, seed=2, periodic=True)
    frames[2] = dataclasses.replace(frames[2], virial=None)
    start = new_network(SMALL, frames + alone(), "isolated", seed=1)
    settings = LossSettings(energy=0, forces=0, stress=2.0, kind=kind)

    def gradients(numbers):
        graph = joined([graphs_of(frames, start)[n] for n in numbers])
        loss = loss_of(evaluated(start.network, graph, training=True), graph, settings)
        weights = [w for w in start.network.parameters() if w.requires_grad]
        return torch.autograd.grad(loss, weights, allow_unused=True)

    for mixed, own in zip(gradients([0, 1, 2]), gradients([0]), strict=True):
        assert (mixed is None) == (own is None)
        if own is not None:
            assert torch.allclose(mixed, own, rtol=1e-9, atol=1e-12)


def test_batches_end_by_frames_and_by_edges():
    n_edges = [10, 20, 5, 40, 1, 1, 1]
    assert groups(n_edges, 3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert groups(n_edges, 3, 30) == [[0, 1], [2], [3], [4, 5, 6]]
    assert groups(n_edges, 2, None, [6, 3, 0]) == [[6, 3], [0]]


def test_average_follows_its_formula_and_gives_the_weights_back():
    weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    average = MovingAverage(Stepped({"w": weight}, torch.float64), 0.9)
    expected = 0.0
    for n in range(1, 200):
        with torch.no_grad():
            weight.fill_(float(n))
        average.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert float(average.averages[0][0]) == pytest.approx(expected, rel=1e-12)
    with average.applied():
        assert weight[0].item() == pytest.approx(expected)
    assert weight[0].item() == 199.0
    other = MovingAverage(Stepped({"w": weight}, torch.float64), 0.9)
    other.set_state(average.get_state())
    assert torch.equal(other.averages[0], average.averages[0])
    assert other.n_steps == 199


def test_decay_is_of_messages_and_products_alone_and_frozen_weights_stay():
    start = new_network(SMALL, molecules(3) + alone(), "isolated")
    names = trained_weights(start.network, ("embedding", "layers.0"))
    assert not any(name.startswith(("embedding", "layers.0")) for name in names)
    weights = {name: weight for name, weight in start.network.named_parameters() if name in names}
    optimiser = optimiser_of(weights, TrainingSettings(weight_decay=0.1))
    by_id = {id(weight): name for name, weight in weights.items()}
    decayed, others = ([by_id[id(each)] for each in group["params"]] for group in optimiser.param_groups)
    assert all(name.split(".")[2] in ("down", "product", "update") for name in decayed)
    assert {name.split(".")[2] for name in decayed} == {"down", "product", "update"}
    assert {name.split(".")[2] for name in others if name.startswith("layers")} == {"up", "radial", "skip"}
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.1, 0.0]
    for frozen, message in (
        (("layer",), "No weights are called"),
        (("embedding", "layers", "readouts"), "All weights"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            trained_weights(start.network, frozen)


def test_labels_are_checked():
    frames = molecules(4)
    bare = [dataclasses.replace(frame, forces=None) for frame in frames]
    with pytest.raises(DataError, match="weight of 100 on the forces, but no frame"):
        check_labels(bare, [], LossSettings())
    check_labels(bare, [], LossSettings(forces=0))
    with pytest.raises(DataError, match="on the stress"):
        check_labels(frames, [], LossSettings(stress=1))
    with pytest.raises(DataError, match="Did you mean 'even'"):
        check_labels(frames, [], LossSettings(per_config_type={"evn": 2.0}))
    with pytest.raises(DataError, match="on the forces, but no frame for validation"):
        check_labels(frames, bare, LossSettings())
    with pytest.raises(DataError, match="Config types of every frame for validation have the weight 0"):
        check_labels(frames, frames[:1], LossSettings(per_config_type={"even": 0.0}))
    check_labels(frames[1:2], frames[:1], LossSettings(per_config_type={"even": 2.0}))  # of those kept aside, say
    close = labelled(Atoms("OH", [[0, 0, 0], [0.2, 0, 0]]))
    start = new_network(SMALL, frames + alone(), "isolated")
    with pytest.raises(DataError, match=r"0\.20 angstrom apart"):
        graphs_of([close], start)
    with pytest.raises(DataError, match="holds C, which"):
        graphs_of([dataclasses.replace(frames[0], atoms=Atoms("CHH", frames[0].atoms.positions))], start)


@pytest.mark.parametrize(
    ("energy", "forces", "warned"), [(1, 1, False), (23.06, 1, True), (1, 51.42, True), (1, -1, True)]
)
def test_units_that_do_not_fit_are_warned_about(energy, forces, warned):
    frames = [
        dataclasses.replace(frame, energy=energy * frame.energy, forces=forces * frame.forces)
        for frame in molecules(60)
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_labels(frames, [], LossSettings())
    assert any(issubclass(each.category, LabelWarning) for each in caught) == warned
