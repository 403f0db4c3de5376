"""Linear ACE with the exact standard deviation of its energy: no committee, no sampling noise.

With coefficients distributed as ``N(c, L L')`` and the functions of a structure summed to ``b``, the energy is
``c . b`` and its standard deviation ``sigma = |L' b|``. With ``w = L L' b / sigma`` held fixed, ``w . b = sigma`` and
``grad (w . b) = grad sigma``: sigma and its forces are one more column of coefficients, made anew for every geometry.
The site model below returns these two columns, so that a biased force is one pass over the products and one
evaluation with the coefficients ``c - tau w``.
"""

from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray

from halberd.potentials.committees.bias import SIGMA_FLOOR


class AceSigmaSites(torch.nn.Module):
    """Columns of site energies: those of the mean, and a second one that sums to sigma.

    Parameters
    ----------
    sites : AceSites
        Of the mean, one column.
    coupling : scipy.sparse.coo_array, shape (n_functions, S * T)
        From :meth:`halberd.potentials.ace.basis.AceBasis.coupling_matrix`.
    factor : array, shape (n_functions, r)
        L; the covariance of the coefficients is ``L L'``.
    """

    row: torch.Tensor
    column: torch.Tensor
    value: torch.Tensor
    factor: torch.Tensor

    def __init__(self, sites: Any, coupling: scipy.sparse.coo_array, factor: NDArray[np.float64]) -> None:
        super().__init__()
        self.sites = sites
        self.register_buffer("row", torch.from_numpy(coupling.row.astype(np.int64)))
        self.register_buffer("column", torch.from_numpy(coupling.col.astype(np.int64)))
        self.register_buffer("value", torch.from_numpy(np.ascontiguousarray(coupling.data)))
        self.register_buffer("factor", torch.from_numpy(np.ascontiguousarray(factor)))
        self.floor = SIGMA_FLOOR

    def sigma_weights(self, totals: torch.Tensor) -> torch.Tensor:
        """Weights of the products, shape (S, T), of the column that sums to sigma, from their sums (S, T)."""
        products = self.value * totals.reshape(-1).index_select(0, self.column)
        zeros = torch.zeros(self.factor.size(0), dtype=totals.dtype, device=totals.device)
        functions = zeros.index_add(0, self.row, products)
        seen = torch.mv(self.factor.t(), functions)
        sigma = torch.sqrt((seen * seen).sum() + self.floor * self.floor)
        direction = torch.mv(self.factor, seen / sigma)
        weights = torch.zeros(totals.numel(), dtype=totals.dtype, device=totals.device)
        weights = weights.index_add(0, self.column, self.value * direction.index_select(0, self.row))
        return weights.view_as(totals)

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`; shape (N, 2)."""
        ref = self.sites
        basis = ref.atomic_basis(species, edge_index, edge_vectors)
        products = [ref.products1, ref.products2, ref.products3, ref.products4, ref.products5, ref.products6]
        weights = [ref.weights1, ref.weights2, ref.weights3, ref.weights4, ref.weights5, ref.weights6]
        orders: int = ref.orders
        n_species: int = ref.n_species
        # The weights of the second column are constants, and so are the sums that they are made of.
        constant = basis.detach()
        per_order: list[torch.Tensor] = []
        of_species = torch.nn.functional.one_hot(species, n_species).to(basis.dtype)
        for order in range(orders):
            values = ref.product_values(constant, products[order])
            per_order.append(torch.matmul(values, of_species).t())
        sigma = self.sigma_weights(torch.cat(per_order, dim=1))
        total = torch.zeros((species.size(0), 2), dtype=basis.dtype, device=basis.device)
        first = 0
        for order in range(orders):
            count = products[order].size(0)
            both = torch.cat([weights[order], sigma.narrow(1, first, count).unsqueeze(1)], dim=1)
            total = total + ref.product_sum(basis, species, products[order], both)
            first += count
        return total


class CompiledAceSigmaSites(torch.nn.Module):
    """As :class:`AceSigmaSites`, with the compiled operator on CPUs; ``portable`` is what files hold."""

    def __init__(self, portable: Any) -> None:
        super().__init__()
        self.portable = portable
        self.sites = portable.sites

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`; shape (N, 2)."""
        ref = self.sites
        if edge_vectors.is_cuda:
            return self.portable(species, edge_index, edge_vectors)
        every = [ref.products1, ref.products2, ref.products3, ref.products4, ref.products5, ref.products6]
        means = [ref.weights1, ref.weights2, ref.weights3, ref.weights4, ref.weights5, ref.weights6]
        products = every[: ref.orders]
        weights = means[: ref.orders]
        totals = torch.ops.halberd.ace_products(
            species,
            edge_index,
            edge_vectors=edge_vectors.detach(),
            table=ref.table,
            spacing=ref.spacing,
            start=ref.start,
            count=ref.count,
            n_core=ref.n_core,
            many_range=ref.many_range,
            products=products,
            weights=weights,
        )
        sigma = self.portable.sigma_weights(totals)
        both: list[torch.Tensor] = []
        first = 0
        for mean in weights:
            count = mean.size(2)
            both.append(torch.cat([mean, sigma.narrow(1, first, count).unsqueeze(1)], dim=1))
            first += count
        return torch.ops.halberd.ace_sites(
            species,
            edge_index,
            edge_vectors=edge_vectors,
            table=ref.table,
            spacing=ref.spacing,
            start=ref.start,
            count=ref.count,
            n_core=ref.n_core,
            many_range=ref.many_range,
            products=products,
            weights=both,
        )
