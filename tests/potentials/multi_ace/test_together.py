"""Committees that are evaluated together, against their members one by one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from halberd.potentials import committee, load
from halberd.potentials.errors import ModelError
from halberd.potentials.multi_ace.building import build
from halberd.potentials.multi_ace.compiled import CompiledNetwork
from halberd.potentials.multi_ace.compiled_operator import MULTI_ACE_OPERATOR
from halberd.potentials.multi_ace.joined import joined_network
from halberd.potentials.multi_ace.model import multi_ace_model
from halberd.potentials.multi_ace.together import CommitteeEnergies, TogetherSites
from tests.potentials.multi_ace.test_compiled import atoms_in_a_box
from tests.potentials.multi_ace.test_family import MORE, SMALL, small
from tests.potentials.multi_ace.test_kernels import emulate

pytestmark = pytest.mark.skipif(
    MULTI_ACE_OPERATOR.problem() is not None, reason=f"no compiled operator: {MULTI_ACE_OPERATOR.problem()}"
)
#: Networks that are not joined: they sum densities, or have no maps that mix channels.
APART = {"density"}


def networks_of(name, count=3):
    return [build(small(name), seed).double() for seed in range(count)]


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

    def one_by_one(*arguments):
        return torch.stack([network(*arguments) for network in networks], dim=1)

    expected = members_and_gradient(one_by_one, *graph)
    try:
        evaluator = CompiledNetwork(joined_network(networks))
    except ModelError:
        assert name in APART
        return
    assert name not in APART
    together = CommitteeEnergies(evaluator, networks)
    on_cpu = members_and_gradient(together, *graph)
    _close(on_cpu, expected, 1e-9)
    emulate(evaluator, tmp_path)
    found = members_and_gradient(together, *graph)
    _close(found, expected, 1e-9)
    assert not torch.equal(found[1], on_cpu[1])  # it was the kernels that ran


def test_committees_of_models_run_together_and_files_of_them_too(tmp_path):
    graph = atoms_in_a_box()
    networks = networks_of("mace")
    models = [multi_ace_model(network, [1, 6, 8]) for network in networks]
    made = committee(models)
    assert isinstance(made.module, TogetherSites)
    expected = members_and_gradient(
        lambda *arguments: torch.stack([network(*arguments) for network in networks], dim=1), *graph
    )
    _close(members_and_gradient(made.scripted(), *graph), expected, 1e-9)
    _close(members_and_gradient(made.scripted().portable, *graph), expected, 1e-12)
    made.save(tmp_path / "four.pt")
    again = load(tmp_path / "four.pt")
    assert isinstance(again.module, TogetherSites)
    _close(members_and_gradient(again.scripted(), *graph), expected, 1e-9)
    # In single precision: from the weights, not from tables that were made for double precision.
    single = made.to(torch.float32)
    species, edge_index, positions = graph
    vectors = positions[edge_index[1]] - positions[edge_index[0]]
    found = single.scripted()(species, edge_index, vectors.float()).double()
    assert float((found - expected[0]).abs().max()) < 3e-5 * float(expected[0].abs().max())


@pytest.mark.parametrize(
    "others",
    [
        {"correlation": 2},
        {"cutoff": 3.5},
        {"max_ell": 1},
        {"hidden": "5x0e+5x1o"},
        {"n_radial": 5},
    ],
)
def test_networks_of_other_builds_are_members_all_the_same(others):
    """They are evaluated one by one, but for what does not matter: the basis of the radial weights."""
    graph = atoms_in_a_box()
    networks = [build(small("mace")).double(), build(dataclasses.replace(small("mace"), **others)).double()]
    made = committee([multi_ace_model(network, [1, 6, 8]) for network in networks])
    assert isinstance(made.module, TogetherSites) == ("n_radial" in others)
    species, edge_index, positions = graph
    vectors = positions[edge_index[1]] - positions[edge_index[0]]
    found = made.scripted()(species, edge_index, vectors)
    for column, network in zip(found.T, networks, strict=True):
        near = vectors.norm(dim=1) < network.edges.cutoff
        expected = network(species, edge_index[:, near], vectors[near])
        assert float((column - expected).abs().max().detach()) < 1e-9 * float(expected.abs().max().detach())


def test_networks_whose_weights_differ_in_size_are_not_joined():
    """Splines of all would be bad for the small ones."""
    networks = networks_of("mace", 2)
    networks[1].layers[0].divisor *= 100.0
    with pytest.raises(ModelError, match="size"):
        joined_network(networks)
