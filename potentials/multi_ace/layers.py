"""Equivariant maps of features that are kept as one tensor per kind, (N, 2 l + 1, channels).

The channels come last, so that every map is a matrix product or an operation between rows of channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from halberd.potentials.multi_ace.couplings import ProductCoupling, wigner_3j
from halberd.potentials.multi_ace.irreps import Block, Irreps, Path, coupled
from halberd.potentials.multi_ace.radial import SILU, TANH, by_kind


class WithCouplings(torch.nn.Module):
    """A module whose couplings do not lose digits when it is converted to single precision and back."""

    def __init__(self) -> None:
        super().__init__()
        self.exact: dict[str, torch.Tensor] = {}

    def keep(self, name: str, coupling: np.ndarray) -> torch.Tensor:
        """Register constants as a buffer of the default precision."""
        self.exact[name] = torch.as_tensor(coupling, dtype=torch.float64).clone()
        buffer = self.exact[name].to(torch.get_default_dtype())
        self.register_buffer(name, buffer)
        return buffer

    @torch.jit.unused
    def _apply(self, *arguments: Any) -> Any:
        super()._apply(*arguments)
        for name, exact in self.exact.items():
            buffer = getattr(self, name)
            setattr(self, name, exact.to(buffer.dtype).to(buffer.device))
        return self


def _product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """All rows times a matrix, at once: torch takes views apart by atoms."""
    return torch.mm(x.reshape(-1, x.shape[2]), weight).view(x.shape[0], x.shape[1], weight.shape[1])


class ChannelMix(torch.nn.Module):
    """Channels of one kind mixed linearly, scaled by the root of their number.

    Attributes
    ----------
    scale : float
    bias : tensor, shape (fan_out,), or None
        Added; of even scalars only.
    """

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(fan_in, fan_out))
        self.scale = 1.0 / math.sqrt(fan_in)
        self.bias: torch.nn.Parameter | None = None

    def forward(self, x: torch.Tensor, species: torch.Tensor) -> torch.Tensor:  # noqa: ARG002  (as its sibling)
        """Map (N, 2 l + 1, fan_in) to (N, 2 l + 1, fan_out)."""
        mixed = _product(x, self.weight)
        if self.scale != 1.0:
            mixed = mixed * self.scale
        return mixed if self.bias is None else mixed + self.bias


class SpeciesChannelMix(torch.nn.Module):
    """Channels mixed by a matrix of the atom's own species (a tensor product with its one-hot vector)."""

    def __init__(self, fan_in: int, fan_out: int, n_species: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(n_species, fan_in, fan_out))
        self.n_species, self.fan_out = n_species, fan_out
        self.scale = 1.0 / math.sqrt(fan_in * n_species)

    def forward(self, x: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        """Map (N, 2 l + 1, fan_in) to (N, 2 l + 1, fan_out), given species (N,)."""
        zeros = x.new_zeros(x.shape[0], x.shape[1], self.fan_out)
        mixed = by_kind(zeros, species, self.n_species, lambda n, own: torch.matmul(x[own], self.weight[n]))
        return mixed if self.scale == 1.0 else self.scale * mixed


class Mix(torch.nn.Module):
    """Linear map of features: within every kind, from all of its channels to those that are wanted.

    Parameters
    ----------
    inputs, outputs : Irreps
        Kinds that are only among the outputs come out as zeros.
    n_species : int, optional
        Own matrices for every species, if given.
    """

    def __init__(self, inputs: Irreps, outputs: Irreps, n_species: int | None = None) -> None:
        super().__init__()
        self.outputs = outputs
        kinds = [block.kind for block in inputs]
        self.sources = [kinds.index(block.kind) if block.kind in kinds else -1 for block in outputs]
        self.sizes = [2 * block.degree + 1 for block in outputs]
        self.channels = [block.channels for block in outputs]
        self.maps = torch.nn.ModuleList()
        for source, block in zip(self.sources, outputs, strict=True):
            fan_in = inputs[source].channels if source >= 0 else 0
            if source < 0:
                self.maps.append(torch.nn.Identity())
            elif n_species is None:
                self.maps.append(ChannelMix(fan_in, block.channels))
            else:
                self.maps.append(SpeciesChannelMix(fan_in, block.channels, n_species))

    def take(self, flat: torch.Tensor) -> int:
        """Take weights in the order in which e3nn keeps those of a linear map, or of a product with one-hot species.

        Returns
        -------
        int
            How many were taken, from the beginning.
        """
        position = 0
        # By input, then by output.
        for _, number in sorted((source, number) for number, source in enumerate(self.sources) if source >= 0):
            weight = self.maps[number].weight
            assert isinstance(weight, torch.nn.Parameter)
            piece = flat[position : position + weight.numel()]
            position += weight.numel()
            if weight.ndim == 3:
                n_species, fan_in, fan_out = weight.shape
                weight.copy_(piece.view(fan_in, n_species, fan_out).transpose(0, 1))
            else:
                weight.copy_(piece.view(weight.shape))
        return position

    def forward(self, features: list[torch.Tensor], species: torch.Tensor) -> list[torch.Tensor]:
        """Map tensors of the input kinds to those of the output kinds."""
        like = features[0]
        return [
            each(features[source], species) if source >= 0 else like.new_zeros(like.shape[0], size, count)
            for each, source, size, count in zip(self.maps, self.sources, self.sizes, self.channels, strict=True)
        ]


class Convolution(WithCouplings):
    """Features of neighbours times harmonics times radial weights, summed over neighbours.

    Parameters
    ----------
    inputs : Irreps
        Kinds of the neighbours' features.
    paths : sequence of Path
        In the order of the radial weights.

    Attributes
    ----------
    outputs : Irreps
        Per kind the channels of all paths to it, in their order.
    n_weights : int
        Radial weights per edge: the channels of every path's source.
    """

    def __init__(self, inputs: Irreps, paths: Sequence[Path]) -> None:
        super().__init__()
        self.outputs = coupled(paths, inputs)
        self.paths = tuple(paths)
        counts = [inputs[path.source].channels for path in paths]
        self.n_weights = sum(counts)
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
        for number, path in enumerate(paths):
            degree, l_out = inputs[path.source].degree, path.kind[0]
            tensor = math.sqrt(2 * l_out + 1) * wigner_3j(degree, path.edge_degree, l_out)
            self.keep(f"coupling_{number}", tensor)

    def forward(
        self,
        features: list[torch.Tensor],
        harmonics: torch.Tensor,
        weights: torch.Tensor,
        edge_index: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Sum over neighbours.

        Parameters
        ----------
        features : list of tensors, shape (N, 2 l + 1, channels)
        harmonics : tensor, shape (E, (max_ell + 1)^2)
        weights : tensor, shape (E, n_weights)
        edge_index : tensor, shape (2, E)
            Centres, then neighbours.
        """
        n_atoms = features[0].shape[0]
        gathered = [each.index_select(0, edge_index[1]) for each in features]
        results = []
        for block in self.outputs:
            parts = []
            for number, path in enumerate(self.paths):
                if path.kind != block.kind:
                    continue
                low, high = path.edge_degree**2, (path.edge_degree + 1) ** 2
                coupling = torch.einsum("eb,abc->eca", harmonics[:, low:high], getattr(self, f"coupling_{number}"))
                message = torch.bmm(coupling, gathered[path.source])
                radial = weights[:, self.starts[number] : self.starts[number + 1]]
                parts.append(message * radial.unsqueeze(1))
            messages = torch.cat(parts, dim=2)
            zeros = messages.new_zeros(n_atoms, messages.shape[1], messages.shape[2])
            results.append(zeros.index_add(0, edge_index[0], messages))
        return results


class SymmetricProduct(WithCouplings):
    """Products of up to ``correlation`` features of one atom, channel by channel, with weights of its species.

    ``B_k = sum_z sum_p W[z, p, k] sum_T C[T, m, p] prod A_k`` (Batatia et al., arXiv 2206.07697, eq. 10 and 11).

    Parameters
    ----------
    couplings : sequence of sequences of ProductCoupling
        For every kind that comes out, one per order.
    kinds : sequence of (int, int)
        That come out.
    channels : int
    n_species : int
        1 if weights do not depend on the species.
    """

    def __init__(
        self,
        couplings: Sequence[Sequence[ProductCoupling]],
        kinds: Sequence[tuple[int, int]],
        channels: int,
        n_species: int,
    ) -> None:
        super().__init__()
        self.outputs: Irreps = tuple(Block(*kind, channels) for kind in kinds)
        self.n_species = n_species
        self.orders = [[coupling.factors.shape[1] for coupling in each] for each in couplings]
        self.weights = torch.nn.ParameterList()
        for target, each in enumerate(couplings):
            for number, coupling in enumerate(each):
                self.register_buffer(f"factors_{target}_{number}", torch.as_tensor(coupling.factors))
                coefficients = self.keep(f"coefficients_{target}_{number}", coupling.coefficients)
                n_couplings = coefficients.shape[2]
                weight = torch.randn(n_species, n_couplings, channels) / max(n_couplings, 1)
                self.weights.append(torch.nn.Parameter(weight))

    def forward(self, features: list[torch.Tensor], species: torch.Tensor) -> list[torch.Tensor]:
        """Map tensors (N, 2 l + 1, channels) to those of the kinds that come out."""
        components = torch.cat(features, dim=1)
        results = []
        position = 0
        for target, orders in enumerate(self.orders):
            size = 2 * self.outputs[target].degree + 1
            total = components.new_zeros(components.shape[0], size, components.shape[2])
            for number in range(len(orders)):
                factors = getattr(self, f"factors_{target}_{number}")
                coefficients = getattr(self, f"coefficients_{target}_{number}")
                products = components.index_select(1, factors[:, 0])
                for place in range(1, orders[number]):
                    products = products * components.index_select(1, factors[:, place])
                # Of every product in every component, per species and channel.
                own = torch.einsum("tmp,spk->stmk", coefficients, self.weights[position])
                total = total + self._weighted(products, own, species)
                position += 1
            results.append(total)
        return results

    def _weighted(self, products: torch.Tensor, own: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
        if self.n_species == 1:
            return torch.einsum("ntk,tmk->nmk", products, own[0])
        zeros = own.new_zeros(products.shape[0], own.shape[2], own.shape[3])
        return by_kind(
            zeros, species, self.n_species, lambda n, atoms: torch.einsum("ntk,tmk->nmk", products[atoms], own[n])
        )


class Gate(torch.nn.Module):
    """Scalars through a function, everything else times a function of scalars of its own (Weiler et al., 2018).

    Parameters
    ----------
    outputs : Irreps
        That come out. Even scalars go through SiLU, odd ones through tanh.
    gates : {'silu', 'sigmoid'}
    constants : tuple of float
        Factors on silu, tanh and the gates, that make the second moment 1.

    Attributes
    ----------
    inputs : Irreps
        The outputs, and as many even scalars more as there are channels that are no scalars.
    """

    def __init__(self, outputs: Irreps, gates: str = "silu", constants: Sequence[float] = (SILU, TANH, SILU)) -> None:
        super().__init__()
        self.outputs = outputs
        self.gates = gates
        self.constants = [float(each) for each in constants]
        n_gates = sum(block.channels for block in outputs if block.degree > 0)
        even = sum(block.channels for block in outputs if block.kind == (0, 1))
        others = tuple(block for block in outputs if block.kind != (0, 1))
        scalars = (Block(0, 1, even + n_gates),) if even + n_gates else ()
        self.n_even = even
        self.inputs: Irreps = tuple(sorted((*scalars, *others), key=lambda block: block.kind))

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Map tensors of ``inputs`` to those of ``outputs``."""
        places = {block.kind: number for number, block in enumerate(self.inputs)}
        scalars = features[places[0, 1]] if (0, 1) in places else features[0][:, :, :0]
        position = self.n_even
        results = []
        for block in self.outputs:
            if block.kind == (0, 1):
                results.append(self.constants[0] * torch.nn.functional.silu(scalars[:, :, : self.n_even]))
            elif block.degree == 0:
                results.append(self.constants[1] * torch.tanh(features[places[block.kind]]))
            else:
                own = scalars[:, :, position : position + block.channels]
                opened = torch.nn.functional.silu(own) if self.gates == "silu" else torch.sigmoid(own)
                results.append(features[places[block.kind]] * (self.constants[2] * opened))
                position += block.channels
        return results
