"""Two atoms alone: the curve that shows whether a potential repels at distances nobody trained it on.

Frames of a condensed phase say little about dimers. Three measures make the energy rise as two atoms approach below
the closest distance of the training set: the smoothness prior, a few rows that ask for repulsion there (weak against
data), and a repulsive core that begins where the data end, made just strong enough for the mean and every member.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.design_rows import DesignAssembler
from halberd.potentials.ace.radial import with_slope
from halberd.potentials.ace.repulsive_core import repulsive_core, zbl

#: Fractions of the closest distance at which repulsion is asked for.
RESTRAINED = np.linspace(0.9, 1.02, 6)
#: Weight of these rows: of a relative deviation for slopes beyond 1 eV/angstrom, of an absolute one below.
RESTRAINT_WEIGHT = 1.0
#: Onsets are moved into the data by no more than this.
LARGEST_ONSET = 1.25
#: Cores are at most this many times the ZBL repulsion.
STRONGEST = 1e3


@dataclasses.dataclass(frozen=True)
class Cores:
    """Repulsive cores of all pairs.

    Attributes
    ----------
    onsets : array, shape (S, S), angstrom
    strengths : array, shape (S, S)
        Factor on the ZBL repulsion.
    """

    onsets: NDArray[np.float64]
    strengths: NDArray[np.float64]


def dimer(z1: int, z2: int, distance: float) -> Atoms:
    """Two atoms along z."""
    return Atoms(numbers=[z1, z2], positions=[[0.0, 0.0, 0.0], [0.0, 0.0, distance]])


def shortest_or_default(basis: AceBasis, closest: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances below which pairs must repel: given ones, else those of the data, else 0.7 bond lengths."""
    settings = basis.settings
    chosen = settings.pair_table(np.where(np.isfinite(closest), closest, settings.cores), settings.core_radii)
    return np.minimum(chosen, 0.98 * settings.r_max)


def restraint_rows(
    assembler: DesignAssembler, closest: NDArray[np.float64], weight: float = RESTRAINT_WEIGHT
) -> NDArray[np.float64]:
    """Rows that ask the slope of every dimer curve to be that of the ZBL repulsion at short range.

    Parameters
    ----------
    assembler : DesignAssembler
    closest : array, shape (S, S), angstrom
        From :func:`shortest_or_default`.
    weight : float
        See ``RESTRAINT_WEIGHT``.

    Returns
    -------
    array, shape (n, n_functions + 1)
        The last column is the target.
    """
    rows = []
    elements = assembler.basis.settings.elements
    for a, b in _pairs(len(elements)):
        distances = RESTRAINED * closest[a, b]
        block = assembler.rows([dimer(elements[a], elements[b], r) for r in distances])
        slope = with_slope(functools.partial(zbl, elements[a], elements[b]), torch.from_numpy(distances))[1]
        # Close pairs push by electronvolts per angstrom; pairs that were only seen far apart are asked for little.
        target = np.clip(-slope.numpy(), 0.2, 5.0)
        force = np.stack([forces[1, 2] for forces in block.forces])  # on the second atom, away from the first
        rows.append(np.column_stack([force, target]) * (weight / np.maximum(target, 1.0))[:, None])
    return np.concatenate(rows)


def _pairs(n: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(n) for b in range(a, n)]


def fit_cores(
    assembler: DesignAssembler, coefficients: Sequence[NDArray[np.float64]], closest: NDArray[np.float64]
) -> tuple[Cores, list[str]]:
    """Find the weakest cores with which every dimer curve rises monotonically below the closest distance.

    Parameters
    ----------
    assembler : DesignAssembler
    coefficients : sequence of array, shape (n_functions,) each
        The mean and the members.
    closest : array, shape (S, S), angstrom
        From :func:`shortest_or_default`.

    Returns
    -------
    cores : Cores
        No core reaches beyond the closest distance, unless a curve does not rise right there.
    notes : list of str
        Pairs whose core had to reach into the data, or that cannot be made to rise.
    """
    elements, symbols = assembler.basis.settings.elements, assembler.basis.settings.symbols
    onsets, strengths = closest.copy(), np.ones_like(closest)
    columns = np.stack(coefficients, axis=1)
    notes = []
    for a, b in _pairs(len(elements)):
        grid = np.linspace(0.04, 1.0, 97) * closest[a, b]
        block = assembler.rows([dimer(elements[a], elements[b], r) for r in grid])
        # The least repulsive of all curves, eV/angstrom, positive = pushed apart.
        push = np.stack([forces[1, 2] for forces in block.forces]) @ columns
        weakest = push.min(axis=1)
        needed = 0.02
        onset, strength = float(closest[a, b]), 1.0
        for stretch in np.arange(1.0, LARGEST_ONSET + 1e-9, 0.01):
            onset = stretch * closest[a, b]
            core = _push_of_core(elements[a], elements[b], onset, grid)
            missing = needed - weakest
            strong = core > 1e-9
            if (missing[~strong] > 0).any():
                continue
            strength = max(1.0, float((missing[strong] / core[strong]).max(initial=0.0)))
            if strength <= STRONGEST:
                break
        else:
            onset, strength = float(closest[a, b]), 1.0
            notes.append(f"{symbols[a]}-{symbols[b]} is not repulsive below {closest[a, b]:.2f} angstrom")
        if onset > closest[a, b]:
            notes.append(
                f"the core of {symbols[a]}-{symbols[b]} begins at {onset:.2f}, the data at {closest[a, b]:.2f} angstrom"
            )
        onsets[a, b] = onsets[b, a] = onset
        strengths[a, b] = strengths[b, a] = strength
    return Cores(onsets, strengths), notes


def _push_of_core(z1: int, z2: int, onset: float, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-with_slope(repulsive_core(z1, z2, onset), torch.from_numpy(grid))[1][:, 0].numpy())
