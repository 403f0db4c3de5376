"""Site energies of a linear ACE as a TorchScript module.

Two implementations of one formula: :class:`AceSites` in ordinary torch functions, which is what model files hold and
what a GPU runs, and :class:`CompiledAceSites`, which hands CPU tensors to the operator of
:mod:`halberd.potentials.ace.compiled_operator`.
"""

import math

import torch

from halberd.potentials.ace.radial import hermite
from halberd.potentials.sites.harmonics import FastSphericalHarmonics

#: Numbers in single precision that fill the widest vectors of processors.
_WHOLE = 16


class AceSites(torch.nn.Module):
    """Sums of products of atomic bases, one column per committee member.

    Parameters
    ----------
    table : torch.Tensor, shape (S * S, G, 3, C)
        Radial functions of every ordered pair of species; the last knot is the longest distance.
    spacing : float
        Distance of the knots, angstrom.
    start, count : list of int
        Radial columns of every l, see :class:`halberd.potentials.ace.basis.AtomicLayout`.
    n_core : int
        Columns of l = 0, from the first, that reach further than the others.
    many_range : float
        Beyond this distance (angstrom) all other columns are zero.
    products : list of torch.Tensor, int32, shape (T, nu)
        Entries of the atomic basis that are multiplied, for nu = 1, 2, ..., at most 6.
    weights : list of torch.Tensor, shape (S, K, T)
        Coefficients of the products for every central species and column.
    single : bool
        Return shape (N,) instead of (N, 1).
    """

    table: torch.Tensor
    products1: torch.Tensor
    products2: torch.Tensor
    products3: torch.Tensor
    products4: torch.Tensor
    products5: torch.Tensor
    products6: torch.Tensor
    weights1: torch.Tensor
    weights2: torch.Tensor
    weights3: torch.Tensor
    weights4: torch.Tensor
    weights5: torch.Tensor
    weights6: torch.Tensor

    def __init__(
        self,
        table: torch.Tensor,
        spacing: float,
        start: list[int],
        count: list[int],
        n_core: int,
        many_range: float,
        products: list[torch.Tensor],
        weights: list[torch.Tensor],
        single: bool,
    ) -> None:
        super().__init__()
        # Columns of zeros, so that the compiled operator reads rows in whole vectors.
        self.register_buffer("table", torch.nn.functional.pad(table, (0, -table.shape[3] % _WHOLE)))
        self.spacing = float(spacing)
        self.start = [int(k) for k in start]
        self.count = [int(k) for k in count]
        self.n_core = int(n_core)
        self.many_range = float(many_range)
        self.n_species = int(weights[0].shape[0])
        self.n_columns = int(weights[0].shape[1])
        self.size = sum((2 * degree + 1) * n for degree, n in enumerate(self.count))
        self.single = single
        self.orders = len(products)
        for order in range(6):  # TorchScript cannot keep buffers in a list
            empty = order >= self.orders
            index = torch.zeros((0, order + 1), dtype=torch.int32) if empty else products[order].to(torch.int32)
            weight = torch.zeros((self.n_species, self.n_columns, 0)) if empty else weights[order]
            self.register_buffer(f"products{order + 1}", index.contiguous())
            self.register_buffer(f"weights{order + 1}", weight.to(table.dtype).contiguous())
        self.harmonics = FastSphericalHarmonics(len(self.count) - 1)
        # Orthonormal on the sphere; ours have mean square 1.
        self.harmonic_scale = math.sqrt(4.0 * math.pi)

    def atomic_basis(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """A of every site, shape (N, S * size)."""
        centre, neighbour = edge_index[0], edge_index[1]
        r = torch.sqrt((edge_vectors * edge_vectors).sum(1))
        near = species.index_select(0, neighbour)
        pair = species.index_select(0, centre) * self.n_species + near
        radial = hermite(self.table, pair, r, self.spacing)
        harmonics = self.harmonics(edge_vectors) * self.harmonic_scale
        parts: list[torch.Tensor] = []
        for degree, n in enumerate(self.count):
            y = harmonics.narrow(1, degree * degree, 2 * degree + 1)
            columns = radial.narrow(1, self.start[degree], n)
            parts.append((y.unsqueeze(2) * columns.unsqueeze(1)).flatten(1))
        basis = torch.zeros(
            (species.size(0) * self.n_species, self.size), dtype=edge_vectors.dtype, device=edge_vectors.device
        )
        basis = basis.index_add(0, centre * self.n_species + near, torch.cat(parts, dim=1))
        return basis.view(species.size(0), self.n_species * self.size)

    def product_values(self, basis: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
        """Products of the columns of ``basis``, shape (T, N)."""
        # Entries first: products are gathered as whole rows.
        rows = basis.t()
        value = rows.index_select(0, products[:, 0])
        for factor in range(1, products.size(1)):
            value = value * rows.index_select(0, products[:, factor])
        return value

    def product_sum(
        self, basis: torch.Tensor, species: torch.Tensor, products: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Weighted sum of products of the columns of ``basis``, shape (N, K)."""
        value = self.product_values(basis, products)
        total = torch.zeros((basis.size(0), weights.size(1)), dtype=basis.dtype, device=basis.device)
        for z in range(self.n_species):
            here = (species == z).to(basis.dtype).unsqueeze(1)
            total = total + here * torch.matmul(weights[z], value).t()
        return total

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`."""
        basis = self.atomic_basis(species, edge_index, edge_vectors)
        total = self.product_sum(basis, species, self.products1, self.weights1)
        if self.orders > 1:
            total = total + self.product_sum(basis, species, self.products2, self.weights2)
        if self.orders > 2:
            total = total + self.product_sum(basis, species, self.products3, self.weights3)
        if self.orders > 3:
            total = total + self.product_sum(basis, species, self.products4, self.weights4)
        if self.orders > 4:
            total = total + self.product_sum(basis, species, self.products5, self.weights5)
        if self.orders > 5:
            total = total + self.product_sum(basis, species, self.products6, self.weights6)
        if self.single:
            return total.squeeze(1)
        return total


class CompiledAceSites(torch.nn.Module):
    """As :class:`AceSites`, with the compiled operator wherever the tensors are on a CPU.

    Parameters
    ----------
    portable : AceSites
        Scripted or not; its buffers are shared, and it is what model files hold. Needs
        :data:`halberd.potentials.ace.compiled_operator.ACE_OPERATOR` to have no problem.
    """

    def __init__(self, portable: torch.nn.Module) -> None:
        super().__init__()
        self.portable = portable

    def forward(self, species: torch.Tensor, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate the contract of :mod:`halberd.potentials.sites.site_model`."""
        ref = self.portable
        if edge_vectors.is_cuda:
            return ref(species, edge_index, edge_vectors)
        products = [ref.products1, ref.products2, ref.products3, ref.products4, ref.products5, ref.products6]
        weights = [ref.weights1, ref.weights2, ref.weights3, ref.weights4, ref.weights5, ref.weights6]
        total = torch.ops.halberd.ace_sites(
            species,
            edge_index,
            edge_vectors=edge_vectors,
            table=ref.table,
            spacing=ref.spacing,
            start=ref.start,
            count=ref.count,
            n_core=ref.n_core,
            many_range=ref.many_range,
            products=products[: ref.orders],  # type: ignore[index]
            weights=weights[: ref.orders],  # type: ignore[index]
        )
        if ref.single:
            return total.squeeze(1)
        return total
