"""Where halberd's cache is."""

from __future__ import annotations

from pathlib import Path

import pytest

from halberd.potentials.cache import cache_folder
from halberd.potentials.errors import OutputError


def test_each_variable_wins_over_the_next(monkeypatch):
    monkeypatch.setenv("HALBERD_CACHE_DIR", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder("a", "b") == Path("/own/a/b")
    monkeypatch.delenv("HALBERD_CACHE_DIR")
    assert cache_folder("a") == Path("/xdg/halberd/a")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/home/somebody/.cache/halberd")


def test_without_a_home(monkeypatch):
    """A container may run as a user that nobody has heard of."""

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.delenv("HALBERD_CACHE_DIR", raising=False)
    assert cache_folder("a") == Path("/xdg/halberd/a")
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(OutputError, match="Set HALBERD_CACHE_DIR"):
        cache_folder("a")
