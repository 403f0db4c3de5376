"""Networks of the family on the compiled operators: the same energies, to the splines' error.

Sums over neighbours, linear maps and products of one atom are the operators of
:mod:`halberd.potentials.multi_ace.compiled.operators`, which call the kernels of
:mod:`halberd.potentials.multi_ace.compiled.kernels` on GPUs; gates and read-outs stay those of the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from halberd.potentials.multi_ace.compiled.joined import JoinedRadial
from halberd.potentials.multi_ace.compiled.kernels import convolution_source, launch_numbers, product_source
from halberd.potentials.multi_ace.compiled.mix import CompiledMix, by_kinds, in_rows, offsets
from halberd.potentials.multi_ace.compiled.splines import edge_weights, pair_kinds, tabulated
from halberd.potentials.multi_ace.couplings import wigner_3j
from halberd.potentials.multi_ace.folding import folded
from halberd.potentials.multi_ace.irreps import Block, Irreps
from halberd.potentials.multi_ace.layers import Mix, SymmetricProduct
from halberd.potentials.multi_ace.network import Layer, MultiAce
from halberd.potentials.sites.cuda_kernels import kernel_key

#: Couplings below are zero.
_ZERO = 1e-12
#: Linear maps of a layer in their order; the gate within a layer comes after the first, products before the last.
_MAPS = ("down", "after", "species_mix", "update")
#: Weights whose coefficients lie together, for CPUs: a line of the cache in single precision.
_PIECE = 16


def _in_pieces(table: torch.Tensor, parts: list[tuple[int, int]]) -> torch.Tensor:
    """Coefficients (kinds, intervals, 6, W) as (kinds, intervals, pieces, 6, 16), those of every path padded."""
    padded = [
        torch.nn.functional.pad(table[..., first : first + count], (0, -count % _PIECE)) for first, count in parts
    ]
    return torch.cat(padded, dim=3).unflatten(3, (-1, _PIECE)).transpose(2, 3).contiguous()


def _in_rows(pieces: torch.Tensor, parts: list[tuple[int, int]]) -> torch.Tensor:
    """The reverse of :func:`_in_pieces`."""
    rows = pieces.transpose(2, 3).flatten(3)
    starts = np.cumsum([0, *(-(-count // _PIECE) * _PIECE for _, count in parts)])
    return torch.cat(
        [rows[..., start : start + count] for start, (_, count) in zip(starts, parts, strict=False)], dim=3
    ).contiguous()


class CompiledConvolution(torch.nn.Module):
    """A sum over neighbours, with the radial weights of its layer as splines.

    Parameters
    ----------
    network : MultiAce
    layer : Layer
    inputs : Irreps
        Kinds of the features that neighbours send.

    Attributes
    ----------
    spline_error : float
        Of the radial weights, in units of the largest.
    """

    paths: torch.Tensor
    triples: torch.Tensor
    values: torch.Tensor
    table: torch.Tensor

    def __init__(self, network: MultiAce, layer: Layer, inputs: Irreps) -> None:
        super().__init__()
        edges, convolution = network.edges, layer.convolution
        sent, outputs = inputs, convolution.outputs
        paths = [
            (path.source, path.edge_degree, path.kind, convolution.starts[n])
            for n, path in enumerate(convolution.paths)
        ]
        self.with_density = layer.density is not None
        if self.with_density:
            # The density is one more path: from a feature that is 1 everywhere to a scalar of its own.
            paths.append((len(sent), 0, (-1, 0), convolution.n_weights))
            sent = (*sent, Block(0, 1, 1))
            outputs = (*outputs, Block(0, 1, 1))
        rows, triples, values = self.tables_of(paths, sent, outputs)
        self.register_buffer("paths", torch.tensor(rows))
        self.register_buffer("triples", torch.tensor(triples))
        self.register_buffer("values", torch.tensor(values, dtype=torch.float64))
        dtype = network.embedding.dtype
        if isinstance(layer.radial, JoinedRadial):
            function, kinds = layer.radial.edge_weights(), layer.radial.pair_kinds()
        else:
            modules = [layer.radial] if layer.density is None else [layer.radial, layer.density]
            function = edge_weights(edges, layer.radial, layer.density)
            kinds = pair_kinds(edges, modules, len(network.embedding))
        splines = tabulated(function, kinds, edges.cutoff, dtype, edges.onset)
        # A constant divisor of the sum is a factor of every weight.
        divisor = 1.0 if self.with_density else layer.divisor
        table = (splines.table / divisor).to(dtype)
        self.n_weights = table.shape[3]
        self.register_buffer("table", _in_pieces(table, [(path[7], path[1]) for path in rows]))
        self.register_buffer("kinds", splines.kinds)
        self.spacing, self.spline_error = splines.spacing, splines.error
        self.sign = edges.sign
        self.n_outputs = offsets(outputs)[-1]
        self.max_ell = max(path[1] for path in paths)
        self.width = offsets(sent)[-1]
        self.kernels = ""
        #: What kernels are called with: see :func:`halberd.potentials.multi_ace.compiled.kernels.launch_numbers`.
        self.launch = launch_numbers(rows, self.max_ell)

    def kernel_source(self) -> str:
        """CUDA source of the sum; the operators know it by its key from now on, and the table is as kernels want it."""
        parts = [(path[7], path[1]) for path in self.paths.tolist()]
        source = convolution_source(
            self.paths.tolist(),
            self.triples.tolist(),
            self.values.double().tolist(),
            width=self.width,
            n_outputs=self.n_outputs,
            n_weights=self.n_weights,
            max_ell=self.max_ell,
        )
        if not self.kernels:
            self.table = _in_rows(self.table, parts)
        self.kernels = kernel_key(source)
        return source

    @staticmethod
    def tables_of(
        paths: list[tuple[int, int, tuple[int, int], int]], sent: Irreps, outputs: Irreps
    ) -> tuple[list[list[int]], list[list[int]], list[float]]:
        """Tables of the operator: where every path reads and writes, and the couplings of all of them."""
        starts, ends = offsets(sent), offsets(outputs)
        places = {block.kind: number for number, block in reversed(list(enumerate(outputs)))}
        used = dict.fromkeys(range(len(outputs)), 0)
        rows: list[list[int]] = []
        triples: list[list[int]] = []
        values: list[float] = []
        for source, edge_degree, kind, weight in paths:
            block = sent[source]
            target = len(outputs) - 1 if kind[0] < 0 else places[kind]
            degree = outputs[target].degree
            coupling = math.sqrt(2 * degree + 1) * wigner_3j(block.degree, edge_degree, degree)
            first = len(triples)
            for entry in np.argwhere(np.abs(coupling) > _ZERO):
                triples.append([int(m) for m in entry])
                values.append(float(coupling[tuple(entry)]))
            rows.append(
                [
                    *(starts[source], block.channels, 2 * block.degree + 1, edge_degree, ends[target] + used[target]),
                    *(outputs[target].channels, 2 * degree + 1, weight, first, len(triples)),
                ]
            )
            used[target] += block.channels
        return rows, triples, values

    def forward(
        self,
        features: torch.Tensor,
        species: torch.Tensor,
        edge_index: torch.Tensor,
        edge_vectors: torch.Tensor,
        order: list[torch.Tensor],
    ) -> torch.Tensor:
        """Sums over neighbours, (N, width), and in the last column the density if the layer has one."""
        if self.with_density:
            features = torch.cat([features, torch.ones_like(features[:, :1])], 1)
        sums: torch.Tensor = torch.ops.halberd.messages(
            features=features,
            edge_vectors=edge_vectors,
            species=species,
            edge_index=edge_index,
            order=order,
            paths=self.paths,
            triples=self.triples,
            values=self.values.to(torch.float64),
            table=self.table,
            pair=self.kinds,
            spacing=self.spacing,
            sign=self.sign,
            n_outputs=self.n_outputs,
            max_ell=self.max_ell,
            kernels=self.kernels,
            launch=[*self.launch, self.width, self.n_weights],
        )
        return sums


Monomial = tuple[int, ...]


def product_graph(
    monomials: Iterable[Monomial], n_components: int
) -> tuple[list[tuple[int, int]], dict[Monomial, int]]:
    """Products of components, each made of two that are there already.

    Parameters
    ----------
    monomials : iterable of tuples of int
        Sorted numbers of the components that are multiplied.
    n_components : int

    Returns
    -------
    nodes : list of (int, int)
        What is multiplied: components have numbers below ``n_components``, node k has ``n_components + k``.
    index : dict
        Number of every product.
    """
    index: dict[Monomial, int] = {(m,): m for m in range(n_components)}
    nodes: list[tuple[int, int]] = []

    def number(monomial: Monomial) -> int:
        if monomial not in index:
            rests = [(monomial[:k] + monomial[k + 1 :], monomial[k]) for k in range(len(monomial))]
            rest, factor = next((pair for pair in rests if pair[0] in index), rests[-1])
            nodes.append((number(rest), factor))
            index[monomial] = n_components + len(nodes) - 1
        return index[monomial]

    for monomial in sorted(monomials, key=lambda each: (len(each), each)):
        number(monomial)
    return nodes, index


class CompiledProduct(torch.nn.Module):
    """The products of one layer as one polynomial for all of their components."""

    weights: torch.Tensor

    def __init__(self, product: SymmetricProduct, n_components: int) -> None:
        super().__init__()
        entries: dict[tuple[Monomial, int], torch.Tensor] = {}
        position = row = 0
        for target, orders in enumerate(product.orders):
            size = 2 * product.outputs[target].degree + 1
            for n in range(len(orders)):
                factors = getattr(product, f"factors_{target}_{n}").tolist()
                coefficients = product.exact[f"coefficients_{target}_{n}"].to(product.weights[0].device)
                weights = torch.einsum("tmp,spk->tmsk", coefficients, product.weights[position].detach().double())
                position += 1
                for t, m in torch.nonzero(coefficients.abs().amax(2) > _ZERO).tolist():
                    key = (tuple(sorted(factors[t])), row + m)
                    entries[key] = entries[key] + weights[t, m] if key in entries else weights[t, m]
            row += size
        nodes, index = product_graph({monomial for monomial, _ in entries}, n_components)
        keys = sorted(entries, key=lambda key: (key[1], index[key[0]]))
        self.register_buffer("nodes", torch.tensor(nodes, dtype=torch.int64).reshape(-1, 2))
        self.register_buffer("entries", torch.tensor([[index[key[0]], key[1]] for key in keys], dtype=torch.int64))
        stacked = torch.stack([entries[key] for key in keys], dim=1)
        self.register_buffer("weights", stacked.to(product.weights[0].dtype).contiguous())
        self.n_rows, self.n_components = row, n_components
        self.monomials = keys
        self.kernels = ""

    def kernel_source(self) -> str:
        """CUDA source of the products; the operators know it by its key from now on."""
        source = product_source(
            self.monomials, n_components=self.n_components, n_rows=self.n_rows, channels=self.weights.shape[2]
        )
        self.kernels = kernel_key(source)
        return source

    def forward(self, features: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """Map rows (N, width) to those of the kinds that come out."""
        products: torch.Tensor = torch.ops.halberd.products(
            features=features.unflatten(1, (self.n_components, -1)),
            species=species,
            nodes=self.nodes,
            entries=self.entries,
            weights=self.weights,
            n_rows=self.n_rows,
            n_components=self.n_components,
            kernels=self.kernels,
        )
        return products.flatten(1)


class CompiledLayer(torch.nn.Module):
    """One layer, on the operators, from rows of features to rows of features."""

    def __init__(self, network: MultiAce, layer: Layer, inputs: Irreps) -> None:
        super().__init__()
        self.layer, self.outputs = layer, layer.outputs
        sent = inputs if layer.up is None else layer.up.outputs
        self.up = None if layer.up is None else CompiledMix(layer.up, inputs)
        self.convolution = CompiledConvolution(network, layer, sent)
        rows = sum(2 * block.degree + 1 for block in layer.product_inputs)
        self.product = None if layer.product is None else CompiledProduct(layer.product, rows)
        self.skips_in = self._last_map(layer)
        assert layer.own is None or layer.down is not None
        self.maps = torch.nn.ModuleDict()
        current = layer.convolution.outputs
        for name in _MAPS:
            main: Mix | None = getattr(layer, name)
            if name == "update" and layer.product is not None:
                current = layer.product.outputs
            if main is not None:
                second = (layer.skip, inputs) if name == self.skips_in else (None, ())
                self.maps[f"{name}_map"] = CompiledMix(
                    main, current, *((layer.own, sent) if name == "down" and layer.own else second)
                )
                current = main.outputs
            if name == "down" and layer.inner_gate is not None:
                current = layer.inner_gate.outputs
        alone = layer.skip is not None and not self.skips_in
        self.skip = CompiledMix(layer.skip, inputs) if alone and layer.skip is not None else None

    @staticmethod
    def _last_map(layer: Layer) -> str:
        """Which map may add what is skipped: the last one, if nothing comes after it that is not linear."""
        if layer.skip is None:
            return ""
        if layer.update is not None:
            return "update"
        names = [name for name in _MAPS if getattr(layer, name) is not None]
        takes = layer.product is None and names and not (names[-1] == "down" and (layer.own or layer.inner_gate))
        return names[-1] if takes else ""

    def forward(
        self,
        features: torch.Tensor,
        species: torch.Tensor,
        edge_index: torch.Tensor,
        edge_vectors: torch.Tensor,
        order: list[torch.Tensor],
    ) -> torch.Tensor:
        """Features of the next layer, (N, width)."""
        layer = self.layer
        sent = features if self.up is None else self.up(features, species)
        x = self.convolution(sent, species, edge_index, edge_vectors, order)
        if self.convolution.with_density:
            x = x[:, :-1] / (layer.divisor + layer.density_weight * x[:, -1:])
        for name in _MAPS:
            if name == "update" and self.product is not None:
                x = self.product(x, species)
            if f"{name}_map" in self.maps:
                second = sent if name == "down" and layer.own is not None else None
                x = self.maps[f"{name}_map"](x, species, features if name == self.skips_in else second)
            if name == "down" and layer.inner_gate is not None:
                x = in_rows(layer.inner_gate(by_kinds(x, layer.inner_gate.inputs)))
        if self.skip is not None:
            x = x + self.skip(features, species)
        return x if layer.gate is None else in_rows(layer.gate(by_kinds(x, layer.gate.inputs)))


class CompiledNetwork(torch.nn.Module):
    """A network on the operators.

    Parameters
    ----------
    network : MultiAce
    n_layers : int, optional
        Only the first ones, for features.

    Attributes
    ----------
    spline_error : float
        The largest of the layers'.

    Raises
    ------
    ModelError
        If its radial weights cannot be tabulated well.
    """

    def __init__(self, network: MultiAce, n_layers: int | None = None) -> None:
        super().__init__()
        self.network = network = folded(network)
        layers: list[CompiledLayer] = []
        inputs = network.first_irreps
        for layer in network.layers[:n_layers]:
            assert isinstance(layer, Layer)
            layers.append(CompiledLayer(network, layer, inputs))
            inputs = layer.outputs
        self.layers = torch.nn.ModuleList(layers)
        self.spline_error = max(layer.convolution.spline_error for layer in layers)

    @property
    def table_bytes(self) -> int:
        """Size of the largest table of radial weights of a layer."""
        layers: list[Any] = list(self.layers)
        return max(int(layer.convolution.table.nbytes) for layer in layers)

    @property
    def whole(self) -> MultiAce:
        """The network, folded."""
        return self.network

    def for_gpus(self) -> dict[str, str]:
        """Do nothing from now on that makes a GPU wait for the host.

        Returns
        -------
        dict of str to str
            CUDA sources of all layers by the keys that the operators know them by.
        """
        sources = {}
        for module in self.modules():
            if isinstance(module, CompiledMix):
                module.in_torch = True
        for layer in self.layers:
            assert isinstance(layer, CompiledLayer)
            for part in (layer.convolution, layer.product):
                if part is not None:
                    source = part.kernel_source()
                    sources[part.kernels] = source
        return sources

    def features(
        self,
        species: torch.Tensor,
        edge_index: torch.Tensor,
        edge_vectors: torch.Tensor,
        n_layers: int | None = None,
    ) -> list[list[torch.Tensor]]:
        """As :meth:`halberd.potentials.multi_ace.network.MultiAce.features`."""
        current = in_rows(self.network.first(species))
        order = torch.ops.halberd.edge_order(edge_index, species)
        collected = []
        for layer in self.layers[:n_layers]:
            assert isinstance(layer, CompiledLayer)
            current = layer(current, species, edge_index, edge_vectors, order)
            collected.append(by_kinds(current, layer.outputs))
        return collected

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`."""
        collected = self.features(species, edge_index, edge_vectors)
        return self.network.energies_of(collected, species, edge_index, edge_vectors)
