"""Some of the frames of a fit, whatever portions they come in: those that are left out to judge it."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.training_set import is_isolated


@dataclasses.dataclass
class Kept:
    """A frame that is kept.

    Attributes
    ----------
    number : float
        What it drew.
    frame : Frame
    rows : array, optional
        Its weighted rows, if they are remembered.
    own : bool
        Whether the frame is a copy.
    """

    number: float
    frame: Frame
    rows: NDArray[np.float64] | None = None
    own: bool = False


class KeptFrames:
    """A sample without replacement of the frames that were added, of a bounded size.

    Every frame draws a number that depends on its atoms alone; those with the smallest numbers are kept.

    Parameters
    ----------
    size : int
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.n_seen = 0
        self._kept: list[Kept] = []

    def add(self, frames: Iterable[Frame]) -> None:
        """Look at more frames; atoms alone are not kept."""
        for frame in frames:
            atoms = frame.atoms
            content = b"".join(each.tobytes() for each in (atoms.numbers, atoms.positions, atoms.cell.array))
            number = float(np.random.default_rng([zlib.crc32(content), 1729]).random())
            self.n_seen += 1
            if not is_isolated(frame.atoms):
                self._kept.append(Kept(number, frame))
        self._kept = sorted(self._kept, key=lambda each: each.number)[: self.size]

    def detach(self) -> None:
        """Copy what is kept: a caller may go on with the same atoms."""
        for each in self._kept:
            if not each.own:
                forces = None if each.frame.forces is None else each.frame.forces.copy()
                each.frame = dataclasses.replace(each.frame, atoms=each.frame.atoms.copy(), forces=forces)
                each.own = True

    def merge(self, other: KeptFrames) -> None:
        """Keep of both, those with the smallest numbers."""
        self.n_seen += other.n_seen
        self._kept = sorted(self._kept + other._kept, key=lambda each: each.number)[: self.size]

    def remember(self, frame: Frame, rows: NDArray[np.float64]) -> None:
        """Keep the rows of a frame, if the frame is kept."""
        for each in self._kept:
            if each.frame is frame:
                each.rows = rows

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._kept)

    @property
    def frames(self) -> list[Frame]:
        """Those that are kept, in an order that says nothing."""
        return [each.frame for each in self._kept]

    def arrays(self) -> dict[str, NDArray]:
        """All of it, for a file; labels that are missing are NaN."""
        frames = self.frames
        rows = [each.rows for each in self._kept if each.rows is not None]
        return {
            "kept_seen": np.array([self.n_seen]),
            "kept_numbers": np.array([each.number for each in self._kept]),
            "kept_row_counts": np.array([-1 if e.rows is None else len(e.rows) for e in self._kept], dtype=np.int64),
            "kept_rows": _joined(rows, (0, 0)),
            "kept_sizes": np.array([len(f.atoms) for f in frames], dtype=np.int64),
            "kept_elements": _joined([f.atoms.numbers for f in frames], (0,)),
            "kept_positions": _joined([f.atoms.positions for f in frames], (0, 3)),
            "kept_cells": _joined([f.atoms.cell.array[None] for f in frames], (0, 3, 3)),
            "kept_pbc": _joined([f.atoms.pbc[None] for f in frames], (0, 3)),
            "kept_energies": np.array([np.nan if f.energy is None else f.energy for f in frames]),
            "kept_forces": _joined(
                [np.full((len(f.atoms), 3), np.nan) if f.forces is None else f.forces for f in frames], (0, 3)
            ),
            "kept_virials": _joined(
                [np.full((1, 3, 3), np.nan) if f.virial is None else f.virial[None] for f in frames], (0, 3, 3)
            ),
            "kept_types": np.array([f.config_type for f in frames], dtype=str),
        }

    def restore(self, arrays: Mapping[str, NDArray]) -> None:
        """Go on from what :meth:`arrays` gave; nothing is kept of files of before there was a sample."""
        if "kept_seen" not in arrays:
            return
        self.n_seen, first, first_row = int(arrays["kept_seen"][0]), 0, 0
        self._kept = []
        for k, (size, n_rows) in enumerate(zip(arrays["kept_sizes"], arrays["kept_row_counts"], strict=True)):
            own = slice(first, first + size)
            first += size
            atoms = Atoms(
                arrays["kept_elements"][own],
                arrays["kept_positions"][own],
                cell=arrays["kept_cells"][k],
                pbc=arrays["kept_pbc"][k],
            )
            energy, forces = arrays["kept_energies"][k], arrays["kept_forces"][own]
            virial = arrays["kept_virials"][k]
            frame = Frame(
                atoms,
                None if np.isnan(energy) else float(energy),
                None if np.isnan(forces).any() else forces,
                None if np.isnan(virial).any() else virial,
                str(arrays["kept_types"][k]),
            )
            kept = Kept(float(arrays["kept_numbers"][k]), frame)
            if n_rows >= 0:
                kept.rows = arrays["kept_rows"][first_row : first_row + n_rows]
                first_row += n_rows
            self._kept.append(kept)


def _joined(parts: Sequence[NDArray], empty: tuple[int, ...]) -> NDArray:
    return np.concatenate(parts) if parts else np.zeros(empty)
