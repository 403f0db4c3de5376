"""How wide a posterior must be to hold what it has not seen: frames left out in closed form, and a temperature.

A Bayesian ridge takes its family of functions to be right, so its posterior shrinks with every row; the errors of a
family that is too small do not. With the hat matrix ``H = X S X' / s^2`` of a frame's weighted rows X, covariance S of
the coefficients and noise s, leaving that frame out gives, without another fit,

- its residuals ``(1 - H)^-1 (y - X c)``,
- the covariance of its rows ``s^2 H (1 - H)^-1``.

The temperature is the one at which as many of these residuals are within their standard deviation as of a normal
distribution. Frames that resemble each other, along a trajectory say, are left out one by one: what is far from all of
them is not covered by that.

References
----------
.. [1] Grunwald and van Ommen, Bayesian Analysis 12, 1069 (2017): tempered likelihoods of models that are wrong.
.. [2] Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), 5.4.2: leaving out in closed form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from halberd.potentials.regression.linear_system import Posterior
from halberd.potentials.regression.weighted_rows import KINDS

#: Share of a normal distribution within one standard deviation.
WITHIN_ONE = 0.6827
#: Temperatures that are looked at.
_RANGE = (0.1, 1e10)
#: Bounds are moved by this factor, and the range between them is halved so often: to two hundredths.
_FACTOR, _HALVINGS = 4.0, 6
#: Fewer frames that are left out tell nothing of the spread.
FEWEST_FRAMES = 4
#: So many are enough, and of those with many atoms, so many that have so many rows.
MOST_FRAMES = 60
MANY_FRAMES, MANY_ROWS = 10, 6_000


class WeightedFrame(NamedTuple):
    """Rows of one frame.

    Attributes
    ----------
    rows : array, shape (n, M + 1)
        Weighted, with the targets in the last column.
    kinds : array of int, shape (n,)
        Which of ``KINDS`` each is of.
    units : array, shape (n,)
        What a weighted residual is multiplied by to be one of eV per atom, or eV/angstrom.
    """

    rows: NDArray[np.float64]
    kinds: NDArray[np.int64]
    units: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """What became of the labels of one kind in frames that were left out.

    Attributes
    ----------
    frames, labels : int
    mae, rmse : float
        Of energies and virials per atom, eV; of force components, eV/angstrom.
    rmse_error : float
        Standard error of ``rmse``, from the scatter between frames; ``None`` for a single one.
    within_one, within_two : float
        Share of labels within one and two standard deviations.
    """

    frames: int
    labels: int
    mae: float
    rmse: float
    rmse_error: float | None
    within_one: float
    within_two: float


class Calibration:
    """Frames that are left out of a fit one by one.

    Parameters
    ----------
    posterior : Posterior
        Of all frames, with a factor and noise.
    frames : sequence of WeightedFrame
        Some of those that were fitted.
    fitted : bool
        Whether the mean was fitted to the rows; if not, it is left as it is when a frame is left out.
    """

    def __init__(self, posterior: Posterior, frames: Sequence[WeightedFrame], fitted: bool = True) -> None:
        assert posterior.has_spread
        self.posterior = posterior
        self._frames = list(frames)
        self._seen = [posterior.seen(frame.rows[:, :-1]) for frame in frames]
        self._residuals = []
        for frame, seen in zip(frames, self._seen, strict=True):
            residual = frame.rows[:, -1] - frame.rows[:, :-1] @ posterior.mean
            if fitted:
                residual = _solved(self._hat(seen, 1.0), residual)
            self._residuals.append(residual)
        self.kinds = np.concatenate([frame.kinds for frame in frames])
        self.residuals = np.concatenate(self._residuals)

    def squares(self) -> NDArray[np.float64]:
        """Sum of the squared weighted residuals of every frame in a fit without it, shape (frames,)."""
        return np.array([float(residual @ residual) for residual in self._residuals])

    def _hat(self, seen: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
        noise, information = self.posterior.noise, self.posterior.information
        if information is None:
            return seen @ seen.T / noise**2
        return (seen / (1.0 + information / temperature)) @ seen.T / (temperature * noise**2)

    def deviations(self, temperature: float) -> NDArray[np.float64]:
        """Standard deviations of all rows in fits without their frame, at a temperature on top of the posterior's."""
        found = []
        for seen in self._seen:
            hat = self._hat(seen, temperature)
            found.append(np.diag(_solved(hat, hat)))
        noise = self.posterior.noise * np.sqrt(temperature)
        return noise * np.sqrt(np.maximum(np.concatenate(found), 0.0))

    def temperature(self) -> float:
        """At which the share of force components, or of energies without forces, is right."""
        kind = KINDS.index("forces") if (self.kinds == KINDS.index("forces")).any() else self.kinds.min()
        chosen = self.kinds == kind
        residuals = np.abs(self.residuals[chosen])
        # If all deviations grew alike:
        ratio = np.quantile(residuals / np.maximum(self.deviations(1.0)[chosen], 1e-300), WITHIN_ONE)
        first = float(np.clip(ratio**2, *_RANGE))
        if self.posterior.information is None:
            return first

        def covers(temperature: float) -> bool:
            return bool(np.mean(residuals <= self.deviations(temperature)[chosen]) >= WITHIN_ONE)

        low = high = first
        while low > _RANGE[0] and covers(low):
            high, low = low, low / _FACTOR
        while high < _RANGE[1] and not covers(high):
            low, high = high, high * _FACTOR
        for _ in range(_HALVINGS):
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if covers(middle) else (middle, high)
        return float(np.sqrt(low * high))

    def left_out(self, temperature: float) -> dict[str, LeftOut]:
        """Errors and coverage by kind of label, at a temperature on top of the posterior's."""
        deviations = self.deviations(temperature)
        units = np.concatenate([frame.units for frame in self._frames])
        owner = np.repeat(np.arange(len(self._frames)), [len(frame.rows) for frame in self._frames])
        report = {}
        for number, kind in enumerate(KINDS):
            chosen = self.kinds == number
            if not chosen.any():
                continue
            errors = np.abs(self.residuals * units)[chosen]
            per_frame = np.bincount(owner[chosen], errors**2) / np.maximum(np.bincount(owner[chosen]), 1)
            per_frame = per_frame[np.unique(owner[chosen])]
            rmse = float(np.sqrt(np.mean(errors**2)))
            error = 0.0 if len(per_frame) > 1 else None
            if len(per_frame) > 1 and rmse > 0:
                error = float(np.std(per_frame, ddof=1) / np.sqrt(len(per_frame))) / (2 * rmse)
            scores = np.abs(self.residuals)[chosen] / np.maximum(deviations[chosen], 1e-300)
            report[kind] = LeftOut(
                frames=len(per_frame),
                labels=int(chosen.sum()),
                mae=float(errors.mean()),
                rmse=rmse,
                rmse_error=error,
                within_one=float((scores <= 1).mean()),
                within_two=float((scores <= 2).mean()),
            )
        return report


def _solved(hat: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(1 - H)^-1`` times something; where rows are fitted exactly, as close as rounding allows."""
    matrix = np.eye(len(hat)) - 0.5 * (hat + hat.T)
    try:
        return np.asarray(scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix, check_finite=False), right))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(matrix)
        return np.asarray((vectors / np.maximum(values, 1e-12)) @ (vectors.T @ right))
