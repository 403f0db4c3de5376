"""Locks of folders, which outlive nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from halberd.potentials.errors import OutputError


class UnlockedFolderWarning(UserWarning):
    """A file system without locks: nothing keeps two runs out of one folder."""


@contextlib.contextmanager
def locked(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Keep other runs out of a folder; the kernel lifts the lock when this process ends, however that happens.

    On network file systems the lock holds for all machines if the server keeps locks (NFS does).

    Parameters
    ----------
    folder : pathlib.Path
    name : str
        Of the file that is locked. It stays if it is ``.lock``, as a part of the run's folder; another goes when the
        lock is lifted.

    Warns
    -----
    UnlockedFolderWarning
        If the file system knows no locks.

    Raises
    ------
    OutputError
        If another process holds it, or the folder cannot be written.
    """
    file = folder / name
    with _opened(file) as handle:
        handle.truncate(0)
        handle.write(f"{os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        try:
            yield
        finally:
            if name != ".lock":
                file.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    """A file that is locked; if it went while it was waited for, the one that came instead."""
    while True:
        try:
            handle = open(file, "a+", encoding="utf-8")  # noqa: SIM115  (closed below)
        except OSError as error:
            raise OutputError(f"The folder '{file.parent}' cannot be written: {error.strerror}.") from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                owner = handle.read().strip() or "unknown"
                raise OutputError(
                    f"Another run is at work in '{file.parent}' (process {owner}). Wait for it, or choose another "
                    "place."
                ) from None
            except OSError as error:
                warnings.warn(
                    f"'{file.parent}' is on a file system without locks ({error.strerror}): see to it yourself that no "
                    "two runs use this folder at once.",
                    UnlockedFolderWarning,
                    stacklevel=5,
                )
            if file.exists() and os.path.samestat(os.fstat(handle.fileno()), file.stat()):
                yield handle
                return
