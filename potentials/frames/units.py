"""Whether energies change from frame to frame as forces say, whatever is between the frames.

A pair potential with free form is fitted to the forces alone. It is no good potential, but what it says of energies
goes with them, and is of their size: to within a factor of three on molecules, metals, alloys and clusters. Another
unit is a factor of fourteen or more.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.frames.labelled import Frame
from halberd.potentials.sites.verlet_list import NeighborList, edges_of_atoms

#: Frames, evenly spread, and atoms that are looked at, at most.
_FRAMES, _ATOMS = 200, 4000
#: Gaussians of the distance, of every pair of elements; angstrom.
_CUTOFF, _COUNT, _WIDTH = 4.5, 16, 0.3
#: Of the mean diagonal of the normal equations.
_RIDGE = 1e-4
#: Energies and what the pair potential says go together better than that, or nothing is known.
_CORRELATION = 0.3
#: They are of one size to within this factor.
_FACTOR = 6.0


def unit_problem(frames: Sequence[Frame]) -> str | None:
    """A sentence if energies change otherwise than forces say, by a factor of units, or of minus one.

    Parameters
    ----------
    frames : sequence of Frame
    """
    ratio = energy_over_forces(frames)
    if ratio is None or 1 / _FACTOR < ratio < _FACTOR:
        return None
    return (
        f"Energies change about {ratio:.2g} times as much from frame to frame as forces say. Energies should be in eV, "
        "forces in eV/angstrom (1 eV is 23.06 kcal/mol, 96.49 kJ/mol; 1 hartree/bohr is 51.42 eV/angstrom), and "
        "forces minus the gradient."
    )


def energy_over_forces(frames: Sequence[Frame]) -> float | None:
    """Size of changes of energies, over that of a pair potential that is fitted to the forces; with a sign.

    Parameters
    ----------
    frames : sequence of Frame

    Returns
    -------
    float or None
        About 1, if all is well; ``None`` if there are few frames of one composition, or both do not go together.
    """
    chosen = _chosen(frames)
    if len(chosen) < 5:
        return None
    elements = {z: n for n, z in enumerate(sorted({int(z) for frame in chosen for z in frame.atoms.numbers}))}
    search = NeighborList(_CUTOFF, 0.0)
    # Every composition by itself: what atoms are worth is not known.
    groups: dict[tuple[int, ...], list[int]] = collections.defaultdict(list)
    energies, of_energy = np.zeros(len(chosen)), []
    normal: NDArray[np.float64] | float = 0.0
    right: NDArray[np.float64] | float = 0.0
    for number, frame in enumerate(chosen):
        assert frame.energy is not None
        assert frame.forces is not None
        row, block = _rows(frame, search, elements)
        of_energy.append(row)
        energies[number] = frame.energy
        normal = normal + block.T @ block
        right = right + block.T @ frame.forces.ravel()
        groups[tuple(sorted(frame.atoms.numbers.tolist()))].append(number)
    size = len(of_energy[0])
    scale = float(np.trace(np.atleast_2d(normal))) / size
    if not scale > 0:
        return None
    said = np.array(of_energy) @ np.linalg.solve(normal + _RIDGE * scale * np.eye(size), right)
    kept = [group for group in groups.values() if len(group) > 1]
    if sum(len(group) - 1 for group in kept) < 10:
        return None
    x, y = (np.concatenate([values[group] - values[group].mean() for group in kept]) for values in (said, energies))
    if not (x @ x > 0 and y @ y > 0):
        return None
    correlation = float(x @ y / np.sqrt((x @ x) * (y @ y)))
    if abs(correlation) < _CORRELATION:
        return None
    return float(np.copysign(np.sqrt((y @ y) / (x @ x)), correlation))


def _chosen(frames: Sequence[Frame]) -> list[Frame]:
    """Some frames of several atoms with energies and forces."""
    found: list[Frame] = []
    atoms = 0
    # As many again, since some will not do.
    for number in np.unique(np.linspace(0, len(frames) - 1, min(len(frames), 2 * _FRAMES)).astype(int)):
        frame = frames[int(number)]
        if frame.energy is not None and frame.forces is not None and len(frame.atoms) > 1:
            found.append(frame)
    every = max(1, round(len(found) / _FRAMES))
    kept: list[Frame] = []
    for frame in found[::every]:
        atoms += len(frame.atoms)
        if kept and atoms > _ATOMS:
            break
        kept.append(frame)
    return kept


def _rows(
    frame: Frame, search: NeighborList, elements: dict[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the energy, and every component of the forces, is in the pair potential's coefficients."""
    edge_index, vectors = (each.numpy() for each in edges_of_atoms(search, frame.atoms))
    r = np.linalg.norm(vectors, axis=1)
    species = np.array([elements[int(z)] for z in frame.atoms.numbers])
    low, high = np.sort(species[edge_index], axis=0)
    first = (low * len(elements) + high) * _COUNT
    size = len(elements) ** 2 * _COUNT
    x = 1.0 - (r / _CUTOFF) ** 2
    shifted = r[:, None] - np.linspace(0.6, _CUTOFF, _COUNT)
    gaussians = np.exp(-0.5 * (shifted / _WIDTH) ** 2)
    values = gaussians * (x**2)[:, None]
    slopes = -values * shifted / _WIDTH**2 - gaussians * (4.0 * x * r / _CUTOFF**2)[:, None]
    columns = first[:, None] + np.arange(_COUNT)
    energy = np.zeros(size)
    np.add.at(energy, columns, 0.5 * values)
    block = np.zeros((len(frame.atoms), 3, size))
    # Half the energy of an edge is each atom's; the vector goes from the centre to its neighbour.
    directions = vectors / r[:, None]
    for axis in range(3):
        np.add.at(block[:, axis], (edge_index[0][:, None], columns), slopes * directions[:, axis, None])
    return energy, block.reshape(-1, size)
