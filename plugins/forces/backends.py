"""Which force backends work on this machine.

A mismatched TorchForce wheel does not raise, it crashes the process. The backends are therefore tried in a
subprocess: evaluate, step, write XML, read it back. The answer is kept on disk, under the versions it belongs to.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import subprocess
import sys
from functools import lru_cache
from types import ModuleType

from halberd.potentials.cache import cache_folder
from halberd.potentials.errors import BackendError, ConfigurationError, OutputError, did_you_mean
from halberd.potentials.files import replacing

BACKENDS = ("torchforce", "python")
_TORCHFORCE_PACKAGES = (
    "acellera-openmmtorch-cpu",
    "acellera-openmmtorch-cu12",
    "acellera-openmmtorch-cu13",
    "openmmtorch",
)
_RELEVANT = ("openmm", "torch", "vesin-torch", *_TORCHFORCE_PACKAGES)


def installed_versions(packages: tuple[str, ...] = _RELEVANT) -> dict[str, str]:
    """Versions of those packages that are installed."""
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def import_openmmtorch() -> ModuleType:
    """Import ``openmmtorch`` quietly.

    Raises
    ------
    BackendError
        If it is missing or does not load, with the reason and what to do.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            import openmmtorch
    except ImportError as error:
        missing = not any(package in installed_versions() for package in _TORCHFORCE_PACKAGES)
        advice = "Install it with: pip install 'halberd-md[cpu]' (or [cuda12], [cuda13])."
        if not missing:
            advice = (
                "A CUDA wheel of it needs CUDA libraries: on a machine without a GPU install the CPU wheel, "
                "pip install 'halberd-md[cpu]'. 'halberd doctor' shows which versions belong together."
            )
        raise BackendError(
            f"TorchForce cannot be loaded: {error}. {advice} Or use backend='python', which needs no wheel."
        ) from error
    return openmmtorch


def self_test(backend: str, timeout: float = 180.0, platform: str = "Reference") -> str | None:
    """Try a backend in a subprocess.

    Parameters
    ----------
    backend : {'torchforce', 'python'}
    timeout : float
        Seconds after which the backend counts as broken.
    platform : str
        OpenMM platform to try it on.

    Returns
    -------
    str or None
        ``None`` if it works, otherwise what went wrong.
    """
    command = [sys.executable, "-m", "halberd.plugins.forces.selftest", backend, platform]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return f"the self-test did not finish within {timeout:.0f} s"
    if result.returncode == 0:
        return None
    if result.returncode < 0:
        return f"the self-test was killed by signal {-result.returncode}: the wheels do not belong together"
    lines = [line for line in result.stderr.strip().splitlines() if line.strip()]
    return lines[-1] if lines else f"the self-test ended with exit code {result.returncode}"


@lru_cache
def cached_self_test(backend: str) -> str | None:
    """As :func:`self_test`, remembered per set of installed versions, also between processes."""
    key = json.dumps([sys.version, sys.executable, installed_versions(), backend])
    folder = cache_folder()
    file = folder / f"selftest-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(OSError, ValueError):
        remembered = json.loads(file.read_text())
        if remembered["problem"] is None:  # failures are tried again: someone may have mended them
            return None
    problem = self_test(backend)
    with contextlib.suppress(OSError, OutputError):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(json.dumps({"backend": backend, "problem": problem}))
    return problem


def choose_backend(backend: str) -> str:
    """Resolve ``'auto'`` and check the others.

    Raises
    ------
    ConfigurationError
        If there is no such backend.
    BackendError
        If none works here.
    """
    if backend in BACKENDS:
        return backend
    if backend != "auto":
        raise ConfigurationError(
            f"There is no backend '{backend}'; there are {', '.join(BACKENDS)} and auto."
            f"{did_you_mean(backend, (*BACKENDS, 'auto'))}"
        )
    problems = {}
    for candidate in BACKENDS:
        problem = cached_self_test(candidate)
        if problem is None:
            return candidate
        problems[candidate] = problem
    reasons = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
    raise BackendError(f"No force backend works here ({reasons}). Run 'halberd doctor' for what to install.")
