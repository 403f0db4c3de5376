"""MACE models of mace-torch on halberd's own network: the same weights, without mace-torch's modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from halberd.potentials.mace.network import prepared_mace
from halberd.potentials.multi_ace.mace_weights import multi_ace_of
from halberd.potentials.multi_ace.model import multi_ace_model
from halberd.potentials.sites.site_model import SiteModel


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
