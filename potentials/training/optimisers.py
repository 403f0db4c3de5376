"""Optimisers and schedules of learning rates: torch's, for the weights of a network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.training.settings import TrainingSettings

#: Weights of messages and products, as in Batatia et al., arXiv 2206.07697.
_DECAYED = re.compile(r"layers\.\d+\.(down|product|update)\.")


def trained_weights(network: MultiAce, frozen: Sequence[str]) -> list[str]:
    """Names of the weights that are trained.

    Raises
    ------
    ConfigurationError
        If nothing is frozen by a name, or everything by all of them.
    """
    names = [name for name, _ in network.named_parameters()]
    for beginning in frozen:
        if not any(_begins(name, beginning) for name in names):
            parts = sorted({name.partition(".")[0] for name in names})
            raise ConfigurationError(f"No weights are called '{beginning}...'; there are {', '.join(parts)}.")
    trained = [name for name in names if not any(_begins(name, beginning) for beginning in frozen)]
    if not trained:
        raise ConfigurationError("All weights are frozen; there is nothing to train.")
    for name, weight in network.named_parameters():
        weight.requires_grad_(name in trained)
    return trained


def _begins(name: str, beginning: str) -> bool:
    return name == beginning or name.startswith(beginning.rstrip(".") + ".")


def optimiser_of(weights: Mapping[str, torch.Tensor], settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser of weights by their names in a network, which tell whether they decay."""
    decayed = [weight for name, weight in weights.items() if _DECAYED.match(name)]
    others = [weight for name, weight in weights.items() if not _DECAYED.match(name)]
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((decayed, settings.weight_decay), (others, 0.0))
        if params
    ]
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=settings.rate())
    return torch.optim.Adam(groups, lr=settings.rate(), amsgrad=settings.optimiser == "amsgrad")


def schedule_of(
    optimiser: torch.optim.Optimizer, settings: TrainingSettings
) -> torch.optim.lr_scheduler.LRScheduler | torch.optim.lr_scheduler.ReduceLROnPlateau | None:
    """What lowers its learning rate, once per epoch."""
    schedule = settings.schedule
    if schedule.kind == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=schedule.factor, patience=schedule.patience)
    if schedule.kind == "exponential":
        return torch.optim.lr_scheduler.ExponentialLR(optimiser, schedule.factor)
    if schedule.kind == "cosine":
        lowest = schedule.factor * settings.rate()
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs, eta_min=lowest)
    return None
