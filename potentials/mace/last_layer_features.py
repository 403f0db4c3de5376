"""The features that the last layer of a MACE is linear in: inputs of its linear read-outs, hidden units of the other.

The energy of a MACE is a sum of read-outs, one per layer. All but the last are linear in the scalar features of their
layer; the last is a small network, linear in its hidden units. Together these are a fixed basis with which corrections
and committees of the whole model can be made by linear regression, without training.
"""

from typing import Any

import torch

from halberd.potentials.errors import ModelError
from halberd.potentials.mace.network import network_input
from halberd.potentials.multi_ace.features import last_layer_features
from halberd.potentials.multi_ace.sites import network_in
from halberd.potentials.sites.site_model import Columns, SiteModel
from halberd.potentials.sites.torchscript import script


class MaceFeatureSites(torch.nn.Module):
    """Site energies and last-layer features of a MACE, shape (N, 1 + D).

    Parameters
    ----------
    sites : torch.jit.ScriptModule
        A scripted :class:`halberd.potentials.mace.network.MaceSiteEnergies`.
    starts, counts : list of int
        Scalar features of every linear read-out in the network's node features.
    last : int
        First node feature of the last layer; the rest of them go through the hidden layer of the last read-out.
    """

    one_hot: torch.Tensor
    head: torch.Tensor

    def __init__(self, sites: Any, starts: list[int], counts: list[int], last: int) -> None:
        super().__init__()
        self.network = sites.network
        self.register_buffer("one_hot", sites.one_hot.detach().clone())
        self.register_buffer("head", sites.head.detach().clone())
        readout = getattr(sites.network.readouts, str(len(starts)))
        self.hidden = readout.linear_1
        self.activation = readout.non_linearity
        self.starts = starts
        self.counts = counts
        self.last = last

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`, as a descriptor."""
        output = self.network(
            network_input(species, edge_index, edge_vectors, self.one_hot, self.head),
            training=False,
            compute_force=False,
            compute_virials=False,
            compute_stress=False,
            compute_displacement=False,
        )
        energies = output["node_energy"]
        features = output["node_feats"]
        assert energies is not None
        assert features is not None
        parts = [energies.to(edge_vectors.dtype).unsqueeze(1)]
        for layer, start in enumerate(self.starts):
            parts.append(features[:, start : start + self.counts[layer]])
        parts.append(self.activation(self.hidden(features[:, self.last :])))
        return torch.cat(parts, dim=1)


def mace_features(model: SiteModel) -> SiteModel:
    """The descriptor of a MACE whose columns are its site energy and its last-layer features.

    Parameters
    ----------
    model : SiteModel
        Made from a MACE, or another network of the family, or loaded from the ``.pt`` file of one.

    Returns
    -------
    SiteModel
        ``n_columns`` is 1 + D; the first column is the site energy, eV.

    Raises
    ------
    ModelError
        If the model is not a MACE with read-outs of the usual kind.
    """
    family = network_in(model.module)
    if family is not None:
        return last_layer_features(model, family)
    sites, readouts = checked_network(model, " Use a committee of several models instead.")
    *counts, width = count_scalars(readouts)
    hidden = readouts[-1].linear_1.weight.numel() // width
    total = _node_features(sites, model)
    block, rest = divmod(total - width, max(len(readouts) - 1, 1))
    if rest or any(count > block for count in counts):
        raise ModelError(_no_layers(model) + "its features are laid out in an unknown way.")
    # Irreps come sorted: the scalars of a layer are its first features.
    starts = [layer * block for layer in range(len(counts))]
    module = MaceFeatureSites(sites, starts, counts, total - width)
    n_columns = 1 + sum(counts) + hidden
    return model.replaced(script(module), n_columns=n_columns, columns=Columns.ENERGY_AND_FEATURES)


def checked_network(model: SiteModel, advice: str = "") -> tuple[Any, list[Any]]:
    """The scripted sites of a MACE and its read-outs, one per layer.

    ``advice`` says what to do with a model that is none.

    Raises
    ------
    ModelError
        If the model is not a MACE with read-outs of the usual kind.
    """
    sites = model.scripted()
    network = getattr(sites, "network", None)
    if network is None or not hasattr(network, "readouts"):
        raise ModelError(_no_layers(model) + "it is not a MACE." + advice)
    readouts = [readout for _, readout in network.readouts.named_children()]
    if not hasattr(readouts[-1], "linear_1") or any(not hasattr(r, "linear") for r in readouts[:-1]):
        raise ModelError(_no_layers(model) + "its read-outs are not linear ones with a small network at the end.")
    return sites, readouts


def count_scalars(readouts: list[Any]) -> list[int]:
    """Scalar features of every layer, which are what its read-out reads."""
    n_heads = readouts[-1].linear_2.output_mask.numel()
    hidden = readouts[-1].linear_2.weight.numel() // n_heads
    return [r.linear.weight.numel() // n_heads for r in readouts[:-1]] + [
        readouts[-1].linear_1.weight.numel() // hidden
    ]


def _no_layers(model: SiteModel) -> str:
    return f"Model '{model.name}' has no layers that halberd knows: "


@torch.no_grad()
def _node_features(sites: Any, model: SiteModel) -> int:
    """Node features of the network, all layers together, found by evaluating two atoms."""
    edge_index = torch.tensor([[0, 1], [1, 0]], device=model.device)
    vectors = torch.tensor([[0.0, 0.0, 1.5], [0.0, 0.0, -1.5]], dtype=model.dtype, device=model.device)
    data = network_input(torch.zeros_like(edge_index[0]), edge_index, vectors, sites.one_hot, sites.head)
    output = sites.network(
        data,
        training=False,
        compute_force=False,
        compute_virials=False,
        compute_stress=False,
        compute_displacement=False,
    )
    return int(output["node_feats"].shape[1])
