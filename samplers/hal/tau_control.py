"""The bias strength of hyperactive learning, adapted so that the bias force is a given fraction of the real one."""

from __future__ import annotations

from collections import deque
from typing import Any

from halberd.potentials.errors import ConfigurationError

AVERAGES = ("exponential", "window")


class TauController:
    """``tau = tau_rel <mF> / <mS>``, with running averages of the mean force and of that of a bias with tau 1.

    Parameters
    ----------
    tau_rel : float
        Wanted ratio of bias force to force, 0 to 1; 0.1 to 0.3 is usual.
    history : int, steps
        Memory of the averages.
    burn_in : int, steps, optional
        tau is 0 up to this step; ``history`` if omitted.
    averaging : {'exponential', 'window'}
        Exponential averages with mixing ``interval / history`` that start from the first value, or plain means over
        the last ``history`` steps.
    interval : int, steps
        Steps between updates.

    Raises
    ------
    ConfigurationError
        Names the value that makes no sense.

    Examples
    --------
    >>> controller = TauController(0.2, history=2, burn_in=1)
    >>> [controller.update(step, force, 0.5) for step, force in enumerate([1.0, 1.0, 2.0])]
    [0.0, 0.0, 0.6000000000000001]
    """

    def __init__(
        self,
        tau_rel: float,
        history: int = 100,
        burn_in: int | None = None,
        averaging: str = "exponential",
        interval: int = 1,
    ) -> None:
        check_tau_rel(tau_rel)
        if averaging not in AVERAGES:
            raise ConfigurationError(f"tau averaging is '{averaging}'; it must be 'exponential' or 'window'.")
        if history < 1 or interval < 1:
            raise ConfigurationError(f"tau history {history} and interval {interval} must be 1 step or more.")
        self.tau_rel = tau_rel
        self.burn_in = history if burn_in is None else burn_in
        self.averaging = averaging
        self._mixing = min(1.0, interval / history)
        self._values: deque[tuple[float, float]] = deque(maxlen=max(1, history // interval))
        self._means: tuple[float, float] | None = None

    def update(self, step: int, mean_force: float, mean_sigma_force: float) -> float:
        """Take in new values and return tau.

        Parameters
        ----------
        step : int
        mean_force : float, eV/angstrom
            ``mean_i |F_i|`` of the unbiased mean model.
        mean_sigma_force : float, eV/angstrom
            ``mean_i |grad_i u|`` of the bias ``-tau u``: of sigma itself, or times
            :func:`halberd.potentials.committees.bias.bias_slope`.

        Returns
        -------
        float
            0 up to the end of the burn-in, and where the committee does not disagree at all.
        """
        if self.averaging == "window":
            self._values.append((mean_force, mean_sigma_force))
            count = len(self._values)
            self._means = (sum(v[0] for v in self._values) / count, sum(v[1] for v in self._values) / count)
        elif self._means is None:
            self._means = (mean_force, mean_sigma_force)
        else:
            old = self._means
            self._means = (
                old[0] + self._mixing * (mean_force - old[0]),
                old[1] + self._mixing * (mean_sigma_force - old[1]),
            )
        if step <= self.burn_in or self._means[1] <= 0.0:
            return 0.0
        return self.tau_rel * self._means[0] / self._means[1]

    def get_state(self) -> dict[str, Any]:
        """Everything the next updates depend on; JSON-compatible."""
        return {"means": self._means, "values": list(self._values)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`get_state`."""
        self._means = None if state["means"] is None else (state["means"][0], state["means"][1])
        self._values.clear()
        self._values.extend((a, b) for a, b in state["values"])


def check_tau_rel(tau_rel: float) -> None:
    """Raise a ConfigurationError unless a relative bias strength makes sense."""
    if not 0.0 <= tau_rel <= 1.0:
        raise ConfigurationError(
            f"tau_rel is {tau_rel}; it is the ratio of bias force to real force, between 0 (plain MD) and 1. "
            "0.1 to 0.3 is usual."
        )
