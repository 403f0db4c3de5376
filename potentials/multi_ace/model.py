"""Networks of the family as site models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from halberd.potentials.errors import ModelError
from halberd.potentials.multi_ace.blueprint import bytes_of, network_of
from halberd.potentials.multi_ace.building import build
from halberd.potentials.multi_ace.compiled import CompiledNetwork
from halberd.potentials.multi_ace.compiled_operator import MULTI_ACE_OPERATOR
from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.multi_ace.restriction import restricted
from halberd.potentials.multi_ace.settings import MultiAceSettings
from halberd.potentials.sites.site_model import Columns, SiteModel

_CITATION = "Batatia et al., Nat. Mach. Intell. 7, 56 (2025), arXiv 2205.06643"


class MultiAceSites(torch.nn.Module):
    """A network by the contract of :mod:`halberd.potentials.sites.site_model`, recorded for TorchScript.

    Attributes
    ----------
    blueprint : tensor, uint8
        The network itself, for whoever reads a file; see :mod:`halberd.potentials.multi_ace.blueprint`.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("blueprint", torch.zeros(0, dtype=torch.uint8))

    @torch.jit.unused
    def before_scripting(self) -> None:
        """Record the network's operations."""
        if isinstance(self.network, MultiAce):
            self.blueprint = bytes_of(self.network)
            self.network = _recorded(self.network, self.network)

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract."""
        return self.network(species, edge_index, edge_vectors)


class CompiledMultiAceSites(torch.nn.Module):
    """As :class:`MultiAceSites`, with the compiled operators where tensors are on a CPU, once it is scripted.

    Parameters
    ----------
    portable : MultiAceSites
        Scripted or not; it is what model files hold.
    """

    def __init__(self, portable: torch.nn.Module) -> None:
        super().__init__()
        self.portable = portable
        self.compiled: torch.nn.Module | None = None

    @torch.jit.unused
    def before_scripting(self) -> None:
        """Record the network's operations, and compile it if that can be done here (a minute, once per machine)."""
        network: Any = self.portable.network
        if not isinstance(network, MultiAce):
            blueprint: Any = self.portable.blueprint
            network = network_of(blueprint)
        if isinstance(self.portable, MultiAceSites):
            self.portable.before_scripting()
        problem = MULTI_ACE_OPERATOR.problem()
        try:
            if problem is None:
                self.compiled = _recorded(CompiledNetwork(network), network)
        except ModelError as error:
            problem = str(error)
        if problem is not None:
            MULTI_ACE_OPERATOR.say_once(problem)

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract."""
        if self.compiled is None:
            return self.portable(species, edge_index, edge_vectors)
        if edge_vectors.is_cuda:
            return self.portable(species, edge_index, edge_vectors)
        return self.compiled(species, edge_index, edge_vectors)


def _recorded(module: torch.nn.Module, network: MultiAce) -> torch.nn.Module:
    """A module as TorchScript of the operations that it does; none depends on values, so any graph will do."""
    like = network.embedding
    vectors = torch.tensor([[1.0, 0.3, 0.2], [-1.0, -0.3, -0.2]], dtype=like.dtype, device=like.device)
    edge_index = torch.tensor([[0, 1], [1, 0]], device=like.device)
    species = torch.zeros(2, dtype=torch.int64, device=like.device)
    with torch.no_grad():
        # Scripted, so that the choice by device is kept.
        edges: Any = network.edges
        harmonics = edges.harmonics
        edges.harmonics = torch.jit.script(harmonics)
        try:
            recorded: torch.nn.Module = torch.jit.trace(module, (species, edge_index, vectors), check_trace=False)
        finally:
            edges.harmonics = harmonics
    return recorded


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
    """
    if isinstance(network, MultiAceSettings):
        atomic_numbers = network.numbers
        metadata = {"settings": network.to_dict(), **(metadata or {})}
        network = build(network, seed)
    assert atomic_numbers is not None
    numbers = [int(z) for z in atomic_numbers]
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
    return model


def with_network(model: SiteModel) -> SiteModel:
    """Let a network of the family that was read from a file be cut, converted and compiled; other models stay."""
    blueprint = getattr(model.module, "blueprint", None)
    if blueprint is None or model.columns is not Columns.ENERGY:
        return model
    network = network_of(blueprint)
    own = {key: value for key, value in model.metadata.items() if key != "settings"}
    again = multi_ace_model(network, model.atomic_numbers, e0s=model.e0s, name=model.name, metadata=own)
    again.metadata = model.metadata
    again.module = CompiledMultiAceSites(model.module).eval()
    return again
