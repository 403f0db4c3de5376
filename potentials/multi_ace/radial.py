"""From distances to the weights of paths: bases, cutoffs, transforms, and the networks on top of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch

#: ``1 / sqrt(E[f(z)^2])`` for normal z, for SiLU and tanh, as e3nn estimates it from a million numbers: networks are
#: trained with these digits, and some files do not hold them.
SILU = 1.6791767923989418
TANH = 1.5937334472592695
#: q, p and a of the Agnesi transform, and alpha of the soft one, as MACE has them.
AGNESI = (0.9183, 4.5791, 1.0805)
SOFT = 4.0
#: Amplitudes and decays of the universal screening function, as MACE has them.
SCREENING = (0.1818, 0.5099, 0.2802, 0.02817)
_DECAYS = (3.2, 0.9423, 0.4028, 0.2016)


def polynomial_cutoff(r: torch.Tensor, cutoff: float, power: int) -> torch.Tensor:
    """Envelope of Gasteiger et al. (arXiv 2003.03123, eq. 8): 1 at zero, 0 with two derivatives at the cutoff."""
    x = r / cutoff
    p = float(power)
    envelope = (
        1.0
        - 0.5 * (p + 1.0) * (p + 2.0) * x**power
        + p * (p + 2.0) * x ** (power + 1)
        - 0.5 * p * (p + 1.0) * x ** (power + 2)
    )
    return torch.where(x < 1.0, envelope, torch.zeros_like(envelope))


def xplor_cutoff(r: torch.Tensor, cutoff: float, onset: float) -> torch.Tensor:
    """Envelope of X-PLOR: 1 up to the onset, 0 with one derivative at the cutoff."""
    squared, outer, inner = r * r, cutoff * cutoff, onset * onset
    falling = (outer - squared) ** 2 * (outer + 2.0 * squared - 3.0 * inner) / (outer - inner) ** 3
    inside = torch.where(r < onset, torch.ones_like(r), falling)
    return torch.where(r < cutoff, inside, torch.zeros_like(r))


def by_kind(
    zeros: torch.Tensor, kinds: torch.Tensor, n_kinds: int, rows_of: Callable[[int, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Rows that are computed for those of each kind at once.

    Parameters
    ----------
    zeros : tensor, shape (N, ...)
        Of the shape of the result.
    kinds : tensor, int, shape (N,)
    n_kinds : int
    rows_of : callable
        Takes a kind and the indices of its rows, returns these.
    """
    for number in range(n_kinds):
        own = torch.nonzero(kinds == number).squeeze(1)
        zeros = zeros.index_add(0, own, rows_of(number, own))
    return zeros


