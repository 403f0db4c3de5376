"""A network for some of its species: the same energies from fewer weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from halberd.potentials.multi_ace.layers import SpeciesChannelMix, SymmetricProduct
from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.multi_ace.radial import DistanceTransform, EmbeddedPerceptron, PairRepulsion, SpeciesLinear


def restricted(network: MultiAce, kept: Sequence[int]) -> MultiAce:
    """A copy of a network that knows some of its species only, in a new order.

    Scales count the species of the whole network, so that energies stay as they are.

    Parameters
    ----------
    network : MultiAce
    kept : sequence of int
        Species, of which the first becomes species 0.
    """
    smaller = copy.deepcopy(network)
    index = torch.tensor(list(kept), dtype=torch.int64)

    def cut(tensor: torch.Tensor) -> torch.nn.Parameter:
        return torch.nn.Parameter(tensor.detach().index_select(0, index).clone())

    smaller.embedding = cut(smaller.embedding)
    if smaller.scale_by_species:
        smaller.scale = smaller.scale.index_select(0, index)
    for module in smaller.modules():
        if isinstance(module, SpeciesChannelMix):
            module.weight, module.n_species = cut(module.weight), len(index)
        elif isinstance(module, SymmetricProduct) and module.n_species > 1:
            # One species left still has weights of its own; they are used as those of all.
            module.weights = torch.nn.ParameterList([cut(weight) for weight in module.weights])
            module.n_species = len(index)
        elif isinstance(module, SpeciesLinear):
            pairs = (index[:, None] * module.n_species + index[None, :]).ravel() if module.of_pairs else index
            module.weight = torch.nn.Parameter(module.weight.detach().index_select(0, pairs).clone())
            module.n_species, module.n_kinds = len(index), len(pairs)
        elif isinstance(module, EmbeddedPerceptron):
            module.of_neighbour, module.of_centre = cut(module.of_neighbour), cut(module.of_centre)
        elif isinstance(module, DistanceTransform | PairRepulsion):
            module.lengths = module.lengths[index][:, index]
            if isinstance(module, PairRepulsion):
                module.charges = module.charges[index]
    return smaller
