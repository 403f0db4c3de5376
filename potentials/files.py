"""Writing files so that an interrupted program never leaves half of one behind."""

from __future__ import annotations

import contextlib
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
    descriptor, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    os.close(descriptor)
    temporary = Path(name)
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
