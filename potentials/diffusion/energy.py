"""The energy of noisy molecules, whose negative gradient is the score of their density.

With x and h the coordinates (measured from the molecule's centre) and elements of a molecule, ``phi`` what the network
says and the functions of :mod:`halberd.potentials.diffusion.preconditioning`::

    U(x, h, sigma) = (1 - c_skip) (|x|^2 + |h|^2) / (2 sigma^2) - c_out / (c_in sigma^2) phi(c_in x, c_in h, c_noise)

so that ``-dU/dx = (D - x) / sigma^2``, the score by Tweedie's formula, with ``D = c_skip x + c_out dphi/d(c_in x)``.
The first term draws molecules together whatever was learnt; with ``iddpm`` it is zero, and all of the score is learnt.
"""

from __future__ import annotations

from typing import Any

import torch

from halberd.potentials.diffusion.network import NoisyNetwork
from halberd.potentials.diffusion.preconditioning import Preconditioning


def centred(positions: torch.Tensor, owner: torch.Tensor, n_molecules: int) -> torch.Tensor:
    """Positions (N, 3) of atoms that belong to molecules (N,), measured from the centres of these."""
    sums = positions.new_zeros(n_molecules, 3).index_add(0, owner, positions)
    counts = positions.new_zeros(n_molecules).index_add(0, owner, torch.ones_like(positions[:, 0]))
    return positions - (sums / counts.unsqueeze(1)).index_select(0, owner)


class NoisyEnergy(torch.nn.Module):
    """Reduced energies of noisy molecules.

    Parameters
    ----------
    network : NoisyNetwork
    preconditioning : Preconditioning
    evaluator : optional
        What evaluates the network: itself, or its training form.
    """

    def __init__(self, network: NoisyNetwork, preconditioning: Preconditioning, evaluator: Any = None) -> None:
        super().__init__()
        self.network = network
        self.preconditioning = preconditioning
        self.evaluator = [network if evaluator is None else evaluator]

    def learnt(
        self,
        positions: torch.Tensor,
        elements: torch.Tensor,
        noise: torch.Tensor,
        edge_index: torch.Tensor,
        owner: torch.Tensor,
    ) -> torch.Tensor:
        """phi, shape (M,), of scaled coordinates (N, 3) and elements (N, S), and c_noise of every molecule (M,)."""
        vectors = positions.index_select(0, edge_index[1]) - positions.index_select(0, edge_index[0])
        species = torch.zeros_like(owner)
        first = self.network.start(elements, noise.index_select(0, owner))
        collected = self.evaluator[0].features(species, edge_index, vectors, first=first)
        sites = self.network.read(collected, species).sum(dim=1)
        return torch.zeros_like(noise).index_add(0, owner, sites)

    def forward(
        self,
        positions: torch.Tensor,
        elements: torch.Tensor,
        sigma: torch.Tensor,
        edge_index: torch.Tensor,
        owner: torch.Tensor,
    ) -> torch.Tensor:
        """Energies U.

        Parameters
        ----------
        positions : tensor, shape (N, 3), angstrom
        elements : tensor, shape (N, S), angstrom
            ``element_scale`` times what every atom is of every element.
        sigma : tensor, shape (M,), angstrom
            Noise level of every molecule.
        edge_index : tensor, shape (2, E)
            All pairs of atoms of one molecule, both directions.
        owner : tensor, int64, shape (N,)
            Molecule of every atom.

        Returns
        -------
        tensor, shape (M,)
        """
        functions = self.preconditioning
        x = centred(positions, owner, sigma.shape[0])
        scale = functions.into(sigma)
        each = scale.index_select(0, owner).unsqueeze(1)
        phi = self.learnt(x * each, elements * each, functions.noise(sigma), edge_index, owner)
        squares = x.square().sum(dim=1) + elements.square().sum(dim=1)
        spread = torch.zeros_like(sigma).index_add(0, owner, squares)
        return 0.5 * functions.rest(sigma) * spread - functions.out(sigma) / (scale * sigma**2) * phi

    def denoised(
        self,
        positions: torch.Tensor,
        elements: torch.Tensor,
        sigma: torch.Tensor,
        edge_index: torch.Tensor,
        owner: torch.Tensor,
        training: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """D: what molecules were without their noise; parameters as for the energy.

        Parameters
        ----------
        training : bool
            Whether what comes out can be differentiated with respect to weights.

        Returns
        -------
        tensor, shape (N, 3), and tensor, shape (N, S); angstrom
            Measured from the molecules' centres.
        """
        functions = self.preconditioning
        each = functions.into(sigma).index_select(0, owner).unsqueeze(1)
        x = centred(positions.detach(), owner, sigma.shape[0])
        scaled = ((x * each).requires_grad_(), (elements.detach() * each).requires_grad_())
        phi = self.learnt(*scaled, functions.noise(sigma), edge_index, owner)
        of_x, of_h = torch.autograd.grad(phi.sum(), scaled, create_graph=training)
        skip, out = (f(sigma).index_select(0, owner).unsqueeze(1) for f in (functions.skip, functions.out))
        return skip * x + out * of_x, skip * elements.detach() + out * of_h


class RecordedEnergy(torch.nn.Module):
    """The energy as TorchScript: in plain torch, and on CPUs by the operators of trainings where they are there.

    None of the operations depends on values or shapes; called as :class:`NoisyEnergy`.
    """

    def __init__(self, energy: NoisyEnergy) -> None:
        super().__init__()
        plain = NoisyEnergy(energy.network, energy.preconditioning)
        self.portable = _recorded(plain)
        self.compiled = _recorded(energy) if energy.evaluator[0] is not energy.network else None

    def forward(
        self,
        positions: torch.Tensor,
        elements: torch.Tensor,
        sigma: torch.Tensor,
        edge_index: torch.Tensor,
        owner: torch.Tensor,
    ) -> torch.Tensor:
        """Energies, shape (M,)."""
        if self.compiled is not None and not positions.is_cuda:
            return self.compiled(positions, elements, sigma, edge_index, owner)
        return self.portable(positions, elements, sigma, edge_index, owner)


def _recorded(energy: NoisyEnergy) -> torch.nn.Module:
    like = energy.network.embedding
    positions = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.3, 0.2], [0.2, 1.1, 0.0], [1.0, 1.0, 1.0]]).to(like)
    elements = torch.eye(4, len(like)).to(like)
    owner = torch.tensor([0, 0, 1, 1], device=like.device)
    edge_index = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]], device=like.device)
    example = (positions, elements, torch.tensor([0.5, 1.0]).to(like), edge_index, owner)
    with torch.no_grad():
        recorded: torch.nn.Module = torch.jit.trace(energy.eval(), example, check_trace=False)
    return recorded
