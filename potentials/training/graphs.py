"""Labelled frames as graphs, and batches of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import ase.data
import numpy as np
import torch
from numpy.typing import NDArray

from halberd.potentials.errors import DataError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.stored import first_number
from halberd.potentials.sites.verlet_list import NeighborList, edges_of_atoms

#: Closer atoms are a mistake in the data, angstrom.
CLOSEST = 0.3
#: Bytes of edges that are kept from one epoch to the next; those of further frames are searched for again.
_KEPT = 2_000_000_000


class AnyGraph(Protocol):
    """Atoms of some frames, and edges between those of one frame; a dataclass of tensors."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def species(self) -> torch.Tensor:
        """Of every atom."""

    @property
    def frame(self) -> torch.Tensor:
        """Frame of every atom."""

    @property
    def n_frames(self) -> int:
        """How many there are."""


G = TypeVar("G", bound=AnyGraph)
G_co = TypeVar("G_co", bound=AnyGraph, covariant=True)


@dataclasses.dataclass(frozen=True)
class Graph:
    """A frame, or several of them as one graph without edges between them.

    Attributes
    ----------
    species : tensor, int64, shape (N,)
    edge_index : tensor, int64, shape (2, E)
    edge_vectors : tensor, shape (E, 3), angstrom
    frame : tensor, int64, shape (N,)
        Which of the F frames an atom belongs to.
    energy : tensor, shape (F,), eV
        Without self-energies; NaN if there is no label, as in what follows.
    forces : tensor, shape (N, 3), eV/angstrom
    stress : tensor, shape (F, 3, 3), eV/angstrom^3
        Minus the virial over the volume.
    volume : tensor, shape (F,), angstrom^3
        NaN of open frames.
    weight : tensor, shape (F,)
    """

    species: torch.Tensor
    edge_index: torch.Tensor
    edge_vectors: torch.Tensor
    frame: torch.Tensor
    energy: torch.Tensor
    forces: torch.Tensor
    stress: torch.Tensor
    volume: torch.Tensor
    weight: torch.Tensor

    @property
    def n_frames(self) -> int:
        """F."""
        return len(self.energy)

    @property
    def n_atoms(self) -> torch.Tensor:
        """Atoms of every frame, (F,), in the precision of the energies."""
        return torch.bincount(self.frame, minlength=self.n_frames).to(self.energy.dtype)

    def to(self, device: torch.device | str, dtype: torch.dtype, labels: torch.dtype | None = None) -> Graph:
        """Elsewhere, in another precision; labels and what they are compared with may be in one of their own."""
        labels = labels or dtype
        moved = {}
        for field in dataclasses.fields(self):
            tensor = getattr(self, field.name)
            wanted = dtype if field.name == "edge_vectors" else labels
            moved[field.name] = tensor.to(device, wanted if tensor.is_floating_point() else None)
        return Graph(**moved)


def joined(graphs: Sequence[G]) -> G:
    """Several graphs as one."""
    kind = type(graphs[0])
    atoms = np.cumsum([0, *(len(graph.species) for graph in graphs)]).tolist()
    frames = np.cumsum([0, *(graph.n_frames for graph in graphs)]).tolist()
    parts = {field.name: [getattr(graph, field.name) for graph in graphs] for field in dataclasses.fields(kind)}
    parts["edge_index"] = [each + first for each, first in zip(parts["edge_index"], atoms, strict=False)]
    parts["frame"] = [each + first for each, first in zip(parts["frame"], frames, strict=False)]
    return kind(**{name: torch.cat(each, dim=1 if name == "edge_index" else 0) for name, each in parts.items()})


class GraphsOf(Protocol[G_co]):
    """Graphs by their numbers."""

    n_edges: list[int]

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> G_co: ...


