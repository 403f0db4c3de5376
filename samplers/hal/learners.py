"""The learner of a run."""

from __future__ import annotations

from collections.abc import Sequence

from halberd.samplers.hal.learning import Learner
from halberd.samplers.hal.linear_learner import LinearLearner
from halberd.samplers.hal.network_learner import NetworkLearner
from halberd.samplers.hal.settings import HALSettings


def learner_for(settings: HALSettings, elements: Sequence[int]) -> Learner:
    """Of the kind that the settings name, for structures of some elements."""
    if settings.model.kind == "multi_ace":
        return NetworkLearner(settings.model, elements, settings.seed, settings.threads)
    return LinearLearner(settings.model, elements, settings.seed)
