"""Where halberd keeps what it can compute again: couplings, compiled operators, results of self-tests."""

from __future__ import annotations

import os
from pathlib import Path

from halberd.potentials.errors import OutputError


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