class GraphSet:
    """Graphs of frames, made when they are first wanted.

    Parameters
    ----------
    frames : sequence of Frame
    atomic_numbers : sequence of int
        Of the species.
    e0s : array, shape (S,), eV
    cutoff : float, angstrom
    weights : mapping, optional
        By config type; 1 if it is not there.

    Raises
    ------
    DataError
        If there are no frames, or one has an element that is not among the species; names it.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        atomic_numbers: Sequence[int],
        e0s: NDArray[np.float64],
        cutoff: float,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if not frames:
            raise DataError("There are no frames to train on, or none to validate on. Give more.")
        self.frames = frames
        self.weights = dict(weights or {})
        self._species = {int(z): number for number, z in enumerate(atomic_numbers)}
        self._e0s = np.asarray(e0s, dtype=float)
        self._search = NeighborList(cutoff, 0.0)
        self._known: dict[int, Graph] = {}
        self._bytes = 0
        for number, frame in enumerate(self.frames):
            unknown = set(map(int, frame.atoms.numbers)) - set(self._species)
            if unknown:
                symbols = ", ".join(ase.data.chemical_symbols[z] for z in sorted(unknown))
                raise DataError(f"{self._named(number)} holds {symbols}, which the network does not know.")
        self.n_edges = [self[number].edge_index.shape[1] for number in range(len(self.frames))]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, number: int) -> Graph:
        if number in self._known:
            return self._known[number]
        graph = self._graph(number)
        size = graph.edge_index.nbytes + graph.edge_vectors.nbytes
        if self._bytes + size <= _KEPT:
            self._known[number] = graph
            self._bytes += size
        return graph

    def _named(self, number: int) -> str:
        return f"Frame {first_number(self.frames, number)} (counted from 0, in all files together)"

    def _graph(self, number: int) -> Graph:
        frame = self.frames[number]
        atoms = frame.atoms
        edge_index, vectors = edges_of_atoms(self._search, atoms)
        closest = float(vectors.norm(dim=1).min()) if len(vectors) else np.inf
        if closest < CLOSEST:
            raise DataError(
                f"{self._named(number)} has two atoms {closest:.2f} angstrom apart; nothing is closer than {CLOSEST} "
                "in nature. Leave it out, or look at its units."
            )
        species = torch.tensor([self._species[int(z)] for z in atoms.numbers])
        nothing = float("nan")
        energy = nothing if frame.energy is None else frame.energy - float(self._e0s[species.numpy()].sum())
        forces = np.full((len(atoms), 3), nothing) if frame.forces is None else frame.forces
        volume = (
            abs(float(np.linalg.det(np.array(atoms.cell)))) if atoms.cell.rank == 3 and atoms.pbc.all() else nothing
        )
        stress = np.full((3, 3), nothing) if frame.virial is None else -np.asarray(frame.virial) / volume
        return Graph(
            species=species,
            edge_index=edge_index,
            edge_vectors=vectors,
            frame=torch.zeros(len(atoms), dtype=torch.int64),
            energy=torch.tensor([energy], dtype=torch.float64),
            forces=torch.as_tensor(forces, dtype=torch.float64),
            stress=torch.as_tensor(stress, dtype=torch.float64).unsqueeze(0),
            volume=torch.tensor([volume], dtype=torch.float64),
            weight=torch.tensor([self.weights.get(frame.config_type, 1.0)], dtype=torch.float64),
        )


def batches(
    graphs: GraphsOf[G], batch_size: int, max_edges: int | None = None, order: Sequence[int] | None = None
) -> Iterator[G]:
    """Graphs of some frames each.

    Parameters
    ----------
    graphs : GraphsOf
    batch_size : int
        Frames of a batch.
    max_edges : int, optional
        A batch ends before it has more edges, unless one frame alone has.
    order : sequence of int, optional
        Of the frames; as they are if omitted.
    """
    for numbers in groups(graphs.n_edges, batch_size, max_edges, order):
        yield joined([graphs[number] for number in numbers])


def groups(
    n_edges: Sequence[int], batch_size: int, max_edges: int | None = None, order: Sequence[int] | None = None
) -> list[list[int]]:
    """Which frames come together in :func:`batches`."""
    found: list[list[int]] = []
    edges = 0
    for number in range(len(n_edges)) if order is None else order:
        full = max_edges is not None and edges + n_edges[number] > max_edges
        if not found or full or len(found[-1]) == batch_size:
            found.append([])
            edges = 0
        found[-1].append(int(number))
        edges += n_edges[number]
    return found
