"""Several networks of one build as one with as many times the channels, for evaluation.

Edges, harmonics and the intervals of splines are the same for all of them, and couplings are done for all channels at
once; maps stay within the channels of every member.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from halberd.potentials.errors import ModelError
from halberd.potentials.multi_ace.compiled.splines import EdgeFunction, edge_weights, pair_kinds
from halberd.potentials.multi_ace.folding import folded
from halberd.potentials.multi_ace.irreps import Block, Irreps
from halberd.potentials.multi_ace.layers import Convolution, Gate, Mix, SymmetricProduct
from halberd.potentials.multi_ace.network import Layer, MultiAce

#: Radial weights of members may differ in size by so much: their splines are as good as the largest need.
_ALIKE = 10.0
#: Distances, in units of the cutoff, at which that is looked at.
_SAMPLES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_MAPS = ("up", "down", "after", "species_mix", "update", "skip", "own")


class JoinedMix(torch.nn.Module):
    """Linear maps of all members; outputs have the channels of one member after those of another.

    Attributes
    ----------
    members : torch.nn.ModuleList of Mix
    parts : list of list of int, or None
        Channels of every kind that goes in come in such parts of one member after those of another; all channels of a
        member together if ``None``.
    """

    def __init__(self, members: Sequence[Mix], parts: list[list[int]] | None) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(members)
        self.parts = parts
        self.outputs = _wide(members[0].outputs, len(members))


class JoinedRadial(torch.nn.Module):
    """Radial weights of all members, those of one path after those of another."""

    def __init__(self, networks: Sequence[MultiAce], layers: Sequence[Layer]) -> None:
        super().__init__()
        self.edges = torch.nn.ModuleList([network.edges for network in networks])
        self.radials = torch.nn.ModuleList([layer.radial for layer in layers])
        self.divisors = [layer.divisor for layer in layers]
        self.starts = layers[0].convolution.starts
        self.n_species = len(networks[0].embedding)

    def edge_weights(self) -> EdgeFunction:
        """All of them, in double precision."""
        edges: list[Any] = list(self.edges)
        functions = [edge_weights(own, radial, None) for own, radial in zip(edges, self.radials, strict=True)]

        def weights(r: torch.Tensor, centre: torch.Tensor, neighbour: torch.Tensor) -> torch.Tensor:
            each = [f(r, centre, neighbour) / d for f, d in zip(functions, self.divisors, strict=True)]
            parts = zip(self.starts[:-1], self.starts[1:], strict=True)
            return torch.cat([own[:, first:last] for first, last in parts for own in each], dim=1)

        return weights

    def pair_kinds(self) -> torch.Tensor:
        """Which pairs of species have the same weights."""
        edges: list[Any] = list(self.edges)
        kinds = [pair_kinds(own, [radial], self.n_species) for own, radial in zip(edges, self.radials, strict=True)]
        return max(kinds, key=lambda each: int(each.max()))

    def check(self) -> None:
        """Raise if the weights of one member are so much smaller that splines for all would be bad for them."""
        edges: list[Any] = list(self.edges)
        pairs = torch.cartesian_prod(torch.arange(self.n_species), torch.arange(self.n_species))
        ends = pairs.repeat_interleave(len(_SAMPLES), dim=0)
        r = edges[0].cutoff * torch.tensor(_SAMPLES, dtype=torch.float64).repeat(len(pairs)).unsqueeze(1)
        sizes = [
            float(edge_weights(own, radial, None)(r, ends[:, 0], ends[:, 1]).abs().max()) / divisor
            for own, radial, divisor in zip(edges, self.radials, self.divisors, strict=True)
        ]
        if not max(sizes) <= _ALIKE * min(sizes):
            raise ModelError("Radial weights of the networks differ much in size.")


class JoinedGate(torch.nn.Module):
    """The gates of all members."""

    def __init__(self, members: Sequence[Gate]) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(members)
        self.inputs = _wide(members[0].inputs, len(members))
        self.outputs = _wide(members[0].outputs, len(members))

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Map tensors of ``inputs`` to those of ``outputs``."""
        gated = [gate(features_of(features, k, len(self.members))) for k, gate in enumerate(self.members)]
        return [torch.cat(own, dim=2) for own in zip(*gated, strict=True)]


