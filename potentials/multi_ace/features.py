"""Features of networks of the family: what last layers are linear in, and the scalars of the first layer."""

from __future__ import annotations

import copy
from typing import Any

import torch

from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.multi_ace.sites import FIRST_LAYER, LAST_LAYER, CompiledMultiAceSites, MultiAceSites
from halberd.potentials.sites.site_model import Columns, SiteModel


def last_layer_features(model: SiteModel, network: MultiAce) -> SiteModel:
    """Site energies and last-layer features of a model that runs on a network; ``n_columns`` is 1 + D."""
    network = copy.deepcopy(network).to(model.dtype)
    readouts: Any = network.readouts
    n_features = sum(int(read.weights[-1].shape[0]) for read in readouts)
    sites = CompiledMultiAceSites(MultiAceSites(network, LAST_LAYER))
    made = model.replaced(sites, n_columns=1 + n_features, columns=Columns.ENERGY_AND_FEATURES)

    def conversion(dtype: torch.dtype) -> SiteModel:
        return last_layer_features(model.to(dtype), network)

    made.conversion = conversion
    return made


def first_layer_descriptor(model: SiteModel, network: MultiAce, closest: float) -> SiteModel:
    """Scalars of the first layer of a model that runs on a network; pairs below ``closest`` look as if there."""
    network = copy.deepcopy(network).to(model.dtype)
    first: Any = network.layers[0]
    n_scalars = next(block.channels for block in first.outputs if block.kind == (0, 1))
    sites = CompiledMultiAceSites(MultiAceSites(network, FIRST_LAYER, closest))
    made = model.replaced(sites, e0s=None, n_columns=n_scalars, columns=Columns.DESCRIPTOR)

    def conversion(dtype: torch.dtype) -> SiteModel:
        return first_layer_descriptor(model.to(dtype), network, closest)

    made.conversion = conversion
    return made
