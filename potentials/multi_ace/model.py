"""Networks of the family as site models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.multi_ace.building import build
from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.multi_ace.restriction import restricted
from halberd.potentials.multi_ace.settings import MultiAceSettings
from halberd.potentials.multi_ace.sites import CompiledMultiAceSites, MultiAceSites
from halberd.potentials.multi_ace.together import together
from halberd.potentials.sites.site_model import SiteModel

_CITATION = "Batatia et al., Nat. Mach. Intell. 7, 56 (2025), arXiv 2205.06643"


def multi_ace_model(
    network: MultiAce | MultiAceSettings,
    atomic_numbers: Sequence[int] | None = None,
    *,
    e0s: ArrayLike | None = None,
    name: str = "multi-ace",
    metadata: dict[str, Any] | None = None,
    seed: int = 0,
) -> SiteModel:
    """A site model of a network.

    Parameters
    ----------
    network : MultiAce or MultiAceSettings
        Settings make a network with random weights. The weights of a network that is given are no longer trained.
    atomic_numbers : sequence of int, optional
        Of the species of a network that is given; those of the settings otherwise.
    e0s : array, shape (S,), eV, optional
        Self-energies.
    name : str
    metadata : dict, optional
        More of it.
    seed : int
        Of random weights.

    Raises
    ------
    ConfigurationError
        If there is not one atomic number per species of a network that is given.
    """
    if isinstance(network, MultiAceSettings):
        atomic_numbers = network.numbers
        metadata = {"settings": network.to_dict(), **(metadata or {})}
        network = build(network, seed)
    if atomic_numbers is None:
        raise ConfigurationError("A network does not know its elements: give atomic_numbers.")
    numbers = [int(z) for z in atomic_numbers]
    if len(numbers) != len(network.embedding) or len(set(numbers)) != len(numbers):
        raise ConfigurationError(
            f"The network has {len(network.embedding)} species; atomic_numbers are {numbers}: give each of them one."
        )
    known = {"name": name, "architecture": "MultiAce", "citation": _CITATION, **(metadata or {})}
    energies = np.zeros(len(numbers)) if e0s is None else np.asarray(e0s, dtype=np.float64)

    def restriction(wanted: Sequence[int]) -> SiteModel:
        places = [numbers.index(z) for z in wanted]
        own = {key: value for key, value in known.items() if key != "settings"}
        return multi_ace_model(restricted(network, places), wanted, e0s=energies[places], name=name, metadata=own)

    def conversion(dtype: torch.dtype) -> SiteModel:
        return multi_ace_model(copy.deepcopy(network).to(dtype), numbers, e0s=energies, name=name, metadata=known)

    sites = CompiledMultiAceSites(MultiAceSites(network))
    model = SiteModel(sites, network.edges.cutoff, numbers, e0s=energies, metadata=known, restriction=restriction)
    model.conversion = conversion
    model.joining = together
    return model
