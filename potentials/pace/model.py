"""ML-PACE potentials as a :class:`SiteModel`: the same products, tables and operator as halberd's own linear ACE."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from halberd.potentials.ace.basis import AtomicLayout
from halberd.potentials.ace.couplings import real_from_complex
from halberd.potentials.ace.embedding import EmbeddedSites, FinnisSinclair
from halberd.potentials.ace.model import PACE, with_compiled_sites
from halberd.potentials.ace.sites import AceSites
from halberd.potentials.pace.file import PacePotential, PaceTerm, read_pace
from halberd.potentials.pace.radial import bond_table
from halberd.potentials.sites.site_model import SiteModel

#: Finer than halberd's own: the tables stand in for somebody else's formulas.
PACE_KNOTS = 1024


def load_pace(path: str | os.PathLike[str]) -> SiteModel:
    """Load a ``.yace`` (C-tilde) or B-basis ``.yaml`` potential.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    SiteModel
        Double precision, one column.

    Raises
    ------
    ModelFileError
        See :func:`halberd.potentials.pace.file.read_pace`.
    """
    return pace_site_model(read_pace(path), name=Path(path).stem)


def pace_site_model(potential: PacePotential, *, name: str = "pace") -> SiteModel:
    """Build the evaluator of a PACE potential."""
    n_species = len(potential.elements)
    bonds = potential.bonds
    n_base = max(bond.n_base for bond in bonds.values())
    n_radial = max(bond.coefficients.shape[0] for bond in bonds.values())
    l_max = max([0, *(degree for term in potential.terms for degree in term.l)])
    cutoff = max(bond.cutoff for bond in bonds.values())
    table = torch.stack(
        [
            bond_table(bonds[a, b], n_radial, l_max=l_max, n_base=n_base, r_max=cutoff, knots=PACE_KNOTS)
            for a in range(n_species)
            for b in range(n_species)
        ]
    )
    # Only columns that some product reads are kept: they are looked up for every edge.
    used_base = max((term.n[0] for term in potential.terms if len(term.n) == 1), default=0)
    used = [
        max(
            (n for t in potential.terms if len(t.n) > 1 for n, d in zip(t.n, t.l, strict=True) if d == degree),
            default=0,
        )
        for degree in range(l_max + 1)
    ]
    starts = [1 + n_base + degree * n_radial for degree in range(l_max + 1)]
    kept = [
        *range(1 + used_base),
        *(start + n for start, count in zip(starts, used, strict=True) for n in range(count)),
    ]
    table = table[..., kept].contiguous()
    first = 1 + used_base + used[0]
    layout = AtomicLayout((0, *(first + sum(used[1:degree]) for degree in range(1, l_max + 1))), (first, *used[1:]))
    products, weights = _products(potential, layout, used_base)
    embedding = _embedding(potential, weights[0].shape[1] - 1)
    linear = bool((table[..., 0] == 0.0).all()) and _is_linear(embedding)
    if linear:
        weights = [(embedding.weights[:, :, None] * each[:, :-1]).sum(1, keepdim=True) for each in weights]
    sites = AceSites(
        table=table,
        spacing=cutoff / (PACE_KNOTS - 1),
        start=list(layout.start),
        count=list(layout.count),
        n_core=layout.count[0],
        many_range=2.0 * cutoff,
        products=products,
        weights=weights,
        single=linear,
    )
    model = SiteModel(
        sites if linear else EmbeddedSites(sites, embedding),
        cutoff,
        potential.elements,
        e0s=potential.e0s,
        metadata={"name": name, "kind": PACE, "n_products": sum(len(index) for index in products)},
    )
    return with_compiled_sites(model)


def _embedding(potential: PacePotential, n_densities: int) -> FinnisSinclair:
    """The embeddings of all elements, padded to the same number of densities."""
    parameters = torch.zeros(len(potential.elements), n_densities, 2, dtype=torch.float64)
    parameters[:, :, 1] = 1.0
    for s, embedding in enumerate(potential.embeddings):
        own = torch.tensor(embedding.parameters, dtype=torch.float64).reshape(-1, 2)
        parameters[s, : len(own)] = own

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return FinnisSinclair(
        parameters[:, :, 0].contiguous(),
        parameters[:, :, 1].contiguous(),
        column([float(e.shifted) for e in potential.embeddings]),
        column([e.core_cut for e in potential.embeddings]),
        column([e.core_width for e in potential.embeddings]),
    )


def _is_linear(embedding: FinnisSinclair) -> bool:
    """Whether the site energy is a weighted sum of densities, where there is no core."""
    powers = embedding.powers[embedding.weights != 0.0]
    return bool((powers == 1.0).all() and (embedding.core_cut >= embedding.core_width).all())


def _products(
    potential: PacePotential, layout: AtomicLayout, n_base: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Real products and their weights: (T, nu) entries and (S, P + 1, T) for every order.

    ``Y_complex = conj(U)^T Y_real`` turns a complex product into up to 2^nu real ones, of which the real part counts.
    """
    n_species = len(potential.elements)
    n_densities = max(len(term.weights) for term in potential.terms)
    for embedding in potential.embeddings:
        n_densities = max(n_densities, len(embedding.parameters) // 2)
    collected: list[dict[tuple[int, ...], np.ndarray]] = [
        defaultdict(lambda: np.zeros((n_species, n_densities + 1)))
        for _ in range(max(len(term.l) for term in potential.terms))
    ]
    for near in range(n_species):  # the core density: every neighbour's core, counted in full
        collected[0][(near * layout.size,)][:, n_densities] = 1.0
    for term in potential.terms:
        for entries, factor in _real_products(term, layout, n_base):
            sums = collected[len(entries) - 1][entries]
            sums[term.centre, : len(term.weights)] += factor * np.array(term.weights)
    products, weights = [], []
    for order, sums_of_order in enumerate(collected, start=1):
        kept = sorted(key for key, value in sums_of_order.items() if np.abs(value).max() > 1e-300)
        products.append(torch.tensor(kept, dtype=torch.int32).reshape(-1, order))
        stacked = np.stack([sums_of_order[key] for key in kept], axis=-1) if kept else None
        empty = torch.zeros(n_species, n_densities + 1, 0, dtype=torch.float64)
        weights.append(empty if stacked is None else torch.from_numpy(stacked))
    return products, weights


def _real_products(term: PaceTerm, layout: AtomicLayout, n_base: int) -> list[tuple[tuple[int, ...], float]]:
    choices = []
    for z, n, degree, m in zip(term.species, term.n, term.l, term.m, strict=True):
        # Single factors use the base functions themselves, longer products their mixtures R_nl.
        mixture = layout.start[degree] if degree > 0 else 1 + n_base
        column = n if len(term.l) == 1 else mixture + n - 1
        first = z * layout.size + layout.offset[degree] + column - layout.start[degree]
        row = real_from_complex(degree)[:, degree + m].conj()
        choices.append([(first + int(a) * layout.count[degree], row[a]) for a in np.flatnonzero(row)])
    found = []
    for combination in itertools.product(*choices):
        factor = np.prod([value for _, value in combination])
        if abs(factor.real) > 1e-14:
            found.append((tuple(sorted(entry for entry, _ in combination)), float(factor.real)))
    return found
