"""Reading labelled structures: energies, forces and virials under whatever key a data set keeps them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from halberd.potentials.errors import DataError

#: Where labels are looked for, in this order, before the frame's own ASE results.
ENERGY_KEYS = ("REF_energy", "energy")
FORCES_KEYS = ("REF_forces", "forces")
VIRIAL_KEYS = ("REF_virial", "virial")


@dataclasses.dataclass(frozen=True)
class LabelKeys:
    """Keys under which labels are found; ``None`` means the usual ones, in their order.

    The usual ones are ``REF_energy``, ``REF_forces``, ``REF_virial``, then ``energy``, ``forces``, ``virial``,
    ``stress``, then the results of the frame's ASE calculator.
    """

    energy: str | None = None
    forces: str | None = None
    virial: str | None = None


@dataclasses.dataclass(frozen=True)
class Frame:
    """A structure with its labels.

    Attributes
    ----------
    atoms : ase.Atoms
    energy : float, eV, or None
    forces : array, shape (N, 3), eV/angstrom, or None
    virial : array, shape (3, 3), eV, or None
        Minus the derivative of the energy with respect to strain.
    config_type : str
        The frame's ``config_type``, or ``"default"``.
    """

    atoms: Atoms
    energy: float | None
    forces: np.ndarray | None
    virial: np.ndarray | None
    config_type: str


def read_frames(path: str | os.PathLike[str], keys: LabelKeys | None = None, index: str = ":") -> list[Frame]:
    """Read structures and their labels from a file that ASE can read.

    Parameters
    ----------
    path : path-like
        Usually extended XYZ.
    keys : LabelKeys, optional
    index : str
        ASE's slice.

    Returns
    -------
    list of Frame

    Raises
    ------
    DataError
        If the file is missing, cannot be read, or holds no frame; or a key that was asked for is in none of them.
    """
    keys = keys or LabelKeys()
    file = Path(path)
    if not file.is_file():
        raise DataError(f"Structure file '{file}' does not exist.")
    try:
        images = ase.io.read(file, index=index)
    except Exception as error:  # ASE's readers raise anything
        raise DataError(f"'{file}' cannot be read as structures: {type(error).__name__}: {error}") from error
    frames = [_frame(atoms, keys) for atoms in (images if isinstance(images, list) else [images])]
    if not frames:
        raise DataError(f"'{file}' holds no structure.")
    for name in ("energy", "forces", "virial"):
        key = getattr(keys, name)
        if key is not None and all(getattr(frame, name) is None for frame in frames):
            known = sorted({k for frame in frames for k in [*frame.atoms.info, *frame.atoms.arrays]})
            raise DataError(f"'{file}' has no {name} under '{key}'; it has {', '.join(known)}.")
    return frames


def _frame(atoms: Atoms, keys: LabelKeys) -> Frame:
    energy = _find(atoms, keys.energy, ENERGY_KEYS, "energy")
    forces = _find(atoms, keys.forces, FORCES_KEYS, "forces")
    return Frame(
        atoms,
        None if energy is None else float(energy),
        None if forces is None else np.asarray(forces, dtype=float).reshape(len(atoms), 3),
        _virial(atoms, keys.virial),
        str(atoms.info.get("config_type", "default")),
    )


def _find(atoms: Atoms, key: str | None, usual: Sequence[str], name: str) -> np.ndarray | None:
    results = {} if atoms.calc is None else atoms.calc.results
    for candidate in usual if key is None else (key,):
        for source in (atoms.info, atoms.arrays):
            if candidate in source:
                return np.asarray(source[candidate])
    # ASE moves the standard names out of info and arrays.
    if (key is None or key == name) and name in results:
        return np.asarray(results[name])
    return None


def _virial(atoms: Atoms, key: str | None) -> np.ndarray | None:
    virial = _find(atoms, key, VIRIAL_KEYS, "virial")
    if virial is None and key in (None, "stress"):
        stress = _find(atoms, None, ("stress",), "stress")
        if stress is not None and atoms.cell.rank == 3:
            full = stress.reshape(3, 3) if stress.size == 9 else voigt_6_to_full_3x3_stress(stress.ravel())
            return np.asarray(-atoms.get_volume() * full)
    if virial is None:
        return None
    if virial.size == 6:
        return np.asarray(voigt_6_to_full_3x3_stress(virial.ravel()))
    return virial.reshape(3, 3).astype(float)


def group_by_config_type(frames: Sequence[Frame]) -> Iterator[tuple[str, list[int]]]:
    """Yield each config type, sorted, with the indices of its frames."""
    for config_type in sorted({frame.config_type for frame in frames}):
        yield config_type, [i for i, frame in enumerate(frames) if frame.config_type == config_type]


def to_atoms(frame: Frame) -> Atoms:
    """A structure that carries the labels under the keys that ``read_frames`` looks for first."""
    atoms = frame.atoms.copy()
    atoms.info["config_type"] = frame.config_type
    if frame.energy is not None:
        atoms.info["REF_energy"] = frame.energy
    if frame.forces is not None:
        atoms.arrays["REF_forces"] = frame.forces
    if frame.virial is not None:
        atoms.info["REF_virial"] = frame.virial
    return atoms
