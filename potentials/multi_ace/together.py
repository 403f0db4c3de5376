"""Committees of networks of one build, which are evaluated together."""

from collections.abc import Sequence
from typing import Any

import torch

from halberd.potentials.errors import ModelError
from halberd.potentials.multi_ace.compiled.joined import features_of, joined_network
from halberd.potentials.multi_ace.compiled.network import CompiledNetwork
from halberd.potentials.multi_ace.compiled.operators import MULTI_ACE_OPERATOR
from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.multi_ace.sites import ENERGIES, network_in, on_kernels, recorded
from halberd.potentials.sites.torchscript import script

#: Bytes of a layer's radial weights beyond which one member after the other is faster on CPUs: it has the more of its
#: table in the cache. Tables of double precision, with ten times the intervals, are beyond.
LARGEST_TABLE = 10_000_000


class CommitteeEnergies(torch.nn.Module):
    """Site energies of all members, shape (N, K).

    Parameters
    ----------
    evaluator : CompiledNetwork
        Of the joined network.
    members : sequence of MultiAce
        For what each of them reads out.
    """

    def __init__(self, evaluator: Any, members: Sequence[MultiAce]) -> None:
        super().__init__()
        self.evaluator = evaluator
        self.members = torch.nn.ModuleList(members)

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`."""
        collected = self.evaluator.features(species, edge_index, edge_vectors)
        members: list[Any] = list(self.members)
        energies = []
        for k, member in enumerate(members):
            own = [features_of(each, k, len(members)) for each in collected]
            energies.append(member.energies_of(own, species, edge_index, edge_vectors))
        return torch.stack(energies, dim=1)


class TogetherSites(torch.nn.Module):
    """A committee that is evaluated together.

    Parameters
    ----------
    compiled : torch.nn.Module
        TorchScript for CPUs.
    on_gpu : torch.nn.Module, optional
        The same on kernels.
    portable : torch.nn.Module
        What does the same anywhere.
    species_map : sequence of int
        The members' species by the committee's.
    """

    species_map: torch.Tensor

    def __init__(
        self,
        compiled: torch.nn.Module,
        on_gpu: torch.nn.Module | None,
        portable: torch.nn.Module,
        species_map: Sequence[int],
    ) -> None:
        super().__init__()
        self.compiled = compiled
        self.on_gpu = on_gpu
        self.portable = portable
        self.register_buffer("species_map", torch.tensor(list(species_map), dtype=torch.int64))

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract."""
        if edge_vectors.is_cuda:
            if self.on_gpu is not None:
                return self.on_gpu(self.species_map.index_select(0, species), edge_index, edge_vectors)
            return self.portable(species, edge_index, edge_vectors)
        return self.compiled(self.species_map.index_select(0, species), edge_index, edge_vectors)


def together(
    members: Sequence[torch.nn.Module], portable: torch.nn.Module, species_map: Sequence[int]
) -> torch.nn.Module | None:
    """One module for a committee, shape (N, K).

    The gradient of something of all columns takes less time than one after the other. That of a single column takes as
    long as that of all: those who need every member's forces evaluate members one by one.

    Parameters
    ----------
    members : sequence of torch.nn.Module
        Of site models, which number their species alike and know the same edges.
    portable : torch.nn.Module
        The committee in its portable form, in TorchScript.
    species_map : sequence of int
        The members' species by the committee's.

    Returns
    -------
    torch.nn.Module or None
        TorchScript. ``None`` if the networks differ in more than weights, are too large for that, or cannot be
        compiled here.
    """
    portables: list[Any] = [getattr(each, "portable", each) for each in members]
    networks = [network.requires_grad_(False) for each in portables if (network := network_in(each)) is not None]
    what = {getattr(each, "what", None) for each in portables}
    if len(networks) < len(members) or len(members) < 2 or what != {ENERGIES}:
        return None
    if MULTI_ACE_OPERATOR.problem() is not None:
        return None
    try:
        evaluator = CompiledNetwork(joined_network(networks))
    except ModelError:
        return None
    if not torch.cuda.is_available() and evaluator.table_bytes > LARGEST_TABLE:
        return None

    def outputs(joined: CompiledNetwork) -> torch.nn.Module:
        return CommitteeEnergies(joined, networks)

    compiled, on_gpu = recorded(outputs(evaluator), networks[0]), on_kernels(evaluator, outputs)
    return script(TogetherSites(compiled, on_gpu, portable, species_map))
