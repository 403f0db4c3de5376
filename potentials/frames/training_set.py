"""What a training set must be like before anything is fitted to it, and the self-energies it implies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import ase.data
import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from halberd.potentials.errors import ConfigurationError, DataError, UnknownElementError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.sites.elements import atomic_number_of
from halberd.potentials.sites.verlet_list import NeighborList, edges_of_atoms

#: angstrom. An atom whose images are nearer is a crystal.
_ALONE = 8.0
#: Frames named in a message before it says "and so on".
_NAMED = 8


def check_frames(frames: Sequence[Frame]) -> list[int]:
    """Check frames for what no fit survives.

    Parameters
    ----------
    frames : sequence of Frame

    Returns
    -------
    list of int
        Frames to leave out: exact copies of an earlier one.

    Raises
    ------
    DataError
        If there are no frames, or some have no label at all, labels or positions that are not finite, or a cell that
        does not fit the periodic directions. Names the frames.
    """
    if not frames:
        raise DataError("There are no frames to fit. Give a file with labelled structures.")
    check_finite(frames)
    unlabelled, celled = [], []
    seen: set[bytes] = set()
    copies = []
    for number, frame in enumerate(frames):
        atoms = frame.atoms
        labels = [frame.energy, frame.forces, frame.virial]
        if all(label is None for label in labels):
            unlabelled.append(number)
        arrays = _arrays(frame)
        lengths = np.linalg.norm(np.array(atoms.cell), axis=1)
        if (atoms.pbc & (lengths < 1e-6)).any() or (atoms.pbc.all() and abs(np.linalg.det(atoms.cell)) < 1e-6):
            celled.append(number)
        digest = _digest(frame, arrays)
        if digest in seen:
            copies.append(number)
        seen.add(digest)
    if unlabelled:
        known = sorted({key for i in unlabelled for key in [*frames[i].atoms.info, *frames[i].atoms.arrays]})
        raise DataError(
            f"Frames {listed(unlabelled)} have no energy, forces or virial; the keys there are {', '.join(known)}. "
            "Say where the labels are (energy key, forces key, virial key), or leave these frames out."
        )
    if celled:
        raise DataError(
            f"Frames {listed(celled)} (counted from 0) are periodic along directions without a cell vector. "
            "Correct their cell or their pbc."
        )
    return copies


def copies_of(frames: Sequence[Frame], others: Sequence[Frame]) -> int:
    """How many frames are exact copies of some of the others; these are checked as by :func:`check_frames`."""
    check_frames(others)
    known = {_digest(frame, _arrays(frame)) for frame in others}
    return sum(_digest(frame, _arrays(frame)) in known for frame in frames)


def _digest(frame: Frame, arrays: Sequence[NDArray[np.float64]]) -> bytes:
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
    digest.update(frame.atoms.numbers.tobytes() + frame.atoms.pbc.tobytes())
    return digest.digest()


def check_finite(frames: Sequence[Frame]) -> None:
    """Raise a DataError that names the frames whose positions, cells or labels are no numbers."""
    damaged = [number for number, frame in enumerate(frames) if not all(np.isfinite(a).all() for a in _arrays(frame))]
    if damaged:
        raise DataError(
            f"Frames {listed(damaged)} (counted from 0) hold positions or labels that are not finite. Leave them out."
        )


def _arrays(frame: Frame) -> list[NDArray[np.float64]]:
    labels = [np.asarray(label) for label in (frame.energy, frame.forces, frame.virial) if label is not None]
    return [frame.atoms.positions, np.array(frame.atoms.cell), *labels]


def listed(numbers: Sequence[int], most: int = _NAMED) -> str:
    """Frames by number, in words: the first ones, and how many more."""
    shown = ", ".join(map(str, numbers[:most]))
    return shown + (f" and {len(numbers) - most} more" if len(numbers) > most else "")


def composition(frames: Sequence[Frame], elements: Sequence[int]) -> NDArray[np.float64]:
    """Atoms of every element in every frame, shape (F, S).

    Raises
    ------
    UnknownElementError
        If a frame has another element; names the first.
    """
    counts = np.stack([[(frame.atoms.numbers == z).sum() for z in elements] for frame in frames]).astype(float)
    missing = np.flatnonzero(counts.sum(axis=1) != [len(frame.atoms) for frame in frames])
    if len(missing):
        frame = frames[int(missing[0])]
        others = sorted(set(frame.atoms.get_chemical_symbols()) - {ase.data.chemical_symbols[z] for z in elements})
        raise UnknownElementError(
            f"Frame {missing[0]} holds {', '.join(others)}, which the fit was not set up for. "
            "Name all elements, or leave this frame out."
        )
    return counts


def is_isolated(atoms: Atoms) -> bool:
    """Whether a structure is one atom by itself: in open space, or far from its periodic images."""
    if len(atoms) != 1:
        return False
    if (np.linalg.norm(atoms.cell.array, axis=1)[atoms.pbc] < 1e-6).any():
        return True  # no cell to have images in; refused by those who fit
    return not atoms.pbc.any() or edges_of_atoms(NeighborList(_ALONE, 0.0), atoms)[0].shape[1] == 0


def self_energies(
    frames: Sequence[Frame], elements: Sequence[int], given: Mapping[str | int, float] | str | None = None
) -> tuple[NDArray[np.float64], str]:
    """Energy of the isolated atoms.

    Parameters
    ----------
    frames : sequence of Frame
    elements : sequence of int
    given : mapping, 'isolated', 'average' or None
        Energies by element, eV; or take them from frames of one atom; or by least squares from the energies of all
        frames. ``None``: one-atom frames where there is one for every element, otherwise least squares.

    Returns
    -------
    e0s : array, shape (S,), eV
    source : str
        ``"given"``, ``"isolated"`` or ``"average"``.

    Raises
    ------
    DataError, ConfigurationError
        If some element has no energy. Names the elements and what to do.
    """
    symbols = [ase.data.chemical_symbols[z] for z in elements]
    if isinstance(given, Mapping):
        known = {atomic_number_of(element): float(value) for element, value in given.items()}
        missing = [s for s, z in zip(symbols, elements, strict=True) if z not in known]
        if missing:
            raise ConfigurationError(f"E0 is given for other elements, but not for {', '.join(missing)}. Add them.")
        return np.array([known[z] for z in elements]), "given"
    if given not in (None, "isolated", "average"):
        raise ConfigurationError(f"e0s is {given!r}; give energies by element, 'isolated' or 'average'.")
    energies = np.full(len(elements), np.nan)
    for frame in frames:
        if frame.energy is not None and is_isolated(frame.atoms) and int(frame.atoms.numbers[0]) in elements:
            energies[list(elements).index(int(frame.atoms.numbers[0]))] = frame.energy
    absent = [symbol for symbol, value in zip(symbols, energies, strict=True) if np.isnan(value)]
    if given == "isolated" and absent:
        raise DataError(
            f"There is no frame of a single atom for {', '.join(absent)}. Add one, give E0 by hand, or use 'average'."
        )
    if given != "average" and not absent:
        return energies, "isolated"
    labelled = [frame for frame in frames if frame.energy is not None and not is_isolated(frame.atoms)]
    if not labelled:
        return np.zeros(len(elements)), "average"
    counts = composition(labelled, elements)
    sizes = counts.sum(axis=1)
    per_atom = np.array([frame.energy for frame in labelled]) / sizes
    # The smallest solution around the mean: elements that always come together share its rest.
    mean = float(per_atom.mean())
    shift = np.linalg.lstsq(counts / sizes[:, None], per_atom - mean, rcond=1e-6)[0]
    return mean + shift, "average"


def distance_range(
    frames: Sequence[Frame], elements: Sequence[int], reach: float, known: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], float]:
    """Shortest distance of every pair of elements, and the longest distance of all.

    Parameters
    ----------
    frames : sequence of Frame
    elements : sequence of int
    reach : float, angstrom
    known : array, optional
        Shortest distances to start from.

    Returns
    -------
    shortest : array, shape (S, S), angstrom
        Infinite where no pair is within reach.
    longest : float, angstrom
        At most ``reach``; 0 if there is no pair.
    """
    n = len(elements)
    longest = 0.0
    shortest = np.full(n * n, np.inf) if known is None else known.ravel().copy()
    index = {z: s for s, z in enumerate(elements)}
    search = NeighborList(reach, 0.0)
    for frame in frames:
        atoms = frame.atoms
        if len(atoms) == 1 and not atoms.pbc.any():
            continue
        species = torch.tensor([index[int(z)] for z in atoms.numbers])
        edges, vectors = edges_of_atoms(search, atoms)
        pair = (species[edges[0]] * n + species[edges[1]]).numpy()
        distances = vectors.norm(dim=1).numpy()
        np.minimum.at(shortest, pair, distances)
        longest = max(longest, float(distances.max(initial=0.0)))
    return shortest.reshape(n, n), longest
