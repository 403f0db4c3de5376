"""Frames of one molecule kept as arrays, as MD17 and rMD17 are."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.formats import string2index

from halberd.potentials.errors import DataError

#: What arrays are called in such files: atomic numbers (N,), positions (F, N, 3), energies (F,), forces (F, N, 3).
_NAMES = {
    "numbers": ("nuclear_charges", "z", "atomic_numbers", "numbers"),
    "positions": ("coords", "R", "positions"),
    "energies": ("energies", "E", "energy"),
    "forces": ("forces", "F"),
}


def read_arrays(path: str | os.PathLike[str], index: str = ":") -> list[Atoms]:
    """Read a ``.npz`` of one molecule in many geometries.

    Parameters
    ----------
    path : path-like
    index : str
        ASE's slice.

    Returns
    -------
    list of ase.Atoms
        With ``REF_energy`` and ``REF_forces``, in the units of the file: rMD17 has kcal/mol.

    Raises
    ------
    DataError
        If the file cannot be read, or its arrays do not fit together.
    """
    file = Path(path)
    try:
        with open(file, "rb") as handle, np.load(handle, allow_pickle=False) as data:
            known = list(data.files)
            arrays = {
                kind: np.asarray(data[found], dtype=float)
                for kind, names in _NAMES.items()
                if (found := next((name for name in names if name in known), None)) is not None
            }
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"'{file}' cannot be read as arrays: {str(error).splitlines()[0]}") from error
    missing = [" or ".join(_NAMES[kind][:2]) for kind in ("numbers", "positions", "energies") if kind not in arrays]
    if missing:
        raise DataError(f"'{file}' has no array {', '.join(missing)}; it has {', '.join(known)}.")
    numbers, positions, energies = arrays["numbers"].ravel(), arrays["positions"], arrays["energies"].ravel()
    forces = arrays.get("forces")
    shape = (len(energies), len(numbers), 3)
    if positions.shape != shape or (forces is not None and forces.shape != shape):
        given = positions.shape if forces is None or positions.shape != shape else forces.shape
        raise DataError(
            f"'{file}' has {len(numbers)} atoms and {len(energies)} energies; positions and forces must have the shape "
            f"{shape}, not {given}."
        )
    frames = []
    for number, energy in enumerate(energies):
        atoms = Atoms(numbers.astype(int), positions[number], info={"REF_energy": float(energy)})
        if forces is not None:
            atoms.arrays["REF_forces"] = forces[number].copy()
        frames.append(atoms)
    which: Any = string2index(index)
    chosen = frames[which]
    return chosen if isinstance(chosen, list) else [chosen]
