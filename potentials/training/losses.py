"""What a network says of a graph, how far that is from the labels, and the loss."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from halberd.potentials.training.graphs import Graph
from halberd.potentials.training.settings import LossSettings


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Energies without self-energies (F,), eV; forces (N, 3), eV/angstrom; stress (F, 3, 3), eV/angstrom^3.

    Stresses of open frames are NaN.
    """

    energy: torch.Tensor
    forces: torch.Tensor
    stress: torch.Tensor


def evaluated(network: Any, graph: Graph, training: bool = False) -> Evaluated:
    """Energies, forces and stresses of a network.

    Sums over sites and edges are taken in the precision of the labels.

    Parameters
    ----------
    network : callable
        By the contract of :mod:`halberd.potentials.sites.site_model`.
    graph : Graph
    training : bool
        Whether what comes out can be differentiated with respect to weights.
    """
    vectors = graph.edge_vectors.detach().clone().requires_grad_()
    sites = network(graph.species, graph.edge_index, vectors)
    dtype = graph.energy.dtype
    energy = torch.zeros_like(graph.energy).index_add(0, graph.frame, sites.to(dtype))
    (of_vectors,) = torch.autograd.grad(energy.sum(), vectors, create_graph=training)
    of_vectors = of_vectors.to(dtype)
    # A vector goes from its centre to its neighbour.
    forces = torch.zeros_like(graph.forces).index_add(0, graph.edge_index[0], of_vectors)
    forces = forces.index_add(0, graph.edge_index[1], -of_vectors)
    each = vectors.unsqueeze(2) * of_vectors.unsqueeze(1)
    of_strain = torch.zeros_like(graph.stress).index_add(0, graph.frame[graph.edge_index[0]], each)
    # Open frames have no stress, and NaN in what is differentiated would be NaN in the gradient, however it is masked.
    volume = graph.volume.view(-1, 1, 1)
    stress = of_strain / volume.nan_to_num(nan=torch.inf)
    stress = torch.where(volume.isnan(), volume, 0.5 * (stress + stress.transpose(1, 2)))
    found = Evaluated(energy, forces, stress)
    return found if training else Evaluated(energy.detach(), forces.detach(), found.stress.detach())


def loss_of(found: Evaluated, graph: Graph, settings: LossSettings) -> torch.Tensor:
    """The loss: sum over properties of weight * mean of (weight of the frame * error^2) over labels that exist.

    Parameters
    ----------
    found : Evaluated
    graph : Graph
    settings : LossSettings
    """
    scale = graph.n_atoms.pow(-settings.energy_power)
    terms = [
        (settings.energy, found.energy * scale, graph.energy * scale, graph.weight),
        (settings.forces, found.forces, graph.forces, graph.weight[graph.frame].unsqueeze(1)),
        (settings.stress, found.stress, graph.stress, graph.weight.view(-1, 1, 1)),
    ]
    total = found.energy.new_zeros(())
    for weight, predicted, label, of_frame in terms:
        if weight > 0:
            total = total + weight * _mean(predicted, label, of_frame, settings)
    return total


def _mean(predicted: torch.Tensor, label: torch.Tensor, weight: torch.Tensor, settings: LossSettings) -> torch.Tensor:
    """Mean over labels that exist; 0 if there are none. Nothing here waits for a GPU."""
    known = ~label.isnan()
    error = torch.where(known, predicted - label, torch.zeros_like(label))
    if settings.kind == "huber":
        # Like the square near zero: e^2, and beyond delta its tangent.
        size = error.abs()
        size = torch.where(size < settings.delta, size.square(), settings.delta * (2.0 * size - settings.delta))
    else:
        size = error.square()
    return (weight * size).sum() / known.sum().clamp(min=1)


@dataclasses.dataclass
class Errors:
    """Sums of squares and of sizes of errors, collected over batches.

    Attributes
    ----------
    squares, sizes, counts : dict
        By property: ``energy`` (per atom), ``forces``, ``stress``.
    """

    squares: dict[str, float] = dataclasses.field(default_factory=dict)
    sizes: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, found: Evaluated, graph: Graph) -> None:
        """Collect those of one batch."""
        scale = 1.0 / graph.n_atoms
        pairs = {
            "energy": (found.energy * scale, graph.energy * scale),
            "forces": (found.forces, graph.forces),
            "stress": (found.stress, graph.stress),
        }
        for name, (predicted, label) in pairs.items():
            error = (predicted - label)[~label.isnan()].double()
            if error.numel():
                self.squares[name] = self.squares.get(name, 0.0) + float(error.square().sum())
                self.sizes[name] = self.sizes.get(name, 0.0) + float(error.abs().sum())
                self.counts[name] = self.counts.get(name, 0) + error.numel()

    def summary(self) -> dict[str, dict[str, float]]:
        """MAE and RMSE per property."""
        return {
            name: {"mae": self.sizes[name] / count, "rmse": (self.squares[name] / count) ** 0.5}
            for name, count in self.counts.items()
        }
