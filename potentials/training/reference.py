"""Of what reference labels are: the self-energies that fit to a network which is trained further."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.training_set import is_isolated, self_energies
from halberd.potentials.multi_ace.compiled.training_form import training_form
from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.training.graphs import GraphSet
from halberd.potentials.training.losses import evaluated

#: Frames, evenly spread, that a network is compared with, beside one of every element.
_LOOKED_AT = 200
#: eV per atom: energies of the same reference are not so far off.
LARGEST_OFFSET = 0.2


def left_by(network: MultiAce, numbers: Sequence[int], frames: Sequence[Frame]) -> list[Frame]:
    """Some of the labelled frames with what the network leaves of their energies: sums of self-energies, at best.

    Parameters
    ----------
    network : MultiAce
    numbers : sequence of int
        Of its species.
    frames : sequence of Frame
    """
    usable = [frame for frame in frames if frame.energy is not None and not is_isolated(frame.atoms)]
    picked = set(np.linspace(0, len(usable) - 1, min(len(usable), _LOOKED_AT)).astype(int).tolist())
    # Rare elements as well: the first frame of each.
    first: dict[int, int] = {}
    for place, frame in enumerate(usable):
        for z in np.unique(frame.atoms.numbers).tolist():
            first.setdefault(z, place)
    chosen = [usable[place] for place in sorted(picked | set(first.values()))]
    if not chosen:
        return []
    graphs = GraphSet(chosen, numbers, np.zeros(len(numbers)), network.edges.cutoff)
    form = training_form(copy.deepcopy(network).double())
    rests = [frame.energy - float(evaluated(form, graphs[n]).energy[0]) for n, frame in enumerate(chosen)]  # type: ignore[operator]
    return [dataclasses.replace(frame, energy=rest) for frame, rest in zip(chosen, rests, strict=True)]


def refitted(
    e0s: NDArray[np.float64], numbers: Sequence[int], frames: Sequence[Frame], asked: Mapping[str | int, float] | str
) -> tuple[NDArray[np.float64], str]:
    """Self-energies of a network with those of the frames' elements anew, and where they come from.

    Parameters
    ----------
    e0s : array, shape (S,), eV
        Of all species, in the order of ``numbers``; they are not changed.
    numbers : sequence of int
        Of its species.
    frames : sequence of Frame
    asked : mapping or str
        See :func:`halberd.potentials.frames.training_set.self_energies`.
    """
    elements = sorted({int(z) for frame in frames for z in frame.atoms.numbers})
    found, source = self_energies(frames, elements, asked)
    energies = e0s.copy()
    energies[[numbers.index(z) for z in elements]] = found
    return energies, source


def offset(rests: Sequence[Frame], numbers: Sequence[int], e0s: NDArray[np.float64]) -> float:
    """Mean of what self-energies do not explain, eV per atom; 0 without frames."""
    by_number = dict(zip(numbers, e0s.tolist(), strict=True))
    found = [
        (frame.energy - sum(by_number[int(z)] for z in frame.atoms.numbers)) / len(frame.atoms)
        for frame in rests
        if frame.energy is not None
    ]
    return float(np.mean(found)) if found else 0.0
