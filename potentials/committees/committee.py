"""Several site models evaluated on one set of edges: a committee."""

import functools
from collections.abc import Sequence

import numpy as np
import torch

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.sites.portable import WithPortable
from halberd.potentials.sites.site_model import Columns, SiteModel


class CommitteeMembers(torch.nn.Module):
    """K site models behind one call; column k of the result is member k.

    Members may list their species in another order and have shorter cutoffs than the shared list; each gets its
    own species numbers, and only the edges it knows.
    """

    species_maps: torch.Tensor

    def __init__(self, members: list[torch.nn.Module], species_maps: list[list[int]], cutoffs: list[float]) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(members)
        self.register_buffer("species_maps", torch.tensor(species_maps, dtype=torch.int64))
        longest = max(cutoffs)
        self.cutoffs: list[float] = [c if c < longest else -1.0 for c in cutoffs]

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Site energies of all members, shape (N, K), eV."""
        columns: list[torch.Tensor] = []
        for k, member in enumerate(self.members):
            own = self.species_maps[k].index_select(0, species)
            cutoff = self.cutoffs[k]
            if cutoff > 0.0:
                near = torch.nonzero((edge_vectors * edge_vectors).sum(1) < cutoff * cutoff).squeeze(1)
                columns.append(member(own, edge_index.index_select(1, near), edge_vectors.index_select(0, near)))
            else:
                columns.append(member(own, edge_index, edge_vectors))
        return torch.stack(columns, dim=1)


def committee(models: Sequence[SiteModel], name: str | None = None) -> SiteModel:
    """Combine site models into one with K columns and one shared neighbour list.

    Parameters
    ----------
    models : sequence of SiteModel
        At least one, each with a single column. The committee knows the elements that all of them know.
    name : str, optional
        Defaults to the members' names, joined.

    Returns
    -------
    SiteModel
        ``n_columns`` is the number of members; ``e0s`` has shape (S, K).

    Raises
    ------
    ConfigurationError
        If there is no model, a member is itself a committee, precisions differ, or no element is common to all.
    """
    if not models:
        raise ConfigurationError("A committee needs at least one model; the list is empty.")
    for model in models:
        if model.columns is not Columns.ENERGY:
            raise ConfigurationError(f"'{model.name}' is a committee already; give its members instead.")
    dtypes = {model.dtype for model in models}
    if len(dtypes) > 1:
        raise ConfigurationError(
            "Committee members have different precisions "
            f"({', '.join(f'{m.name}: {m.dtype}' for m in models)}). Load them with one precision=."
        )
    common = sorted(set.intersection(*(set(model.atomic_numbers) for model in models)))
    if not common:
        raise ConfigurationError(
            "The committee members have no element in common: "
            + "; ".join(f"{m.name} knows {', '.join(m.symbols)}" for m in models)
        )
    models = [model.restrict(common) for model in models]
    maps = [[model.atomic_numbers.index(z) for z in common] for model in models]
    members = _one_by_one(models, maps)
    e0s = np.stack([model.e0s[rows] for model, rows in zip(models, maps, strict=True)], axis=1)

    def restriction(wanted: Sequence[int]) -> SiteModel:
        return committee([model.restrict(wanted) for model in models], name)

    def conversion(dtype: torch.dtype) -> SiteModel:
        return committee([model.to(dtype) for model in models], name)

    made = SiteModel(
        members,
        max(model.cutoff for model in models),
        common,
        e0s=e0s,
        n_columns=len(models),
        metadata={
            "name": name or "+".join(model.name for model in models),
            "members": [model.metadata for model in models],
        },
        restriction=restriction,
    )
    made.conversion = conversion
    joining = models[0].joining
    if joining is not None and alike(maps, [model.cutoff for model in models]):
        portable = getattr(members, "portable", members)
        made.joined = functools.cache(lambda: joining([model.module for model in models], portable, maps[0]))
    return made


def alike(species_maps: Sequence[Sequence[int]], cutoffs: Sequence[float]) -> bool:
    """Whether all members number species alike, and know the same edges."""
    return all(list(own) == list(species_maps[0]) for own in species_maps) and len(set(cutoffs)) == 1


def _one_by_one(models: Sequence[SiteModel], maps: list[list[int]]) -> torch.nn.Module:
    cutoffs = [model.cutoff for model in models]
    scripted: list[torch.nn.Module] = [model.scripted() for model in models]
    portables = [getattr(each, "portable", each) for each in scripted]
    members = CommitteeMembers(scripted, maps, cutoffs)
    if all(one is other for one, other in zip(scripted, portables, strict=True)):
        return members
    return WithPortable(members, CommitteeMembers(portables, maps, cutoffs))
