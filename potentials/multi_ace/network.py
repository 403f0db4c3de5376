"""A network of the family: layers of messages between atoms, and what is read out of them.

Every layer (1) multiplies features of neighbours by harmonics and radial weights, (2) sums over neighbours, (3) takes
products of up to nu of these sums, coupled to the kinds of features that are kept, (4) mixes them linearly, and (5)
adds them to what the layer before knew, or sends them through a gate. Energies are read out of the scalars.

References
----------
Batatia et al., Nat. Mach. Intell. 7, 56 (2025), arXiv 2205.06643; Batatia et al., NeurIPS 2022, arXiv 2206.07697.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from halberd.potentials.multi_ace.irreps import Block, Irreps
from halberd.potentials.multi_ace.layers import Convolution, Gate, Mix, SymmetricProduct
from halberd.potentials.multi_ace.radial import (
    DistanceTransform,
    PairRepulsion,
    RadialBasis,
    ScaledLayers,
    polynomial_cutoff,
    xplor_cutoff,
)
from halberd.potentials.sites.harmonics import SphericalHarmonics


@dataclasses.dataclass(frozen=True)
class Edges:
    """What layers need to know of edges.

    Attributes
    ----------
    index : tensor, shape (2, E)
        Centres, then neighbours.
    centre, neighbour : tensor, shape (E,)
        Species of both ends.
    harmonics : tensor, shape (E, (max_ell + 1)^2)
        Of mean square 1.
    basis : tensor, shape (E, B)
    envelope : tensor, shape (E, 1), or None
        Multiplies radial weights; ``None`` if the basis has it already.
    """

    index: torch.Tensor
    centre: torch.Tensor
    neighbour: torch.Tensor
    harmonics: torch.Tensor
    basis: torch.Tensor
    envelope: torch.Tensor | None

    def enveloped(self, values: torch.Tensor) -> torch.Tensor:
        """Values (E, n) that end at the cutoff."""
        return values if self.envelope is None else values * self.envelope


class EdgeEmbedding(torch.nn.Module):
    """Distances and directions of edges as the layers want them.

    Parameters
    ----------
    basis : RadialBasis
    max_ell : int
    cutoff : float, angstrom
    power : int
        Of the polynomial envelope.
    onset : float, optional
        Of the X-PLOR envelope, which replaces the polynomial one if given.
    transform : DistanceTransform, optional
    envelope_on_basis : bool
        Multiply the basis by the envelope, instead of the weights that the radial network makes of it.
    towards_centre : bool
        Harmonics are of the direction from the neighbour to the centre, or else from the centre to the neighbour.
    """

    def __init__(
        self,
        basis: RadialBasis,
        max_ell: int,
        cutoff: float,
        power: int,
        *,
        onset: float | None = None,
        transform: DistanceTransform | None = None,
        envelope_on_basis: bool = True,
        towards_centre: bool = True,
    ) -> None:
        super().__init__()
        self.basis = basis
        self.cutoff = float(cutoff)
        self.power = int(power)
        self.onset = onset
        self.sign = -1.0 if towards_centre else 1.0
        self.transform = transform
        self.envelope_on_basis = envelope_on_basis
        self.harmonics = SphericalHarmonics(max_ell)

    def radial(
        self, r: torch.Tensor, centre: torch.Tensor, neighbour: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Basis (E, B) and, unless it is in the basis, envelope (E, 1) at distances (E, 1) of species (E,) and (E,)."""
        if self.onset is None:
            envelope = polynomial_cutoff(r, self.cutoff, self.power)
        else:
            envelope = xplor_cutoff(r, self.cutoff, self.onset)
        basis = self.basis(r if self.transform is None else self.transform(r, centre, neighbour))
        if self.envelope_on_basis:
            return basis * envelope, None
        return basis, envelope

    def forward(
        self,
        species: torch.Tensor,
        edge_index: torch.Tensor,
        edge_vectors: torch.Tensor,
        chosen: torch.Tensor | None = None,
    ) -> Edges:
        """Embed edges of the site-model contract.

        ``chosen`` are those whose distances are embedded, if not all are; species are of their ends, then.
        """
        ends, vectors = edge_index, edge_vectors
        if chosen is not None:
            ends, vectors = edge_index.index_select(1, chosen), edge_vectors.index_select(0, chosen)
        centre, neighbour = species.index_select(0, ends[0]), species.index_select(0, ends[1])
        basis, envelope = self.radial(vectors.norm(dim=1, keepdim=True), centre, neighbour)
        # Orthonormal on the sphere; ours have mean square 1.
        harmonics = math.sqrt(4.0 * math.pi) * self.harmonics(self.sign * edge_vectors)
        return Edges(
            index=edge_index, centre=centre, neighbour=neighbour, harmonics=harmonics, basis=basis, envelope=envelope
        )


