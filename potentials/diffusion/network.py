"""A network of the family that reads elements as numbers, and the noise level."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch

from halberd.potentials.diffusion.settings import DiffusionSettings
from halberd.potentials.multi_ace.building import build
from halberd.potentials.multi_ace.network import Edges, MultiAce
from halberd.potentials.multi_ace.radial import Perceptron, polynomial_cutoff
from halberd.potentials.sites.torchscript import default_dtype

#: Longest period of the waves that tell the noise level, in units of c_noise, and the ratio to the shortest.
_PERIOD, _RATIO = 16.0, 64.0


class NoisyNetwork(MultiAce):
    """A scalar for every atom of noisy molecules.

    All atoms are of one species; their first features are a linear map of their elements, and what a small network
    makes of the noise level. What another makes of it is beside the functions of the distance, so that messages of
    every layer depend on it, too.

    Parameters
    ----------
    settings : DiffusionSettings
    neighbours : float
        That sums over neighbours are divided by.
    seed : int
    """

    waves: torch.Tensor

    def __init__(self, settings: DiffusionSettings, neighbours: float, seed: int = 0) -> None:
        core = build(settings.network(neighbours), seed)
        channels = core.embedding.shape[1]
        with default_dtype(torch.float64), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            embedding = torch.randn(len(settings.numbers), channels)
            super().__init__(embedding, core.edges, list(core.layers), list(core.readouts))  # type: ignore[arg-type]
            half = settings.noise_functions // 2
            periods = _PERIOD * _RATIO ** -(torch.arange(half) / max(half - 1, 1))
            self.register_buffer("waves", 2.0 * math.pi / periods)
            self.of_noise = torch.nn.Sequential(
                torch.nn.Linear(settings.noise_functions, settings.noise_width),
                torch.nn.SiLU(),
                torch.nn.Linear(settings.noise_width, channels),
            )
            self.of_edges = torch.nn.Linear(settings.noise_functions, settings.noise_edges)
            layers: Any = self.layers
            for layer in layers:
                widths = [settings.n_radial + settings.noise_edges, *settings.radial_widths]
                layer.radial = Perceptron([*widths, layer.convolution.n_weights])
            with torch.no_grad():
                # What has learnt nothing says nothing.
                readouts: Any = self.readouts
                for readout in readouts:
                    readout.weights[-1].zero_()

    def start(self, elements: torch.Tensor, noise: torch.Tensor) -> list[torch.Tensor]:
        """Features before the first layer.

        Parameters
        ----------
        elements : tensor, shape (N, S)
            What every atom is of every element; 1 and zeros without noise.
        noise : tensor, shape (N,)
            c_noise of every atom's molecule.
        """
        return [(elements @ self.embedding + self.of_noise(self._told(noise))).unsqueeze(1)]

    def _told(self, noise: torch.Tensor) -> torch.Tensor:
        """Waves of c_noise, from shape (N,) to (N, noise_functions)."""
        phases = noise.unsqueeze(1) * self.waves
        return torch.cat([torch.sin(phases), torch.cos(phases)], dim=1)

    def noisy_edges(
        self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor, noise: torch.Tensor
    ) -> Edges:
        """Edges that know the noise level of their molecules.

        Parameters
        ----------
        species, edge_index, edge_vectors
            By the contract of :mod:`halberd.potentials.sites.site_model`.
        noise : tensor, shape (N,)
            c_noise of every atom's molecule.
        """
        known = self.edges(species, edge_index, edge_vectors)
        distances = edge_vectors.norm(dim=1, keepdim=True)
        envelope = polynomial_cutoff(distances, self.edges.cutoff, self.edges.power)
        told = self.of_edges(self._told(noise)).index_select(0, edge_index[0])
        return dataclasses.replace(known, basis=torch.cat([known.basis, envelope * told], dim=1))
