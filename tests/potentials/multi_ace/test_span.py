"""One layer of the family spans linear ACE: least squares, both ways, on random environments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.multi_ace.building import build
from halberd.potentials.multi_ace.settings import preset

CUTOFF = 4.0


def ace_functions(order: int, degree: float | tuple[float, ...]):
    """Values of all functions of a linear ACE of one element, by species, edges and vectors."""
    basis = AceBasis(AceSettings(("Si",), order=order, degree=degree, cutoff=CUTOFF, pair_degree=0))
    model = ace_site_model(basis, np.eye(basis.n_functions))
    return model.scripted(), basis


def environments(n: int, n_neighbours: int = 6, seed: int = 0):
    """Central atoms, each with neighbours of its own, which see nobody."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(n * n_neighbours, 3))
    vectors *= (generator.uniform(1.2, 3.8, size=len(vectors)) / np.linalg.norm(vectors, axis=1))[:, None]
    centres = np.repeat(np.arange(n), n_neighbours)
    others = n + np.arange(len(vectors))
    species = torch.zeros(n + len(vectors), dtype=torch.int64)
    return species, torch.tensor(np.array([centres, others])), torch.tensor(vectors)


def radial_functions(n_radial: int):
    """Those of linear ACE, read off its first order: of one neighbour it is a radial function."""
    function, basis = ace_functions(1, n_radial)
    assert basis.n_functions == n_radial

    def radial(r: torch.Tensor) -> torch.Tensor:
        species = torch.zeros(2 * len(r), dtype=torch.int64)
        pairs = torch.arange(2 * len(r)).reshape(-1, 2).T
        vectors = torch.cat([torch.zeros(len(r), 2, dtype=r.dtype), r], dim=1)
        return function(species, pairs.contiguous(), vectors)[::2]

    return radial


def family_functions(order: int, max_ell: int, n_radial: int, channels: int):
    """All products of one layer with random radial weights, channel by channel, before they are mixed."""
    network = build(
        preset("ace", ("Si",), cutoff=CUTOFF, correlation=order, max_ell=max_ell, n_radial=n_radial,
               hidden=f"{channels}x0e", redundant_couplings=False, neighbours=1.0)
    ).double()  # fmt: skip
    layer, radial = network.layers[0], radial_functions(n_radial)
    network.edges.radial = lambda r, *_: (radial(r), torch.ones_like(r))

    def functions(species, edge_index, vectors):
        edges = network.edges(species, edge_index, vectors)
        sent = network.first(species)
        weights = layer.radial(edges.basis, edges.centre, edges.neighbour)
        messages = layer.convolution(sent, edges.harmonics, weights, edge_index)
        messages = messages if layer.down is None else layer.down(messages, species)
        components = torch.cat(messages, dim=1)
        columns = []
        for number, _ in enumerate(layer.product.orders[0]):
            factors = getattr(layer.product, f"factors_0_{number}")
            coefficients = getattr(layer.product, f"coefficients_0_{number}")[:, 0]
            products = components[:, factors].prod(dim=2)
            columns.append(torch.einsum("tp,ntk->npk", coefficients, products).flatten(1))
        return torch.cat(columns, dim=1)

    return functions


def outside(wanted: torch.Tensor, given: torch.Tensor) -> float:
    """Largest part of a column that is not a combination of the given ones, in units of its length."""
    wanted, given = wanted / wanted.norm(dim=0), given / given.norm(dim=0)
    left, sizes, _ = torch.linalg.svd(given, full_matrices=False)
    left = left[:, sizes > 1e-11 * sizes[0]]
    assert left.shape[1] < 0.7 * left.shape[0]  # or else anything can be combined
    return float((wanted - left @ (left.T @ wanted)).norm(dim=0).max())


@pytest.mark.parametrize(("order", "degree", "max_ell", "n_radial"), [(2, 8, 2, 8), (3, (3, 5, 6), 1, 4)])
@torch.no_grad()
def test_one_layer_spans_linear_ace(order, degree, max_ell, n_radial):
    torch.manual_seed(1)
    n = 300
    species, edge_index, vectors = environments(n)
    ace, basis = ace_functions(order, degree)
    wanted = ace(species, edge_index, vectors)[:n]
    assert basis.layout.l_max == max_ell
    given = family_functions(order, max_ell, n_radial, 45)(species, edge_index, vectors)[:n]
    assert outside(wanted, given) < 1e-6
    # Null rows: with fewer channels, or without the highest products, it does not.
    assert outside(wanted, given[:, ::8]) > 1e-2
    if order == 3:
        lower = family_functions(2, max_ell, n_radial, 45)(species, edge_index, vectors)[:n]
        assert outside(wanted, lower) > 1e-2


@torch.no_grad()
def test_linear_ace_spans_one_layer():
    torch.manual_seed(2)
    n_radial, max_ell, n = 2, 1, 600
    species, edge_index, vectors = environments(n, seed=3)
    # Its degree is that of all products of two functions with n up to 2 and l up to 1.
    ace, _ = ace_functions(2, 2 * (n_radial + 1.5 * max_ell))
    given = ace(species, edge_index, vectors)[:n]
    wanted = family_functions(2, max_ell, n_radial, 12)(species, edge_index, vectors)[:n]
    assert outside(wanted, given) < 1e-6
