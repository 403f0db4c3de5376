"""MACE models on mace-torch's own modules, as site models: the reference of halberd's own network.

This module prepares a copy of the network for molecular dynamics: one head, the elements asked for, no self-energies
(they are kept in float64 beside the network), and the site-model signature. mace-torch is only needed to convert a
``.model`` file, not to run what comes out.

References
----------
Batatia, Kovacs, Simm, Ortner, Csanyi: MACE, NeurIPS 2022, arXiv 2206.07697.
"""

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from halberd.potentials.errors import (
    ConfigurationError,
    ModelError,
    UnknownElementError,
    did_you_mean,
)
from halberd.potentials.sites.site_model import SiteModel
from halberd.potentials.sites.torchscript import default_dtype, quiet_torchscript

_CITATION = "Batatia et al., MACE, NeurIPS 2022, arXiv 2206.07697"
_SUPPORTED = ("MACE", "ScaleShiftMACE")


def mace_edges(edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges as a MACE counts them, from sender (the neighbour) to receiver (the centre), and their vectors."""
    return edge_index.flip(0), -edge_vectors


def network_input(
    species: torch.Tensor,
    edge_index: torch.Tensor,
    edge_vectors: torch.Tensor,
    one_hot: torch.Tensor,
    head: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """What a MACE network reads, made from the arguments of a site model."""
    edges, vectors = mace_edges(edge_index, edge_vectors)
    zeros = torch.zeros((species.shape[0], 3), dtype=edge_vectors.dtype, device=edge_vectors.device)
    return {
        "positions": zeros,
        "shifts": vectors,
        "unit_shifts": torch.zeros_like(vectors),
        "cell": torch.zeros((3, 3), dtype=edge_vectors.dtype, device=edge_vectors.device),
        "edge_index": edges,
        "node_attrs": one_hot.index_select(0, species),
        "batch": torch.zeros_like(species),
        "ptr": torch.zeros([2], dtype=torch.int64, device=species.device),
        "head": head,
    }


class MaceSiteEnergies(torch.nn.Module):
    """Site energies of one head of a MACE model, eV, measured from the self-energies.

    The network gets zero positions and the edge vectors as ``shifts``; energies and derivatives with respect to
    the edge vectors then equal the original's to rounding.
    """

    one_hot: torch.Tensor
    head: torch.Tensor

    def __init__(self, network: torch.nn.Module, n_species: int, head: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("one_hot", torch.eye(n_species, dtype=dtype))
        self.register_buffer("head", torch.tensor([head], dtype=torch.int64))

    @torch.jit.unused
    def before_scripting(self) -> None:
        """Run e3nn's compiler, which knows the submodules that plain ``torch.jit.script`` refuses."""
        from e3nn.util.jit import compile as compile_e3nn

        self.network = compile_e3nn(self.network.eval())

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`."""
        output = self.network(
            network_input(species, edge_index, edge_vectors, self.one_hot, self.head),
            training=False,
            compute_force=False,
            compute_virials=False,
            compute_stress=False,
            compute_displacement=False,
        )
        energies = output["node_energy"]
        assert energies is not None
        return energies.to(edge_vectors.dtype)


def mace_site_model(
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
    """Turn a MACE network into a site model.

    Parameters
    ----------
    model : mace.modules.MACE or mace.modules.ScaleShiftMACE
        Left unchanged; the site model works on a copy.
    name : str
        For messages and the name of the force.
    elements : sequence of int, optional
        Atomic numbers to keep; all if omitted.
    head : str, optional
        Which head of a multi-head model. May be omitted if there is one only.
    charge, multiplicity : number, optional
        Total charge (e) and spin multiplicity, for models that are embedded with them.
    dtype : torch.dtype, optional
        Precision to convert to; the model's own if omitted.
    source : dict, optional
        More metadata, such as the file it came from.

    Returns
    -------
    SiteModel

    Raises
    ------
    ModelError
        If the architecture is one that cannot run as TorchScript.
    ConfigurationError
        If the head is unknown or not named, or the model takes no charge.
    UnknownElementError
        If an element is not the model's.
    """
    prepared = prepared_mace(model, name, elements, (head, charge, multiplicity), dtype)
    module = MaceSiteEnergies(prepared.network, len(prepared.numbers), prepared.head, prepared.dtype)

    def restriction(wanted: Sequence[int]) -> SiteModel:
        return mace_site_model(
            model,
            name=name,
            elements=wanted,
            head=head,
            charge=charge,
            multiplicity=multiplicity,
            dtype=dtype,
            source=source,
        )

    metadata = {**prepared.metadata, **(source or {}), **prepared.chosen}
    return SiteModel(
        module,
        float(model.r_max),
        prepared.numbers,
        e0s=prepared.e0s,
        metadata=metadata,
        restriction=restriction,
    )


@dataclasses.dataclass(frozen=True)
class PreparedMace:
    """A copy of a network of mace-torch for one head and some elements, without self-energies.

    Attributes
    ----------
    network : torch.nn.Module
    numbers : list of int
        Atomic numbers that were kept.
    head : int
        Which of the network's heads.
    e0s : array, shape (S,), eV
    dtype : torch.dtype
    metadata : dict
        Name, architecture, citation.
    chosen : dict
        Head, charge and multiplicity, where given.
    """

    network: Any
    numbers: list[int]
    head: int
    e0s: np.ndarray
    dtype: torch.dtype
    metadata: dict[str, Any]
    chosen: dict[str, Any]


def prepared_mace(
    model: Any,
    name: str,
    elements: Sequence[int] | None,
    options: tuple[str | None, float | None, int | None],
    dtype: torch.dtype | None,
) -> PreparedMace:
    """Prepare a copy of a network; arguments and errors as of :func:`mace_site_model`.

    ``options`` are head, charge and multiplicity.
    """
    head, charge, multiplicity = options
    kind = type(model).__name__
    if kind not in _SUPPORTED:
        raise ModelError(
            f"Model '{name}' is a {kind}; halberd runs {' and '.join(_SUPPORTED)}. "
            "Dipole, charge-aware and long-range variants are not site-energy models."
        )
    head_index, head_name = _find_head(model, head, name)
    numbers = [int(z) for z in model.atomic_numbers]
    kept = numbers if elements is None else sorted(int(z) for z in elements)
    if not set(kept) <= set(numbers):
        raise UnknownElementError(f"Model '{name}' knows atomic numbers {numbers}, not all of {kept}.")

    network = copy.deepcopy(model).to("cpu")
    if dtype is not None:
        network = network.to(dtype)
    dtype = next(network.parameters()).dtype
    e0_table = np.atleast_2d(network.atomic_energies_fn.atomic_energies.detach().double().numpy())
    e0s = e0_table[head_index if e0_table.shape[0] > 1 else 0][[numbers.index(z) for z in kept]]
    with quiet_torchscript(), default_dtype(dtype), torch.no_grad():
        shifts = np.broadcast_to(_bake_embedding(network, charge, multiplicity, name, head_index), len(numbers))
        e0s = e0s + shifts[[numbers.index(z) for z in kept]]
        network.atomic_energies_fn.atomic_energies.zero_()
        if len(kept) < len(numbers):
            _keep_species(network, [numbers.index(z) for z in kept])
    chosen = {"head": head_name, "charge": charge, "multiplicity": multiplicity}
    metadata: dict[str, Any] = {
        "name": name,
        "architecture": kind,
        "citation": _CITATION,
        "fitted_to": "see the source of the model",
    }
    given = {key: value for key, value in chosen.items() if value is not None}
    return PreparedMace(
        network=network, numbers=kept, head=head_index, e0s=e0s, dtype=dtype, metadata=metadata, chosen=given
    )


def _find_head(model: Any, head: str | None, name: str) -> tuple[int, str | None]:
    heads = list(getattr(model, "heads", None) or ["Default"])
    if head is not None and head not in heads:
        raise ConfigurationError(
            f"Model '{name}' has no head '{head}'; it has {', '.join(heads)}.{did_you_mean(head, heads)}"
        )
    if len(heads) == 1:
        return 0, head
    if head is None:
        raise ConfigurationError(f"Model '{name}' has several heads; choose one with head=: {', '.join(heads)}.")
    return heads.index(head), head


class _ShiftedEmbedding(torch.nn.Module):
    """Element embedding plus a constant: what a fixed total charge and spin amount to."""

    def __init__(self, embedding: torch.nn.Module, shift: torch.Tensor) -> None:
        super().__init__()
        self.embedding = embedding
        self.register_buffer("shift", shift)

    def forward(self, node_attrs: torch.Tensor) -> torch.Tensor:
        return self.embedding(node_attrs) + self.shift


def _bake_embedding(
    network: Any, charge: float | None, multiplicity: int | None, name: str, head_index: int
) -> float | np.ndarray:
    """Replace a charge and spin embedding by the constant it is for one charge and spin.

    Returns the self-energy per species that an embedding read-out adds, eV.
    """
    specs = getattr(network, "embedding_specs", None) if hasattr(network, "joint_embedding") else None
    if not specs:
        if charge is not None or multiplicity is not None:
            raise ConfigurationError(f"Model '{name}' takes neither charge nor multiplicity; leave both out.")
        return 0.0
    values = {"total_charge": charge or 0.0, "total_spin": 1 if multiplicity is None else multiplicity}
    unknown = [feature for feature in specs if feature not in values]
    if unknown:
        raise ModelError(f"Model '{name}' is embedded with {', '.join(unknown)}, which halberd cannot supply.")
    dtype = next(network.parameters()).dtype
    features = {feature: torch.tensor([values[feature]], dtype=dtype) for feature in specs}
    shift = network.joint_embedding(torch.zeros(1, dtype=torch.int64), features).detach()
    n_species = len(network.atomic_numbers)
    self_energy: float | np.ndarray = 0.0
    if hasattr(network, "embedding_readout"):
        embedded = network.node_embedding(torch.eye(n_species, dtype=dtype)) + shift
        heads = torch.full((n_species,), head_index, dtype=torch.int64)
        self_energy = network.embedding_readout(embedded, heads)[:, head_index].detach().double().numpy()
        del network.embedding_readout
    network.node_embedding = _ShiftedEmbedding(network.node_embedding, shift)
    del network.joint_embedding
    network.embedding_specs = None
    return self_energy


def _keep_species(network: Any, indices: list[int]) -> None:
    """Cut every weight that has an element index down to some elements.

    e3nn divides a layer by the square root of its number of inputs, elements included: the kept weights are scaled
    to make up for it.
    """
    from e3nn import o3

    n_old, n_new = len(network.atomic_numbers), len(indices)
    index = torch.tensor(indices)
    scale = math.sqrt(n_new / n_old)
    attributes = o3.Irreps(f"{n_new}x0e")

    embedding = network.node_embedding
    if isinstance(embedding, _ShiftedEmbedding):
        embedding = embedding.embedding
    old = embedding.linear
    new = o3.Linear(attributes, old.irreps_out, internal_weights=True, shared_weights=True)
    new.weight.copy_((old.weight.view(n_old, -1)[index] * scale).reshape(-1))
    embedding.linear = new

    for interaction in network.interactions:
        old = interaction.skip_tp
        if not hasattr(old, "irreps_in2") or old.irreps_in2.dim != n_old:
            continue
        new = o3.FullyConnectedTensorProduct(
            old.irreps_in1, attributes, old.irreps_out, internal_weights=True, shared_weights=True
        )
        pieces = [w[:, index].reshape(-1) * scale for w in old.weight_views()]
        new.weight.copy_(torch.cat(pieces))
        interaction.skip_tp = new

    for product in network.products:
        for contraction in product.symmetric_contractions.contractions:
            if contraction.weights_max.shape[0] != n_old:  # element-agnostic products have one row
                continue
            contraction.weights_max = torch.nn.Parameter(contraction.weights_max.detach()[index].clone())
            for i, weight in enumerate(contraction.weights):
                contraction.weights[i] = torch.nn.Parameter(weight.detach()[index].clone())

    energies = torch.atleast_2d(network.atomic_energies_fn.atomic_energies)
    network.atomic_energies_fn.atomic_energies = energies[:, index].clone()
    network.atomic_numbers = network.atomic_numbers[index].clone()
