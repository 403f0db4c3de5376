"""CUDA kernels from source: compiled for this machine's GPU when a model is loaded, by the NVRTC that torch brings.

Nothing but the driver and torch's own libraries is needed, no CUDA toolkit. What was compiled is cached.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from halberd.potentials.cache import cache_folder
from halberd.potentials.errors import OutputError
from halberd.potentials.files import replacing

#: What kernels compute in: the operators add it to the key.
PRECISIONS = ("float", "double")
#: Of files in the cache, after the kind of GPU.
_ENDING = f"-{torch.version.cuda}.cubin"


class NotCompiledError(Exception):
    """Why a source did not become kernels."""


def kernel_key(source: str) -> str:
    """Name of the kernels of a source, in any precision."""
    return hashlib.sha256(source.encode()).hexdigest()[:24]


def make_kernels(sources: Mapping[str, str]) -> str | None:
    """Compile sources for the current GPU, a few seconds each the first time, and register them with the operators.

    In single and in double precision, since models are converted after they were loaded.

    Parameters
    ----------
    sources : mapping of str to str
        By the keys of :func:`kernel_key`.

    Returns
    -------
    str or None
        ``None`` if they can be called on the current GPU, otherwise why not.
    """
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    try:
        capability = torch.cuda.get_device_capability()
    except RuntimeError as error:
        return str(error).split(". ")[0]
    try:
        library = nvrtc()
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            jobs = {
                f"{key}-{precision}": pool.submit(_image, library, source, precision, capability)
                for key, source in sources.items()
                for precision in PRECISIONS
            }
            images = {key: job.result() for key, job in jobs.items()}
    except NotCompiledError as error:
        return str(error)
    for key, image in images.items():
        torch.ops.halberd.register_kernels(key, torch.frombuffer(bytearray(image), dtype=torch.uint8))
    return None


def find_kernels() -> None:
    """Let the operators read from the cache what other processes compiled."""
    with contextlib.suppress(OutputError):
        torch.ops.halberd.look_for_kernels(str(cache_folder("kernels")), _ENDING)


def _candidates(name: str) -> Iterator[str]:
    """Where the library may be: beside torch, as pip puts it, in a toolkit, or where the loader looks."""
    packages = Path(torch.__file__).parent.parent / "nvidia"
    for folder in ("cu13", "cuda_nvrtc"):
        yield str(packages / folder / "lib" / name)
    yield str(Path(torch.__file__).parent / "lib" / name)
    for root in (os.environ.get("CUDA_HOME"), "/usr/local/cuda", sys.prefix):
        for folder in ("lib64", "lib"):
            if root:
                yield str(Path(root) / folder / name)
    yield name


def nvrtc() -> ctypes.CDLL:
    """The library that compiles, of the version that torch is built for."""
    major = (torch.version.cuda or "").split(".")[0]
    name = f"libnvrtc.so.{major}"
    for candidate in _candidates(name):
        if candidate == name or Path(candidate).is_file():
            with contextlib.suppress(OSError):
                return ctypes.CDLL(candidate)
    raise NotCompiledError(f"{name}, which compiles kernels, is not found; reinstall torch, or set CUDA_HOME")


def _image(library: ctypes.CDLL, source: str, precision: str, capability: tuple[int, int]) -> bytes:
    """Machine code of kernels, from the cache if it is there."""
    path: Path | None = None
    with contextlib.suppress(OutputError, OSError):
        path = cache_folder("kernels") / f"{kernel_key(source)}-{precision}-{capability[0]}{capability[1]}{_ENDING}"
        if path.is_file():
            return path.read_bytes()
    image = compiled(library, source, precision, capability)
    with contextlib.suppress(OutputError, OSError):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(image)
    return image


def compiled(library: ctypes.CDLL, source: str, precision: str, capability: tuple[int, int]) -> bytes:
    """Machine code of kernels in one of the precisions."""
    options = [
        *(f"--gpu-architecture=sm_{capability[0]}{capability[1]}", "--std=c++17"),
        *(f"-DPRECISION={precision}", "-DWARP=32"),
    ]
    program = ctypes.c_void_p()
    no_headers = (0, None, None)
    code = library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"halberd.cu", *no_headers)
    if code != 0:
        raise NotCompiledError(f"NVRTC: {_message(library, code)}")
    try:
        given = (ctypes.c_char_p * len(options))(*(each.encode() for each in options))
        code = library.nvrtcCompileProgram(program, len(options), given)
        if code != 0:
            log = _text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program).decode(errors="replace")
            reasons = [line for line in log.splitlines() if "error" in line]
            raise NotCompiledError(f"NVRTC does not compile the kernels: {(reasons or [_message(library, code)])[0]}")
        return _text(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(size_of: object, content_of: object, program: ctypes.c_void_p) -> bytes:
    assert callable(size_of)
    assert callable(content_of)
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    content = ctypes.create_string_buffer(size.value)
    content_of(program, content)
    return content.raw


def _message(library: ctypes.CDLL, code: int) -> str:
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return str(library.nvrtcGetErrorString(code).decode())
