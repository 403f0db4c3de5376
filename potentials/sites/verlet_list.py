"""Neighbour lists inside the graph: vesin with a Verlet skin, as a scripted module.

The list lives in the module and follows the positions it is shown, so there is nothing to update by hand. It is
rebuilt when an atom has moved by half the skin, or when the box, the number of atoms or the periodicity changed.
Correct for triclinic boxes, boxes smaller than the cutoff (several images of one neighbour), atoms outside the box,
and any mixture of periodic and open directions.
"""

from __future__ import annotations

import numpy as np
import torch
import vesin_torch  # noqa: F401  (registers torch.classes.vesin)
from ase import Atoms

from halberd.potentials.errors import ConfigurationError


class NeighborList(torch.nn.Module):
    """All pairs closer than a cutoff, both directions.

    Parameters
    ----------
    cutoff : float
        Angstrom.
    skin : float
        Thickness of the Verlet skin, angstrom; 0 rebuilds the list at every call.
    n_threads : int
        CPU threads for the search; 0 takes all cores.

    Raises
    ------
    ConfigurationError
        If the cutoff is not positive or the skin is negative.
    """

    def __init__(self, cutoff: float, skin: float = 0.5, n_threads: int = 1) -> None:
        super().__init__()
        if not cutoff > 0:
            raise ConfigurationError(f"The cutoff must be positive, got {cutoff} angstrom.")
        if not skin >= 0:
            raise ConfigurationError(f"skin must be 0 or a positive length in angstrom, got {skin}.")
        if n_threads < 0:
            raise ConfigurationError(f"n_threads must be 0 or more, got {n_threads}.")
        self.cutoff = float(cutoff)
        self.skin = float(skin)
        self.n_threads = int(n_threads)
        self.search = torch.classes.vesin._NeighborList(
            cutoff=self.cutoff,
            full_list=True,
            sorted=False,
            algorithm="auto",
            skin=self.skin,
            n_threads=self.n_threads,
        )

    def forward(
        self, positions: torch.Tensor, box: torch.Tensor, periodic: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """List the edges and their vectors.

        Parameters
        ----------
        positions : torch.Tensor, shape (N, 3)
            Angstrom. Never written to.
        box : torch.Tensor, shape (3, 3)
            Box vectors as rows, angstrom; ignored along open directions.
        periodic : torch.Tensor, bool, shape (3,)

        Returns
        -------
        edge_index : torch.Tensor, int64, shape (2, E)
            Ordered by centre, neighbour and image, whatever the history of the list.
        edge_vectors : torch.Tensor, shape (E, 3)
            ``r_j - r_i`` with the image, angstrom, differentiable with respect to positions and box.
        """
        pairs, shifts = self.sorted_pairs(positions, box, periodic)
        edge_index = pairs.t()
        vectors = positions.index_select(0, edge_index[1]) - positions.index_select(0, edge_index[0])
        if bool(periodic.any()):
            vectors = vectors + torch.matmul(shifts.to(box.dtype), self.closed(box, periodic))
        return edge_index, vectors

    @torch.jit.export
    def sorted_pairs(
        self, positions: torch.Tensor, box: torch.Tensor, periodic: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """List the pairs (E, 2) and the images (E, 3) of their second atoms, both of integers and in that order."""
        points = positions.detach().to(torch.float64)
        if points.size(0) == 0:
            raise RuntimeError("halberd: there are no atoms.")
        # Not looked at on a GPU, where that would stop the stream at every step.
        if not points.is_cuda and not bool(torch.isfinite(points).all()):
            bad = torch.nonzero(~torch.isfinite(points).all(dim=1)).squeeze(1)
            first: list[int] = bad[:10].tolist()
            raise RuntimeError(
                f"halberd: positions are not finite for {bad.numel()} of {points.size(0)} atoms, "
                f"the first are {first}. The simulation has exploded: shorten the time step, "
                "relax the structure first, or check that the model covers this chemistry."
            )
        rows = self.closed(box.detach().to(torch.float64), periodic)
        # Of such a box the search ends the process.
        if not rows.is_cuda and not bool(torch.isfinite(rows).all()):
            raise RuntimeError("halberd: the box vectors are not finite. The simulation has exploded.")
        search = self.search
        if self.skin == 0.0:
            # Nothing is kept, and threads of one process may search at once, which one object does not bear.
            search = torch.classes.vesin._NeighborList(
                cutoff=self.cutoff,
                full_list=True,
                sorted=False,
                algorithm="auto",
                skin=0.0,
                n_threads=self.n_threads,
            )
        if not points.is_cuda:
            points = self.closer(points, rows, periodic)
        found = search.compute(points=points, box=rows, periodic=periodic, quantities="PS", copy=True)
        order = self.canonical_order(found[0], found[1], points.size(0))
        return found[0].index_select(0, order), found[1].index_select(0, order)

    def closed(self, box: torch.Tensor, periodic: torch.Tensor) -> torch.Tensor:
        """The box, with zeros along open directions: what is given there is ignored, and may be no number."""
        if bool(periodic.all()):
            return box
        # Row by row: a mask would have to be copied to the GPU at every step.
        return torch.stack([box[k] if bool(periodic[k]) else torch.zeros_like(box[k]) for k in range(3)])

    def closer(self, points: torch.Tensor, rows: torch.Tensor, periodic: torch.Tensor) -> torch.Tensor:
        """Points that have the same neighbours, without wide gaps in open directions.

        The search lays cells over all space between the points: where something has flown off they are too many, and
        more than an integer counts end the process.
        """
        width = self.cutoff + self.skin
        if bool(torch.linalg.vector_norm(points.amax(0) - points.amin(0)) <= 100.0 * width):
            return points
        own = rows[periodic]
        axes = torch.eye(3, dtype=points.dtype)
        if own.size(0) == 3:
            return points
        if own.size(0) == 2:
            axes = torch.linalg.cross(own[0], own[1]).unsqueeze(0)
        elif own.size(0) == 1:
            first = torch.linalg.cross(own[0], axes[int(own[0].abs().argmin())])
            axes = torch.stack([first, torch.linalg.cross(own[0], first)])
        axes = axes / torch.linalg.vector_norm(axes, dim=1, keepdim=True)
        for n in range(axes.size(0)):
            along = torch.mv(points, axes[n])
            if bool(along.max() - along.min() > 100.0 * width):
                order = torch.argsort(along)
                steps = torch.diff(along.index_select(0, order)).clamp(max=1.01 * width)
                places = torch.zeros_like(along)
                places[order[1:]] = torch.cumsum(steps, 0)
                points = points + (places - along).unsqueeze(1) * axes[n]
        return points

    def canonical_order(self, pairs: torch.Tensor, shifts: torch.Tensor, n_atoms: int) -> torch.Tensor:
        """Sort by centre, neighbour and image.

        The list's own order depends on when it was last rebuilt. Sums over edges would round differently after a
        restart, and a restarted trajectory would not be the one that was interrupted.
        """
        key = pairs[:, 0].to(torch.int64) * n_atoms + pairs[:, 1].to(torch.int64)
        for axis in range(3):
            # Six bits an axis: images of one pair within the cutoff are never 64 boxes apart.
            key = key * 64 + torch.remainder(shifts[:, axis].to(torch.int64), 64)
        return torch.argsort(key)


def edges_of_atoms(search: NeighborList, atoms: Atoms) -> tuple[torch.Tensor, torch.Tensor]:
    """Edge index (2, E) and edge vectors (E, 3) of an ASE structure, double precision."""
    box = torch.tensor(np.array(atoms.cell), dtype=torch.float64)
    edge_index, vectors = search(
        torch.tensor(atoms.positions, dtype=torch.float64), box, torch.tensor(np.array(atoms.pbc))
    )
    return edge_index, vectors
