"""Neighbour lists of many molecules that share one coordinate frame and never see each other.

Molecules that are generated or relaxed together sit at the same place, one block of atoms each. Every call looks at all
pairs inside the blocks, so the list is right wherever the atoms are; there is no skin and nothing to update.
"""

import functools
from collections.abc import Sequence

import torch

from halberd.potentials.errors import ConfigurationError


class BlockNeighbors(torch.nn.Module):
    """All pairs of atoms of one block that are closer than a cutoff, both directions.

    Parameters
    ----------
    sizes : sequence of int
        Atoms of each block; they follow each other in the arrays.
    cutoff : float
        Angstrom.

    Raises
    ------
    ConfigurationError
        If a block is empty or the cutoff is not positive.
    """

    centre: torch.Tensor
    neighbour: torch.Tensor
    owner: torch.Tensor

    def __init__(self, sizes: Sequence[int], cutoff: float) -> None:
        super().__init__()
        if not cutoff > 0:
            raise ConfigurationError(f"The cutoff must be positive, got {cutoff} angstrom.")
        if not len(sizes) or min(sizes) < 1:
            raise ConfigurationError(f"Every molecule needs an atom at least, got sizes {list(sizes)[:10]}.")
        self.square_cutoff = float(cutoff) ** 2
        centre, neighbour = pairs_of_blocks(sizes)
        self.register_buffer("centre", centre)
        self.register_buffer("neighbour", neighbour)
        #: Block of each atom, int64, shape (N,).
        self.register_buffer("owner", owners(sizes))
        self.n_blocks = len(sizes)

    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """List the edges and their vectors.

        Parameters
        ----------
        positions : torch.Tensor, shape (N, 3), angstrom

        Returns
        -------
        edge_index : torch.Tensor, int64, shape (2, E)
            Ordered by centre and neighbour.
        edge_vectors : torch.Tensor, shape (E, 3)
            ``r_j - r_i``, angstrom, differentiable with respect to the positions.
        """
        vectors = positions.index_select(0, self.neighbour) - positions.index_select(0, self.centre)
        near = torch.nonzero(vectors.detach().square().sum(1) < self.square_cutoff).squeeze(1)
        edge_index = torch.stack([self.centre.index_select(0, near), self.neighbour.index_select(0, near)])
        return edge_index, vectors.index_select(0, near)


@functools.lru_cache(maxsize=32)
def all_pairs(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ordered pairs of different atoms, by centre."""
    every = torch.arange(size)
    centre, neighbour = every.repeat_interleave(size), every.repeat(size)
    different = centre != neighbour
    return centre[different], neighbour[different]


def pairs_of_blocks(sizes: Sequence[int]) -> torch.Tensor:
    """All ordered pairs of different atoms of one block, shape (2, E), by centre; blocks follow each other."""
    starts = torch.cumsum(torch.tensor([0, *sizes]), 0).tolist()
    return torch.cat([torch.stack(all_pairs(size)) + start for size, start in zip(sizes, starts, strict=False)], dim=1)


def owners(sizes: Sequence[int]) -> torch.Tensor:
    """Block of each atom, int64, shape (N,)."""
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(list(sizes)))
