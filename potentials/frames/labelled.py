"""Reading labelled structures: energies, forces and virials under whatever key a data set keeps them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from halberd.potentials.constants import EV_IN_KJ_PER_MOL, HARTREE_IN_EV
from halberd.potentials.errors import DataError
from halberd.potentials.frames.arrays import read_arrays
from halberd.potentials.frames.images import iterate_images, read_images
from halberd.potentials.validation import conform

#: Where labels are looked for, in this order, before the frame's own ASE results.
ENERGY_KEYS = ("REF_energy", "energy")
FORCES_KEYS = ("REF_forces", "forces")
VIRIAL_KEYS = ("REF_virial", "virial")
STRESS_KEYS = ("REF_stress", "stress")
_LABELS = ("energy", "forces", "virial")
#: In eV.
UNITS = {"eV": 1.0, "kcal/mol": 4.184 / EV_IN_KJ_PER_MOL, "kJ/mol": 1.0 / EV_IN_KJ_PER_MOL, "hartree": HARTREE_IN_EV}


@dataclasses.dataclass(frozen=True)
class LabelKeys:
    """Keys under which labels are found; ``None`` means the usual ones, in their order.

    The usual ones are ``REF_energy``, ``REF_forces``, ``REF_virial``, then ``energy``, ``forces``, ``virial``, then
    ``REF_stress``, ``stress``, then the results of the frame's ASE calculator.

    Attributes
    ----------
    energy, forces, virial : str, optional
        A virial under a key that has ``stress`` in it is taken for a stress, and multiplied by minus the volume.
    unit : {'eV', 'kcal/mol', 'kJ/mol', 'hartree'}
        Of energies and virials; forces are in the same per angstrom. Labels are converted to eV.
    """

    energy: str | None = None
    forces: str | None = None
    virial: str | None = None
    unit: Literal["eV", "kcal/mol", "kJ/mol", "hartree"] = "eV"

    def __post_init__(self) -> None:
        conform(self)


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
        Usually extended XYZ; ``.npz`` as of rMD17 is read, too.
    keys : LabelKeys, optional
    index : str
        ASE's slice.

    Returns
    -------
    list of Frame

    Raises
    ------
    DataError
        If the file is missing, cannot be read, or holds no frame; a key that was asked for is in none of them; or what
        is under a key are no labels.
    """
    keys = keys or LabelKeys()
    file = Path(path)
    images = read_arrays(file, index) if file.suffix == ".npz" else read_images(file, index)
    frames = [_frame(atoms, keys, f"structure {number} of '{file}'") for number, atoms in enumerate(images)]
    for name in _LABELS:
        key = getattr(keys, name)
        if key is not None and all(getattr(frame, name) is None for frame in frames):
            raise _no_label(file, name, key, {k for f in frames for k in [*f.atoms.info, *f.atoms.arrays]})
    return frames


def _no_label(file: Path, name: str, key: str, known: set[str]) -> DataError:
    return DataError(f"'{file}' has no {name} under '{key}'; it has {', '.join(sorted(known))}.")


def iterate_frames(path: str | os.PathLike[str], keys: LabelKeys | None = None) -> Iterator[Frame]:
    """Read structures and their labels one by one, as :func:`read_frames` does.

    Raises
    ------
    DataError
        If the file is missing or cannot be read, or what is under a key are no labels.
    """
    keys, file = keys or LabelKeys(), Path(path)
    images = iter(read_arrays(file)) if file.suffix == ".npz" else iterate_images(file)
    missing = {name for name in _LABELS if getattr(keys, name) is not None}
    known: set[str] = set()
    for number, atoms in enumerate(images):
        frame = _frame(atoms, keys, f"structure {number} of '{file}'")
        missing -= {name for name in missing if getattr(frame, name) is not None}
        if missing:
            known |= {*atoms.info, *atoms.arrays}
        yield frame
    for name in sorted(missing):
        raise _no_label(file, name, getattr(keys, name), known)


def _frame(atoms: Atoms, keys: LabelKeys, where: str) -> Frame:
    energy = _find(atoms, keys.energy, ENERGY_KEYS, "energy")
    forces = _find(atoms, keys.forces, FORCES_KEYS, "forces")
    virial = _virial(atoms, keys.virial, f"The virial of {where}")
    unit = UNITS[keys.unit]
    return Frame(
        atoms,
        None if energy is None else unit * float(_numbers(energy, (), f"The energy of {where}")),
        None if forces is None else unit * _numbers(forces, (len(atoms), 3), f"The forces of {where}"),
        None if virial is None else unit * virial,
        str(atoms.info.get("config_type", "default")),
    )


def _numbers(values: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Labels as an array of a certain shape; other things are kept under keys, too."""
    try:
        return np.asarray(values, dtype=float).reshape(shape)
    except (TypeError, ValueError) as error:
        meant = "one number" if shape == () else f"numbers of shape {shape}"
        given = f"{np.asarray(values).ravel()[:3]}, of shape {np.shape(values)}"
        raise DataError(f"{what} is {given}, not {meant}. Another key may be meant.") from error


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


def _virial(atoms: Atoms, key: str | None, what: str) -> np.ndarray | None:
    named_stress = key is not None and "stress" in key.lower()
    virial = None if named_stress else _find(atoms, key, VIRIAL_KEYS, "virial")
    if virial is None and (key is None or named_stress):
        stress = _find(atoms, key, STRESS_KEYS, "stress")
        if stress is not None and atoms.cell.rank == 3:
            return np.asarray(-atoms.get_volume() * _tensor(stress, what))
    if virial is None:
        return None
    return _tensor(virial, what)


def _tensor(values: np.ndarray, what: str) -> np.ndarray:
    if values.size == 6:
        return np.asarray(voigt_6_to_full_3x3_stress(_numbers(values, (6,), what)))
    return _numbers(values, (3, 3), what)


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
