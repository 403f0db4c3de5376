"""The state of a fit on disk: a header and arrays in one ``.npz`` file, replaced in one step."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.errors import DataError
from halberd.potentials.files import replacing

STATE_VERSION = 1
#: What numpy and zipfile raise for files that are damaged.
DAMAGED = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, IndexError, AttributeError, NotImplementedError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error, MemoryError, SyntaxError),
)


def write_state(path: str | os.PathLike[str], header: dict[str, Any], **arrays: NDArray | None) -> None:
    """Write a state; ``None`` becomes an empty array.

    Parameters
    ----------
    path : path-like
    header : dict
        JSON-compatible.
    **arrays

    Raises
    ------
    OutputError
        If the place cannot be written.
    """
    buffer = io.BytesIO()
    stored = {name: np.zeros(0) if array is None else array for name, array in arrays.items()}
    np.savez(buffer, header=np.array(json.dumps({"version": STATE_VERSION, **header})), **stored)  # type: ignore[arg-type]
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """Read what :func:`write_state` wrote: header and arrays.

    Raises
    ------
    DataError
        If the file is missing, damaged, or from a newer halberd.
    """
    if not Path(path).is_file():
        raise DataError(f"Fit state '{path}' does not exist.")
    try:
        with np.load(path) as stored:
            header = json.loads(str(stored["header"]))
            arrays = {name: stored[name] for name in stored.files if name != "header"}
            newer = header["version"] > STATE_VERSION
    except DAMAGED as error:
        raise DataError(f"'{path}' cannot be read as the state of a fit: {error}. It may be damaged.") from error
    if newer:
        raise DataError(f"'{path}' was written by a newer halberd. Upgrade halberd.")
    return header, arrays