class RadialBasis(torch.nn.Module):
    """Functions of the distance.

    Parameters
    ----------
    kind : {'bessel', 'chebyshev', 'gaussian'}
        ``sqrt(2 / cutoff) sin(k r) / r`` with ``k = n pi / cutoff``; ``T_n(r)`` of a transformed distance; Gaussians.
    n_functions : int
    cutoff : float, angstrom
    trainable : bool
        Whether the wave numbers of Bessel functions are trained.

    Attributes
    ----------
    prefactor : float
        Of Bessel functions.
    """

    numbers: torch.Tensor

    def __init__(self, kind: str, n_functions: int, cutoff: float, trainable: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.cutoff = float(cutoff)
        self.prefactor = math.sqrt(2.0 / cutoff)
        self.width = float(cutoff) / max(n_functions - 1, 1)
        self.n_functions = n_functions
        numbers = torch.arange(1, n_functions + 1, dtype=torch.get_default_dtype())
        if kind == "bessel":
            numbers = numbers * (math.pi / cutoff)
        elif kind == "gaussian":
            numbers = (numbers - 1.0) * self.width
        if trainable:
            self.numbers = torch.nn.Parameter(numbers)
        else:
            self.register_buffer("numbers", numbers)

    def forward(self, r: torch.Tensor) -> torch.Tensor:
        """Values (E, B) at distances (E, 1), angstrom, or at transformed ones."""
        if self.kind == "bessel":
            return self.prefactor * torch.sin(self.numbers * r) / r
        if self.kind == "gaussian":
            return torch.exp(-0.5 * ((r - self.numbers) / self.width) ** 2)
        # By recursion: torch's own polynomials have no second derivative.
        values = [torch.ones_like(r), r]
        for _ in range(1, self.n_functions):
            values.append(2.0 * r * values[-1] - values[-2])
        return torch.cat(values[1:], dim=1)


class DistanceTransform(torch.nn.Module):
    """Distances in units of bonds, before the basis sees them.

    ``agnesi`` is ``1 / (1 + a x^q / (1 + x^(q - p)))`` with ``x = r / r0`` (Witt et al., J. Chem. Phys. 159, 164101
    (2023)); ``soft`` clamps distances below three quarters of ``r0``.

    Parameters
    ----------
    kind : {'agnesi', 'soft'}
    lengths : array-like, shape (S, S), angstrom
        ``r0`` of every pair.
    parameters : sequence of float
        ``(q, p, a)``, or ``(alpha,)``.
    """

    lengths: torch.Tensor
    parameters_: torch.Tensor

    def __init__(self, kind: str, lengths: torch.Tensor, parameters: Sequence[float]) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("lengths", torch.as_tensor(lengths, dtype=torch.get_default_dtype()))
        self.register_buffer("parameters_", torch.tensor([float(each) for each in parameters]))

    def forward(self, r: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Transformed distances (E, 1) of edges between species (E,) and (E,)."""
        r0 = self.lengths[first, second].unsqueeze(1)
        if self.kind == "agnesi":
            q, p, a = self.parameters_[0], self.parameters_[1], self.parameters_[2]
            x = r / r0
            return 1.0 / (1.0 + a * torch.pow(x, q) / (1.0 + torch.pow(x, q - p)))
        low, high = 0.75 * r0, (4.0 / 3.0) * r0
        step = 0.5 * (1.0 + torch.tanh(self.parameters_[0] / (high - low) * (r - 0.5 * (low + high))))
        return low + (r - low) * step


class ScaledLayers(torch.nn.Module):
    """Linear maps scaled to keep unit variance, with SiLU between them.

    Parameters
    ----------
    widths : sequence of int
        From input to output; two of them make a linear map.
    activation : {'silu', 'none'}
    constant : float
        ``1 / sqrt(E[silu(z)^2])`` for normal z.

    Attributes
    ----------
    bias : tensor, or None
        Added after the first map.
    """

    def __init__(self, widths: Sequence[int], activation: str = "silu", constant: float = SILU) -> None:
        super().__init__()
        self.activation = activation
        self.constant = float(constant)
        shapes = list(itertools.pairwise(widths))
        self.scales = [1.0 / math.sqrt(fan_in) for fan_in, _ in shapes]
        self.weights = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(shape)) for shape in shapes])
        self.bias: torch.nn.Parameter | None = None

    def mapped(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., inputs) to (..., outputs)."""
        return self._map(self._activated(x), len(self.weights) - 1)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """What the last map is linear in."""
        return self._constant(len(self.weights) - 1) * self._activated(x)

    def _activated(self, x: torch.Tensor) -> torch.Tensor:
        for number in range(len(self.weights) - 1):
            x = self._map(x, number)
            if self.activation == "silu":
                x = torch.nn.functional.silu(x)
        return x

    def _constant(self, number: int) -> float:
        """That what goes into a map is still to be multiplied by."""
        return self.constant if number > 0 and self.activation == "silu" else 1.0

    def _map(self, x: torch.Tensor, number: int) -> torch.Tensor:
        # Factors go to the weights, of which there are fewer than rows and their gradients.
        factor = self.scales[number] * self._constant(number)
        weight = self.weights[number]
        x = torch.matmul(x, weight if factor == 1.0 else factor * weight)
        return x + self.bias if number == 0 and self.bias is not None else x


class Perceptron(ScaledLayers):
    """Weights of paths from the basis, whatever the species."""

    def forward(self, x: torch.Tensor, centre: torch.Tensor, neighbour: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Map (E, inputs) to (E, outputs)."""
        return self.mapped(x)


class EmbeddedPerceptron(torch.nn.Module):
    """Layers with biases, normalised before SiLU, that also read embeddings of both species.

    Parameters
    ----------
    widths : sequence of int
        From input to output; the inputs are the basis, then the embedding of the neighbour, then of the centre.
    n_species, n_embedding : int
        Shape of the tables ``of_neighbour`` and ``of_centre``.
    """

    def __init__(self, widths: Sequence[int], n_species: int, n_embedding: int) -> None:
        super().__init__()
        layers: list[torch.nn.Module] = []
        for number, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            layers.append(torch.nn.Linear(fan_in, fan_out))
            if number < len(widths) - 2:
                layers += [torch.nn.LayerNorm(fan_out), torch.nn.SiLU()]
        self.net = torch.nn.Sequential(*layers)
        self.of_neighbour = torch.nn.Parameter(1e-3 * (2.0 * torch.rand(n_species, n_embedding) - 1.0))
        self.of_centre = torch.nn.Parameter(1e-3 * (2.0 * torch.rand(n_species, n_embedding) - 1.0))

    def forward(self, x: torch.Tensor, centre: torch.Tensor, neighbour: torch.Tensor) -> torch.Tensor:
        """Map (E, basis) to (E, outputs), given the species of both ends."""
        known = [x, self.of_neighbour.index_select(0, neighbour), self.of_centre.index_select(0, centre)]
        return torch.as_tensor(self.net(torch.cat(known, dim=1)))


class SpeciesLinear(torch.nn.Module):
    """A linear map of the basis for every species of the neighbour, or every ordered pair of species.

    Parameters
    ----------
    n_inputs, n_outputs : int
    n_species : int
    of_pairs : bool
        Centre and neighbour, instead of the neighbour alone.
    """

    def __init__(self, n_inputs: int, n_outputs: int, n_species: int, of_pairs: bool = False) -> None:
        super().__init__()
        self.n_species = n_species
        self.of_pairs = of_pairs
        self.n_outputs = n_outputs
        self.n_kinds = n_species * n_species if of_pairs else n_species
        self.scale = 1.0 / math.sqrt(n_inputs)
        self.weight = torch.nn.Parameter(torch.randn(self.n_kinds, n_inputs, n_outputs))

    def forward(self, x: torch.Tensor, centre: torch.Tensor, neighbour: torch.Tensor) -> torch.Tensor:
        """Map (E, inputs) to (E, outputs), given the species of both ends."""
        which = centre * self.n_species + neighbour if self.of_pairs else neighbour
        zeros = x.new_zeros(x.shape[0], self.n_outputs)
        weight = self.scale * self.weight
        return by_kind(zeros, which, self.n_kinds, lambda n, own: torch.matmul(x[own], weight[n]))


class PairRepulsion(torch.nn.Module):
    """Screened nuclear repulsion with an envelope that ends at a bond length, halved for the site (ZBL).

    Parameters
    ----------
    numbers : sequence of int
        Atomic numbers of the species.
    lengths : array-like, shape (S, S), angstrom
        Where it ends.
    power : int
        Of the envelope.
    exponent, prefactor : float
        Of the screening length.
    amplitudes : sequence of 4 floats
        Of the screening function.
    """

    charges: torch.Tensor
    lengths: torch.Tensor

    def __init__(
        self,
        numbers: Sequence[int],
        lengths: torch.Tensor,
        power: int,
        exponent: float = 0.300,
        prefactor: float = 0.4543,
        *,
        amplitudes: Sequence[float] = SCREENING,
    ) -> None:
        super().__init__()
        self.amplitudes = [float(each) for each in amplitudes]
        self.power = int(power)
        self.exponent = float(exponent)
        self.prefactor = float(prefactor) * 0.529
        self.register_buffer("charges", torch.tensor([float(z) for z in numbers]))
        self.register_buffer("lengths", torch.as_tensor(lengths, dtype=torch.get_default_dtype()))

    def forward(self, r: torch.Tensor, centre: torch.Tensor, neighbour: torch.Tensor) -> torch.Tensor:
        """Energy (E, 1), eV, that an edge adds to its centre."""
        first, second = self.charges[centre].unsqueeze(1), self.charges[neighbour].unsqueeze(1)
        length = self.prefactor / (torch.pow(first, self.exponent) + torch.pow(second, self.exponent))
        x = r / length
        screening = torch.zeros_like(x)
        for amplitude, decay in zip(self.amplitudes, _DECAYS, strict=True):
            screening = screening + amplitude * torch.exp(-decay * x)
        ends = self.lengths[centre, neighbour].unsqueeze(1)
        return 0.5 * 14.3996 * first * second / r * screening * polynomial_cutoff(r / ends, 1.0, self.power)
