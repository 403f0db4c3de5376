"""Invariant features of the first layer of a MACE as a descriptor of atomic environments.

The first layer of a MACE sees the cutoff once and nothing beyond: its scalar features describe an atom by its
neighbours' elements and places, up to the correlation order of the model. They are what similarity is measured in.
Later layers are not computed.
"""

from typing import Any

import torch

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.mace.last_layer_features import checked_network, count_scalars
from halberd.potentials.mace.network import mace_edges
from halberd.potentials.multi_ace.features import first_layer_descriptor
from halberd.potentials.multi_ace.sites import network_in
from halberd.potentials.sites.site_model import Columns, SiteModel
from halberd.potentials.sites.torchscript import script

#: Angstrom. Closer pairs look as if they were here: generated atoms may overlap, and the radial functions diverge.
CLOSEST = 0.75


class FirstLayerFeatures(torch.nn.Module):
    """Scalar features after the first layer, shape (N, D).

    Parameters
    ----------
    sites : torch.jit.ScriptModule
        A scripted :class:`halberd.potentials.mace.network.MaceSiteEnergies`.
    n_scalars : int
        Scalar features of the layer; they come first.
    closest : float
        Distances below are raised to it, angstrom; only directions still act.
    """

    one_hot: torch.Tensor
    atomic_numbers: torch.Tensor

    def __init__(self, sites: Any, n_scalars: int, closest: float) -> None:
        super().__init__()
        network = sites.network
        self.node_embedding = network.node_embedding
        self.spherical_harmonics = network.spherical_harmonics
        self.radial_embedding = network.radial_embedding
        self.interaction = getattr(network.interactions, "0")
        self.product = getattr(network.products, "0")
        self.register_buffer("one_hot", sites.one_hot.detach().clone())
        self.register_buffer("atomic_numbers", network.atomic_numbers.detach().clone())
        self.n_scalars = n_scalars
        self.closest = closest

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`, as a descriptor."""
        edges, vectors = mace_edges(edge_index, edge_vectors)
        elements = self.one_hot.index_select(0, species)
        # The gradient of a length is a direction; two atoms at one place have none.
        lengths = torch.sqrt(vectors.square().sum(1, keepdim=True) + 1e-12).clamp(min=self.closest)
        radial, cutoff = self.radial_embedding(lengths, elements, edges, self.atomic_numbers)
        message, skip = self.interaction(
            elements,
            self.node_embedding(elements),
            self.spherical_harmonics(vectors),
            radial,
            edges,
            cutoff=cutoff,
            first_layer=True,
        )
        features = self.product(message, skip, elements)
        return features[:, : self.n_scalars]


def mace_descriptor(model: SiteModel, closest: float = CLOSEST) -> SiteModel:
    """The descriptor of a MACE: invariant features of its first layer.

    Parameters
    ----------
    model : SiteModel
        Made from a MACE, or another network of the family, or loaded from the ``.pt`` file of one.
    closest : float
        Pairs closer than this, in angstrom, look as if they were here.

    Returns
    -------
    SiteModel
        ``n_columns`` is D; the columns are no energies.

    Raises
    ------
    ModelError
        If the model is not a MACE with read-outs of the usual kind.
    ConfigurationError
        If ``closest`` is not between 0 and the cutoff.
    """
    if not 0 < closest < model.cutoff:
        raise ConfigurationError(
            f"closest is {closest}; it must lie between 0 and the cutoff, {model.cutoff} angstrom."
        )
    family = network_in(model.module)
    if family is not None:
        return first_layer_descriptor(model, family, closest)
    sites, readouts = checked_network(model, " Use a MACE.")
    n_scalars = count_scalars(readouts)[0]
    scripted = script(FirstLayerFeatures(sites, n_scalars, closest))
    return model.replaced(scripted, e0s=None, n_columns=n_scalars, columns=Columns.DESCRIPTOR)
