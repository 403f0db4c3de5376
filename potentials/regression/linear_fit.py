"""What all linear fits share: frames become rows that are compressed at once, and rows become a posterior.

A fit knows its functions; this base knows nothing of them but their number. Frames can be added at any time, and the
state on disk holds the compressed rows, not the frames.
"""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.training_set import check_frames, composition, distance_range, self_energies
from halberd.potentials.regression.bayesian_ridge import DIRECT
from halberd.potentials.regression.calibration import (
    FEWEST_FRAMES,
    MANY_FRAMES,
    MANY_ROWS,
    MOST_FRAMES,
    Calibration,
    LeftOut,
    WeightedFrame,
)
from halberd.potentials.regression.compressed_rows import CompressedRows
from halberd.potentials.regression.kept_frames import KeptFrames
from halberd.potentials.regression.linear_system import LinearSystem, Posterior
from halberd.potentials.regression.state import write_state
from halberd.potentials.regression.weighted_rows import FitWeights, FrameDesign, kinds_and_units, weighted_rows
from halberd.potentials.sites.site_model import SiteModel

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedLinear:
    """A solved fit.

    Attributes
    ----------
    model : SiteModel
        Ready to use; a committee if one was asked for.
    coefficients : array, shape (M,)
        Posterior mean.
    members : array, shape (M, K), or None
        Their average is ``coefficients``.
    posterior : Posterior
    notes : list of str
        What the user should know.
    leave_one_out : dict of str to LeftOut
        By kind of label, errors and coverage in frames that were left out one by one; empty if there were too few.
    """

    model: SiteModel
    coefficients: NDArray[np.float64]
    members: NDArray[np.float64] | None
    posterior: Posterior
    notes: list[str]
    leave_one_out: dict[str, LeftOut] = dataclasses.field(default_factory=dict)

    @property
    def covariance_factor(self) -> NDArray[np.float64]:
        """L of the covariance ``L L'`` of the coefficients, shape (M, r).

        Raises
        ------
        ConfigurationError
            If the solver gave no posterior.
        """
        if self.posterior.factor is None:
            raise ConfigurationError(
                "This fit has no covariance to keep: use solver 'blr' or 'ard' for a model with exact sigma, and of "
                f"'blr' no more than {DIRECT} functions. A committee is there all the same."
            )
        return self.posterior.factor


