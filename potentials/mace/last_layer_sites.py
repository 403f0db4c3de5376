"""A MACE with a linear correction and a committee on its last-layer features, as TorchScript modules."""

from collections.abc import Callable
from typing import Any

import torch

from halberd.potentials.committees.bias import SIGMA_FLOOR
from halberd.potentials.sites.portable import WithPortable


class LastLayerSites(torch.nn.Module):
    """Site energies of the network plus features times weights, one column per member.

    Parameters
    ----------
    features : torch.nn.Module
        Returns (N, 1 + D): energies, then features.
    weights : torch.Tensor, shape (D, K)
    """

    weights: torch.Tensor

    def __init__(self, features: torch.nn.Module, weights: torch.Tensor) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("weights", weights)

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`; shape (N, K)."""
        values = self.features(species, edge_index, edge_vectors)
        return values[:, :1] + torch.matmul(values[:, 1:], self.weights)


class LastLayerSigmaSites(torch.nn.Module):
    """Columns of the mean energy and of one that sums to its exact standard deviation.

    As in :mod:`halberd.potentials.ace.sigma_sites`: with the features summed to ``b`` and ``w = L L' b / sigma`` held
    fixed, ``w . b = sigma`` and its gradient is that of sigma.

    Parameters
    ----------
    features : torch.nn.Module
    mean : torch.Tensor, shape (D,)
    factor : torch.Tensor, shape (D, r)
        L; the covariance of the weights is ``L L'``.
    """

    mean: torch.Tensor
    factor: torch.Tensor

    def __init__(self, features: torch.nn.Module, mean: torch.Tensor, factor: torch.Tensor) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("mean", mean)
        self.register_buffer("factor", factor)
        self.floor = SIGMA_FLOOR

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`; shape (N, 2)."""
        values = self.features(species, edge_index, edge_vectors)
        features = values[:, 1:]
        seen = torch.mv(self.factor.t(), features.detach().sum(0))
        direction = torch.mv(self.factor, seen / torch.sqrt((seen * seen).sum() + self.floor * self.floor))
        mean = values[:, 0] + torch.mv(features, self.mean)
        return torch.stack([mean, torch.mv(features, direction)], dim=1)


def over_features(features: Any, make: Callable[[Any], torch.nn.Module]) -> torch.nn.Module:
    """What ``make`` makes of scripted features, in their fast and their portable form if they have both."""
    portable = getattr(features, "portable", None)
    return make(features) if portable is None else WithPortable(make(features), make(portable))
