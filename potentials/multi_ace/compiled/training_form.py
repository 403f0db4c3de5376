"""Networks of the family while they are trained on CPUs: operators for sums and products, differentiable twice.

``torch.ops.halberd.summed_messages`` and ``torch.ops.halberd.weighted_products`` do what
:class:`halberd.potentials.multi_ace.layers.Convolution` and ``SymmetricProduct`` do in plain torch, to rounding, and
have their first and second derivatives written by hand. Weights stay those of the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from halberd.potentials.multi_ace.compiled.mix import by_kinds, in_rows, offsets
from halberd.potentials.multi_ace.compiled.network import CompiledConvolution, product_graph
from halberd.potentials.multi_ace.compiled.splines import pair_kinds
from halberd.potentials.multi_ace.layers import Convolution, SymmetricProduct
from halberd.potentials.multi_ace.network import Layer, MultiAce
from halberd.potentials.sites.compiled_operators import CompiledOperator

TRAINING_OPERATOR = CompiledOperator(
    "multi-ace-training", Path(__file__).with_name("training_operator.cpp"), "Trainings of the message-passing family"
)
_ZERO = 1e-12


class TrainingConvolution:
    """A sum over neighbours; weights of edges are given."""

    def __init__(self, convolution: Convolution, layer_inputs: Any) -> None:
        paths = [
            (path.source, path.edge_degree, path.kind, convolution.starts[n])
            for n, path in enumerate(convolution.paths)
        ]
        rows, triples, values = CompiledConvolution.tables_of(paths, layer_inputs, convolution.outputs)
        self.paths, self.triples = torch.tensor(rows), torch.tensor(triples)
        self.values = torch.tensor(values, dtype=torch.float64)
        self.outputs = convolution.outputs
        self.n_outputs = offsets(convolution.outputs)[-1]

    def __call__(
        self,
        features: list[torch.Tensor],
        harmonics: torch.Tensor,
        weights: torch.Tensor,
        edge_index: torch.Tensor,
        pairs: list[torch.Tensor],
        order: list[torch.Tensor],
    ) -> list[torch.Tensor]:
        """As the convolution, given the order of edges by their ends, and which of them share rows of weights."""
        sums = torch.ops.halberd.summed_messages(
            features=in_rows(features),
            harmonics=harmonics,
            weights=weights,
            edge_index=edge_index,
            pairs=pairs,
            order=order,
            paths=self.paths,
            triples=self.triples,
            values=self.values,
            n_outputs=self.n_outputs,
        )
        return by_kinds(sums, self.outputs)


class TrainingProduct:
    """Products of one atom, with the weights of the network."""

    def __init__(self, product: SymmetricProduct, n_components: int) -> None:
        self.product = product
        n_weights = sum(weight.shape[1] for weight in product.weights)
        rows: dict[tuple[tuple[int, ...], int], torch.Tensor] = {}
        position = first = row = 0
        for target, orders in enumerate(product.orders):
            for n in range(len(orders)):
                factors = getattr(product, f"factors_{target}_{n}").tolist()
                coefficients = product.exact[f"coefficients_{target}_{n}"]
                count = product.weights[position].shape[1]
                for t, m in torch.nonzero(coefficients.abs().amax(2) > _ZERO).tolist():
                    own = rows.setdefault(
                        (tuple(sorted(factors[t])), row + m), torch.zeros(n_weights, dtype=torch.float64)
                    )
                    own[first : first + count] += coefficients[t, m]
                first += count
                position += 1
            row += 2 * product.outputs[target].degree + 1
        nodes, index = product_graph({monomial for monomial, _ in rows}, n_components)
        keys = sorted(rows, key=lambda key: (key[1], index[key[0]]))
        self.nodes = torch.tensor(nodes, dtype=torch.int64).reshape(-1, 2)
        self.entries = torch.tensor([[index[key[0]], key[1]] for key in keys], dtype=torch.int64)
        self.mixing = torch.stack([rows[key] for key in keys])
        self.n_rows = row
        self.sizes = [2 * block.degree + 1 for block in product.outputs]

    def __call__(self, features: list[torch.Tensor], species: torch.Tensor) -> list[torch.Tensor]:
        """As the product."""
        weights = torch.cat(list(self.product.weights), dim=1)
        self.mixing = self.mixing.to(weights.dtype)
        entries = torch.matmul(self.mixing, weights)
        products = torch.ops.halberd.weighted_products(
            features=torch.cat(features, dim=1),
            weights=entries,
            species=species,
            nodes=self.nodes,
            entries=self.entries,
            n_rows=self.n_rows,
        )
        return list(torch.split(products, self.sizes, dim=1))


class TrainingForm:
    """Does what a network does, with its weights as they are at every call.

    Parameters
    ----------
    network : MultiAce
        On a CPU.
    """

    def __init__(self, network: MultiAce) -> None:
        self.network = network
        self.convolutions, self.products = [], []
        inputs: Any = network.first_irreps
        for layer in network.layers:
            assert isinstance(layer, Layer)
            sent = inputs if layer.up is None else layer.up.outputs
            self.convolutions.append(TrainingConvolution(layer.convolution, sent))
            rows = sum(2 * block.degree + 1 for block in layer.product_inputs)
            self.products.append(None if layer.product is None else TrainingProduct(layer.product, rows))
            inputs = layer.outputs
        # Weights of distances alone are those of the reverse edge, too.
        radial = [layer.radial for layer in network.layers if layer.density is None]
        kinds = pair_kinds(network.edges, radial, len(network.embedding))
        self.shares = len(radial) == len(network.layers) and not kinds.any()

    def __call__(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`."""
        collected = self.features(species, edge_index, edge_vectors)
        return self.network.energies_of(collected, species, edge_index, edge_vectors)

    def features(
        self,
        species: torch.Tensor,
        edge_index: torch.Tensor,
        edge_vectors: torch.Tensor,
        first: list[torch.Tensor] | None = None,
    ) -> list[list[torch.Tensor]]:
        """As those of :class:`halberd.potentials.multi_ace.network.MultiAce`."""
        network = self.network
        order = torch.ops.halberd.edges_by_ends(edge_index, species)
        if self.shares:
            pairs = torch.ops.halberd.reversed_edges(edge_index, edge_vectors.detach(), order)
            edges = network.edges(species, edge_index, edge_vectors, pairs[0])
        else:
            pairs = [torch.cumsum(torch.ones_like(edge_index[0]), 0) - 1] * 2
            edges = network.edges(species, edge_index, edge_vectors)
        current = network.first(species) if first is None else first
        collected = []
        layers: list[Any] = list(network.layers)
        for layer, convolution, product in zip(layers, self.convolutions, self.products, strict=True):
            sent = current if layer.up is None else layer.up(current, species)
            messages = convolution(
                sent, edges.harmonics, layer.weights_of(edges), edges.index, pairs=pairs, order=order
            )
            messages = layer.divided(messages, edges, species.shape[0])
            current = layer.updated(current, sent, messages, species, product)
            collected.append(current)
        return collected


def training_form(network: MultiAce) -> Any:
    """What evaluates a network fastest while it is trained: itself, or on a CPU with a compiler, its training form."""
    if next(network.parameters()).device.type != "cpu":
        return network
    problem = TRAINING_OPERATOR.problem()
    if problem is not None:
        TRAINING_OPERATOR.say_once(problem)
        return network
    return TrainingForm(network)
