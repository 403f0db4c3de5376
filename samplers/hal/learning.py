"""What hyperactive learning asks of whatever learns: a potential from frames, and which frames to label."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from halberd.potentials.frames.labelled import Frame


def silent(_: str) -> None:
    """Tell nobody."""


@dataclasses.dataclass(frozen=True)
class Lesson:
    """One fit.

    Attributes
    ----------
    number : int
        Of the iteration.
    frames : sequence of Frame
        All that there are to learn from, in the order in which they came.
    new : sequence of Frame
        Those of them that came last.
    folder : pathlib.Path
        Of the iteration.
    model, state : pathlib.Path, optional
        Files of the fit before; none in the first lesson.
    tell : callable
        Told in words how far a long fit is.
    """

    number: int
    frames: Sequence[Frame]
    new: Sequence[Frame]
    folder: Path
    model: Path | None = None
    state: Path | None = None
    tell: Callable[[str], None] = silent


@dataclasses.dataclass(frozen=True)
class Learnt:
    """What a fit left behind.

    Attributes
    ----------
    model, drive : pathlib.Path
        The committee, and what drives walkers.
    state : pathlib.Path, optional
        What the next fit needs beside the model.
    n_functions, n_rows : int
        Coefficients or weights, and numbers they were fitted to.
    closest : array, shape (S, S), angstrom
        Shortest distances of the frames.
    details : dict
        JSON-compatible.
    """

    model: Path
    drive: Path
    state: Path | None
    n_functions: int
    n_rows: int
    closest: NDArray[np.float64]
    details: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Current:
    """The fit that walkers ran on.

    Attributes
    ----------
    made : int
        Number of the iteration that it is of.
    state : pathlib.Path, optional
        What it left beside the model.
    """

    made: int
    state: Path | None


class Learner(Protocol):
    """A kind of potential that hyperactive learning can grow."""

    def check(self, structures: Sequence[Atoms]) -> None:
        """Raise a ConfigurationError, before anything is labelled, if there will not be enough to begin with."""

    def learn(self, lesson: Lesson, executor: Executor) -> Learnt:
        """Fit, or finish a fit that was interrupted, to the same bits."""

    def choose(self, candidates: Sequence[Atoms], current: Current, tolerance: float, epsilon: float) -> list[int]:
        """Which of several uncertain frames to label, most uncertain first; never none of them."""

    def finish(self, lesson: Lesson, executor: Executor) -> Path | None:
        """A last fit, once no more frames come: its model, or ``None`` if there is nothing left to gain."""
