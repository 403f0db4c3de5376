"""Watching the uncertainty of a run: settings, and the guard they make."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from halberd.plugins.reporters.uncertainty_guard import ACTIONS, QUANTITIES, UncertaintyGuard
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.loading import ModelSource
from halberd.potentials.validation import conform


@dataclasses.dataclass(frozen=True)
class WatchSettings:
    """How a run is watched; see :class:`halberd.plugins.reporters.uncertainty_guard.UncertaintyGuard`.

    Attributes
    ----------
    interval : int
        Steps between looks at the model's uncertainty.
    quantity : {'max_f', 'sigma_per_atom'}
    threshold : float, optional
        Above it something is done; without one, values are only logged.
    action : {'warn', 'save', 'stop'}
        What to do above the threshold.
    model : str or list of str, optional
        The committee to ask; the run's own model if omitted.

    Raises
    ------
    ConfigurationError
        Names the value that makes no sense.
    """

    interval: int
    quantity: str = "max_f"
    threshold: float | None = None
    action: str = "warn"
    model: str | list[str] | None = None

    def __post_init__(self) -> None:
        conform(self)
        for name, known in (("action", ACTIONS), ("quantity", QUANTITIES)):
            if getattr(self, name) not in known:
                raise ConfigurationError(
                    f"{name} of watch is '{getattr(self, name)}'; it must be one of {', '.join(known)}."
                )
        if not isinstance(self.interval, int) or isinstance(self.interval, bool) or self.interval < 1:
            raise ConfigurationError(
                f"interval of watch is {self.interval!r}; it must be a whole number of at least 1."
            )

    def guard(self, model: ModelSource, log: Path, frames: Path, append: bool) -> UncertaintyGuard:
        """The reporter that watches.

        Parameters
        ----------
        model : ModelSource
            What drives the run, asked if there is no ``model`` here.
        log, frames : path
            Files of values and of frames.
        append : bool
            Continue existing files.
        """
        return UncertaintyGuard(
            self.model or model,
            self.interval,
            self.threshold,
            quantity=self.quantity,
            action=self.action,
            file=log,
            frames=frames,
            append=append,
        )