class LinearFit(abc.ABC):
    """A least-squares fit that grows with its data.

    Parameters
    ----------
    elements : sequence of int
        Atomic numbers that frames may hold.
    n_functions : int
    cutoff : float, angstrom
        Pairs farther apart are not looked at.
    weights : FitWeights
    e0s : mapping, str or None
        See :func:`halberd.potentials.frames.training_set.self_energies`; fixed by the first frames added.
    memory_mb : float
        Bound on the rows that wait to be compressed.

    Attributes
    ----------
    n_frames : int
    e0s : array, shape (S,), eV, or None
        Taken off the energies; ``None`` until frames are added.
    closest : array, shape (S, S), angstrom
        Shortest distance of every pair of elements in the data; infinite where there is none.
    farthest : float, angstrom
        Longest distance within the cutoff.
    """

    def __init__(
        self,
        elements: Sequence[int],
        n_functions: int,
        *,
        cutoff: float,
        weights: FitWeights,
        e0s: Mapping[str | int, float] | str | None,
        memory_mb: float = 512.0,
    ) -> None:
        self.elements = tuple(elements)
        self.n_functions = n_functions
        self.weights = weights
        self.n_frames = 0
        self.e0s: NDArray[np.float64] | None = None
        self.e0_source = ""
        self.closest = np.full((len(self.elements), len(self.elements)), np.inf)
        self.farthest = 0.0
        self._cutoff = cutoff
        self._wanted_e0s = e0s
        self._memory_mb = memory_mb
        self._rows = CompressedRows(n_functions + 1, memory_mb)
        self._kept = KeptFrames(MOST_FRAMES)

    @property
    def n_rows(self) -> int:
        """Rows seen so far."""
        return self._rows.n_rows

    def add(self, frames: Sequence[Frame], progress: Progress | None = None) -> list[int]:
        """Evaluate frames and add their rows; nothing that was added before is computed again.

        Parameters
        ----------
        frames : sequence of Frame
        progress : callable, optional
            Called with (frames done, frames in all).

        Returns
        -------
        list of int
            Frames that were left out because they repeat an earlier one of the sequence.

        Raises
        ------
        DataError, UnknownElementError, ConfigurationError
            Before anything is evaluated; names the frames or elements.
        """
        copies = check_frames(frames)
        used = [frame for i, frame in enumerate(frames) if i not in set(copies)]
        composition(used, self.elements)  # refuses other elements
        closest, longest = distance_range(used, self.elements, self._cutoff, self.closest)
        if not np.isfinite(closest).any():
            raise DataError(
                f"No two atoms are closer than the longest cutoff ({self._cutoff:g} angstrom) in any "
                "frame: there is nothing to fit. Check the units of the positions, or enlarge the cutoff."
            )
        self._kept.add(used)
        self._add(used, progress or _silent)
        self._kept.detach()
        self.closest, self.farthest = closest, max(self.farthest, longest)
        self.n_frames += len(used)
        return copies

    def frame_rows(self, frame: Frame) -> NDArray[np.float64]:
        """Weighted rows that :meth:`add` would add for a frame, shape (n, n_functions + 1); targets come last.

        Parameters
        ----------
        frame : Frame
            Only its labels that are not ``None`` have rows.
        """
        return self._weighted(frame, self.design(frame))

    @abc.abstractmethod
    def design(self, frame: Frame) -> FrameDesign:
        """Values of the functions for a frame; its labels are not looked at."""

    @abc.abstractmethod
    def _add(self, frames: Sequence[Frame], progress: Progress) -> None:
        """Add the rows of checked frames; fix ``e0s`` by the first."""

    def _fix_e0s(self, frames: Sequence[Frame]) -> None:
        self.e0s, self.e0_source = self_energies(frames, self.elements, self._wanted_e0s)

    def _weighted(self, frame: Frame, design: FrameDesign) -> NDArray[np.float64]:
        e0 = 0.0 if self.e0s is None else float((composition([frame], self.elements) @ self.e0s)[0])
        return weighted_rows(frame, self.weights, e0, design)

    def _system(self, prior: NDArray[np.float64], extra: NDArray[np.float64] | None = None) -> LinearSystem:
        """The problem as it stands, with extra rows that are not kept.

        Raises
        ------
        DataError
            If no frame has been added.
        """
        if self.n_rows == 0:
            raise DataError("No labelled frame has been added to this fit.")
        factor, n_extra = self._rows.factor(extra), 0 if extra is None else len(extra)
        matrix, target = factor[:, :-1], factor[:, -1]
        for array in (matrix, target):  # the fit's own
            array.flags.writeable = False
        return LinearSystem(matrix, target, self.n_rows + n_extra, prior)

    def sample(self) -> list[WeightedFrame]:
        """Rows of some of the frames that were added, those that are left out to judge a fit."""
        some: list[WeightedFrame] = []
        for kept in self._kept:
            if len(some) >= MANY_FRAMES and sum(len(each.rows) for each in some) >= MANY_ROWS:
                break
            kinds, units = kinds_and_units(kept.frame, self.weights)
            if len(kinds):
                rows = self.frame_rows(kept.frame) if kept.rows is None else kept.rows
                some.append(WeightedFrame(rows, kinds, units))
        return some

    def _calibrated(self, posterior: Posterior, fitted: bool = True) -> tuple[Posterior, dict[str, LeftOut]]:
        """A posterior as wide as its errors in frames that are left out, and what they are; see ``calibration``."""
        if not posterior.has_spread or not posterior.noise > 0:
            return posterior, {}
        some = self.sample()
        if len(some) < FEWEST_FRAMES:
            return posterior, {}
        found = Calibration(posterior, some, fitted)
        temperature = found.temperature()
        tempered = posterior.tempered(temperature)
        details = {**posterior.details, "temperature": tempered.temperature}
        return dataclasses.replace(tempered, details=details), found.left_out(temperature)

    # -- files --------------------------------------------------------------------------------------------------

    def _write(self, path: str | os.PathLike[str], header: dict[str, Any], **arrays: NDArray | None) -> None:
        common = {
            "weights": dataclasses.asdict(self.weights),
            "n_rows": self.n_rows,
            "n_frames": self.n_frames,
            "e0_source": self.e0_source,
            "farthest": self.farthest,
        }
        factor = self._rows.factor()
        own = {"factor": factor, "closest": self.closest, "e0s": self.e0s, **self._kept.arrays()}
        write_state(path, {**common, **header}, **own, **arrays)

    def _restore(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
        self._rows = CompressedRows.from_factor(arrays["factor"], header["n_rows"], self._memory_mb)
        self._kept.restore(arrays)
        self.n_frames, self.closest = header["n_frames"], arrays["closest"]
        self.e0s = arrays["e0s"] if len(arrays["e0s"]) else None
        self.e0_source, self.farthest = header.get("e0_source", ""), float(header.get("farthest", 0.0))


def _silent(*_: int) -> None:
    """Progress that nobody asked for."""
