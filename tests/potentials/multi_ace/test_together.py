"""Committees that are evaluated together, against their members one by one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from halberd.potentials import committee, load
from halberd.potentials.errors import ModelError
from halberd.potentials.multi_ace.building import build
from halberd.potentials.multi_ace.compiled.joined import joined_network
from halberd.potentials.multi_ace.compiled.network import CompiledNetwork
from halberd.potentials.multi_ace.compiled.operators import MULTI_ACE_OPERATOR
from halberd.potentials.multi_ace.model import multi_ace_model
from halberd.potentials.multi_ace.together import CommitteeEnergies
from halberd.potentials.sites.structure_energy import StructureEnergy
from tests.potentials.multi_ace.compiled.test_kernels import emulate
from tests.potentials.multi_ace.compiled.test_network import atoms_in_a_box
from tests.potentials.multi_ace.test_family import MORE, SMALL, small

pytestmark = pytest.mark.skipif(
    MULTI_ACE_OPERATOR.problem() is not None, reason=f"no compiled operator: {MULTI_ACE_OPERATOR.problem()}"
)
#: Networks that are not joined: they sum densities, or have no maps that mix channels.
APART = {"density"}
#: Kernels are compiled for these, which takes its time.
ON_KERNELS = {"mace", "nequip", "pairs", "no inversion"}


def networks_of(name, count=3):
    return [build(small(name), seed).double() for seed in range(count)]


def one_by_one(networks):
    return lambda *arguments: torch.stack([network(*arguments) for network in networks], dim=1)


def members_and_gradient(module, species, edge_index, positions):
    """Energies (N, K), and the gradient of a sum in which no two of them have the same weight."""
    moving = positions.clone().requires_grad_()
    energies = module(species, edge_index, moving[edge_index[1]] - moving[edge_index[0]])
    weights = torch.linspace(0.5, 1.5, energies.numel(), dtype=energies.dtype).view(energies.shape)
    (gradient,) = torch.autograd.grad((weights * energies).sum(), moving)
    return energies.detach(), gradient


def _close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).abs().max()) < tolerance * float(other.abs().max())


@pytest.mark.parametrize("name", [*SMALL, *MORE])
def test_members_equal_the_networks(name, tmp_path):
    """On the operators, and on kernels."""
    graph = atoms_in_a_box()
    networks = networks_of(name)

    expected = members_and_gradient(one_by_one(networks), *graph)
    try:
        evaluator = CompiledNetwork(joined_network(networks))
    except ModelError:
        assert name in APART
        return
    assert name not in APART
    together = CommitteeEnergies(evaluator, networks)
    on_cpu = members_and_gradient(together, *graph)
    _close(on_cpu, expected, 1e-9)
    if name in ON_KERNELS:
        emulate(evaluator, tmp_path)
        found = members_and_gradient(together, *graph)
        _close(found, expected, 1e-9)
        assert not torch.equal(found[1], on_cpu[1])  # it was the kernels that ran


def test_committees_of_models_are_joined_and_those_of_files_too(tmp_path):
    graph = atoms_in_a_box()
    networks = networks_of("mace")
    made = committee([multi_ace_model(network, [1, 6, 8]) for network in networks])
    expected = members_and_gradient(one_by_one(networks), *graph)
    made.save(tmp_path / "three.pt")
    again = load(tmp_path / "three.pt")
    for model in (made, again):
        for module in (model.joined(), model.scripted()):
            _close(members_and_gradient(module, *graph), expected, 1e-9)
        _close(members_and_gradient(model.joined().portable, *graph), expected, 1e-12)
        assert model.joined() is model.joined()
        # In another precision: from the weights, not from tables that were made for this one.
        single = model.to(torch.float32)
        species, edge_index, positions = graph
        vectors = (positions[edge_index[1]] - positions[edge_index[0]]).float()
        for module in (single.scripted(), single.joined()):
            found = module(species, edge_index, vectors)
            assert not found.requires_grad
            assert float((found.double() - expected[0]).abs().max()) < 3e-5 * float(expected[0].abs().max())
    weights = [network.float().double() for network in networks]
    expected = members_and_gradient(one_by_one(weights), *graph)
    committee([multi_ace_model(network.float(), [1, 6, 8]) for network in networks]).save(tmp_path / "single.pt")
    double = load(tmp_path / "single.pt", precision="double")
    _close(members_and_gradient(double.scripted(), *graph), expected, 1e-9)
    assert double.metadata == load(tmp_path / "single.pt").metadata


def test_what_has_one_gradient_is_joined_and_what_has_one_of_every_member_is_not(ethanol):
    """A joined network differentiates all members when it is asked for one."""
    made = committee([multi_ace_model(network, [1, 6, 8]) for network in networks_of("mace")])
    species = made.species_of(ethanol.numbers)
    assert isinstance(StructureEnergy(made, species, one_gradient=True).model.species_map, torch.Tensor)
    assert StructureEnergy(made, species).model is made.scripted()


def test_members_number_species_in_an_order_of_their_own():
    graph = atoms_in_a_box()
    networks = networks_of("mace")
    made = committee([multi_ace_model(network, [8, 1, 6]) for network in networks])
    assert made.atomic_numbers == (1, 6, 8)
    species, edge_index, positions = graph
    expected = members_and_gradient(one_by_one(networks), torch.tensor([1, 2, 0])[species], edge_index, positions)
    for module in (made.joined(), made.scripted()):
        _close(members_and_gradient(module, *graph), expected, 1e-9)


def _trained_basis(network):
    with torch.no_grad():
        network.edges.basis.numbers.mul_(1.05)


def _biases(network):
    for layer in network.layers:
        mix = layer.down.maps[[block.kind for block in layer.down.outputs].index((0, 1))]
        mix.bias = torch.nn.Parameter(torch.randn(mix.weight.shape[1], dtype=torch.float64))


def _other_scales(network):
    network.scale.fill_(3.0)
    network.shift = 0.7


@pytest.mark.parametrize(
    ("name", "changes", "then"),
    [
        ("mace", {"neighbours": 4.0}, None),
        ("mace", {"cutoff_power": 8}, None),
        ("mace", {"basis": "gaussian"}, None),
        ("mace", {"distance": "agnesi"}, None),
        ("mace", {"distance": "soft", "radial_widths": (5, 6)}, None),
        ("mace", {}, _trained_basis),
        ("mace", {}, _other_scales),
        ("mace", {}, _biases),
        ("nequip", {}, _biases),
        ("botnet", {"radial_species": "pair"}, None),
        ("mace", {"readout_widths": (3,)}, None),
    ],
)
def test_members_may_differ_in_what_is_tabulated_or_read_out(name, changes, then):
    """Each first and last, since what is shared is the first one's."""
    graph = atoms_in_a_box()
    plain = build(small(name), 1).double()
    other = build(dataclasses.replace(small(name), **changes), 2).double()
    if then is not None:
        then(other)
    for networks in ([plain, other], [other, plain, plain]):
        expected = members_and_gradient(one_by_one(networks), *graph)
        assert not torch.allclose(expected[0][:, 0], expected[0][:, 1])
        together = CommitteeEnergies(CompiledNetwork(joined_network(networks)), networks)
        _close(members_and_gradient(together, *graph), expected, 1e-9)


