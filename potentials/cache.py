"""Where halberd keeps what it can compute again: couplings, compiled operators, results of self-tests."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """Return halberd's cache folder, or one below it; not created.

    ``$HALBERD_CACHE_DIR``, else ``$XDG_CACHE_HOME/halberd``, else ``~/.cache/halberd``. Deleting it is always safe.

    Parameters
    ----------
    *parts : str
        Names of folders below it.
    """
    own = os.environ.get("HALBERD_CACHE_DIR")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "halberd"
    return base.joinpath(*parts)
