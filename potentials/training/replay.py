"""Replay against forgetting: a network that is trained further goes on seeing what it knew.

The frames that are replayed have read-outs of their own, so that their labels may be of another method: what is shared,
and held in place, are the layers. Only the network that is trained further is kept in the end.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Sequence

import torch

from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.training_set import check_finite, is_isolated
from halberd.potentials.frames.units import unit_problem
from halberd.potentials.multi_ace.compiled.training_form import training_form
from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.training.checks import LabelWarning
from halberd.potentials.training.graphs import GraphSet
from halberd.potentials.training.losses import evaluated
from halberd.potentials.training.reference import LARGEST_OFFSET, left_by, offset, refitted
from halberd.potentials.training.start import Start


def second_head(network: MultiAce) -> MultiAce:
    """A network with the same embedding and layers, and read-outs of its own that begin alike."""
    other = copy.copy(network)
    other._parameters, other._buffers = dict(network._parameters), dict(network._buffers)
    other._modules = dict(network._modules)
    other.readouts = copy.deepcopy(network.readouts)
    return other


def replayed(known: Start, frames: Sequence[Frame]) -> GraphSet:
    """Frames to be replayed, as graphs; those without labels get them from the network itself.

    Where energies of labelled frames are far off those of the network, self-energies are fitted to them.

    Parameters
    ----------
    known : Start
        The network before it is trained further, with its own self-energies.
    frames : sequence of Frame

    Raises
    ------
    DataError
        If there are no frames, or they hold elements that the network does not know, or positions that are none.
    """
    check_finite(frames)
    chosen = [frame for frame in frames if not is_isolated(frame.atoms)]
    problem = unit_problem(chosen)
    if problem is not None:
        warnings.warn(f"Frames that are replayed: {problem}", LabelWarning, stacklevel=2)
    rests = left_by(known.network, known.atomic_numbers, chosen)
    if abs(offset(rests, known.atomic_numbers, known.e0s)) > LARGEST_OFFSET:
        # Of another method than the network: what it leaves are sums of that method's self-energies.
        known = dataclasses.replace(known, e0s=refitted(known.e0s, known.atomic_numbers, rests, "average")[0])
    graphs = GraphSet(chosen, known.atomic_numbers, known.e0s, known.network.edges.cutoff)
    unlabelled = [number for number, frame in enumerate(chosen) if frame.energy is None and frame.forces is None]
    if not unlabelled:
        return graphs
    network = training_form(copy.deepcopy(known.network).double())
    species = {z: number for number, z in enumerate(known.atomic_numbers)}
    for number in unlabelled:
        found = evaluated(network, graphs[number])
        alone = sum(float(known.e0s[species[int(z)]]) for z in chosen[number].atoms.numbers)
        chosen[number] = dataclasses.replace(
            chosen[number], energy=float(found.energy[0]) + alone, forces=found.forces.numpy()
        )
    return GraphSet(chosen, known.atomic_numbers, known.e0s, known.network.edges.cutoff)


class Replay:
    """What a trainer needs of the frames that are replayed.

    Parameters
    ----------
    network : MultiAce
        That is trained.
    graphs : GraphSet
    """

    def __init__(self, network: MultiAce, graphs: GraphSet) -> None:
        self.network = second_head(network)
        self.evaluator = training_form(self.network)
        self.graphs = graphs

    @property
    def weights(self) -> dict[str, torch.nn.Parameter]:
        """Those that the trained network has not, by name."""
        return {f"replayed.{name}": weight for name, weight in self.network.readouts.named_parameters()}

    def drawn(self, count: int, generator: torch.Generator) -> list[int]:
        """Frames of an epoch: so many at random, all of them in turn where they are fewer."""
        order: list[int] = []
        while len(order) < count:
            order += torch.randperm(len(self.graphs), generator=generator).tolist()
        return order[:count]
