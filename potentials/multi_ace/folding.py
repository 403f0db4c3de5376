"""A network with its constant factors multiplied into its weights, and linear maps that follow one another made one.

The same function, to rounding, in fewer operations; what is read out of hidden units stays what it is.
"""

from __future__ import annotations

import copy

import torch

from halberd.potentials.multi_ace.layers import ChannelMix, Mix, SpeciesChannelMix
from halberd.potentials.multi_ace.network import Layer, MultiAce, Readout


@torch.no_grad()
def folded(network: MultiAce) -> MultiAce:
    """A copy of a network, for evaluation only."""
    network = copy.deepcopy(network)
    network.embedding.mul_(network.embedding_scale)
    network.embedding_scale = 1.0
    for layer in network.layers:
        assert isinstance(layer, Layer)
        for module in layer.modules():
            if isinstance(module, ChannelMix | SpeciesChannelMix):
                module.weight.mul_(module.scale)
                module.scale = 1.0
        if layer.down is not None and layer.species_mix is not None and layer.own is None and layer.inner_gate is None:
            layer.species_mix = _after(layer.species_mix, layer.down)
            layer.down = None
    for readout in network.readouts:
        assert isinstance(readout, Readout)
        for number, weight in enumerate(readout.weights):
            weight.mul_(readout.scales[number])
            readout.scales[number] = 1.0
    return network


def _after(second: Mix, first: Mix) -> Mix:
    """Both maps as one."""
    both = copy.deepcopy(second)
    for number, source in enumerate(second.sources):
        if source < 0:
            continue
        both.sources[number] = first.sources[source]
        if first.sources[source] < 0:
            both.maps[number] = torch.nn.Identity()
            continue
        one, other = first.maps[source], both.maps[number]
        assert isinstance(one, ChannelMix)
        assert one.bias is None
        assert isinstance(other, ChannelMix | SpeciesChannelMix)
        other.weight = torch.nn.Parameter(torch.matmul(one.weight, other.weight), requires_grad=False)
    return both
