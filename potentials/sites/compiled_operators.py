"""Compiled CPU operators: built on first use with the machine's own compiler, then cached.

Every operator does on a CPU what a module of ordinary torch functions does anywhere, several times faster. Without a
C++ compiler the latter is used; results agree to rounding, or to what is said beside the operator.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
import warnings
from pathlib import Path

import torch

from halberd.potentials.cache import cache_folder
from halberd.potentials.errors import OutputError

#: Sums may be reordered so that they vectorise; NaN and infinity stay what they are.
_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-signed-zeros", "-fno-trapping-math", "-fassociative-math"),
)
#: What several operators include.
_HEADERS = Path(__file__).parent
#: What switches an operator off; looked at when it is first wanted.
_OFF = ("torch", "off", "no", "false", "0")
#: Folders of compilers at work.
_BUILDING = "building-"
#: Ending of the file beside a library that says what it must be.
_DIGEST = ".sha256"


class SlowModelWarning(UserWarning):
    """A model runs without its compiled operator, several times slower."""


class CompiledOperator:
    """A C++ source that becomes operators of torch.

    Parameters
    ----------
    name : str
        Of the library file, and in messages.
    source : Path
    models : str
        Which models run on it, for messages.
    beside : tuple of CompiledOperator
        What is wanted with it, and compiled at the same time if need be.
    """

    def __init__(self, name: str, source: Path, models: str, beside: tuple[CompiledOperator, ...] = ()) -> None:
        self.name = name
        self.source = source
        self.models = models
        self.beside = beside
        self._found: str | None = None
        self._looked = False
        self._said: set[str] = set()

    @property
    def switch(self) -> str:
        """Environment variable that switches it off when it is ``torch``."""
        return f"HALBERD_{self.name.upper().replace('-', '_')}"

    @property
    def not_wanted(self) -> str:
        """Why there is no operator if somebody wishes so."""
        return f"{self.switch}=torch asks for the torch implementation"

    def library_path(self) -> Path:
        """Where the compiled operator belongs: one file per source, torch version and kind of processor."""
        key = hashlib.sha256(self.source.read_bytes())
        for header in sorted({*_HEADERS.glob("*.hpp"), *self.source.parent.glob("*.hpp")}):
            key.update(header.read_bytes())
        key.update("\n".join([torch.__version__, _processor(), *_FLAGS]).encode())
        return cache_folder("operators") / f"{self.name}-{key.hexdigest()[:16]}.so"

    def problem(self) -> str | None:
        """Make the operator available in this process, compiling it if need be (20 to 60 s, once per machine).

        Returns
        -------
        str or None
            ``None`` if it can be called, otherwise why not.
        """
        if not self._looked:
            self._found = self._problem()
            self._looked = True
        return self._found

    def _problem(self) -> str | None:
        if self._switched_off():
            return self.not_wanted
        try:
            path = self.library_path()
        except OutputError as error:
            return str(error)
        if not _whole(path):
            others = [threading.Thread(target=each.problem) for each in self.beside]
            for other in others:
                other.start()
            problem = _compile(self.source, path)
            for other in others:
                other.join()
            if problem is not None:
                return problem
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            return f"'{path}' cannot be loaded: {error}"
        return None

    def load_if_built(self) -> bool:
        """Make the operator available if it has been compiled before; never compiles."""
        with contextlib.suppress(OutputError):
            if not self._switched_off():
                return (self._looked or _whole(self.library_path())) and not self.problem()
        return False

    def _switched_off(self) -> bool:
        return os.environ.get(self.switch, "").strip().lower() in _OFF

    def say_once(self, problem: str, where: str = "CPUs") -> None:
        """Warn that models run without it, unless somebody wished so."""
        if problem != self.not_wanted and problem not in self._said:
            self._said.add(problem)
            warnings.warn(
                f"{self.models} run on ordinary torch functions, several times slower on {where} than compiled: "
                f"{problem}.",
                SlowModelWarning,
                stacklevel=4,
            )


def compiler() -> str | None:
    """The C++ compiler that would be used: ``$CXX``, else g++, clang++ or c++; ``None`` if there is none."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and shutil.which(name):
            return shutil.which(name)
    return None


@functools.lru_cache
def _processor() -> str:
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    return platform.processor() or platform.machine()


def _clear(folder: Path) -> None:
    """Remove what compilers left that were killed; none takes an hour."""
    for old in folder.glob(f"{_BUILDING}*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > 3600.0:
                shutil.rmtree(old, ignore_errors=True)


def _digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()


def _whole(library: Path) -> bool:
    """Whether a library is there as it was written: half of one ends the process that loads it."""
    with contextlib.suppress(OSError):
        return library.with_suffix(_DIGEST).read_text() == _digest(library)
    return False


def _compile(source: Path, path: Path) -> str | None:
    cxx = compiler()
    if cxx is None:
        return "no C++ compiler found; install g++, or set CXX"
    root = Path(torch.__file__).parent
    includes = [f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}", f"-I{_HEADERS}"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    libraries = [f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu", "-ltorch", "-ldl"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path.parent)
        with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=path.parent) as folder:
            # Objects first: linking without -fopenmp leaves torch's own OpenMP runtime as the only one.
            compiled, linked = Path(folder) / "operator.o", Path(folder) / "operator.so"
            steps = (
                [cxx, *(flag for flag in _FLAGS if flag != "-shared"), abi, *includes, "-c", source, "-o", compiled],
                [cxx, "-shared", compiled, "-o", linked, *libraries],
            )
            for step in steps:
                result = subprocess.run(list(map(str, step)), capture_output=True, text=True, check=False)
                if result.returncode != 0:
                    reasons = [line for line in result.stderr.splitlines() if "error" in line.lower()]
                    return f"{Path(cxx).name} failed: {(reasons or result.stderr.splitlines() or ['no message'])[0]}"
            digest = _digest(linked)
            for file in (linked, linked.with_suffix(_DIGEST)):
                if file != linked:
                    file.write_text(digest)
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
                file.replace(path.with_suffix(file.suffix))
    except OSError as error:
        return f"cannot write '{path.parent}': {error.strerror or error}"
    return None
