"""Reading structure files of any format without trusting them."""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from halberd.potentials.errors import DataError

#: angstrom. Coordinates and cells beyond it are mistakes of units or of a file, and waste memory in neighbour lists.
LARGEST_COORDINATE = 1e7


def read_images(path: str | os.PathLike[str], index: str = ":") -> list[Atoms]:
    """Read structures with ASE.

    Parameters
    ----------
    path : path-like
    index : str
        ASE's slice.

    Returns
    -------
    list of ase.Atoms
        One at least.

    Raises
    ------
    DataError
        If the file is missing, cannot be read or holds no structure, or one that no simulation can use: says which,
        and why.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"Structure file '{file}' does not exist.")
    _check_counts(file)
    try:
        images = ase.io.read(file, index=index)
    except Exception as error:  # ASE's readers raise anything
        first = (str(error).strip().splitlines() or [""])[0]
        raise DataError(f"'{file}' cannot be read as structures: {type(error).__name__}: {first}") from error
    images = images if isinstance(images, list) else [images]
    if not images:
        raise DataError(f"'{file}' holds no structure.")
    for number, atoms in enumerate(images):
        _check_image(atoms, number, file)
    return images


def iterate_images(path: str | os.PathLike[str]) -> Iterator[Atoms]:
    """Read structures one by one, as :func:`read_images` does: of a file that memory would not hold.

    Raises
    ------
    DataError
        As :func:`read_images`, when the structure in question comes.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"Structure file '{file}' does not exist.")
    _check_counts(file)
    number = -1
    try:
        for number, atoms in enumerate(ase.io.iread(file, index=":")):
            _check_image(atoms, number, file)
            yield atoms
    except DataError:
        raise
    except Exception as error:  # ASE's readers raise anything
        first = (str(error).strip().splitlines() or [""])[0]
        raise DataError(f"'{file}' cannot be read after structure {number}: {type(error).__name__}: {first}") from error
    if number < 0:
        raise DataError(f"'{file}' holds no structure.")


def _check_image(atoms: Atoms, number: int, file: Path) -> None:
    problem = _problem(atoms)
    if problem is not None:
        raise DataError(f"Structure {number} of '{file}' {problem}.")


def _check_counts(file: Path) -> None:
    """ASE believes the numbers of atoms that an XYZ file states, and would wait for a million million lines."""
    if file.suffix.lower() not in (".xyz", ".extxyz"):
        return
    size = file.stat().st_size
    with open(file, encoding="utf-8", errors="replace") as handle:
        while (count := handle.readline().strip()).isdecimal() and len(count) < 4000:
            # An atom takes eight bytes at least: a symbol, three digits, blanks between them, the end of the line.
            if int(count) * 8 > size:
                raise DataError(
                    f"'{file}' cannot be read as structures: it states {int(count):.3g} atoms in {size} bytes."
                )
            collections.deque(itertools.islice(handle, int(count) + 1), maxlen=0)


def _problem(atoms: Atoms) -> str | None:
    if len(atoms) == 0:
        return "holds no atom"
    if (atoms.numbers <= 0).any():
        return f"holds an atom of no element, '{atoms.symbols[int(np.argmin(atoms.numbers))]}'"
    for values, name in ((atoms.positions, "coordinate"), (atoms.cell.array, "cell vector")):
        largest = float(np.abs(values).max())
        if np.isfinite(largest) and largest > LARGEST_COORDINATE:
            return f"has a {name} of {largest:.3g} angstrom"
    if not np.isfinite(atoms.cell.array).all():
        return "has a cell that is no number"
    return None
