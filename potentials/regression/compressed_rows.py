"""A least-squares problem of any length in the memory of a square one: rows folded into a triangular factor.

Rows ``[X | y]`` are added in blocks and reduced by QR as they come. What stays is R with ``R'R = [X | y]'[X | y]``,
which has the same solutions, singular values, residuals and evidence as all the rows together, without the squared
condition number of normal equations. Adding rows later costs what the new rows cost. Very wide rows are folded into the
factor where it lies, a block at a time, so that no second one is needed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dtpqrt

#: More columns than this are folded in place, which takes half as long again and a third of the memory.
_IN_PLACE = 4001
#: Rows that are folded in place at once, and columns of a block of reflectors.
BLOCK, _REFLECTORS = 2048, 64


class CompressedRows:
    """Triangular factor of a growing set of rows.

    Parameters
    ----------
    n_columns : int
        Columns of ``[X | y]``.
    buffer_mb : float
        Rows wait in a buffer of this size, or as many as there are columns if that is more.

    Attributes
    ----------
    n_rows : int
        Rows seen so far.
    """

    def __init__(self, n_columns: int, buffer_mb: float = 512.0) -> None:
        self.n_columns = n_columns
        self.n_rows = 0
        self._in_place = n_columns > _IN_PLACE
        self._capacity = at_once(n_columns, buffer_mb)
        self._factor = np.zeros((0, n_columns))
        # Whether the factor can be folded into as it lies, and whether somebody else looks at it.
        self._triangular, self._shared = False, False
        # Rows wait in arrays of BLOCK rows, the last of them partly filled: memory that was freed in small pieces is
        # not given back.
        self._waiting: list[NDArray[np.float64]] = []
        self._n_waiting = 0

    def add(self, rows: NDArray[np.float64]) -> None:
        """Add rows, shape (n, n_columns)."""
        self.n_rows += len(rows)
        while len(rows):
            filled = self._n_waiting % BLOCK
            if not filled:
                self._waiting.append(np.empty((BLOCK, self.n_columns)))
            taken = rows[: BLOCK - filled]
            self._waiting[-1][filled : filled + len(taken)] = taken
            self._n_waiting += len(taken)
            rows = rows[len(taken) :]
        # Fewer rows than columns are as short as they can be.
        if self._n_waiting >= self._capacity and len(self._factor) + self._n_waiting > self.n_columns:
            self._reduce()

    def merge(self, other: CompressedRows) -> None:
        """Add the rows of another set, of which only its factor is needed."""
        factor = other.factor()
        self.add(factor)
        self.n_rows += other.n_rows - len(factor)

    def _taken(self) -> list[NDArray[np.float64]]:
        """All rows as they are, which are held no longer."""
        rows = [self._factor, *self._waiting]
        if self._n_waiting % BLOCK:
            rows[-1] = rows[-1][: self._n_waiting % BLOCK]
        self._factor, self._triangular, self._shared = self._factor[:0].copy(), False, False
        self._waiting, self._n_waiting = [], 0
        return rows

    def _reduce(self) -> None:
        if len(self._factor) + self._n_waiting <= self.n_columns:
            self._factor = _joined(self._taken())
        elif not self._in_place:
            rows = np.concatenate(self._taken())
            self._factor = torch.linalg.qr(torch.from_numpy(rows), mode="r").R.numpy()
        else:
            factor = None
            if self._triangular:
                factor = self._factor.copy(order="F") if self._shared else self._factor
                self._factor = self._factor[:0].copy()
            self._factor = _folded(factor, self._taken(), self.n_columns)
            self._triangular = True

    def factor(self, below: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """The triangular factor, or the rows as they are while they are no more than columns.

        Parameters
        ----------
        below : array, shape (k, n_columns), optional
            More rows, which are not kept.
        """
        n = len(self._factor) + self._n_waiting
        if below is not None and n + len(below) <= self.n_columns:
            # One array for both: what is kept is a part of it.
            joined = _joined([*self._taken(), below])
            self._factor = joined[:n]
            return joined
        if self._n_waiting:
            self._reduce()
        self._shared = True
        if below is None:
            return self._factor
        both = CompressedRows.from_factor(self._factor, self.n_rows)
        both._triangular = self._triangular
        both.add(below)
        return both.factor()

    @classmethod
    def from_factor(cls, factor: NDArray[np.float64], n_rows: int, buffer_mb: float = 512.0) -> CompressedRows:
        """Go on from a stored factor."""
        rows = cls(factor.shape[1], buffer_mb)
        rows._factor, rows._shared = np.asarray(factor, dtype=np.float64), True
        rows.n_rows = int(n_rows)
        return rows


def at_once(n_columns: int, buffer_mb: float) -> int:
    """Rows that wait to be folded together."""
    fewest = BLOCK if n_columns > _IN_PLACE else max(n_columns, 256)
    return max(min(4 * n_columns, int(buffer_mb * 1e6 / 8 / n_columns)), fewest)


def _joined(rows: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """All rows in one array; empties the list on the way, so that they are held once."""
    joined = np.empty((sum(map(len, rows)), rows[0].shape[1]))
    done = 0
    rows.reverse()
    while rows:
        part = rows.pop()
        joined[done : done + len(part)] = part
        done += len(part)
    return joined


def _folded(factor: NDArray[np.float64] | None, rows: list[NDArray[np.float64]], n_columns: int) -> NDArray[np.float64]:
    """Triangular factor of another and rows, where it lies, a block at a time; empties the list on the way."""
    if factor is None:
        factor = np.zeros((n_columns, n_columns), order="F")
    for block in _blocks(rows):
        factor = dtpqrt(0, min(_REFLECTORS, n_columns), factor, block, overwrite_a=1, overwrite_b=1)[0]
    return factor


def _blocks(rows: list[NDArray[np.float64]]) -> Iterator[NDArray[np.float64]]:
    rows.reverse()
    while rows:
        some = rows.pop()
        for i in range(0, len(some), BLOCK):
            yield np.array(some[i : i + BLOCK], order="F")
