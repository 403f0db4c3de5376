"""What an optimiser steps: the weights of a network, copies of them in double, or factors of their changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from halberd.potentials.errors import ConfigurationError

#: What a network is computed in, and what is summed, compared with labels and stepped, by the precision's name.
DTYPES = {
    "single": (torch.float32, torch.float32),
    "double": (torch.float64, torch.float64),
    "mixed": (torch.float32, torch.float64),
}


class Whole:
    """A weight that is stepped as it is, or as a copy of another precision.

    Parameters
    ----------
    weight : torch.Tensor
    dtype : torch.dtype
        Of what is stepped.

    Attributes
    ----------
    tensors : dict of str to torch.Tensor
        What is stepped, by what its name adds to the weight's.
    """

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype) -> None:
        self.weight = weight
        self.apart = weight.dtype != dtype
        self.own = weight.detach().to(dtype).clone().requires_grad_() if self.apart else weight
        self.tensors = {"": self.own}

    def take_gradient(self) -> None:
        """Hand the gradient over to what is stepped."""
        if self.apart:
            self.own.grad = None if self.weight.grad is None else self.weight.grad.to(self.own.dtype)
            self.weight.grad = None

    def value(self) -> torch.Tensor:
        """The weight, in the precision of what is stepped."""
        return self.own.detach()


class LowRank:
    """A matrix of which only a change of low rank is stepped, ``W = W0 + A B / sqrt(rank)``, one for each in a stack.

    Hu et al., arXiv 2106.09685, section 4.1. B begins with zeros, and so W with W0; A with normal numbers, so that the
    first step of B changes entries of W by as much as a step of W would.

    Parameters
    ----------
    weight : torch.Tensor, shape (..., m, n)
    dtype : torch.dtype
    rank : int
    generator : torch.Generator
    """

    apart = True

    def __init__(self, weight: torch.Tensor, dtype: torch.dtype, rank: int, generator: torch.Generator) -> None:
        self.weight = weight
        self.start = weight.detach().to(dtype).clone()
        *stack, rows, columns = weight.shape
        left = torch.randn((*stack, rows, rank), generator=generator, dtype=torch.float64)
        self.left = left.to(self.start).requires_grad_()
        self.right = self.start.new_zeros((*stack, rank, columns)).requires_grad_()
        self.scale = 1.0 / math.sqrt(rank)
        self.tensors = {".left": self.left, ".right": self.right}

    def take_gradient(self) -> None:
        """Of both factors, from that of the weight."""
        gradient = self.weight.grad
        if gradient is not None:
            gradient = self.scale * gradient.to(self.left.dtype)
            self.left.grad = gradient @ self.right.detach().mT
            self.right.grad = self.left.detach().mT @ gradient
        else:
            self.left.grad = self.right.grad = None
        self.weight.grad = None

    def value(self) -> torch.Tensor:
        """The weight, in the precision of what is stepped."""
        return self.start + self.scale * (self.left.detach() @ self.right.detach())


class Stepped:
    """Weights that an optimiser steps, of those that a network computes with.

    They are the same tensors unless they differ in precision or are of low rank. What is stepped in double keeps steps
    that are too small for single-precision weights to show (Micikevicius et al., arXiv 1710.03740, section 3.1).

    Parameters
    ----------
    weights : mapping of str to torch.Tensor
        Of the network, by name.
    dtype : torch.dtype
        Of what is stepped.
    rank : int, optional
        Of the changes of weights that are matrices, see :class:`LowRank`; those that have no more numbers than the two
        factors together are stepped whole.
    seed : int
        Of the factors.

    Raises
    ------
    ConfigurationError
        If the rank is so large that every weight is stepped whole.

    Attributes
    ----------
    weights : list of torch.Tensor
        Of the network.
    named : dict of str to torch.Tensor
        What is stepped, by names that begin with those of the weights.
    """

    def __init__(
        self, weights: Mapping[str, torch.Tensor], dtype: torch.dtype, rank: int | None = None, seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weights = list(weights.values())
        self._parts = [
            LowRank(weight, dtype, rank, generator)
            if rank is not None and weight.dim() > 1 and rank * sum(weight.shape[-2:]) < math.prod(weight.shape[-2:])
            else Whole(weight, dtype)
            for weight in self.weights
        ]
        if rank is not None and not any(isinstance(part, LowRank) for part in self._parts):
            raise ConfigurationError(
                f"lora_rank is {rank}: no matrix of this network has more numbers than two factors of that rank, and "
                "all would be trained whole. Take a smaller one, or leave it out."
            )
        self.apart = any(part.apart for part in self._parts)
        self.named = {
            name + ending: tensor
            for name, part in zip(weights, self._parts, strict=True)
            for ending, tensor in part.tensors.items()
        }

    @property
    def tensors(self) -> list[torch.Tensor]:
        """What is stepped."""
        return list(self.named.values())

    def take_gradients(self) -> None:
        """Hand the gradients of the network's weights over to what is stepped."""
        for part in self._parts:
            part.take_gradient()

    @torch.no_grad()
    def values(self) -> list[torch.Tensor]:
        """The network's weights, in the precision of what is stepped."""
        return [part.value() for part in self._parts]

    @torch.no_grad()
    def give_weights(self) -> list[torch.Tensor]:
        """Round what was stepped into the network's weights; returns :meth:`values`."""
        values = self.values()
        if self.apart:
            torch._foreach_copy_(self.weights, values)
        return values

    @torch.no_grad()
    def set_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Go on from what was stepped before."""
        for own, other in zip(self.tensors, tensors, strict=True):
            own.copy_(other)
        self.give_weights()
