"""The network that a training starts with."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import ase.data
import numpy as np
import torch
from numpy.typing import NDArray

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.training_set import is_isolated, self_energies
from halberd.potentials.multi_ace.building import build
from halberd.potentials.multi_ace.network import MultiAce
from halberd.potentials.multi_ace.settings import preset
from halberd.potentials.multi_ace.sites import network_in, networks_in
from halberd.potentials.sites.elements import atomic_number_of
from halberd.potentials.sites.site_model import Columns, SiteModel
from halberd.potentials.sites.verlet_list import NeighborList, edges_of_atoms
from halberd.potentials.training.checks import LabelWarning
from halberd.potentials.training.reference import LARGEST_OFFSET, left_by, offset, refitted

#: Frames that the average number of neighbours is counted in.
_COUNTED = 200
#: eV per atom: atoms are bound by 10 at most.
_LARGEST_SHIFT = 30.0


@dataclasses.dataclass(frozen=True)
class Start:
    """A network that is not trained, or not for these frames.

    Attributes
    ----------
    network : MultiAce
        In double precision.
    atomic_numbers : tuple of int
    e0s : array, shape (S,), eV
    metadata : dict
    further : bool
        Whether it has been trained before.
    """

    network: MultiAce
    atomic_numbers: tuple[int, ...]
    e0s: NDArray[np.float64]
    metadata: dict[str, Any]
    further: bool = False


def new_network(
    choices: Mapping[str, Any],
    frames: Sequence[Frame],
    e0s: Mapping[str | int, float] | str | None = None,
    seed: int = 0,
) -> Start:
    """A network with random weights, whose energies and forces have the size and the mean of those of the frames.

    Parameters
    ----------
    choices : mapping
        ``preset`` and choices of :class:`halberd.potentials.multi_ace.settings.MultiAceSettings`; elements and the
        number of neighbours are those of the frames if they are left out.
    frames : sequence of Frame
    e0s : mapping or str, optional
        See :func:`halberd.potentials.frames.training_set.self_energies`.
    seed : int

    Raises
    ------
    ConfigurationError
        If choices do not go together, or an element of the frames is not among them.

    Warns
    -----
    LabelWarning
        If energies of the frames are far off the self-energies.
    """
    chosen = dict(choices)
    present = sorted({int(z) for frame in frames for z in frame.atoms.numbers})
    elements = tuple(atomic_number_of(each) for each in chosen.pop("elements", present))
    name = str(chosen.pop("preset", "mace"))
    unknown = sorted(set(present) - set(elements))
    if unknown:
        symbols = ", ".join(ase.data.chemical_symbols[z] for z in unknown)
        raise ConfigurationError(f"Frames hold {symbols}, which is not among the elements of the network.")
    counted = "neighbours" not in chosen
    settings = preset(name, elements, **chosen)
    if counted:
        mean = _mean_neighbours(frames, settings.cutoff)
        settings = dataclasses.replace(settings, neighbours=mean)
    energies, source = self_energies(frames, settings.numbers, e0s)
    unseen = [ase.data.chemical_symbols[z] for z in settings.numbers if z not in present]
    if source == "average" and unseen:
        raise ConfigurationError(
            f"No frame holds {', '.join(unseen)}, whose self-energy can then not be averaged. Give e0s by element, or "
            "leave that element out."
        )
    network = build(settings, seed).double()
    scale, shift = _scale_and_shift(frames, settings.numbers, energies)
    if abs(shift) > _LARGEST_SHIFT:
        warnings.warn(
            f"Energies of the frames are {shift:+.3g} eV per atom off the self-energies ({source}), and no atom is "
            "bound so well: they may be in other units, or of another method. Look at both, say keys.unit, or take "
            "e0s: average.",
            LabelWarning,
            stacklevel=2,
        )
    network.scale.fill_(scale)
    network.shift = shift
    return Start(network, settings.numbers, energies, {"settings": settings.to_dict(), "e0_source": source})


def network_of_model(
    model: SiteModel, frames: Sequence[Frame], e0s: Mapping[str | int, float] | str | None = None
) -> Start:
    """The network of a model that is there, to be trained further.

    Parameters
    ----------
    model : SiteModel
    frames : sequence of Frame
    e0s : mapping or str, optional
        Self-energies of the frames' elements, if their energies are of another reference than the model's; see
        :func:`halberd.potentials.frames.training_set.self_energies`. ``average`` fits them to what the network leaves
        of the frames' energies. Those of the model if omitted.

    Raises
    ------
    ConfigurationError
        If the model runs on no network of the family.

    Warns
    -----
    LabelWarning
        If energies of the frames are far off those of the network.
    """
    network = network_in(model.module)
    if network is None or model.n_columns is not None:
        raise ConfigurationError(
            f"'{model.name}' cannot be trained further: it is no single network of the family (MACE, SevenNet, or one "
            "that halberd trained)."
        )
    return _further(Start(network, model.atomic_numbers, model.e0s, model.metadata), model.name, frames, e0s)


def networks_of_committee(
    model: SiteModel, frames: Sequence[Frame], e0s: Mapping[str | int, float] | str | None = None
) -> list[Start]:
    """The networks of a committee, to be trained further.

    Parameters
    ----------
    model : SiteModel
    frames, e0s
        As for :func:`network_of_model`.

    Raises
    ------
    ConfigurationError
        If the model is no committee of networks of the family.
    """
    found = networks_in(model.module) if model.columns is Columns.MEMBERS else None
    if found is None:
        raise ConfigurationError(f"'{model.name}' is no committee of networks that could be trained further.")
    starts = []
    for number, (network, places) in enumerate(found):
        order = np.argsort(places)
        if len(order) != len(network.embedding):
            raise ConfigurationError(f"Members of '{model.name}' know elements that others do not.")
        numbers = tuple(model.atomic_numbers[k] for k in order)
        own = Start(network, numbers, model.e0s[order, number], model.metadata)
        starts.append(_further(own, model.name, frames, e0s))
    return starts


def _further(known: Start, name: str, frames: Sequence[Frame], e0s: Mapping[str | int, float] | str | None) -> Start:
    """A start with a copy of the network, and self-energies of the frames if they are asked for."""
    numbers = known.atomic_numbers
    present = {int(z) for frame in frames for z in frame.atoms.numbers}
    unknown = sorted(present - set(numbers))
    if unknown:
        raise ConfigurationError(f"'{name}' does not know the elements with the numbers {unknown}.")
    own = {key: value for key, value in known.metadata.items() if key not in ("settings", "members", "name")}
    energies = known.e0s
    rests = left_by(known.network, numbers, frames)
    if e0s is not None:
        # The average of what the network leaves: its shift and its own self-energies are then of no account.
        labelled = rests if e0s == "average" and rests else frames
        energies, own["e0_source"] = refitted(energies, numbers, labelled, e0s)
    off = offset(rests, numbers, energies)
    if abs(off) > LARGEST_OFFSET:
        warnings.warn(
            f"Energies of the frames are {off:+.3g} eV per atom off those of '{name}': they may be of another method. "
            "Take e0s: average, which fits self-energies to what the network leaves of them.",
            LabelWarning,
            stacklevel=3,
        )
    return Start(copy.deepcopy(known.network).double(), numbers, energies, {**own, "started_from": name}, further=True)


@torch.no_grad()
def perturbed(start: Start, size: float, seed: int) -> Start:
    """The same with noise on all weights that are trained, so that networks which began alike come to differ.

    Parameters
    ----------
    start : Start
    size : float
        Standard deviation of the noise, as a part of the root of the mean square of each tensor.
    seed : int
    """
    network = copy.deepcopy(start.network)
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        weight.add_(size * weight.square().mean().sqrt() * noise)
    return dataclasses.replace(start, network=network)


def _mean_neighbours(frames: Sequence[Frame], cutoff: float) -> float:
    search = NeighborList(cutoff, 0.0)
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), _COUNTED)).astype(int)
    n_edges = n_atoms = 0
    for number in chosen:
        atoms = frames[number].atoms
        if len(atoms) > 1 or atoms.pbc.any():
            n_edges += edges_of_atoms(search, atoms)[0].shape[1]
            n_atoms += len(atoms)
    if not n_edges:
        raise ConfigurationError(f"No two atoms of the frames are closer than the cutoff, {cutoff} angstrom.")
    return n_edges / n_atoms


@torch.no_grad()
def _scale_and_shift(frames: Sequence[Frame], numbers: Sequence[int], e0s: NDArray[np.float64]) -> tuple[float, float]:
    """Root of the mean square of force components, eV/angstrom, and mean energy per atom without self-energies, eV."""
    by_number = dict(zip(numbers, e0s, strict=True))
    squares = n_forces = 0.0
    energies = []
    for frame in frames:
        if not is_isolated(frame.atoms):
            if frame.forces is not None:
                squares, n_forces = squares + float(np.sum(frame.forces**2)), n_forces + frame.forces.size
            if frame.energy is not None:
                alone = sum(by_number[int(z)] for z in frame.atoms.numbers)
                energies.append((frame.energy - alone) / len(frame.atoms))
    scale = float(np.sqrt(squares / n_forces)) if n_forces else 0.0
    return scale or 1.0, float(np.mean(energies)) if energies else 0.0