@pytest.mark.parametrize(
    "others",
    [
        {"correlation": 2},
        {"cutoff": 3.5},
        {"max_ell": 1},
        {"hidden": "5x0e+5x1o"},
        {"update": "gate"},
    ],
)
def test_networks_of_other_builds_are_members_all_the_same(others):
    """They are evaluated one by one."""
    graph = atoms_in_a_box()
    networks = [build(small("mace")).double(), build(dataclasses.replace(small("mace"), **others)).double()]
    made = committee([multi_ace_model(network, [1, 6, 8]) for network in networks])
    assert made.joined is None or made.joined() is None
    species, edge_index, positions = graph
    vectors = positions[edge_index[1]] - positions[edge_index[0]]
    found = made.scripted()(species, edge_index, vectors)
    for column, network in zip(found.T, networks, strict=True):
        near = vectors.norm(dim=1) < network.edges.cutoff
        expected = network(species, edge_index[:, near], vectors[near])
        assert float((column - expected).abs().max().detach()) < 1e-9 * float(expected.abs().max().detach())


@pytest.mark.parametrize("change", [{"onset": 3.0}, {"sign": 1.0}])
def test_what_is_shared_must_be_the_same(change):
    networks = networks_of("mace", 2)
    for name, value in change.items():
        setattr(networks[1].edges, name, value)
    with pytest.raises(ModelError, match="more than their weights"):
        joined_network(networks)


def test_networks_whose_weights_differ_in_size_are_not_joined():
    """Splines of all would be bad for the small ones."""
    networks = networks_of("mace", 2)
    networks[1].layers[0].divisor *= 100.0
    with pytest.raises(ModelError, match="size"):
        joined_network(networks)
