"""Where halberd keeps what it can compute again: couplings, compiled operators, results of self-tests."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from halberd.potentials.errors import OutputError
from halberd.potentials.files import replacing


def cache_folder(*parts: str) -> Path:
    """Return halberd's cache folder, or one below it; not created.

    ``$HALBERD_CACHE_DIR``, else ``$XDG_CACHE_HOME/halberd``, else ``~/.cache/halberd``. Deleting it is always safe.

    Parameters
    ----------
    *parts : str
        Names of folders below it.

    Raises
    ------
    OutputError
        If there is no home folder, and neither variable says where else.
    """
    own, cache = os.environ.get("HALBERD_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own, *parts)
    if cache:
        return Path(cache, "halberd", *parts)
    try:
        return Path.home().joinpath(".cache", "halberd", *parts)
    except RuntimeError as error:
        raise OutputError(
            f"There is no home folder to keep a cache in ({error}). Set HALBERD_CACHE_DIR to a folder of your own."
        ) from error


def kept(name: str, make: Callable[[], str]) -> str:
    """Text that is worked out once per user, and kept in the cache folder under a name."""
    file = cache_folder() / name
    if file.is_file():
        return file.read_text(encoding="utf-8")
    text = make()
    with contextlib.suppress(OSError):  # a home that cannot be written to only costs the time again
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return text
