"""Labelled structures on disk, for sets that memory does not hold: flat arrays, read where they are looked at."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from halberd.potentials.errors import DataError
from halberd.potentials.files import make_folder, replacing
from halberd.potentials.frames.labelled import Frame, LabelKeys, iterate_frames

_META = "frames.json"
#: Arrays per atom and per frame: name -> type and shape of an entry.
_PER_ATOM: dict[str, tuple[str, tuple[int, ...]]] = {
    "numbers": ("<i2", ()),
    "positions": ("<f8", (3,)),
    "forces": ("<f8", (3,)),
}
_PER_FRAME: dict[str, tuple[str, tuple[int, ...]]] = {
    "first": ("<i8", ()),
    "cell": ("<f8", (3, 3)),
    "pbc": ("|b1", (3,)),
    "energy": ("<f8", ()),
    "virial": ("<f8", (3, 3)),
    "has": ("|b1", (3,)),
    "kind": ("<i4", ()),
}


class StoredFrames(Sequence[Frame]):
    """Frames in a folder that :func:`store_frames` made; they hold structures, labels and config types, nothing else.

    Parameters
    ----------
    folder : path-like

    Raises
    ------
    DataError
        If there are none in it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            meta = json.loads((self.folder / _META).read_text(encoding="utf-8"))
            self._kinds: list[str] = meta["config_types"]
            counts = {**dict.fromkeys(_PER_ATOM, meta["atoms"]), **dict.fromkeys(_PER_FRAME, meta["frames"])}
            self._arrays: dict[str, NDArray[Any]] = {
                name: np.memmap(self.folder / f"{name}.bin", kind, "r", shape=(counts[name], *shape))
                for name, (kind, shape) in (_PER_ATOM | _PER_FRAME).items()
            }
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"'{self.folder}' holds no stored frames: {error}. Remove it to store them anew."
            ) from error

    def __len__(self) -> int:
        return len(self._arrays["first"])

    @overload
    def __getitem__(self, number: int) -> Frame: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Frame]: ...
    def __getitem__(self, number: int | slice) -> Frame | Sequence[Frame]:
        if isinstance(number, slice):
            return Picked(self, range(len(self))[number])
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        arrays = self._arrays
        first = int(arrays["first"][number])
        last = int(arrays["first"][number + 1]) if number + 1 < len(self) else len(arrays["numbers"])
        atoms = Atoms(
            arrays["numbers"][first:last],
            np.array(arrays["positions"][first:last]),
            cell=np.array(arrays["cell"][number]),
            pbc=np.array(arrays["pbc"][number]),
        )
        energy, forces, virial = arrays["has"][number].tolist()
        return Frame(
            atoms,
            float(arrays["energy"][number]) if energy else None,
            np.array(arrays["forces"][first:last]) if forces else None,
            np.array(arrays["virial"][number]) if virial else None,
            self._kinds[int(arrays["kind"][number])],
        )


class Picked(Sequence[Frame]):
    """Some of the frames of a sequence, which stay where they are."""

    def __init__(self, frames: Sequence[Frame], numbers: Sequence[int]) -> None:
        self.frames = frames
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, number: int) -> Frame: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Frame]: ...
    def __getitem__(self, number: int | slice) -> Frame | Sequence[Frame]:
        if isinstance(number, slice):
            return Picked(self.frames, self.numbers[number])
        return self.frames[self.numbers[number]]


def picked(frames: Sequence[Frame], wanted: Callable[[int, Frame], bool]) -> Sequence[Frame]:
    """The frames that are wanted, by number and frame; see :func:`first_number`."""
    return Picked(frames, [number for number, frame in enumerate(frames) if wanted(number, frame)])


def first_number(frames: Sequence[Frame], number: int) -> int:
    """Number that a frame had before it was picked, however often it was."""
    while isinstance(frames, Picked):
        number, frames = frames.numbers[number], frames.frames
    return number


def store_frames(frames: Iterable[Frame], folder: str | os.PathLike[str], source: str = "") -> StoredFrames:
    """Write frames into a folder, one by one.

    Parameters
    ----------
    frames : iterable of Frame
    folder : path-like
        Made if it is not there; what it held is replaced.
    source : str
        Where they come from; see :func:`stored_frames`.

    Raises
    ------
    DataError
        If there are none.
    OutputError
        If the folder cannot be written.
    """
    place = Path(folder)
    make_folder(place)
    (place / _META).unlink(missing_ok=True)
    handles = {name: open(place / f"{name}.bin", "wb") for name in _PER_ATOM | _PER_FRAME}  # noqa: SIM115
    kinds: dict[str, int] = {}
    n_atoms = n_frames = 0
    try:
        for frame in frames:
            atoms, size = frame.atoms, len(frame.atoms)
            labels = (frame.energy, frame.forces, frame.virial)
            values: dict[str, Any] = {
                "numbers": atoms.numbers,
                "positions": atoms.positions,
                "forces": np.zeros((size, 3)) if frame.forces is None else frame.forces,
                "first": n_atoms,
                "cell": atoms.cell.array,
                "pbc": atoms.pbc,
                "energy": 0.0 if frame.energy is None else frame.energy,
                "virial": np.zeros((3, 3)) if frame.virial is None else frame.virial,
                "has": [label is not None for label in labels],
                "kind": kinds.setdefault(frame.config_type, len(kinds)),
            }
            for name, (kind, _) in (_PER_ATOM | _PER_FRAME).items():
                handles[name].write(np.ascontiguousarray(values[name], dtype=kind).tobytes())
            n_atoms, n_frames = n_atoms + size, n_frames + 1
    finally:
        for handle in handles.values():
            handle.close()
    if not n_frames:
        raise DataError("There are no frames to store.")
    meta = {"frames": n_frames, "atoms": n_atoms, "config_types": list(kinds), "source": source}
    with replacing(place / _META) as temporary:
        temporary.write_text(json.dumps(meta) + "\n", encoding="utf-8")
    return StoredFrames(place)


def stored_frames(
    files: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str], keys: LabelKeys | None = None
) -> StoredFrames:
    """The frames of files, stored in a folder unless they are there already.

    Parameters
    ----------
    files : sequence of path-like
    folder : path-like
    keys : LabelKeys, optional

    Raises
    ------
    DataError
        As :func:`halberd.potentials.frames.labelled.read_frames`.
    """
    said = repr(keys) + "".join(
        f"{Path(file).absolute()} {Path(file).stat().st_size} {Path(file).stat().st_mtime_ns};"
        for file in files
        if Path(file).is_file()
    )
    source = hashlib.sha256(said.encode()).hexdigest()[:16]
    try:
        known = json.loads((Path(folder) / _META).read_text(encoding="utf-8"))["source"]
    except (OSError, ValueError, KeyError):
        known = None
    if known == source:
        return StoredFrames(folder)
    return store_frames((frame for file in files for frame in iterate_frames(file, keys)), folder, source)