class Layer(torch.nn.Module):
    """One layer of messages; what is ``None`` is left out.

    Parameters
    ----------
    outputs : Irreps
        Kinds that go out.
    up : Mix, optional
        Of the features before they are sent.
    radial : torch.nn.Module
        From basis and species of edges to the weights of the convolution.
    convolution : Convolution
    divisor : float
        That the sum is divided by: the average number of neighbours, say.
    down : Mix, optional
        Of what was summed and divided.
    density : torch.nn.Module, optional
        From basis and species to (E, 1); the sum is divided by ``divisor + density_weight sum tanh(density^2)``.
    density_weight : float
    own : Mix, optional
        Of the features that were sent, added to the messages.
    inner_gate : Gate, optional
        Before the products; ``after`` mixes what comes out of it.
    species_mix : Mix, optional
        By the species of the atom, before the products.
    product : SymmetricProduct, optional
    update : Mix, optional
        Of the products.
    skip : Mix, optional
        From the features that came in, added to what goes out.
    gate : Gate, optional
        Last.
    """

    def __init__(
        self,
        *,
        outputs: Irreps,
        up: Mix | None,
        radial: torch.nn.Module,
        convolution: Convolution,
        down: Mix | None,
        divisor: float = 1.0,
        density: torch.nn.Module | None = None,
        density_weight: float = 1.0,
        own: Mix | None = None,
        inner_gate: Gate | None = None,
        after: Mix | None = None,
        species_mix: Mix | None = None,
        product: SymmetricProduct | None = None,
        update: Mix | None = None,
        skip: Mix | None = None,
        gate: Gate | None = None,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.up, self.radial, self.convolution, self.down = up, radial, convolution, down
        self.divisor, self.density, self.density_weight = float(divisor), density, float(density_weight)
        self.own, self.inner_gate, self.after, self.species_mix = own, inner_gate, after, species_mix
        self.product, self.update, self.skip, self.gate = product, update, skip, gate

    def forward(self, features: list[torch.Tensor], species: torch.Tensor, edges: Edges) -> list[torch.Tensor]:
        """Features of the next layer, one tensor (N, 2 l + 1, channels) per kind."""
        sent = features if self.up is None else self.up(features, species)
        messages = self.convolution(sent, edges.harmonics, self.weights_of(edges), edges.index)
        messages = self.divided(messages, edges, species.shape[0])
        return self.updated(features, sent, messages, species, self.product)

    def weights_of(self, edges: Edges) -> torch.Tensor:
        """Weights of the paths of edges, shape (E, number of weights)."""
        return edges.enveloped(self.radial(edges.basis, edges.centre, edges.neighbour))

    @property
    def product_inputs(self) -> Irreps:
        """Kinds that the products are taken of."""
        for mix in (self.species_mix, self.after, self.down):
            if mix is not None:
                return mix.outputs
        return self.convolution.outputs

    def updated(
        self,
        features: list[torch.Tensor],
        sent: list[torch.Tensor],
        messages: list[torch.Tensor],
        species: torch.Tensor,
        product: torch.nn.Module | None,
    ) -> list[torch.Tensor]:
        """What an atom makes of its messages.

        Parameters
        ----------
        features, sent : list of tensors
            That came in, and what of them was sent.
        messages : list of tensors
            Summed over neighbours and divided.
        species : tensor, shape (N,)
        product : torch.nn.Module, optional
            The layer's own, or one that does the same.
        """
        if self.down is not None:
            messages = self.down(messages, species)
        if self.own is not None:
            messages = _sum(messages, self.own(sent, species))
        if self.inner_gate is not None and self.after is not None:
            messages = self.after(self.inner_gate(messages), species)
        if self.species_mix is not None:
            messages = self.species_mix(messages, species)
        if product is not None:
            messages = product(messages, species)
        if self.update is not None:
            messages = self.update(messages, species)
        if self.skip is not None:
            messages = _sum(messages, self.skip(features, species))
        return messages if self.gate is None else self.gate(messages)

    def divided(self, messages: list[torch.Tensor], edges: Edges, n_atoms: int) -> list[torch.Tensor]:
        """Sums over neighbours, divided by their number or density."""
        if self.density is None:
            return [each / self.divisor for each in messages]
        each_edge = edges.enveloped(torch.tanh(self.density(edges.basis, edges.centre, edges.neighbour) ** 2))
        density = each_edge.new_zeros(n_atoms, 1).index_add(0, edges.index[0], each_edge)
        divisor = (self.divisor + self.density_weight * density).unsqueeze(2)
        return [each / divisor for each in messages]


def _sum(first: list[torch.Tensor], second: list[torch.Tensor]) -> list[torch.Tensor]:
    return [a + b for a, b in zip(first, second, strict=True)]


class Readout(ScaledLayers):
    """An energy from scalars."""

    def forward(self, scalars: torch.Tensor) -> torch.Tensor:
        """Map (N, scalars) to (N,)."""
        return self.mapped(scalars).squeeze(1)


class MultiAce(torch.nn.Module):
    """Site energies, eV, measured from self-energies, by the contract of :mod:`halberd.potentials.sites.site_model`.

    Parameters
    ----------
    embedding : tensor, shape (S, channels)
        First features of every species, in units of the root of their number.
    edges : EdgeEmbedding
    layers : sequence of Layer
    readouts : sequence of Readout
        One per layer, or one for the last.
    scale : float or tensor, shape (S,)
        Of what was read out; one per species, if there are several.
    shift : float, eV
        Of every atom.
    repulsion : PairRepulsion, optional
    """

    scale: torch.Tensor

    def __init__(
        self,
        embedding: torch.Tensor,
        edges: EdgeEmbedding,
        layers: Sequence[Layer],
        readouts: Sequence[Readout],
        *,
        scale: float | torch.Tensor = 1.0,
        shift: float = 0.0,
        repulsion: PairRepulsion | None = None,
    ) -> None:
        super().__init__()
        self.embedding = torch.nn.Parameter(embedding)
        self.embedding_scale = 1.0 / math.sqrt(len(embedding))
        self.edges = edges
        self.layers = torch.nn.ModuleList(layers)
        self.readouts = torch.nn.ModuleList(readouts)
        self.shift = float(shift)
        self.scale_by_species = isinstance(scale, torch.Tensor) and scale.numel() > 1
        self.register_buffer("scale", torch.atleast_1d(torch.as_tensor(scale, dtype=embedding.dtype)))
        self.repulsion = repulsion

    @property
    def first_irreps(self) -> Irreps:
        """Kinds of :meth:`first`."""
        return (Block(0, 1, int(self.embedding.shape[1])),)

    def first(self, species: torch.Tensor) -> list[torch.Tensor]:
        """Features before the first layer."""
        chosen = self.embedding.index_select(0, species).unsqueeze(1)
        return [chosen if self.embedding_scale == 1.0 else self.embedding_scale * chosen]

    @property
    def whole(self) -> MultiAce:
        """The network itself; compiled forms of it have the same attribute."""
        return self

    def features(
        self,
        species: torch.Tensor,
        edge_index: torch.Tensor,
        edge_vectors: torch.Tensor,
        n_layers: int | None = None,
        first: list[torch.Tensor] | None = None,
    ) -> list[list[torch.Tensor]]:
        """Features of every layer, or of the first ones: one tensor (N, 2 l + 1, channels) per kind.

        ``first`` stands for those before the first layer, if they are not of species.
        """
        edges = self.edges(species, edge_index, edge_vectors)
        current = self.first(species) if first is None else first
        collected = []
        for layer in self.layers[:n_layers]:
            current = layer(current, species, edges)
            collected.append(current)
        return collected

    def scalars_of(self, features: list[torch.Tensor], number: int) -> torch.Tensor:
        """The even scalars, (N, channels), among the features of a layer."""
        layer: Any = self.layers[number]
        place = [block.kind for block in layer.outputs].index((0, 1))
        return features[place].squeeze(1)

    def _read_scalars(self, collected: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        first = len(collected) - len(self.readouts)
        return [self.scalars_of(collected[first + n], first + n) for n in range(len(self.readouts))]

    def read_features(self, collected: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        """What the last map of every read-out is linear in, (N, D) each."""
        readouts: Any = self.readouts
        return [read.hidden(each) for read, each in zip(readouts, self._read_scalars(collected), strict=True)]

    def read(self, collected: list[list[torch.Tensor]], species: torch.Tensor) -> torch.Tensor:
        """What every read-out adds to the energies, eV, shape (N, number of readouts)."""
        scalars = self._read_scalars(collected)
        energies = [read(each) for read, each in zip(self.readouts, scalars, strict=True)]
        return self._scale_of(species).unsqueeze(1) * torch.stack(energies, dim=1)

    def contributions(
        self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor
    ) -> torch.Tensor:
        """What every read-out adds to the energies, eV, shape (N, number of readouts)."""
        return self.read(self.features(species, edge_index, edge_vectors), species)

    def _scale_of(self, species: torch.Tensor) -> torch.Tensor:
        return self.scale.index_select(0, species if self.scale_by_species else torch.zeros_like(species))

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`."""
        return self.energies_of(self.features(species, edge_index, edge_vectors), species, edge_index, edge_vectors)

    def energies_of(
        self,
        collected: list[list[torch.Tensor]],
        species: torch.Tensor,
        edge_index: torch.Tensor,
        edge_vectors: torch.Tensor,
    ) -> torch.Tensor:
        """Energies, (N,), from the features of all layers."""
        energies = self.read(collected, species).sum(dim=1) + self.shift
        if self.repulsion is None:
            return energies
        ends = (species.index_select(0, edge_index[0]), species.index_select(0, edge_index[1]))
        pairs = self.repulsion(edge_vectors.norm(dim=1, keepdim=True), *ends).squeeze(1)
        repulsion = energies.new_zeros(energies.shape).index_add(0, edge_index[0], pairs)
        return energies + self._scale_of(species) * repulsion
