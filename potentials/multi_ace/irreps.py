"""Kinds of features: how many channels of which degree and parity, and the paths along which they are coupled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from halberd.potentials.errors import ConfigurationError

_BLOCK = re.compile(r"(?:(\d+)x)?(\d+)([eo])")


class Block(NamedTuple):
    """Channels that turn alike.

    Attributes
    ----------
    degree : int
        l: 2 l + 1 components, in the order of :mod:`halberd.potentials.ace.couplings`.
    parity : int
        1 if they stay under inversion (``e``), -1 if they change their sign (``o``).
    channels : int
    """

    degree: int
    parity: int
    channels: int

    @property
    def kind(self) -> tuple[int, int]:
        """Degree and parity."""
        return self.degree, self.parity

    def __str__(self) -> str:
        return f"{self.channels}x{self.degree}{'e' if self.parity > 0 else 'o'}"


#: Blocks of different kinds.
Irreps = tuple[Block, ...]


class Path(NamedTuple):
    """One way of coupling features of a neighbour with harmonics of the edge.

    Attributes
    ----------
    source : int
        Which block of the features.
    edge_degree : int
    kind : tuple of int
        Degree and parity of what comes out.
    """

    source: int
    edge_degree: int
    kind: tuple[int, int]


def irreps_of(blocks: Iterable[tuple[int, int, int]]) -> Irreps:
    """Blocks by degree, then odd before even; those of one kind added up, empty ones left out."""
    channels: dict[tuple[int, int], int] = {}
    for degree, parity, count in blocks:
        channels[degree, parity] = channels.get((degree, parity), 0) + count
    return tuple(Block(*kind, channels[kind]) for kind in sorted(channels) if channels[kind] > 0)


def parse_irreps(text: str) -> Irreps:
    """Read irreps as e3nn writes them, ``128x0e + 64x1o``, and keep their order.

    Raises
    ------
    ConfigurationError
        If that is something else, or a kind comes twice.
    """
    blocks: list[Block] = []
    for part in str(text).split("+"):
        match = _BLOCK.fullmatch(part.strip())
        if match is None:
            raise ConfigurationError(f"'{text}' are no irreps: write them like '128x0e + 64x1o'.")
        count, degree, parity = match.groups()
        blocks.append(Block(int(degree), 1 if parity == "e" else -1, int(count or 1)))
    if len({block.kind for block in blocks}) < len(blocks):
        raise ConfigurationError(f"'{text}' names a kind twice. Add its channels up.")
    return tuple(block for block in blocks if block.channels > 0)


def written(irreps: Irreps) -> str:
    """The text that :func:`parse_irreps` reads."""
    return "+".join(map(str, irreps))


def harmonic_parity(degree: int, inversion: bool) -> int:
    """Parity of spherical harmonics; without inversion, where only rotations count, all are even."""
    return (-1) ** degree if inversion else 1


def paths_of(
    features: Irreps, max_ell: int, targets: Sequence[tuple[int, int]], inversion: bool = True
) -> tuple[Path, ...]:
    """All paths from features and harmonics to some kinds, in the order in which e3nn keeps their weights.

    Parameters
    ----------
    features : Irreps
    max_ell : int
        Largest degree of the harmonics.
    targets : sequence of (int, int)
        Kinds that are wanted.
    inversion : bool
        Whether parities count.
    """
    wanted = set(targets)
    found = []
    for source, block in enumerate(features):
        for edge_degree in range(max_ell + 1):
            parity = block.parity * harmonic_parity(edge_degree, inversion)
            for degree in range(abs(block.degree - edge_degree), block.degree + edge_degree + 1):
                if (degree, parity) in wanted:
                    found.append(Path(source, edge_degree, (degree, parity)))
    return tuple(sorted(found, key=lambda path: path.kind))


def coupled(paths: Sequence[Path], features: Irreps) -> Irreps:
    """What comes out of paths: for every kind, the channels of all paths that lead to it."""
    return irreps_of((*path.kind, features[path.source].channels) for path in paths)
