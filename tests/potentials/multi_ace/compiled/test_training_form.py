"""Operators of trainings against the network in plain torch: energies, and first and second derivatives."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from halberd.potentials.multi_ace.building import build
from halberd.potentials.multi_ace.compiled.training_form import TRAINING_OPERATOR, TrainingForm, training_form
from tests.potentials.multi_ace.compiled.test_network import atoms_in_a_box
from tests.potentials.multi_ace.test_family import MORE, SMALL, small

pytestmark = pytest.mark.skipif(
    TRAINING_OPERATOR.problem() is not None, reason=f"no compiled operator: {TRAINING_OPERATOR.problem()}"
)


def everything(network, evaluator, graph):
    """Energies, their gradient, and the gradients of a loss of both with respect to all weights and to positions."""
    species, edge_index, positions = graph
    moving = positions.to(network.embedding.dtype).requires_grad_()
    energies = evaluator(species, edge_index, moving[edge_index[1]] - moving[edge_index[0]])
    (gradient,) = torch.autograd.grad(energies.sum(), moving, create_graph=True)
    weights = torch.linspace(0.5, 1.5, gradient.numel(), dtype=gradient.dtype).view(gradient.shape)
    loss = (weights * gradient).square().sum() + (weights[:, 0] * energies).square().sum()
    wanted = [moving, *network.parameters()]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [energies, gradient, *found]


@pytest.mark.parametrize("name", [*SMALL, *MORE, "degree 4", "channels that fill no vector"])
def test_second_derivatives_equal_those_of_plain_torch(name):
    graph = atoms_in_a_box(8)
    settings = small("mace" if name not in (*SMALL, *MORE) else name)
    if name == "degree 4":
        settings = dataclasses.replace(settings, max_ell=4, hidden="3x0e+3x1o", correlation=2)
    elif name.startswith("channels"):
        settings = dataclasses.replace(settings, hidden="19x0e+19x1o", max_ell=2)
    network = build(settings).double()
    expected = everything(network, network, graph)
    found = everything(network, TrainingForm(network), graph)
    for one, other in zip(found, expected, strict=True):
        if other is None:  # weights of what nobody reads
            assert one is None or not one.any()
        else:
            assert float((one - other).detach().abs().max()) <= 1e-10 * float(other.detach().abs().max())


def test_operators_pass_finite_differences():
    """Both derivatives of either operator alone."""
    form = TrainingForm(build(small("mace")).double())
    convolution, product = form.convolutions[1], form.products[1]
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    edge_index = torch.tensor([[0, 0, 1, 2, 2], [1, 2, 0, 0, 1]])
    order = torch.ops.halberd.edges_by_ends(edge_index, torch.zeros(3, dtype=torch.int64))
    places = random(3, 3).detach()
    pairs = torch.ops.halberd.reversed_edges(edge_index, places[edge_index[1]] - places[edge_index[0]], order)
    assert pairs[1].tolist() == [0, 1, 0, 1, 2]  # the last one is alone
    n_weights = form.network.layers[1].convolution.n_weights

    def messages(features, harmonics, weights):
        return torch.ops.halberd.summed_messages(
            features, harmonics, weights, edge_index, pairs, order, convolution.paths, convolution.triples,
            convolution.values, convolution.n_outputs,
        )  # fmt: skip

    width = 4 * (1 + 3 + 5)
    given = (random(3, width), random(5, 16), random(3, n_weights))
    assert torch.autograd.gradcheck(messages, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(messages, given, fast_mode=True)

    def products(features, weights):
        return torch.ops.halberd.weighted_products(
            features, weights, torch.tensor([0, 2, 1, 0]), product.nodes, product.entries, product.n_rows
        )

    given = (random(4, 16, 4), random(3, len(product.entries), 4))
    assert torch.autograd.gradcheck(products, given, fast_mode=True)
    # Second derivatives with respect to weights twice are not there, and no training wants them.
    fixed = given[1].detach()
    assert torch.autograd.gradgradcheck(lambda x: products(x, fixed), given[:1], fast_mode=True)


def test_edges_are_paired_with_their_reverse_and_with_no_other():
    """Images of an atom in its own neighbourhood, two edges between the same atoms, one whose reverse is missing."""
    centres, neighbours = [0, 0, 0, 1, 0, 1, 1, 2, 0], [0, 0, 1, 0, 1, 0, 2, 1, 2]
    x = [[0, 0, 3.0], [0, 0, -3], [1, 0, 0], [-1, 0, 0], [-2, 0, 0], [2, 0, 0], [0, 1, 0], [0, -1.1, 0], [1, 1, 0]]
    edge_index = torch.tensor([centres, neighbours])
    order = torch.ops.halberd.edges_by_ends(edge_index, torch.zeros(3, dtype=torch.int64))
    for dtype in (torch.float32, torch.float64):
        first, row = torch.ops.halberd.reversed_edges(edge_index, torch.tensor(x, dtype=dtype), order)
        assert first.tolist() == [0, 2, 4, 6, 7, 8]
        assert row.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 5]


def test_weights_of_paired_edges_are_computed_once():
    settings = small("mace")
    assert TrainingForm(build(settings).double()).shares
    assert not TrainingForm(build(dataclasses.replace(settings, radial_species="neighbour", radial_widths=()))).shares
    assert not TrainingForm(build(small("density")).double()).shares


@pytest.mark.parametrize("shares", [False, True])
def test_threads_do_not_change_a_bit(shares):
    """Of messages and products; matrix products between them are torch's."""
    graph = atoms_in_a_box(20)
    settings = small("ace")  # no maps of channels
    if shares:
        settings = dataclasses.replace(settings, radial_species="none", radial_widths=(8,))
    network = build(settings).double()
    assert TrainingForm(network).shares == shares
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(everything(network, TrainingForm(network), graph)[:3])
    finally:
        torch.set_num_threads(1)
    for others in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(results[0], others, strict=True))


def test_weights_are_those_of_the_network_at_every_call():
    graph = atoms_in_a_box(6)
    network = build(small("mace")).double()
    form = training_form(network)
    assert isinstance(form, TrainingForm)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(1.1)
    species, edge_index, positions = graph
    vectors = positions[edge_index[1]] - positions[edge_index[0]]
    torch.testing.assert_close(form(species, edge_index, vectors), network(species, edge_index, vectors))


def test_a_third_derivative_is_refused():
    network = build(small("mace")).double()
    species, edge_index, positions = atoms_in_a_box(5)
    moving = positions.clone().requires_grad_()
    energies = TrainingForm(network)(species, edge_index, moving[edge_index[1]] - moving[edge_index[0]])
    (first,) = torch.autograd.grad(energies.square().sum(), moving, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable twice"):
        torch.autograd.grad(first.square().sum(), moving, create_graph=True)
