"""Settings of biased molecular dynamics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from halberd.potentials.committees.bias import check_bias
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.validation import HOTTEST, conform
from halberd.samplers.hal.monte_carlo import CELL_MOVES
from halberd.samplers.hal.tau_control import AVERAGES, check_tau_rel

INTEGRATORS = ("langevin_middle", "langevin", "nose_hoover", "brownian")
CRITERIA = ("max", "softmax")


@dataclasses.dataclass(frozen=True)
class BiasedSettings:
    """Everything that defines a biased run but the model and the start.

    Pairs of numbers are ramps: linear in the step from the first to the second.

    Attributes
    ----------
    steps : int
    timestep : float, fs
    temperature : float or pair, K
    integrator : {'langevin_middle', 'langevin', 'nose_hoover', 'brownian'}
    friction : float, 1/ps
    tau_rel : float or pair
        Ratio of bias force to force; 0 is plain MD.
    tau_history, tau_burn_in : int, steps
    tau_averaging : {'exponential', 'window'}
        See :class:`halberd.samplers.hal.tau_control.TauController`.
    bias : {'sigma', 'exponential'}
    bias_width : float, eV
        B of the exponential form, which is bounded: where sigma is far beyond ``B sqrt(N)`` it has no force any more,
        whatever ``tau_rel``.
    check_interval : int, steps
        Between looks at the committee.
    tolerance : float
        A frame whose relative force uncertainty exceeds it is selected.
    criterion : {'max', 'softmax'}
        The largest ``f_i``, or the largest ``exp(f_i) / sum_j exp(f_j)``.
    epsilon : float, eV/angstrom
    deviation : {'rms', 'mean'}
        See :func:`halberd.potentials.committees.disagreement.disagreement`.
    stop_at_trigger : bool
        Whether the run ends at the first selected frame, or goes on with that frame kept.
    keep_last : bool
        Whether the last frame is selected when none was uncertain.
    pressure : float or pair, bar
        For cell moves.
    cell_move : {'none', 'isotropic', 'shape'}
    cell_interval : int, steps
    cell_amplitude : float, optional
    swap_interval : int, steps
        Between swaps of unlike atoms; 0 for none.
    min_distance : float or mapping, optional
        See :class:`halberd.potentials.frames.distance_guard.DistanceGuard`.
    volume_range : pair of float
        The run stops when the volume leaves this range, in units of the first.
    checkpoint_interval : int, steps
    platform, device_index : str, optional
        Of OpenMM.

    Raises
    ------
    ConfigurationError
        Names the value that makes no sense.
    """

    steps: int = 2000
    timestep: float = 1.0
    temperature: float | tuple[float, float] = 300.0
    integrator: str = "langevin_middle"
    friction: float = 10.0
    tau_rel: float | tuple[float, float] = 0.2
    tau_history: int = 100
    tau_burn_in: int | None = None
    tau_averaging: str = "exponential"
    bias: str = "sigma"
    bias_width: float = 0.1
    check_interval: int = 10
    tolerance: float = 0.3
    criterion: str = "max"
    epsilon: float = 0.2
    deviation: str = "rms"
    stop_at_trigger: bool = True
    keep_last: bool = False
    pressure: float | tuple[float, float] = 1.0
    cell_move: str = "none"
    cell_interval: int = 10
    cell_amplitude: float | None = None
    swap_interval: int = 0
    min_distance: float | Mapping[str, float] | None = None
    volume_range: float | tuple[float, float] = (0.5, 2.0)
    checkpoint_interval: int = 1000
    platform: str | None = "CPU"
    device_index: str | None = None

    def __post_init__(self) -> None:
        conform(self)
        choices = {
            "integrator": INTEGRATORS,
            "tau_averaging": AVERAGES,
            "criterion": CRITERIA,
            "deviation": ("rms", "mean"),
            "cell_move": CELL_MOVES,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigurationError(f"{name} is '{getattr(self, name)}'; it must be one of {', '.join(known)}.")
        for name in ("steps", "tau_history", "check_interval", "cell_interval", "checkpoint_interval"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be 1 step or more.")
        for name in ("timestep", "friction", "epsilon"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be positive.")
        if self.swap_interval < 0 or (self.tau_burn_in or 0) < 0:
            raise ConfigurationError("swap_interval and tau_burn_in must not be negative.")
        limit = 1.0 if self.criterion == "softmax" else 10.0
        if not 0.0 < self.tolerance < limit:
            raise ConfigurationError(
                f"tolerance is {self.tolerance}; with criterion '{self.criterion}' it must lie between 0 "
                f"and {limit:g}. 0.2 to 0.4 is usual for 'max'."
            )
        for value in ends(self.tau_rel):
            check_tau_rel(value)
        if not 0 < min(ends(self.temperature)) <= max(ends(self.temperature)) <= HOTTEST:
            raise ConfigurationError(f"temperature is {self.temperature} K; it must be positive, {HOTTEST:g} at most.")
        low, high = ends(self.volume_range)
        if not 0 < low < 1 < high:
            raise ConfigurationError(f"volume_range is {self.volume_range}; it must be two numbers around 1.")
        check_bias(self.bias, self.bias_width)

    def at(self, name: str, step: int) -> float:
        """Value of a ramped setting at a step."""
        first, last = ends(getattr(self, name))
        return float(first + (last - first) * np.clip(step / self.steps, 0.0, 1.0))

    @property
    def stride(self) -> int:
        """Steps the engine may take between things that happen outside of it."""
        intervals = [self.check_interval, self.checkpoint_interval]
        intervals += [self.cell_interval] if self.cell_move != "none" else []
        intervals += [self.swap_interval] if self.swap_interval else []
        return int(np.gcd.reduce(intervals))


def ends(value: float | tuple[float, float]) -> tuple[float, float]:
    """First and last value of a ramp."""
    return (value[0], value[1]) if isinstance(value, (tuple, list)) else (value, value)
