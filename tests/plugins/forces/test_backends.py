"""Choosing a force backend on machines where something is wrong."""

from __future__ import annotations

import sys

import pytest

from halberd.plugins.forces import backends
from halberd.potentials.errors import BackendError


def test_a_cuda_wheel_without_cuda_libraries(monkeypatch, tmp_path):
    """The wheel is installed, but its shared library does not load."""
    (tmp_path / "openmmtorch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')\n")
    monkeypatch.delitem(sys.modules, "openmmtorch", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendError, match=r"libcudart.*install the CPU wheel.*backend='python'"):
        backends.import_openmmtorch()


def test_no_wheel_at_all(monkeypatch):
    monkeypatch.setitem(sys.modules, "openmmtorch", None)
    monkeypatch.setattr(backends, "installed_versions", dict)
    with pytest.raises(BackendError, match=r"Install it with: pip install 'halberd-md\[cpu\]'"):
        backends.import_openmmtorch()


def test_a_passed_self_test_is_remembered_and_a_failed_one_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    answers = iter(["it crashed", None])
    calls = []

    def fake(backend: str) -> str | None:
        calls.append(backend)
        return next(answers)

    monkeypatch.setattr(backends, "self_test", fake)
    found = []
    for _ in range(3):
        backends.cached_self_test.cache_clear()
        found.append(backends.cached_self_test("torchforce"))
    assert found == ["it crashed", None, None]
    assert len(calls) == 2
    backends.cached_self_test.cache_clear()
