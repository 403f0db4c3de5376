"""Precisions of a training: in single, in double, or computed in single and stepped in double."""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: What a network is computed in, and what is summed, compared with labels and stepped, by the precision's name.
DTYPES = {
    "single": (torch.float32, torch.float32),
    "double": (torch.float64, torch.float64),
    "mixed": (torch.float32, torch.float64),
}


class Stepped:
    """Weights that an optimiser steps, of those that a network computes with.

    They are the same tensors unless they differ in precision: then what is stepped is a copy, which keeps steps that
    are too small for the network's weights to show (Micikevicius et al., arXiv 1710.03740, section 3.1).

    Parameters
    ----------
    weights : sequence of tensors
        Of the network.
    dtype : torch.dtype
        Of what is stepped.

    Attributes
    ----------
    tensors : list of tensors
        What is stepped.
    """

    def __init__(self, weights: Sequence[torch.Tensor], dtype: torch.dtype) -> None:
        self.weights = list(weights)
        self.apart = any(weight.dtype != dtype for weight in self.weights)
        self.tensors = (
            [weight.detach().to(dtype).clone().requires_grad_() for weight in self.weights]
            if self.apart
            else self.weights
        )

    def take_gradients(self) -> None:
        """Hand the gradients of the network's weights over to what is stepped."""
        if self.apart:
            for stepped, weight in zip(self.tensors, self.weights, strict=True):
                stepped.grad = None if weight.grad is None else weight.grad.to(stepped.dtype)
                weight.grad = None

    @torch.no_grad()
    def give_weights(self) -> None:
        """Round what was stepped into the network's weights."""
        if self.apart:
            torch._foreach_copy_(self.weights, [tensor.detach() for tensor in self.tensors])

    @torch.no_grad()
    def set_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Go on from what was stepped before."""
        for own, other in zip(self.tensors, tensors, strict=True):
            own.copy_(other)
        self.give_weights()
