"""Radial networks as splines: what a network makes of a distance, tabulated to a stated error."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from halberd.potentials.errors import ModelError
from halberd.potentials.multi_ace.network import EdgeEmbedding
from halberd.potentials.multi_ace.radial import Perceptron, SpeciesLinear

#: Largest difference between network and spline that is aimed at, in units of the largest weight: in single precision
#: its rounding. Fewer intervals are faster, since what was used last is still in the processor's cache.
TOLERANCE = {torch.float32: 6e-8, torch.float64: 1e-12}
#: Beyond this the network is not replaced.
ACCEPTED = {torch.float32: 1e-7, torch.float64: 1e-9}
#: Numbers of intervals that are tried.
INTERVALS = (60, 80, 120, 160, 240, 320, 480, 640, 960, 1920, 3840)
#: Angstrom. Errors are not looked at below: no atoms come as close.
CLOSEST = 0.3
#: Bytes of all splines of one layer.
LARGEST_TABLE = 2**28

#: Numbers that are worked on at once, and pairs of species that are looked at before all others.
_AT_ONCE, _SAMPLE = 2**21, 6
#: Places in an interval where values are taken besides its ends.
_BETWEEN = (1 / 3, 2 / 3)

#: What depends on an edge: distances (E, 1), species of centre and neighbour (E,) to (E, W).
EdgeFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Splines:
    """Polynomials of degree 5 in equal intervals of the distance.

    Attributes
    ----------
    table : tensor, float64, shape (kinds, intervals, 6, W)
        Coefficients of powers of the place in the interval, 0 to 1.
    kinds : tensor, int64, shape (S, S)
        Which of them a centre and a neighbour have.
    spacing : float, angstrom
    error : float
        Largest difference found, in units of the largest weight.
    """

    table: torch.Tensor
    kinds: torch.Tensor
    spacing: float
    error: float


def edge_weights(edges: EdgeEmbedding, radial: torch.nn.Module, density: torch.nn.Module | None) -> EdgeFunction:
    """Radial weights of one layer, and as a last column what an edge adds to the density, in double precision."""
    edges, radial = copy.deepcopy(edges).double(), copy.deepcopy(radial).double()
    density = None if density is None else copy.deepcopy(density).double()

    def weights(r: torch.Tensor, centre: torch.Tensor, neighbour: torch.Tensor) -> torch.Tensor:
        basis, envelope = edges.radial(r, centre, neighbour)
        values: torch.Tensor = radial(basis, centre, neighbour)
        if density is not None:
            values = torch.cat([values, torch.tanh(density(basis, centre, neighbour) ** 2)], dim=1)
        return values if envelope is None else values * envelope

    return weights


def pair_kinds(edges: EdgeEmbedding, modules: list[Any], n_species: int) -> torch.Tensor:
    """Which pairs of species, (S, S), have the same radial weights: numbers of kinds."""
    index = torch.arange(n_species)
    by_neighbour = index.expand(n_species, n_species)
    if edges.transform is None and all(isinstance(each, Perceptron) for each in modules):
        return torch.zeros_like(by_neighbour).contiguous()
    if edges.transform is None and all(
        isinstance(each, Perceptron) or (isinstance(each, SpeciesLinear) and not each.of_pairs) for each in modules
    ):
        return by_neighbour.contiguous()
    return (index.unsqueeze(1) * n_species + index).contiguous()


@torch.no_grad()
def tabulated(
    function: EdgeFunction, kinds: torch.Tensor, cutoff: float, dtype: torch.dtype, kink: float | None = None
) -> Splines:
    """Tabulate radial weights.

    Parameters
    ----------
    function : callable
        In double precision.
    kinds : tensor, int64, shape (S, S)
    cutoff : float, angstrom
    dtype : torch.dtype
        That the splines are used in, which says how good they must be.
    kink : float, optional
        Where a second derivative jumps, for the message: splines are good if an interval ends there.

    Raises
    ------
    ModelError
        If splines cannot be had that are good and small enough.
    """
    pairs = torch.stack([torch.nonzero(kinds == kind)[0] for kind in range(int(kinds.max()) + 1)])
    n_weights = _at(function, pairs[:1], torch.tensor([0.5 * cutoff], dtype=torch.float64)).shape[2]
    affordable = [n for n in INTERVALS if len(pairs) * n * 6 * n_weights * dtype.itemsize <= LARGEST_TABLE]
    # As many as some pairs need, others mostly need as well.
    some = pairs[torch.linspace(0, len(pairs) - 1, min(len(pairs), _SAMPLE)).long()]
    best: Splines | None = None
    for n_intervals in affordable:
        at_once = max(1, _AT_ONCE // (n_intervals * n_weights))
        if len(some) < len(pairs) and n_intervals != affordable[-1]:
            _, error, size = _tables(function, some.split(at_once), cutoff, n_intervals)
            if not error < TOLERANCE[dtype] * max(size, 1e-300):
                continue
        table, error, size = _tables(function, pairs.split(at_once), cutoff, n_intervals)
        found = Splines(table, kinds, cutoff / n_intervals, error / max(size, 1e-300))
        best = found if best is None or found.error < best.error else best
        if best.error < TOLERANCE[dtype]:
            break
    if best is None:
        raise ModelError("Radial weights depend on so many pairs of elements that they are not tabulated.")
    if not best.error < ACCEPTED[dtype]:
        where = "" if kink is None else f" (their envelope has a kink at {kink} angstrom)"
        raise ModelError(f"Radial weights differ by {best.error:.1g} from their splines{where}.")
    return best


def _at(function: EdgeFunction, pairs: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """Weights (P, n, W) of pairs (P, 2) at distances (n,)."""
    ends = pairs.repeat_interleave(len(r), dim=0)
    values = function(r.repeat(len(pairs)).unsqueeze(1), ends[:, 0], ends[:, 1])
    return values.view(len(pairs), len(r), -1)


def _tables(
    function: EdgeFunction, groups: Sequence[torch.Tensor], cutoff: float, n_intervals: int
) -> tuple[torch.Tensor, float, float]:
    """Coefficients (P, intervals, 6, W) of groups of pairs, the largest error, and the largest weight of any."""
    parts = [_some_tables(functools.partial(_at, function, pairs), cutoff, n_intervals) for pairs in groups]
    tables, errors, sizes = zip(*parts, strict=True)
    return torch.cat(tables), max(errors), max(sizes)


def _some_tables(
    function: Callable[[torch.Tensor], torch.Tensor], cutoff: float, n_intervals: int
) -> tuple[torch.Tensor, float, float]:
    spacing = cutoff / n_intervals
    knots = torch.arange(n_intervals, dtype=torch.float64) * spacing

    def with_slope(r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both: Any = torch.func.jvp(function, (r,), (torch.ones_like(r),))
        return both[0], spacing * both[1]

    # Values and slopes at both ends, from inside: envelopes begin and end at knots. And values at two places between.
    inside = 1e-12 * spacing
    begin, begin_slope = with_slope(knots + inside)
    end, end_slope = with_slope(knots + spacing - inside)
    given = [begin, begin_slope, end, end_slope, *(function(knots + t * spacing) for t in _BETWEEN)]
    conditions = torch.zeros((6, 6), dtype=torch.float64)
    power = torch.arange(6, dtype=torch.float64)
    conditions[0, 0] = conditions[1, 1] = 1.0
    conditions[2], conditions[3] = 1.0, power
    for row, t in enumerate(_BETWEEN, start=4):
        conditions[row] = t**power
    # The first interval begins where no atoms are, and some functions have no values or slopes at zero.
    stacked = torch.nan_to_num(torch.stack(given), nan=0.0, posinf=0.0, neginf=0.0)
    table = torch.einsum("ij,jpnw->pniw", torch.linalg.inv(conditions), stacked)
    error = 0.0
    seen = knots + 0.25 * spacing >= CLOSEST
    for t in (0.1, 0.5, 0.8):
        powers = torch.tensor([t**k for k in range(6)], dtype=torch.float64)
        found = torch.einsum("i,pniw->pnw", powers, table)
        error = max(error, float((found - function(knots + t * spacing)).abs()[:, seen].max()))
    return table, error, float(begin[:, seen].abs().max())
