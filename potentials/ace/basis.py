"""The linear ACE basis: which products of atomic bases there are, and how they form invariant functions.

Energy of a site of species z, with the atomic basis ``A_{z' n l m} = sum_{j of z'} R_n(r_ij) Y_lm(r_ij)``:

``E_i = sum_v c_v^(z) B_v``,  ``B = U AA``,  ``AA_k = A_{k_1} ... A_{k_nu}``,

U sparse and the same for every central species. Pair functions are products of order 1 with radial functions and a
cutoff of their own, one set of coefficients per unordered pair of elements; where there are any, the many-body part
begins at order 2.

References: Drautz, Phys. Rev. B 99, 014104 (2019); Dusson et al., J. Comput. Phys. 454, 110946 (2022).
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray

from halberd.potentials.ace.couplings import coupling_block
from halberd.potentials.ace.radial import TABLE_KNOTS, RadialFunction, agnesi_transform, radial_basis, tabulate
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError

#: More functions than this are refused: nobody has the memory to fit them.
MAX_FUNCTIONS = 60_000


@dataclasses.dataclass(frozen=True)
class AtomicLayout:
    """Where ``A_{z n l m}`` lives in the vector A of one site.

    For every l, the radial columns ``start[l] ... start[l] + count[l] - 1`` are multiplied with the 2l + 1 harmonics;
    the entry is ``z size + offset[l] + m count[l] + column - start[l]``, m counted from 0.

    Attributes
    ----------
    start, count : tuple of int
        Radial columns of every l.
    """

    start: tuple[int, ...]
    count: tuple[int, ...]

    @property
    def l_max(self) -> int:
        """Highest angular momentum."""
        return len(self.count) - 1

    @property
    def offset(self) -> tuple[int, ...]:
        """First entry of every l."""
        sizes = [(2 * degree + 1) * n for degree, n in enumerate(self.count)]
        return tuple(int(sum(sizes[:degree])) for degree in range(len(sizes)))

    @property
    def size(self) -> int:
        """Number of entries per neighbour species."""
        return sum((2 * degree + 1) * n for degree, n in enumerate(self.count))


def product_channels(order: int, n_species: int, degree: float, l_weight: float) -> NDArray[np.int64]:
    """List the products of one order within a degree.

    Parameters
    ----------
    order : int
    n_species : int
        Neighbour species.
    degree : float
        Largest ``sum_t (n_t + l_weight l_t)``.
    l_weight : float

    Returns
    -------
    array, int, shape (products, order, 3)
        (l, z, n) of every factor, factors sorted.
    """
    highest = int(np.floor((degree - order) / l_weight + 1e-9)) if order > 1 else 0
    channels = np.array(
        [
            (angular, z, n)
            for angular in range(highest + 1)
            for z in range(n_species)
            for n in range(1, int(np.floor(degree - l_weight * angular - (order - 1) + 1e-9)) + 1)
        ],
        dtype=np.int64,
    ).reshape(-1, 3)
    levels = channels[:, 2] + l_weight * channels[:, 0]
    prefixes = np.zeros((1, 0), dtype=np.int64)
    used = np.zeros(1)
    for position in range(order):
        left = order - position - 1  # every later factor takes at least 1
        grown, spent = [], []
        for prefix, level in zip(prefixes, used, strict=True):
            first = prefix[-1] if position else 0
            fits = first + np.flatnonzero(levels[first:] <= degree - level - left + 1e-9)
            grown.append(np.column_stack([np.broadcast_to(prefix, (len(fits), position)), fits]))
            spent.append(level + levels[fits])
        prefixes = np.concatenate(grown) if grown else np.zeros((0, position + 1), dtype=np.int64)
        used = np.concatenate(spent) if spent else np.zeros(0)
    products = channels[prefixes]
    total_l = products[:, :, 0].sum(axis=1)
    # The largest l must not exceed the sum of the others; an even sum is invariant under inversion.
    possible = 2 * products[:, :, 0].max(axis=1, initial=0) <= total_l
    return products[possible & (total_l % 2 == 0)]


def alike(channels: NDArray[np.int64]) -> dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]]:
    """Products by what their couplings depend on: the l of their factors, and which factors are equal.

    Parameters
    ----------
    channels : array, shape (products, order, 3)
        From :func:`product_channels`.
    """
    keys: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for row, factors in enumerate(channels.tolist()):
        classes = [0]
        for before, factor in itertools.pairwise(factors):
            classes.append(classes[-1] + (factor != before))
        keys.setdefault((tuple(f[0] for f in factors), tuple(classes)), []).append(row)
    return keys


def count_functions(settings: AceSettings) -> int:
    """Number of functions of a basis, without making it.

    Parameters
    ----------
    settings : AceSettings
    """
    own = sum(
        len(rows) * len(coupling_block(*key).coefficients)
        for channels in _products(settings)
        for key, rows in alike(channels).items()
    )
    return len(settings.elements) * own + len(settings.pair_names()) * int(settings.pair_degree or 0)


def _products(settings: AceSettings) -> list[NDArray[np.int64]]:
    """Products of every order; none of order 1 if there are pair functions."""
    first_order = 2 if settings.pair_degree else 1
    return [
        product_channels(order, len(settings.elements), settings.degrees[order - 1], settings.l_weight)
        if order >= first_order
        else np.zeros((0, order, 3), dtype=np.int64)
        for order in range(1, settings.order + 1)
    ]


def many_body_radials(settings: AceSettings, a: int, b: int, count: int) -> RadialFunction:
    """Radial functions of the many-body part, n = 1 ... count, for a pair of species."""
    shape = agnesi_transform(*settings.transform, settings.bonds[a, b], settings.inner_cutoff)
    limits = (float(settings.cutoffs[a, b]), settings.inner_cutoff)
    return radial_basis(count, shape, *limits, *settings.envelope)


class AceBasis:
    """All invariant functions of a linear ACE, and the tables to evaluate them.

    Parameters
    ----------
    settings : AceSettings

    Attributes
    ----------
    layout : AtomicLayout
    many_range : float
        Distance from which all many-body columns of the table are zero, angstrom.
    table : torch.Tensor, float64, shape (S * S, knots, 3, columns)
        Radial functions of every ordered pair (centre, neighbour); see :func:`halberd.potentials.ace.radial.tabulate`.
        Column 0 is kept for a repulsive core and zero, then come the pair functions, then the many-body ones.
    products : list of array, int, shape (T, nu)
        Entries of A that are multiplied, for nu = 1, 2, ...
    couplings : list of scipy.sparse.csr_array, shape (functions of order nu, T)
        U of every order.
    n_site : int
        Many-body functions per central species.
    n_functions : int
        All coefficients of the model.
    function_order : array, shape (n_functions,)
        Correlation order; 1 for pair functions.
    function_degree : array, shape (n_functions,)
        ``sum n + l_weight sum l``; n for pair functions.

    Raises
    ------
    ConfigurationError
        If the settings give no function at all, or more than anyone can fit.
    """

    def __init__(self, settings: AceSettings) -> None:
        self.settings = settings
        n_species = len(settings.elements)
        self.n_pair = int(settings.pair_degree or 0)
        products = _products(settings)
        if sum(map(len, products)) * n_species > MAX_FUNCTIONS:
            raise ConfigurationError(
                f"Order {settings.order}, degree {settings.degree} and {n_species} elements make over "
                f"{MAX_FUNCTIONS} functions. Lower the degree, or give one per order such as [16, 12, 8]."
            )
        self.layout = self._lay_out(products)
        self._couple(products)
        self.n_site = int(sum(coupling.shape[0] for coupling in self.couplings))
        self.n_functions = n_species * self.n_site + len(settings.pair_names()) * self.n_pair
        if self.n_functions == 0:
            raise ConfigurationError(f"Degree {settings.degree} leaves no function at order {settings.order}.")
        n = np.arange(1, self.n_pair + 1)
        n_pairs = len(settings.pair_names())
        self.function_order = np.concatenate([np.tile(self._order, n_species), np.ones(n_pairs * self.n_pair)])
        self.function_degree = np.concatenate([np.tile(self._degree, n_species), np.tile(n, n_pairs)])
        self.table = self._tabulate()
        self.spacing = settings.r_max / (TABLE_KNOTS - 1)
        # The functions reach to the end of the interval that holds their cutoff.
        self.many_range = float(np.ceil(settings.cutoff / self.spacing - 1e-9) * self.spacing)

    # -- structure ----------------------------------------------------------------------------------------------

    @property
    def n_species(self) -> int:
        """Number of elements."""
        return len(self.settings.elements)

    def _lay_out(self, products: list[NDArray[np.int64]]) -> AtomicLayout:
        factors = np.concatenate([p.reshape(-1, 3) for p in products])
        l_max = int(factors[:, 0].max(initial=0))
        # Radial columns that some product of this l reads; the others are never computed.
        used = [int(factors[factors[:, 0] == degree, 2].max(initial=0)) for degree in range(l_max + 1)]
        n_core = 1 + self.n_pair
        return AtomicLayout((0,) + (n_core,) * l_max, (n_core + used[0], *used[1:]))

    def _entry(self, z: NDArray, degree: NDArray, column: NDArray) -> tuple[NDArray, NDArray]:
        """Entry of A for m = 0 (the first), and the step from one m to the next."""
        layout = self.layout
        step = np.asarray(layout.count)[degree]
        return z * layout.size + np.asarray(layout.offset)[degree] + column - np.asarray(layout.start)[degree], step

    def _couple(self, products: list[NDArray[np.int64]]) -> None:
        self.products: list[NDArray[np.int64]] = []
        self.couplings: list[scipy.sparse.csr_array] = []
        n_core = 1 + self.n_pair
        orders, degrees, priors = [], [], []
        for order, channels in enumerate(products, start=1):
            entries, blocks = [], []
            for (angular, classes_key), rows in alike(channels).items():
                block = coupling_block(angular, classes_key)
                rank, terms = block.coefficients.shape
                if rank == 0:
                    continue
                chosen = channels[rows]
                first, step = self._entry(chosen[:, :, 1], chosen[:, :, 0], n_core - 1 + chosen[:, :, 2])
                entries.append((first[:, None] + block.m_indices[None] * step[:, None]).reshape(-1, order))
                blocks.append((len(rows), rank, terms, block.coefficients))
                level = chosen[:, :, 2].sum(1) + self.settings.l_weight * chosen[:, :, 0].sum(1)
                orders.append(np.full(len(rows) * rank, order))
                degrees.append(np.repeat(level, rank))
                priors.append(np.repeat(chosen, rank, axis=0))
            self.products.append(np.concatenate(entries) if entries else np.zeros((0, order), dtype=np.int64))
            self.couplings.append(_block_diagonal(blocks))
        self._order = np.concatenate(orders) if orders else np.zeros(0)
        self._degree = np.concatenate(degrees) if degrees else np.zeros(0)
        self._channels = [tuple(map(tuple, row)) for part in priors for row in part.tolist()]

    def _tabulate(self) -> torch.Tensor:
        settings = self.settings
        bonds = settings.bonds
        n_many = max(self.layout.count[0] - 1 - self.n_pair, *self.layout.count[1:], 0)
        tables: dict[tuple[int, int], torch.Tensor] = {}
        for a in range(self.n_species):
            for b in range(self.n_species):
                if a > b:
                    tables[a, b] = tables[b, a]
                    continue
                parts: list[RadialFunction] = []
                if self.n_pair:
                    shape = agnesi_transform(*settings.pair_transform, bonds[a, b])
                    parts.append(radial_basis(self.n_pair, shape, settings.r_max, 0.0, *settings.pair_envelope))
                if n_many:
                    parts.append(many_body_radials(settings, a, b, n_many))
                columns = [torch.zeros(TABLE_KNOTS, 3, 1, dtype=torch.float64)]
                tables[a, b] = torch.cat(columns + [tabulate(part, settings.r_max) for part in parts], dim=2)
        return torch.stack([tables[a, b] for a in range(self.n_species) for b in range(self.n_species)])

    # -- coefficients -------------------------------------------------------------------------------------------

    def smoothness(self, power: float = 4.0) -> NDArray[np.float64]:
        """Prior scale of every function: large where it oscillates fast.

        ``1 + sum_t (n_t^p + l_weight l_t^p)``, the algebraic prior of ACE1x; a coefficient is expected to be of the
        order of the inverse.

        Parameters
        ----------
        power : float
            p; 0 switches the prior off.
        """
        if power <= 0:
            return np.ones(self.n_functions)
        weight = self.settings.l_weight
        site = np.array([1.0 + sum(n**power + weight * angular**power for angular, _, n in f) for f in self._channels])
        pair = 1.0 + np.arange(1, self.n_pair + 1) ** power
        return np.concatenate([np.tile(site, self.n_species), np.tile(pair, len(self.settings.pair_names()))])

    def pair_index(self, a: int, b: int) -> int:
        """Number of an unordered pair of species."""
        low, high = min(a, b), max(a, b)
        return low * self.n_species - low * (low - 1) // 2 + high - low

    def product_coefficients(
        self, coefficients: NDArray[np.float64]
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float64]]]:
        """Fold function coefficients into coefficients of the products themselves.

        Parameters
        ----------
        coefficients : array, shape (n_functions, K)

        Returns
        -------
        products : list of array, int, shape (T, nu)
            As ``self.products``, with the core and the pair functions among order 1.
        weights : list of array, shape (S, T, K)
        """
        n_columns = coefficients.shape[1]
        site = coefficients[: self.n_species * self.n_site].reshape(self.n_species, self.n_site, n_columns)
        bounds = np.cumsum([0, *(coupling.shape[0] for coupling in self.couplings)])
        weights = [
            np.stack([coupling.T @ site[z, low:high] for z in range(self.n_species)])
            for coupling, (low, high) in zip(self.couplings, itertools.pairwise(bounds), strict=True)
        ]
        n_pairs = len(self.settings.pair_names())
        pairs = coefficients[self.n_species * self.n_site :].reshape(n_pairs, self.n_pair, n_columns)
        entries = np.concatenate([z * self.layout.size + np.arange(1 + self.n_pair) for z in range(self.n_species)])
        half = np.zeros((self.n_species, self.n_species, 1 + self.n_pair, n_columns))
        for a in range(self.n_species):
            for b in range(self.n_species):
                half[a, b, 0] = 0.5
                half[a, b, 1:] = 0.5 * pairs[self.pair_index(a, b)]
        weights[0] = np.concatenate([half.reshape(self.n_species, -1, n_columns), weights[0]], axis=1)
        return [np.concatenate([entries[:, None], self.products[0]]), *self.products[1:]], weights

    def coupling_matrix(self) -> scipy.sparse.coo_array:
        """The sparse matrix that makes functions of products, shape (n_functions, S * T).

        Columns are (central species, product), products as :meth:`product_coefficients` lists them, all orders one
        after another; a column per core is there and empty. Its transpose folds function coefficients.
        """
        n_species, n_pair = self.n_species, self.n_pair
        n_first = n_species * (1 + n_pair)
        width = n_first + sum(map(len, self.products))
        rows, columns, values = [], [], []
        for z in range(n_species):
            row, column = z * self.n_site, z * width + n_first
            for coupling in self.couplings:
                coo = coupling.tocoo()
                rows.append(row + coo.row)
                columns.append(column + coo.col)
                values.append(coo.data)
                row += coupling.shape[0]
                column += coupling.shape[1]
            for near in range(n_species):
                n = np.arange(n_pair)
                rows.append(n_species * self.n_site + self.pair_index(z, near) * n_pair + n)
                columns.append(z * width + near * (1 + n_pair) + 1 + n)
                values.append(np.full(n_pair, 0.5))
        parts = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        return scipy.sparse.coo_array(parts, shape=(self.n_functions, n_species * width))


def _block_diagonal(blocks: list[tuple[int, int, int, NDArray[np.float64]]]) -> scipy.sparse.csr_array:
    """Sparse matrix of repeated dense blocks: (repetitions, rows, columns, values) of every kind."""
    row0 = column0 = 0
    rows, columns, values = [], [], []
    for repeats, n_rows, n_columns, block in blocks:
        r, c = np.nonzero(np.abs(block) > 1e-14)
        step = np.arange(repeats)[:, None]
        rows.append((row0 + step * n_rows + r).ravel())
        columns.append((column0 + step * n_columns + c).ravel())
        values.append(np.tile(block[r, c], repeats))
        row0 += repeats * n_rows
        column0 += repeats * n_columns
    if not blocks:
        return scipy.sparse.csr_array((0, 0))
    parts = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return scipy.sparse.csr_array(scipy.sparse.coo_array(parts, shape=(row0, column0)))
