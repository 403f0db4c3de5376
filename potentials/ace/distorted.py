"""Molecules turned about their bonds and pulled apart: what is known of structures that no frame is like.

A linear ACE fitted to a molecule near its minimum is free far from it: turned by 180 degrees, the enol of acetylacetone
came out 9 eV off. Something is known there without a calculation. Turning about a single bond changes the energy by
half an electronvolt or so, stretching one costs about what a Morse curve says, and pushing atoms together, but not onto
each other, a few electronvolts. Rows of that are added to the fit: energies alone, as uncertain as that beside the
noise of the labels, and few beside these. They are weak where there are frames, and strong beside the prior.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray

from halberd.potentials.ace.design_rows import DesignAssembler
from halberd.potentials.frames.labelled import Frame

#: Structures made of every frame that is kept, by default.
DISTORTIONS = 5
#: Atoms are bonded that are closer than this multiple of the sum of their covalent radii.
BONDED = 1.25
#: Depth (eV) and exponent (1/angstrom) of the Morse curve of every bond.
DEPTH, EXPONENT = 4.0, 2.0
#: Standard deviations of the energy of a molecule that was turned, or that has a stretched bond, eV.
TURNED, STRETCHED = 0.5, 1.0
#: Energy of a molecule with atoms closer than in the data, and its standard deviation, eV.
CROWDED, CROWDED_SIGMA = 2.0, 1.0
#: Atoms without a bond come no closer than the sum of their covalent radii and this, angstrom.
_ROOM = 0.3
#: No more rows than this share of those of labels.
MOST = 0.05
#: Changes of a structure at most, share of them that are turns where there is something to turn, longest stretch.
_CHANGES, _TURNS, _LONGEST = 3, 0.6, 2.2
#: It is crowded below this share of the closest distance in the data. So often another change is tried.
_CLOSEST, _TRIES = 0.95, 20
#: Larger molecules are not looked at.
_LARGEST = 500


@dataclasses.dataclass(frozen=True)
class Distorted:
    """A structure, and what is known of it.

    Attributes
    ----------
    positions : array, shape (N, 3), angstrom
    rise : float, eV
        Energy above that of the structure it was made of, expected.
    sigma : float, eV
        Standard deviation of it.
    """

    positions: NDArray[np.float64]
    rise: float
    sigma: float


def bridges(atoms: Atoms) -> list[tuple[int, int, NDArray[np.int64]]]:
    """Bonds in no ring, in both directions: from an atom, to another, and all atoms on the side of the other.

    Parameters
    ----------
    atoms : ase.Atoms
        Not periodic.
    """
    radii = covalent_radii[atoms.numbers]
    bonded = atoms.get_all_distances() < BONDED * (radii[:, None] + radii[None])
    np.fill_diagonal(bonded, False)
    neighbors = [np.flatnonzero(row).tolist() for row in bonded]
    found = []
    for i, j in np.argwhere(bonded).tolist():
        side, new = {j}, [j]
        while new and i not in side:
            others = [k for n in new for k in neighbors[n] if k not in side and (n, k) != (j, i)]
            side.update(others)
            new = others
        if i not in side:
            found.append((i, j, np.array(sorted(side))))
    return found


def distorted(
    atoms: Atoms, closest: NDArray[np.float64], count: int, generator: np.random.Generator
) -> list[Distorted]:
    """Turn and stretch a molecule at random.

    Parameters
    ----------
    atoms : ase.Atoms
        Not periodic; without a bond that can be cut nothing is made.
    closest : array, shape (N, N), angstrom
        Distances of the data.
    count : int
        At most so many.
    generator : numpy.random.Generator
    """
    bonds = bridges(atoms)
    if not bonds:
        return []
    radii = covalent_radii[atoms.numbers]
    sums = radii[:, None] + radii[None]
    free = atoms.get_all_distances() >= BONDED * sums
    found = []
    for _ in range(count):
        for _ in range(_TRIES):
            made = _changed(atoms.positions, bonds, generator)
            distances = np.linalg.norm(made.positions[:, None] - made.positions[None], axis=-1)
            if (distances > sums + _ROOM)[free].all():
                if (distances < _CLOSEST * closest)[free].any():
                    made = Distorted(made.positions, max(made.rise, CROWDED), max(made.sigma, CROWDED_SIGMA))
                found.append(made)
                break
    return found


def _changed(
    positions: NDArray[np.float64], bonds: Sequence[tuple[int, int, NDArray[np.int64]]], generator: np.random.Generator
) -> Distorted:
    made, rise, sigma = positions.copy(), 0.0, TURNED
    turning = [bond for bond in bonds if 1 < len(bond[2]) < len(positions) - 1]
    for _ in range(generator.integers(1, _CHANGES + 1)):
        turn = bool(turning) and generator.random() < _TURNS
        chosen = turning if turn else bonds
        i, j, side = chosen[int(generator.integers(len(chosen)))]
        axis = made[j] - made[i]
        if turn:
            made[side] = made[i] + _turned(made[side] - made[i], axis, generator.uniform(0.0, 2.0 * np.pi))
        else:
            made[side] += generator.uniform(0.0, _LONGEST - 1.0) * axis
            stretch = float(np.linalg.norm(made[j] - made[i]) - np.linalg.norm(positions[j] - positions[i]))
            rise, sigma = max(rise, DEPTH * (1.0 - np.exp(-EXPONENT * stretch)) ** 2), STRETCHED
    return Distorted(made, rise, sigma)


def _turned(vectors: NDArray[np.float64], axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Vectors turned about an axis (Rodrigues)."""
    axis = axis / np.linalg.norm(axis)
    along = (vectors @ axis)[:, None] * axis
    return np.asarray(along + (vectors - along) * np.cos(angle) + np.cross(axis, vectors) * np.sin(angle))


