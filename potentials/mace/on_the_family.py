"""MACE models of mace-torch on halberd's own network: the same weights, without mace-torch's modules."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from halberd.potentials.committees.committee import CommitteeMembers, alike, committee
from halberd.potentials.mace.last_layer_sites import LastLayerSigmaSites, LastLayerSites
from halberd.potentials.mace.network import prepared_mace
from halberd.potentials.multi_ace.model import multi_ace_model
from halberd.potentials.multi_ace.sites import CompiledMultiAceSites, network_in
from halberd.potentials.multi_ace.together import together
from halberd.potentials.multi_ace.weights.mace import multi_ace_of
from halberd.potentials.sites.portable import WithPortable
from halberd.potentials.sites.site_model import Columns, SiteModel
from halberd.potentials.sites.torchscript import script


def mace_family_model(
    model: Any,
    *,
    name: str,
    elements: Sequence[int] | None = None,
    head: str | None = None,
    charge: float | None = None,
    multiplicity: int | None = None,
    dtype: torch.dtype | None = None,
    source: dict[str, Any] | None = None,
) -> SiteModel:
    """As :func:`halberd.potentials.mace.network.mace_site_model`, as a network of the family.

    Weights are read in double precision whatever their own, so that single precision rounds them once.

    Raises
    ------
    ModelError
        If the family does not hold the network; names the part that is missing, and the option that runs it.
    """
    own = next(model.parameters()).dtype
    prepared = prepared_mace(model, name, elements, (head, charge, multiplicity), torch.float64)
    network = multi_ace_of(prepared.network, prepared.head).to(dtype or own)
    metadata = {**prepared.metadata, **(source or {}), **prepared.chosen, "implementation": "multi-ace"}
    return multi_ace_model(network, prepared.numbers, e0s=prepared.e0s, name=name, metadata=metadata)


def on_operators(model: SiteModel) -> SiteModel:
    """Let what was read from a file run on the compiled operators: a network of the family, last layers, committees.

    Networks can be cut to elements and converted again, too. Other models are returned as they are.

    Raises
    ------
    ModelFileError
        If the network that the file brings along cannot be read.
    """
    module: Any = model.module
    network = network_in(module)
    if network is not None and model.columns is Columns.ENERGY:
        own = {key: value for key, value in model.metadata.items() if key != "settings"}
        again = multi_ace_model(network, model.atomic_numbers, e0s=model.e0s, name=model.name, metadata=own)
        again.metadata = model.metadata
        again.module = CompiledMultiAceSites(module).eval()
        return again
    features: Any = getattr(module, "features", None)
    if network_in(features) is not None:
        fast = _compiled(features)
        sigma = model.columns is Columns.MEAN_AND_SIGMA
        sites = LastLayerSigmaSites(fast, module.mean, module.factor) if sigma else LastLayerSites(fast, module.weights)
        return model.replaced(WithPortable(sites, module))
    members = [each for _, each in module.members.named_children()] if hasattr(module, "members") else []
    if members and all(network_in(each) is not None for each in members):
        species_maps = module.species_maps.tolist()
        cutoffs = [model.cutoff if each < 0 else each for each in module.cutoffs]
        made = CommitteeMembers([_compiled(each) for each in members], species_maps, cutoffs)
        found = model.replaced(WithPortable(made, module))
        if alike(species_maps, cutoffs):
            found.joined = functools.cache(lambda: together(members, module, species_maps[0]))
        found.conversion = lambda dtype: _converted(model, [network_in(each) for each in members], species_maps, dtype)
        return found
    return model


def _compiled(portable: Any) -> torch.nn.Module:
    sites = CompiledMultiAceSites(portable)
    sites.before_scripting()
    return script(sites)


def _converted(
    model: SiteModel, networks: Sequence[Any], species_maps: Sequence[Sequence[int]], dtype: torch.dtype
) -> SiteModel:
    """A committee that was read from a file in another precision: from weights, not from tables of the other one."""
    members = []
    for k, (network, own) in enumerate(zip(networks, species_maps, strict=True)):
        numbers, e0s = [0] * len(own), [0.0] * len(own)
        for place, (z, energies) in zip(own, zip(model.atomic_numbers, model.e0s, strict=True), strict=True):
            numbers[place], e0s[place] = z, float(energies[k])
        member = multi_ace_model(network, numbers, e0s=e0s, metadata=dict(model.metadata["members"][k]))
        members.append(member.to(dtype))
    made = committee(members, model.name)
    made.metadata = model.metadata
    return made
