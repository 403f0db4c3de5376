"""Linear maps of features on the compiled operators, and the rows that hold features of all kinds.

A row is what an atom has: its kinds follow one another, each (2 l + 1, channels).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from halberd.potentials.multi_ace.compiled.joined import JoinedMix
from halberd.potentials.multi_ace.irreps import Irreps
from halberd.potentials.multi_ace.layers import ChannelMix, Mix, SpeciesChannelMix


def offsets(blocks: Irreps) -> list[int]:
    """Where blocks begin in rows that hold them one after the other, and where the last one ends."""
    return np.cumsum([0, *((2 * block.degree + 1) * block.channels for block in blocks)]).tolist()


def in_rows(features: list[torch.Tensor]) -> torch.Tensor:
    """Tensors (N, 2 l + 1, channels) of all kinds as one, (N, width)."""
    rows = [each.flatten(1) for each in features]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def by_kinds(rows: torch.Tensor, blocks: Irreps) -> list[torch.Tensor]:
    """The reverse of :func:`in_rows`."""
    shapes = [(2 * block.degree + 1, block.channels) for block in blocks]
    parts = torch.split(rows, [size * count for size, count in shapes], dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]


class CompiledMix(torch.nn.Module):
    """One linear map of rows of features, or the sum of two of different rows.

    Parameters
    ----------
    mix : Mix or JoinedMix
    inputs : Irreps
        Kinds of the rows that it takes.
    other : Mix or JoinedMix, optional
        To the same kinds.
    other_inputs : Irreps
        Of the rows that it takes.

    Attributes
    ----------
    in_torch : bool
        Multiply by torch's matrix products, as on GPUs.
    """

    matrices: torch.Tensor
    transposed: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self, mix: Mix | JoinedMix, inputs: Irreps, other: Mix | JoinedMix | None = None, other_inputs: Irreps = ()
    ) -> None:
        super().__init__()
        #: Of every map: which rows; where it reads, fan_in and what a row is long; 2 l + 1; the same where it writes;
        #: its first weight, and how many species have weights.
        self.table: list[int] = []
        self.in_torch = False
        matrices: list[torch.Tensor] = []
        bias = torch.zeros(offsets(mix.outputs)[-1], dtype=torch.float64)
        for operand, (each, kinds) in enumerate([(mix, inputs), (other, other_inputs)]):
            for row, matrix, added in [] if each is None else _maps(each, kinds):
                weight = sum(known.numel() for known in matrices)
                self.table += [operand, *row, weight, len(matrix)]
                matrices.append(matrix)
                if added is not None:
                    bias[row[4] : row[4] + len(added)] += added
        dtype = next((each.dtype for each in mix.parameters()), torch.get_default_dtype())
        nothing = torch.zeros(0, dtype=torch.float64)
        transposed = [matrix.transpose(1, 2) for matrix in matrices]
        self.register_buffer("matrices", torch.cat([nothing, *(each.flatten() for each in matrices)]).to(dtype))
        self.register_buffer("transposed", torch.cat([nothing, *(each.flatten() for each in transposed)]).to(dtype))
        self.register_buffer("bias", bias.to(dtype))

    def forward(self, rows: torch.Tensor, species: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
        """Map rows (N, width), and other ones, to those of the outputs."""
        mixed: torch.Tensor = torch.ops.halberd.mix(
            features=rows,
            other=other,
            species=species,
            maps=self.table,
            matrices=self.matrices,
            transposed=self.transposed,
            bias=self.bias,
            in_torch=self.in_torch,
        )
        return mixed


def _maps(mix: Mix | JoinedMix, inputs: Irreps) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor | None]]:
    """Rows of the operator's table without their weights, matrices (S, fan_in, fan_out), and what is added once."""
    members: list[Any] = list(mix.members) if isinstance(mix, JoinedMix) else [mix]
    starts, ends = offsets(inputs), offsets(mix.outputs)
    for member, each in enumerate(members):
        for source, block, wide, end, module in zip(
            each.sources, each.outputs, mix.outputs, ends[:-1], each.maps, strict=True
        ):
            if source < 0:
                continue
            assert isinstance(module, ChannelMix | SpeciesChannelMix)
            matrix = module.scale * module.weight.detach().double()
            stride = inputs[source].channels
            matrix = matrix.reshape(-1, stride // len(members), block.channels)
            bias = module.bias.detach().double() if isinstance(module, ChannelMix) and module.bias is not None else None
            parts = mix.parts[source] if isinstance(mix, JoinedMix) and mix.parts else [matrix.shape[1]]
            target = [end + member * block.channels, block.channels, wide.channels]
            first = 0
            for count in parts:
                place = starts[source] + len(members) * first + member * count
                yield [place, count, stride, 2 * block.degree + 1, *target], matrix[:, first : first + count], bias
                first, bias = first + count, None
