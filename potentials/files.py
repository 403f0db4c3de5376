"""Writing files so that an interrupted program never leaves half of one behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from halberd.potentials.errors import OutputError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a temporary name and rename it into place on success.

    Parameters
    ----------
    path : path-like
        Where the finished file belongs. Its folder must exist.

    Yields
    ------
    pathlib.Path
        A temporary path in the same folder, with the same suffix. On a clean exit it replaces ``path`` in one
        step; on an exception it is removed and ``path`` keeps its old content.

    Raises
    ------
    OutputError
        If the folder does not exist or cannot be written, the disk is full, or ``path`` is a folder, a link or a
        device.
    """
    target = Path(path)
    check_writable(target)
    descriptor, temporary = _temporary(target)
    try:
        yield temporary
        # mkstemp makes the file private; give it the permissions an ordinary open() would have.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"Cannot write '{target}': {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        os.close(descriptor)


def _temporary(target: Path) -> tuple[int, Path]:
    """An empty file beside ``target``, open for as long as it is somebody's.

    It is the one that a killed process left, if there is one: so they do not pile up. Whoever writes the same file at
    the same time gets one of their own.
    """
    usual = target.with_name(f".{target.stem}-partial{target.suffix}")
    descriptor = None
    try:
        descriptor = os.open(usual, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), usual.stat()):
            os.ftruncate(descriptor, 0)
            return descriptor, usual
    except OSError:  # it is being written, was renamed just now, is a link, or this file system has no locks
        pass
    if descriptor is not None:
        os.close(descriptor)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    return descriptor, Path(name)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, if it is not there.

    Raises
    ------
    OutputError
        If that cannot be done.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder '{path}' cannot be made: {error.strerror}.") from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise a clear error if a file cannot be created at ``path``.

    Parameters
    ----------
    path : path-like
        The file to be written later.

    Raises
    ------
    OutputError
        If its folder is missing or read-only, or ``path`` is a folder, a link or a device.
    """
    target = Path(path)
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(f"Cannot write '{target}': the folder '{folder}' does not exist. Create it first.")
    if target.is_dir():
        raise OutputError(f"Cannot write '{target}': it is a folder. Give a file name.")
    if target.is_symlink():
        raise OutputError(f"Cannot write '{target}': it is a link, which would be replaced. Name the file itself.")
    if target.exists() and not target.is_file():
        raise OutputError(f"Cannot write '{target}': it is no regular file. Give another name.")
    if not os.access(folder, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise OutputError(f"Cannot write '{target}': permission denied. Choose another place.")
