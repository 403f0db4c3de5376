"""How a network is scaled so that what it has to learn is of size one at every noise level.

Of a molecule with noise of standard deviation ``sigma``, a denoiser says what it was without it, ``D = c_skip x +
c_out F(c_in x; c_noise)`` (Karras et al., NeurIPS 2022, arXiv 2206.00364, eq. 7). Here F is the gradient of a scalar,
and so is the score ``(D - x) / sigma^2``, see :mod:`halberd.potentials.diffusion.model`.

| | ``edm`` | ``iddpm`` |
| --- | --- | --- |
| c_skip | sd^2 / (sigma^2 + sd^2) | 1 |
| c_out | sigma sd / sqrt(sigma^2 + sd^2) | sigma |
| c_in | 1 / sqrt(sigma^2 + sd^2) | 1 / sqrt(sigma^2 + sd^2) |
| c_noise | ln(sigma) / 4 | ln(sigma) |

(their table 1, with lengths in units of the standard deviation of the data, sd.) Without noise both give the molecule
back, whatever F is. With much of it, ``edm`` forgets x and F says all; with ``iddpm`` F has to say how to go back.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.validation import conform


@dataclasses.dataclass(frozen=True)
class Preconditioning:
    """The four functions of the noise level.

    Parameters
    ----------
    kind : {'edm', 'iddpm'}
    sigma_data : float, angstrom
        Standard deviation of the coordinates of molecules whose centre is at the origin.

    Raises
    ------
    ConfigurationError
        If it is not positive.
    """

    kind: Literal["edm", "iddpm"]
    sigma_data: float

    def __post_init__(self) -> None:
        conform(self)
        if not self.sigma_data > 0:
            raise ConfigurationError(f"sigma_data is {self.sigma_data}; it must be positive.")

    def skip(self, sigma: torch.Tensor) -> torch.Tensor:
        """c_skip: how much of the noisy molecule is kept."""
        if self.kind == "iddpm":
            return torch.ones_like(sigma)
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def rest(self, sigma: torch.Tensor) -> torch.Tensor:
        """(1 - c_skip) / sigma^2, without loss of digits at low noise; 1/angstrom^2."""
        if self.kind == "iddpm":
            return torch.zeros_like(sigma)
        return 1.0 / (sigma**2 + self.sigma_data**2)

    def out(self, sigma: torch.Tensor) -> torch.Tensor:
        """c_out: the size of what is learnt, angstrom."""
        if self.kind == "iddpm":
            return sigma
        return sigma * self.sigma_data * torch.rsqrt(sigma**2 + self.sigma_data**2)

    def into(self, sigma: torch.Tensor) -> torch.Tensor:
        """c_in: brings noisy molecules to one size, 1/angstrom."""
        return torch.rsqrt(sigma**2 + self.sigma_data**2)

    def noise(self, sigma: torch.Tensor) -> torch.Tensor:
        """c_noise: what the network is told of the noise level."""
        return torch.log(sigma) * (0.25 if self.kind == "edm" else 1.0)
