"""Of what reference labels are: the self-energies that fit to a network which is trained further."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.training_set import is_isolated
from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.multi_ace.training_form import training_form
from halberd.potentials.training.graphs import GraphSet
from halberd.potentials.training.losses import evaluated

#: Frames, evenly spread, that a network is compared with.
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
    chosen = []
    for number in np.unique(np.linspace(0, len(frames) - 1, min(len(frames), _LOOKED_AT)).astype(int)):
        frame = frames[int(number)]
        if frame.energy is not None and not is_isolated(frame.atoms):
            chosen.append(frame)
    if not chosen:
        return []
    graphs = GraphSet(chosen, numbers, np.zeros(len(numbers)), network.edges.cutoff)
    form = training_form(copy.deepcopy(network).double())
    rests = [frame.energy - float(evaluated(form, graphs[n]).energy[0]) for n, frame in enumerate(chosen)]  # type: ignore[operator]
    return [dataclasses.replace(frame, energy=rest) for frame, rest in zip(chosen, rests, strict=True)]


def offset(rests: Sequence[Frame], numbers: Sequence[int], e0s: NDArray[np.float64]) -> float:
    """Mean of what self-energies do not explain, eV per atom; 0 without frames."""
    by_number = dict(zip(numbers, e0s.tolist(), strict=True))
    found = [
        (frame.energy - sum(by_number[int(z)] for z in frame.atoms.numbers)) / len(frame.atoms)
        for frame in rests
        if frame.energy is not None
    ]
    return float(np.mean(found)) if found else 0.0