def distortion_rows(
    assembler: DesignAssembler,
    frames: Sequence[Frame],
    e0s: NDArray[np.float64],
    closest: NDArray[np.float64],
    count: int,
) -> NDArray[np.float64]:
    """Rows of the energies of distorted molecules, each divided by its standard deviation.

    Parameters
    ----------
    assembler : DesignAssembler
    frames : sequence of Frame
        Those that are periodic, or without energy, are left out.
    e0s : array, shape (S,), eV
        Taken off the energies.
    closest : array, shape (S, S), angstrom
        See :func:`distorted`.
    count : int
        Structures made of every frame.

    Returns
    -------
    array, shape (n, n_functions + 1)
        The last column is the target.
    """
    structures, targets, sigmas = [], [], []
    for frame, species, made in _all_distorted(frames, assembler.basis.settings.elements, closest, count):
        structures.append(Atoms(frame.atoms.numbers, made.positions))
        targets.append(float(frame.energy or 0.0) - float(e0s[species].sum()) + made.rise)
        sigmas.append(made.sigma)
    rows = np.empty((len(structures), assembler.n_columns + 1))
    for indices, block in assembler.blocks(structures):
        for k, i in enumerate(indices):
            rows[i] = np.append(block.of(k).energy, targets[i]) / sigmas[i]
    return rows


def _all_distorted(
    frames: Sequence[Frame], elements: Sequence[int], closest: NDArray[np.float64], count: int
) -> Iterator[tuple[Frame, NDArray[np.int64], Distorted]]:
    for frame in frames:
        if frame.energy is None or frame.atoms.pbc.any() or not 2 < len(frame.atoms) <= _LARGEST:
            continue
        species = np.searchsorted(elements, frame.atoms.numbers)
        # The same of a frame wherever it comes among others.
        generator = np.random.default_rng(zlib.crc32(frame.atoms.positions.tobytes()))
        for made in distorted(frame.atoms, closest[species][:, species], count, generator):
            yield frame, species, made
