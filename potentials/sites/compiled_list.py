"""Neighbour lists that cost little between their rebuilds, by a compiled operator.

The edges of a step are what lies within the cutoff of a list that was sorted when it was made: one pass over it forward
and one backward, in place of some thirty functions of torch, which took half of the time of a step with linear ACE.
"""

from pathlib import Path

import torch

from halberd.potentials.sites.compiled_operators import CompiledOperator
from halberd.potentials.sites.verlet_list import NeighborList

LIST_OPERATOR = CompiledOperator("list", Path(__file__).with_name("compiled_list.cpp"), "Neighbour lists")


class CompiledNeighborList(torch.nn.Module):
    """As :class:`halberd.potentials.sites.verlet_list.NeighborList`, with the compiled operator for tensors on a CPU.

    Parameters
    ----------
    cutoff, skin : float
        Angstrom; the skin is positive. Needs :data:`LIST_OPERATOR` to have no problem.
    n_threads : int
        CPU threads of the search.
    """

    def __init__(self, cutoff: float, skin: float, n_threads: int = 1) -> None:
        super().__init__()
        self.portable = NeighborList(cutoff, skin, n_threads)
        self.wider = NeighborList(cutoff + skin, 0.0, n_threads)
        self.pairs = torch.classes.halberd._VerletPairs(float(cutoff), float(skin))

    def forward(
        self, positions: torch.Tensor, box: torch.Tensor, periodic: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """List the edges and their vectors, as :meth:`NeighborList.forward`."""
        if positions.is_cuda:
            edge_index, vectors = self.portable(positions, box, periodic)
            return edge_index, vectors
        found = self.pairs.edges(positions, box, periodic)
        if len(found) == 0:
            pairs, shifts = self.wider.sorted_pairs(positions, box, periodic)
            found = self.pairs.renewed(positions, box, periodic, pairs, shifts)
        return found[0], found[1]


def neighbor_list(cutoff: float, skin: float, n_threads: int = 1) -> torch.nn.Module:
    """The fastest list that runs here: a :class:`CompiledNeighborList`, or a :class:`NeighborList`.

    Parameters
    ----------
    cutoff, skin : float
        Angstrom; without a skin there is nothing to gain between rebuilds.
    n_threads : int
        CPU threads of the search.

    Raises
    ------
    ConfigurationError
        If the cutoff is not positive or the skin is negative.
    """
    # NaN is for the list to refuse.
    if not skin > 0 or LIST_OPERATOR.problem() is not None:
        return NeighborList(cutoff, skin, n_threads)
    return CompiledNeighborList(cutoff, skin, n_threads)
