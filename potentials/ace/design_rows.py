"""Design rows of a linear ACE: energies, forces and virials of labelled frames as linear functions of the coefficients.

Row times coefficients is what the evaluator returns for the same frame, to rounding: both read the same tables and
sum the same products. Frames are taken in blocks, so that memory stays bounded however large the data set is.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import sphericart.torch
import torch
from ase import Atoms
from numpy.typing import NDArray

from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.compiled_operator import ACE_OPERATOR
from halberd.potentials.ace.radial import hermite, with_slope
from halberd.potentials.regression.weighted_rows import VOIGT, FrameDesign
from halberd.potentials.sites.verlet_list import NeighborList, edges_of_atoms

#: Edge index (2, E) and edge vectors (E, 3) of one structure.
Edges: TypeAlias = tuple[torch.Tensor, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class DesignBlock:
    """Rows of a few structures.

    Attributes
    ----------
    energy : array, shape (F, M), eV per unit coefficient
    forces : list of array, shape (N_f, 3, M), eV/angstrom
    virial : array, shape (F, 6, M), eV
        Minus the derivative with respect to strain; order xx, yy, zz, yz, xz, xy.
    """

    energy: NDArray[np.float64]
    forces: list[NDArray[np.float64]]
    virial: NDArray[np.float64]

    def of(self, k: int) -> FrameDesign:
        """The rows of one structure."""
        return FrameDesign(self.energy[k], self.forces[k], self.virial[k])


class _Pattern(NamedTuple):
    """Which derivatives of functions with respect to sums over neighbours of one species are not zero.

    ``which`` of all, where those of every function begin, and the function and the entry of each.
    """

    which: slice
    pointers: torch.Tensor
    function: torch.Tensor
    entry: torch.Tensor


class DesignAssembler:
    """Computes design rows, on the compiled operator where there is one.

    Parameters
    ----------
    basis : AceBasis
    memory_mb : float
        Bound on the arrays of one block beyond the tables of the basis. One structure is always done, however large.
    """

    def __init__(self, basis: AceBasis, memory_mb: float = 512.0) -> None:
        self.basis = basis
        self.budget = memory_mb * 1e6 / 8.0
        self.n_pairs = len(basis.settings.pair_names())
        self.n_columns = basis.n_functions
        self._harmonics = sphericart.torch.SphericalHarmonics(basis.layout.l_max)
        self._neighbors = NeighborList(basis.settings.r_max, 0.0, torch.get_num_threads())
        self._species = {z: s for s, z in enumerate(basis.settings.elements)}
        self._prepare_products()

    def _prepare_products(self) -> None:
        """List, for every entry of dB/dA, the products of the other factors it is made of."""
        basis, size = self.basis, self.basis.layout.size
        factors = [products.ravel() for products in basis.products if len(products)]
        #: Entries of A, within a species, that any product reads.
        self.used = np.unique(np.concatenate(factors) % size) if factors else np.zeros(0, dtype=np.int64)
        compact = np.full(size, -1)
        compact[self.used] = np.arange(len(self.used))
        width = len(self.used)
        self.width = width
        self._orders = []
        first = 0
        for products, coupling in zip(basis.products, basis.couplings, strict=True):
            if len(products) == 0:
                continue
            entry = (products // size) * width + compact[products % size]
            coo = coupling.tocoo()
            terms = []
            for slot in range(entry.shape[1]):
                others = np.delete(entry, slot, axis=1)[coo.col]
                own = entry[coo.col, slot]
                key = ((own // width) * basis.n_site + first + coo.row) * width + own % width
                terms.append((key, torch.tensor(others), torch.tensor(coo.data)))
            self._orders.append((torch.tensor(entry), coupling, first, terms))
            first += coupling.shape[0]
        keys = [key for *_, terms in self._orders for key, _, _ in terms]
        #: Derivatives dB/dA that are not zero by themselves: neighbour species, function and entry of each, sorted.
        nonzero = np.unique(np.concatenate(keys)) if keys else np.zeros(0, dtype=np.int64)
        self._orders = [
            (entry, coupling, first, [(torch.tensor(np.searchsorted(nonzero, k)), o, w) for k, o, w in terms])
            for entry, coupling, first, terms in self._orders
        ]
        self.n_nonzero = len(nonzero)
        self._patterns = []
        for near in range(basis.n_species):
            low, high = np.searchsorted(nonzero, [near * basis.n_site * width, (near + 1) * basis.n_site * width])
            function, column = np.divmod(nonzero[low:high] - near * basis.n_site * width, max(width, 1))
            pointers = np.searchsorted(function, np.arange(basis.n_site + 1))
            self._patterns.append(
                _Pattern(slice(low, high), torch.tensor(pointers), torch.tensor(function), torch.tensor(column).int())
            )

    # -- blocks -------------------------------------------------------------------------------------------------

    def blocks(self, structures: Sequence[Atoms]) -> Iterator[tuple[list[int], DesignBlock]]:
        """Yield the rows of structures in blocks that keep within the memory bound.

        Parameters
        ----------
        structures : sequence of ase.Atoms

        Yields
        ------
        indices : list of int
            Which structures.
        block : DesignBlock
        """
        basis = self.basis
        # Radial functions and gradients of A with their temporaries, in numbers per edge.
        per_edge = 30 * basis.table.size(3) + 15 * basis.layout.size + 30 * basis.n_pair
        pending: list[int] = []
        edges: list[Edges] = []
        cost = 0.0
        for index, atoms in enumerate(structures):
            found = edges_of_atoms(self._neighbors, atoms)
            # Rows of forces and their copies per species.
            own = (3 * len(atoms) + 10) * self.n_columns * 2.5 + found[1].size(0) * per_edge
            if pending and cost + own > self.budget / 2:
                yield pending, self.rows([structures[i] for i in pending], edges)
                pending, edges, cost = [], [], 0.0
            pending.append(index)
            edges.append(found)
            cost += own
        if pending:
            yield pending, self.rows([structures[i] for i in pending], edges)

    @torch.no_grad()
    def rows(self, structures: Sequence[Atoms], edges: Sequence[Edges] | None = None) -> DesignBlock:
        """Rows of some structures, all at once."""
        basis, n_species = self.basis, self.basis.n_species
        found = [edges_of_atoms(self._neighbors, atoms) for atoms in structures] if edges is None else edges
        species, frame, edge_index, vectors = self._join(structures, found)
        n_atoms, n_frames = len(species), len(structures)
        energy = torch.zeros(n_frames, self.n_columns, dtype=torch.float64)
        forces = torch.zeros(n_atoms, 3, self.n_columns, dtype=torch.float64)
        virial = torch.zeros(n_frames, 3, 3, self.n_columns, dtype=torch.float64)
        r = vectors.norm(dim=1)
        pair = species[edge_index[0]] * n_species + species[edge_index[1]]
        self._pair_rows(
            r, pair, vectors=vectors, edge_index=edge_index, frame=frame, energy=energy, forces=forces, virial=virial
        )

        many = torch.nonzero(r < basis.many_range).squeeze(1)
        centre, neighbour, levers = edge_index[0, many], edge_index[1, many], vectors[many]
        basis_values, gradients = self._atomic_basis(
            species, r[many], pair=pair[many], vectors=levers, centre=centre, neighbour=neighbour
        )
        edges_of_all = _Neighbours(neighbour, gradients, levers, frame)
        edges_to = [torch.nonzero(species[neighbour] == near).squeeze(1) for near in range(n_species)]
        compiled = basis.n_site > 0 and ACE_OPERATOR.problem() is None
        largest = int(torch.bincount(centre, minlength=1).max()) if len(many) else 0
        per_site = basis.n_site * (n_species * self.width + 3 * largest * 2) + 3 * largest * self.width
        if compiled:
            per_site = 3 * self.n_nonzero + basis.n_site
        chunk = int(np.clip(self.budget / 2 / max(per_site, 1), 1, n_atoms))
        for z in range(n_species if basis.n_site else 0):
            columns = slice(z * basis.n_site, (z + 1) * basis.n_site)
            own = torch.zeros(n_atoms + 1, 3, basis.n_site, dtype=torch.float64)
            strain = torch.zeros(n_frames, 3, 3, basis.n_site, dtype=torch.float64)
            for sites in torch.nonzero(species == z).squeeze(1).split(chunk):
                values, slopes = self._functions(basis_values[sites])
                energy[:, columns].index_add_(0, frame[sites], values)
                for near, pattern in enumerate(self._patterns):
                    chosen = _Edges.of(edges_to[near], centre, sites, n_atoms)
                    if len(chosen.edges):
                        add = _add_compiled if compiled else _add_rows
                        add(pattern, slopes[pattern.which], chosen, edges_of_all, forces=own, virial=strain)
            forces[:, :, columns] = own[:-1]
            virial[..., columns] += strain
        bounds = np.cumsum([0, *(len(atoms) for atoms in structures)])
        voigt = torch.stack([0.5 * (virial[:, a, b] + virial[:, b, a]) for a, b in VOIGT], dim=1)
        per_frame = [forces[low:high].numpy() for low, high in itertools.pairwise(bounds)]
        return DesignBlock(energy.numpy(), per_frame, voigt.numpy())

    # -- pieces -------------------------------------------------------------------------------------------------

    def _join(
        self, structures: Sequence[Atoms], edges: Sequence[Edges]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Species, frame of every atom, edge index and edge vectors of all structures as one."""
        sizes = torch.tensor([len(atoms) for atoms in structures])
        first = torch.cumsum(sizes, 0) - sizes
        species = torch.tensor([self._species[int(z)] for atoms in structures for z in atoms.numbers])
        frames = torch.repeat_interleave(torch.arange(len(structures)), sizes)
        index = torch.cat([pairs + shift for (pairs, _), shift in zip(edges, first, strict=True)], dim=1)
        return species, frames, index, torch.cat([vectors for _, vectors in edges])

    def _radial(self, pair: torch.Tensor, r: torch.Tensor, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        table = self.basis.table.narrow(3, first, count)
        return with_slope(lambda x: hermite(table, pair, x, self.basis.spacing), r)

    def _pair_rows(
        self,
        r: torch.Tensor,
        pair: torch.Tensor,
        vectors: torch.Tensor,
        edge_index: torch.Tensor,
        frame: torch.Tensor,
        energy: torch.Tensor,
        forces: torch.Tensor,
        virial: torch.Tensor,
    ) -> None:
        basis, n_species = self.basis, self.basis.n_species
        if len(r) == 0 or basis.n_pair == 0:
            return
        unordered = torch.tensor(
            [basis.pair_index(a, b) for a in range(n_species) for b in range(n_species)], dtype=torch.int64
        )[pair]
        values, slopes = self._radial(pair, r, 1, basis.n_pair)
        unit = vectors / r.unsqueeze(1)
        gradient = 0.5 * slopes.unsqueeze(1) * unit.unsqueeze(2)  # (E, 3, n_pair)
        edge_frame = frame[edge_index[0]]
        first = n_species * basis.n_site
        for number in range(self.n_pairs):
            here = torch.nonzero(unordered == number).squeeze(1)
            columns = slice(first + number * basis.n_pair, first + (number + 1) * basis.n_pair)
            g = gradient[here]
            energy[:, columns].index_add_(0, edge_frame[here], 0.5 * values[here])
            forces[:, :, columns].index_add_(0, edge_index[0, here], g)
            forces[:, :, columns].index_add_(0, edge_index[1, here], g, alpha=-1.0)
            outer = vectors[here].unsqueeze(2).unsqueeze(3) * g.unsqueeze(1)
            virial[..., columns].index_add_(0, edge_frame[here], outer, alpha=-1.0)

    def _atomic_basis(
        self,
        species: torch.Tensor,
        r: torch.Tensor,
        pair: torch.Tensor,
        vectors: torch.Tensor,
        centre: torch.Tensor,
        neighbour: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A of every site, shape (N, S * width), and its gradient per edge, shape (E, 3, width)."""
        basis, layout = self.basis, self.basis.layout
        harmonics, slopes = self._harmonics.compute_with_gradients(vectors)
        scale = float(np.sqrt(4.0 * np.pi))
        radial, derivative = self._radial(pair, r, 0, basis.table.size(3))
        unit = vectors / r.unsqueeze(1)
        values, gradients = [], []
        for degree, (first, count) in enumerate(zip(layout.start, layout.count, strict=True)):
            window = slice(degree * degree, (degree + 1) ** 2)
            y, dy = scale * harmonics[:, window], scale * slopes[:, :, window]
            column, slope = radial[:, first : first + count], derivative[:, first : first + count]
            values.append((y.unsqueeze(2) * column.unsqueeze(1)).flatten(1))
            along = (y.unsqueeze(2) * slope.unsqueeze(1)).flatten(1)
            across = (dy.unsqueeze(3) * column.unsqueeze(1).unsqueeze(1)).flatten(2)
            gradients.append(along.unsqueeze(1) * unit.unsqueeze(2) + across)
        used = torch.tensor(self.used)
        edge_values = torch.cat(values, dim=1)[:, used]
        sums = torch.zeros(len(species) * basis.n_species, self.width, dtype=torch.float64)
        sums.index_add_(0, centre * basis.n_species + species[neighbour], edge_values)
        return sums.view(len(species), -1), torch.cat(gradients, dim=2)[:, :, used]

    def _functions(self, A: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """B of some sites, shape (n, n_site), and the derivatives dB/dA that are not zero, shape (n_nonzero, n)."""
        n_sites = len(A)
        rows = A.t().contiguous()
        values = torch.zeros(self.basis.n_site, n_sites, dtype=torch.float64)
        slopes = torch.zeros(self.n_nonzero, n_sites, dtype=torch.float64)
        for entry, coupling, first, terms in self._orders:
            product = rows[entry[:, 0]]
            for factor in range(1, entry.size(1)):
                product = product * rows[entry[:, factor]]
            values[first : first + coupling.shape[0]] = torch.from_numpy(coupling @ product.numpy())
            for target, others, weight in terms:
                value = weight.unsqueeze(1).expand(-1, n_sites)
                for factor in range(others.size(1)):
                    value = value * rows[others[:, factor]]
                slopes.index_add_(0, target, value)
        return values.t(), slopes


class _Neighbours(NamedTuple):
    """Of every edge, the neighbour, the gradients of A and the vector to it; and the frame of every atom."""

    neighbour: torch.Tensor
    gradients: torch.Tensor
    vectors: torch.Tensor
    frame: torch.Tensor


class _Edges(NamedTuple):
    """Edges of some sites, ordered by site: the sites, where the edges of each begin, and which they are."""

    sites: torch.Tensor
    first: torch.Tensor
    edges: torch.Tensor

    @staticmethod
    def of(edges: torch.Tensor, centre: torch.Tensor, sites: torch.Tensor, n_atoms: int) -> _Edges:
        """Those whose centre is one of the sites; edges come ordered by centre, and sites in order."""
        position = torch.full((n_atoms,), -1)
        position[sites] = torch.arange(len(sites))
        chosen = edges[position[centre[edges]] >= 0]
        count = torch.bincount(position[centre[chosen]], minlength=len(sites))
        return _Edges(sites, torch.cat([torch.zeros(1, dtype=torch.int64), torch.cumsum(count, 0)]), chosen)


def _add_compiled(
    pattern: _Pattern,
    slopes: torch.Tensor,
    chosen: _Edges,
    near: _Neighbours,
    *,
    forces: torch.Tensor,
    virial: torch.Tensor,
) -> None:
    """As :func:`_add_rows`, by the compiled operator."""
    torch.ops.halberd.ace_design_rows(
        slopes.t().contiguous(),
        pattern.pointers,
        pattern.entry,
        gradients=near.gradients.contiguous(),
        first=chosen.first,
        edges=chosen.edges,
        atom=chosen.sites,
        frame=near.frame[chosen.sites],
        neighbour=near.neighbour.contiguous(),
        vectors=near.vectors.contiguous(),
        forces=forces,
        virial=virial,
    )


def _add_rows(
    pattern: _Pattern,
    slopes: torch.Tensor,
    chosen: _Edges,
    near: _Neighbours,
    *,
    forces: torch.Tensor,
    virial: torch.Tensor,
) -> None:
    """Add what the edges to one neighbour species contribute to forces (N + 1, 3, n_site) and virials.

    The last row of forces is that of no atom.
    """
    sites, edges, n_site = chosen.sites, chosen.edges, forces.size(2)
    count = chosen.first.diff()
    owner = torch.repeat_interleave(torch.arange(len(sites)), count)
    place = torch.arange(len(edges)) - chosen.first[owner]
    width, n_entries = int(count.max()), near.gradients.size(2)
    padded = torch.zeros(len(sites), width, 3, n_entries, dtype=torch.float64)
    padded[owner, place] = near.gradients[edges]
    lever = torch.zeros(len(sites), width, 3, dtype=torch.float64)
    lever[owner, place] = near.vectors[edges]
    target = torch.full((len(sites), width), len(forces) - 1)
    target[owner, place] = near.neighbour[edges]
    dense = torch.zeros(n_site * n_entries, len(sites), dtype=torch.float64)
    dense[pattern.function * n_entries + pattern.entry] = slopes
    by_site = dense.view(n_site, n_entries, len(sites)).permute(2, 1, 0)
    g = torch.bmm(padded.view(len(sites), width * 3, -1), by_site).view(len(sites), width, 3, n_site)
    forces.index_add_(0, sites, g.sum(1))
    forces.index_add_(0, target.ravel(), g.view(len(sites) * width, 3, n_site), alpha=-1.0)
    stress = torch.bmm(lever.transpose(1, 2), g.view(len(sites), width, -1)).view(len(sites), 3, 3, n_site)
    virial.index_add_(0, near.frame[sites], stress, alpha=-1.0)
