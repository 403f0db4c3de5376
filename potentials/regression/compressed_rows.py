"""A least-squares problem of any length in the memory of a square one: rows folded into a triangular factor.

Rows ``[X | y]`` are added in blocks and reduced by QR as they come. What stays is R with ``R'R = [X | y]'[X | y]``,
which has the same solutions, singular values, residuals and evidence as all the rows together, without the squared
condition number of normal equations. Adding rows later costs what the new rows cost.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


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
        wanted = min(4 * n_columns, int(buffer_mb * 1e6 / 8 / n_columns))
        self._capacity = max(wanted, n_columns, 256)
        self._factor = np.zeros((0, n_columns))
        self._waiting: list[NDArray[np.float64]] = []
        self._n_waiting = 0

    def add(self, rows: NDArray[np.float64]) -> None:
        """Add rows, shape (n, n_columns)."""
        self.n_rows += len(rows)
        self._waiting.append(np.asarray(rows, dtype=np.float64))
        self._n_waiting += len(rows)
        if self._n_waiting >= self._capacity:
            self._reduce()

    def merge(self, other: CompressedRows) -> None:
        """Add the rows of another set, of which only its factor is needed."""
        factor = other.factor()
        self.add(factor)
        self.n_rows += other.n_rows - len(factor)

    def _reduce(self) -> None:
        stacked = np.concatenate([self._factor, *self._waiting])
        self._waiting, self._n_waiting = [], 0
        # Fewer rows than columns are as short as they can be.
        short = len(stacked) <= self.n_columns
        self._factor = stacked if short else torch.linalg.qr(torch.from_numpy(stacked), mode="r").R.numpy()

    def factor(self) -> NDArray[np.float64]:
        """The triangular factor, or the rows as they are while they are no more than columns."""
        if self._n_waiting:
            self._reduce()
        return self._factor

    @classmethod
    def from_factor(cls, factor: NDArray[np.float64], n_rows: int, buffer_mb: float = 512.0) -> CompressedRows:
        """Go on from a stored factor."""
        rows = cls(factor.shape[1], buffer_mb)
        rows._factor = np.asarray(factor, dtype=np.float64)
        rows.n_rows = int(n_rows)
        return rows
