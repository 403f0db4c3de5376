"""A network of the family that reads elements as numbers, and the noise level."""

from __future__ import annotations

import math
from typing import Any

import torch

from halberd.potentials.diffusion.settings import DiffusionSettings
from halberd.potentials.multi_ace.building import build
from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.sites.torchscript import default_dtype

#: Longest period of the waves that tell the noise level, in units of c_noise, and the ratio to the shortest.
_PERIOD, _RATIO = 16.0, 64.0
#: Where directions fade, in units of sigma_data when there is no noise.
_SOFTNESS = 0.1


class SoftHarmonics(torch.nn.Module):
    """Harmonics that fade where two atoms meet, and with them the jump of their direction there.

    Degree l is multiplied by ``(r / sqrt(r^2 + softness^2))^l``. Atoms of noisy molecules come as close as they like,
    and gradients of directions grow as 1 / r.

    Parameters
    ----------
    harmonics : module
        Gives (E, (l_max + 1)^2) of (E, 3).
    l_max : int
    softness : float
        Of a length, in units of vectors.
    """

    degrees: torch.Tensor

    def __init__(self, harmonics: torch.nn.Module, l_max: int, softness: float) -> None:
        super().__init__()
        self.harmonics, self.l_max, self.softness = harmonics, int(l_max), float(softness)
        degrees = [degree for degree in range(l_max + 1) for _ in range(2 * degree + 1)]
        self.register_buffer("degrees", torch.tensor(degrees))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Of vectors (E, 3)."""
        length = torch.linalg.vector_norm(vectors, dim=1)
        part = length / torch.sqrt(length.square() + self.softness**2)
        powers = [torch.ones_like(part)]
        for _ in range(self.l_max):
            powers.append(powers[-1] * part)
        return self.harmonics(vectors) * torch.stack(powers, dim=1).index_select(1, self.degrees)


class NoisyNetwork(MultiAce):
    """A scalar for every atom of noisy molecules.

    All atoms are of one species; their first features are a linear map of their elements, and what a small network
    makes of the noise level.

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
            edges: Any = self.edges
            edges.harmonics = SoftHarmonics(edges.harmonics, settings.max_ell, _SOFTNESS)
            half = settings.noise_functions // 2
            periods = _PERIOD * _RATIO ** -(torch.arange(half) / max(half - 1, 1))
            self.register_buffer("waves", 2.0 * math.pi / periods)
            self.of_noise = torch.nn.Sequential(
                torch.nn.Linear(settings.noise_functions, settings.noise_width),
                torch.nn.SiLU(),
                torch.nn.Linear(settings.noise_width, channels),
            )
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
        phases = noise.unsqueeze(1) * self.waves
        told = self.of_noise(torch.cat([torch.sin(phases), torch.cos(phases)], dim=1))
        return [(elements @ self.embedding + told).unsqueeze(1)]
