"""Relaxing many molecules at once: L-BFGS whose curvature, steps and convergence are every molecule's own.

One evaluation of the network serves all molecules that are not at rest yet. Each keeps its own memory of steps and
gradients, so that it goes the way it would go alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from halberd.potentials.sites.block_list import BlockNeighbors
from halberd.potentials.sites.site_model import SiteModel

#: Curvature before anything is known, eV/angstrom^2, and the number of steps that are remembered.
_CURVATURE = 70.0
_MEMORY = 12
#: Atoms that are evaluated together; more do not get faster.
_ATOMS = 1500


@dataclasses.dataclass(frozen=True)
class Relaxed:
    """What became of a batch of molecules.

    Attributes
    ----------
    positions : list of arrays, shape (n, 3), angstrom
    energies : array, shape (M,), eV
        Without self-energies.
    largest_force : array, shape (M,), eV/angstrom
        Over the atoms that may move.
    steps : array of int, shape (M,)
        Evaluations each molecule took part in.
    """

    positions: list[NDArray[np.float64]]
    energies: NDArray[np.float64]
    largest_force: NDArray[np.float64]
    steps: NDArray[np.int64]


class _Batch:
    """Energies and forces of blocks of atoms, and sums over blocks."""

    def __init__(self, model: SiteModel, numbers: Sequence[NDArray[np.int64]]) -> None:
        self.model = model
        self.module = model.scripted()
        self.neighbors = BlockNeighbors([len(each) for each in numbers], model.cutoff).to(model.device)
        self.owner, self.count = self.neighbors.owner, self.neighbors.n_blocks
        self.species = model.species_of(np.concatenate(numbers)).to(model.device)

    def evaluate(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        positions = positions.detach().requires_grad_()
        edge_index, vectors = self.neighbors(positions)
        sites = self.module(self.species, edge_index, vectors.to(self.model.dtype))
        sites = (sites if sites.dim() == 1 else sites.mean(1)).to(torch.float64)
        (gradient,) = torch.autograd.grad(sites.sum(), positions)
        return self.sum(sites.detach()), -gradient

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the atoms of every block, shape (M,)."""
        return torch.zeros(self.count, dtype=values.dtype, device=values.device).index_add_(0, self.owner, values)

    def dot(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.sum((a * b).sum(1))

    def largest(self, vectors: torch.Tensor) -> torch.Tensor:
        norms = vectors.norm(dim=1)
        zeros = torch.zeros(self.count, dtype=norms.dtype, device=norms.device)
        return zeros.scatter_reduce_(0, self.owner, norms, "amax")


def relax(
    model: SiteModel,
    numbers: Sequence[NDArray[np.int64]],
    positions: Sequence[NDArray[np.float64]],
    *,
    fixed: Sequence[NDArray[np.bool_]] | None = None,
    fmax: float = 0.05,
    steps: int = 200,
    max_step: float = 0.15,
) -> Relaxed:
    """Relax molecules with a site model.

    Parameters
    ----------
    model : SiteModel
        Committees relax in their mean.
    numbers : sequence of int arrays, shape (n,)
        Atomic numbers of each molecule.
    positions : sequence of arrays, shape (n, 3), angstrom
    fixed : sequence of bool arrays, shape (n,), optional
        Atoms that keep their coordinates to the bit.
    fmax : float
        A molecule is at rest when no free atom feels more, eV/angstrom.
    steps : int
        Evaluations after which to stop; 0 evaluates only.
    max_step : float
        Longest step of an atom, angstrom.

    Returns
    -------
    Relaxed

    Raises
    ------
    UnknownElementError
        If the model does not know an element.
    """
    count = len(numbers)
    state = Relaxed(
        [np.array(each, dtype=np.float64) for each in positions],
        np.zeros(count),
        np.zeros(count),
        np.zeros(count, dtype=np.int64),
    )
    groups: list[list[int]] = [[]]
    for m in range(count):
        if groups[-1] and sum(len(numbers[k]) for k in groups[-1]) + len(numbers[m]) > _ATOMS:
            groups.append([])
        groups[-1].append(m)
    for group in groups:
        _relax_group(model, numbers, state=state, active=group, fixed=fixed, fmax=fmax, steps=steps, max_step=max_step)
    return state


def _relax_group(
    model: SiteModel,
    numbers: Sequence[NDArray[np.int64]],
    state: Relaxed,
    active: list[int],
    fixed: Sequence[NDArray[np.bool_]] | None,
    fmax: float,
    steps: int,
    max_step: float,
) -> None:
    """Relax some molecules together; those at rest leave when half of the batch is."""
    batch = _Batch(model, [np.asarray(numbers[m]) for m in active])
    x = torch.tensor(np.concatenate([state.positions[m] for m in active]), device=model.device)
    free = torch.ones(len(x), dtype=torch.bool, device=model.device)
    if fixed is not None:
        free = ~torch.tensor(np.concatenate([fixed[m] for m in active]), device=model.device)
    history: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    previous: tuple[torch.Tensor, torch.Tensor] | None = None
    for done in range(steps + 1):
        energy, forces = batch.evaluate(x)
        forces = torch.where(free.unsqueeze(1), forces, torch.zeros_like(forces))
        largest = batch.largest(forces)
        moving = (largest > fmax) & torch.isfinite(largest)
        state.steps[active] += 1
        n_moving = int(moving.sum())
        if done == steps or n_moving == 0 or n_moving * 2 < batch.count:
            _store(state, active, x, energy, largest)
        if done == steps or n_moving == 0:
            return
        if previous is not None:
            moved, change = x - previous[0], previous[1] - forces
            history = [*history[1 - _MEMORY :], (moved, change, batch.dot(moved, change))]
        if n_moving * 2 < batch.count:
            kept = moving[batch.owner]
            x, forces, free, largest = x[kept], forces[kept], free[kept], largest[moving]
            history = [(moved[kept], change[kept], curvature[moving]) for moved, change, curvature in history]
            active = [m for m, moves in zip(active, moving.tolist(), strict=True) if moves]
            batch = _Batch(model, [np.asarray(numbers[m]) for m in active])
            moving = torch.ones_like(largest, dtype=torch.bool)
        previous = (x, forces)
        direction = _two_loops(batch, forces, history)
        scale = torch.clamp(max_step / batch.largest(direction).clamp_min(1e-12), max=1.0) * moving
        step = direction * scale[batch.owner].unsqueeze(1)
        x = torch.where((free & moving[batch.owner]).unsqueeze(1), x + step, x)


def _store(state: Relaxed, active: list[int], x: torch.Tensor, energy: torch.Tensor, largest: torch.Tensor) -> None:
    pieces = torch.split(x.cpu(), [len(state.positions[m]) for m in active])
    for m, piece, e, f in zip(active, pieces, energy.tolist(), largest.tolist(), strict=True):
        state.positions[m], state.energies[m], state.largest_force[m] = piece.numpy().copy(), e, f


def _two_loops(
    batch: _Batch, forces: torch.Tensor, history: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """Quasi-Newton direction of every molecule; steps along negative curvature are forgotten.

    Nocedal and Wright, Numerical Optimization, algorithm 7.4, block by block.
    """
    q = forces.clone()
    weights = []
    for moved, change, curvature in reversed(history):
        usable = curvature > 1e-10
        rho = torch.where(usable, 1.0 / torch.where(usable, curvature, torch.ones_like(curvature)), 0.0)
        alpha = rho * batch.dot(moved, q)
        weights.append((alpha, rho))
        q = q - alpha[batch.owner].unsqueeze(1) * change
    z = q / _CURVATURE
    for (moved, change, _), (alpha, rho) in zip(history, reversed(weights), strict=True):
        beta = rho * batch.dot(change, z)
        z = z + (alpha - beta)[batch.owner].unsqueeze(1) * moved
    return z
