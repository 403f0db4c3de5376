"""Exponential moving averages of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from halberd.potentials.training.precision import Stepped


class MovingAverage:
    """Averages of weights over the steps of a training, ``a <- d a + (1 - d) w`` with d = min(decay, (1+n) / (10+n)).

    The decay grows with the number of steps n, so that the first weights are soon forgotten.

    Parameters
    ----------
    stepped : Stepped
        What is averaged are the weights that are stepped, in their precision.
    decay : float
    """

    def __init__(self, stepped: Stepped, decay: float) -> None:
        self.stepped = stepped
        self.decay = float(decay)
        self.n_steps = 0
        self.averages = [weight.clone() for weight in stepped.values()]

    @torch.no_grad()
    def update(self, values: list[torch.Tensor] | None = None) -> None:
        """After a step of the optimiser, to values of the weights that are known by then, if they are."""
        self.n_steps += 1
        decay = min(self.decay, (1.0 + self.n_steps) / (10.0 + self.n_steps))
        torch._foreach_lerp_(self.averages, self.stepped.values() if values is None else values, 1.0 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The averages in place of the network's weights, for a while."""
        with torch.no_grad():
            before = [weight.detach().clone() for weight in self.stepped.weights]
            for weight, average in zip(self.stepped.weights, self.averages, strict=True):
                weight.copy_(average)
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, old in zip(self.stepped.weights, before, strict=True):
                    weight.copy_(old)

    def get_state(self) -> dict[str, object]:
        """Everything that :meth:`set_state` takes."""
        return {"n_steps": self.n_steps, "averages": [average.clone() for average in self.averages]}

    def set_state(self, state: dict[str, object]) -> None:
        """Go on from what :meth:`get_state` gave."""
        averages = state["averages"]
        assert isinstance(averages, list)
        self.n_steps = int(state["n_steps"])  # type: ignore[call-overload]
        for own, other in zip(self.averages, averages, strict=True):
            own.copy_(other)
