"""The compiled CPU operator of linear ACE: built on first use with the machine's own compiler, then cached.

``torch.ops.halberd.ace_sites`` does on a CPU what :class:`halberd.potentials.ace.sites.AceSites` does with ordinary
torch functions, several times faster. Without a C++ compiler the latter is used; results agree to rounding.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import torch

from halberd.potentials.cache import cache_folder
from halberd.potentials.errors import OutputError

_SOURCE = Path(__file__).with_name("compiled_operator.cpp")
#: Sums may be reordered so that they vectorise; NaN and infinity stay what they are.
_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-signed-zeros", "-fno-trapping-math", "-fassociative-math"),
)
#: Why there is no operator if somebody wishes so.
NOT_WANTED = "HALBERD_ACE=torch asks for the torch implementation"
#: Folders of compilers at work.
_BUILDING = "building-"


def compiler() -> str | None:
    """The C++ compiler that would be used: ``$CXX``, else g++, clang++ or c++; ``None`` if there is none."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and shutil.which(name):
            return shutil.which(name)
    return None


def library_path() -> Path:
    """Where the compiled operator belongs: one file per source, torch version and kind of processor."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
        return _library_path(processor)
    return _library_path(platform.processor() or platform.machine())


def _library_path(processor: str) -> Path:
    key = hashlib.sha256(_SOURCE.read_bytes())
    key.update("\n".join([torch.__version__, processor, *_FLAGS]).encode())
    return cache_folder("operators") / f"ace-{key.hexdigest()[:16]}.so"


@lru_cache
def operator_problem() -> str | None:
    """Make the operator available in this process, compiling it if need be (about 20 s, once per machine).

    Returns
    -------
    str or None
        ``None`` if ``torch.ops.halberd.ace_sites`` can be called, otherwise why not. ``HALBERD_ACE=torch`` in the
        environment switches the operator off.
    """
    if os.environ.get("HALBERD_ACE", "").lower() == "torch":
        return NOT_WANTED
    try:
        path = library_path()
    except OutputError as error:
        return str(error)
    if not path.is_file():
        problem = _compile(path)
        if problem is not None:
            return problem
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"'{path}' cannot be loaded: {error}"
    return None


def load_if_built() -> bool:
    """Make the operator available if it has been compiled before; never compiles."""
    with contextlib.suppress(OutputError):
        wanted = os.environ.get("HALBERD_ACE", "").lower() != "torch"
        return wanted and library_path().is_file() and not operator_problem()
    return False


def _clear(folder: Path) -> None:
    """Remove what compilers left that were killed; none takes an hour."""
    for old in folder.glob(f"{_BUILDING}*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > 3600.0:
                shutil.rmtree(old, ignore_errors=True)


def _compile(path: Path) -> str | None:
    cxx = compiler()
    if cxx is None:
        return "no C++ compiler found; install g++, or set CXX"
    root = Path(torch.__file__).parent
    includes = [f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    libraries = [f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path.parent)
        with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=path.parent) as folder:
            # Objects first: linking without -fopenmp leaves torch's own OpenMP runtime as the only one.
            compiled, linked = Path(folder) / "ace.o", Path(folder) / "ace.so"
            steps = (
                [cxx, *(flag for flag in _FLAGS if flag != "-shared"), abi, *includes, "-c", _SOURCE, "-o", compiled],
                [cxx, "-shared", compiled, "-o", linked, *libraries],
            )
            for step in steps:
                result = subprocess.run(list(map(str, step)), capture_output=True, text=True, check=False)
                if result.returncode != 0:
                    reasons = [line for line in result.stderr.splitlines() if "error" in line.lower()]
                    return f"{Path(cxx).name} failed: {(reasons or result.stderr.splitlines() or ['no message'])[0]}"
            linked.replace(path)
    except OSError as error:
        return f"cannot write '{path.parent}': {error.strerror or error}"
    return None