def features_of(features: list[torch.Tensor], member: int, count: int) -> list[torch.Tensor]:
    """One member's, of tensors (N, 2 l + 1, count * channels)."""
    return [each.unflatten(2, (count, -1))[:, :, member] for each in features]


def _wide(blocks: Irreps, count: int) -> Irreps:
    return tuple(Block(block.degree, block.parity, count * block.channels) for block in blocks)


@torch.no_grad()
def joined_network(networks: Sequence[MultiAce]) -> MultiAce:
    """One network with the channels of all; it has no read-outs.

    Parameters
    ----------
    networks : sequence of MultiAce

    Raises
    ------
    ModelError
        If they differ in more than weights, or sum densities of neighbours.
    """
    members = [folded(network) for network in networks]
    first = members[0]
    builds = [_build(network) for network in members]
    if any(build != builds[0] for build in builds):
        raise ModelError("The networks differ in more than their weights.")
    layers = []
    inputs = first.first_irreps
    for number in range(len(first.layers)):
        own: list[Any] = [network.layers[number] for network in members]
        layers.append(_joined_layer(members, own, inputs))
        inputs = own[0].outputs
    embedding = torch.cat([network.embedding.detach() for network in members], dim=1)
    joined = MultiAce(embedding, copy.deepcopy(first.edges), layers, [])
    joined.embedding_scale = 1.0
    return joined.requires_grad_(False)


def _joined_layer(networks: Sequence[MultiAce], layers: Sequence[Layer], inputs: Irreps) -> Layer:
    first, count = layers[0], len(layers)
    if first.density is not None or first.inner_gate is not None:
        raise ModelError("Networks that sum densities of neighbours are not joined.")
    radial = JoinedRadial(networks, layers)
    radial.check()
    sent = inputs if first.up is None else first.up.outputs
    summed = first.convolution
    paths = [[sent[path.source].channels for path in summed.paths if path.kind == each.kind] for each in summed.outputs]
    after = next((name for name in ("down", "species_mix", "update") if getattr(first, name) is not None), None)
    if after not in ("down", "species_mix") and any(len(each) > 1 for each in paths):
        raise ModelError("Networks that do not mix their channels are not joined.")
    maps: dict[str, Any] = {}
    for name in _MAPS:
        if getattr(first, name) is not None:
            members = [getattr(layer, name) for layer in layers]
            maps[name] = JoinedMix(members, paths if name == after else None)
    parts: dict[str, Any] = {name: [getattr(layer, name) for layer in layers] for name in ("product", "gate")}
    return Layer(
        outputs=_wide(first.outputs, count),
        radial=radial,
        convolution=Convolution(_wide(sent, count), summed.paths),
        product=None if first.product is None else _joined_product(parts["product"]),
        gate=None if first.gate is None else JoinedGate(parts["gate"]),  # type: ignore[arg-type]
        **{"up": None, "down": None, **maps},
    )


def _joined_product(products: Sequence[SymmetricProduct]) -> SymmetricProduct:
    joined = copy.deepcopy(products[0])
    for each in products[1:]:
        for name, buffer in each.named_buffers():
            if not torch.allclose(buffer, getattr(joined, name), rtol=0, atol=1e-6):
                raise ModelError("The networks have other couplings.")
    joined.outputs = _wide(joined.outputs, len(products))
    every = zip(*(each.weights for each in products), strict=True)
    joined.weights = torch.nn.ParameterList([torch.cat([each.detach() for each in own], dim=2) for own in every])
    return joined


def _build(network: MultiAce) -> list[Any]:
    """What must be the same for networks to be joined."""
    edges = network.edges
    found: list[Any] = [edges.cutoff, edges.onset, edges.sign, edges.harmonics.l_max, tuple(network.embedding.shape)]
    for layer in network.layers:
        assert isinstance(layer, Layer)
        found += [layer.outputs, layer.convolution.paths, layer.convolution.outputs, layer.convolution.n_weights]
        for name in (*_MAPS, "product", "gate", "inner_gate", "density"):
            module: Any = getattr(layer, name)
            found.append(None if module is None else (type(module), module.outputs if name != "density" else None))
            if isinstance(module, Mix):
                found += [module.sources, [type(each) for each in module.maps]]
            if isinstance(module, Gate):
                found += [module.gates, module.constants, module.inputs]
            if isinstance(module, SymmetricProduct):
                found += [module.n_species, module.orders]
    return found
