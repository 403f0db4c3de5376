"""Finding a PLUMED kernel: from ``PLUMED_KERNEL``, or from an installed package that carries one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from halberd.potentials.errors import MissingDependencyError

_ADVICE = (
    "Get both wrapper and kernel with: pip install --no-deps hillclimber==0.1.8 (Linux, PLUMED 2.11). Or install the "
    "wrapper with: pip install plumed, and set PLUMED_KERNEL to the libplumedKernel.so of your own PLUMED."
)


def open_plumed() -> Any:
    """Make a new instance of PLUMED.

    The kernel in the environment variable ``PLUMED_KERNEL`` wins; otherwise the one inside an installed ``plumed``
    package is taken.

    Returns
    -------
    plumed.Plumed

    Raises
    ------
    MissingDependencyError
        If there is no wrapper or no kernel, with what was tried and how to get one.
    """
    chosen = os.environ.get("PLUMED_KERNEL")
    if chosen and not Path(chosen).is_file():
        raise MissingDependencyError(f"PLUMED_KERNEL is '{chosen}', which is not a file. Correct it, or unset it.")
    try:
        import plumed
    except ImportError as error:
        raise MissingDependencyError(f"PLUMED is not installed: {error}. {_ADVICE}") from error
    try:
        with _silence():
            return plumed.Plumed(kernel=chosen) if chosen else plumed.Plumed()
    except Exception as error:  # the wrapper raises several types for one cause: it cannot load a kernel
        tried = f"PLUMED_KERNEL='{chosen}'" if chosen else f"the package '{Path(plumed.__file__).parent}'"
        raise MissingDependencyError(f"No PLUMED kernel could be loaded from {tried}: {error}. {_ADVICE}") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the greeting of PLUMED's loader, which C code prints, off standard error."""
    try:
        number = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # replaced by something that is no file
        number = 2
    sys.stderr.flush()
    kept = os.dup(number)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nothing:
            os.dup2(nothing.fileno(), number)
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)
