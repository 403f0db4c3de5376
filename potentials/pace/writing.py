"""Writing linear ACE for LAMMPS: the many-body part as a C-tilde file (``.yace``), the pair part as a table.

ML-PACE computes ``R_nl = sum_k c_nlk g_k`` with base functions of a few kinds and one range per pair of elements. Those
called ChebPow are, with exponent 1, all polynomials that vanish at the cutoff; radial functions of halberd are smooth
within theirs, so that some hundred polynomials meet them to eight digits. Pair functions reach further and begin in a
repulsive core, which no polynomial follows: they become a table, which ``pair_style hybrid/overlay`` adds.

Products of real spherical harmonics become products of complex ones, of which ML-PACE takes the real part.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from halberd.potentials.ace.basis import many_body_radials
from halberd.potentials.ace.couplings import real_from_complex
from halberd.potentials.ace.model import ACE_WITH_SIGMA, LINEAR_ACE
from halberd.potentials.ace.radial import RadialFunction, hermite, with_slope
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.files import check_writable, replacing
from halberd.potentials.sites.site_model import SiteModel

#: Numbers of base functions that are tried, until values are met to ``ENOUGH`` of the largest; the last must meet
#: ``TOLERABLE``.
BASES = (40, 60, 80, 100, 120, 160, 200)
ENOUGH, TOLERABLE = 1e-8, 1e-5
#: Spacing of ML-PACE's look-up tables and of the pair table, and where the latter begins, angstrom.
SPACING, INNERMOST = 0.001, 0.05
#: Coefficients below this part of the largest are rounding.
ROUNDING = 1e-13

#: (species, n, l, m) of a factor; n counted from 1.
Factor = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class WrittenPace:
    """What :func:`write_pace` wrote.

    Attributes
    ----------
    path : Path
        The ``.yace``.
    table : Path or None
        The pair table beside it; None if the model has no pair part.
    n_functions, n_terms : int
        Functions in the file, and products of atomic bases that they sum over m.
    radial_error : float
        Largest error of a radial function, in parts of its largest value.
    lammps : str
        Lines of a LAMMPS script that use the files, with types in the order of the model's elements.
    """

    path: Path
    table: Path | None
    n_functions: int
    n_terms: int
    radial_error: float
    lammps: str


def write_pace(model: SiteModel, path: str | os.PathLike[str]) -> WrittenPace:
    """Write a linear ACE for ``pair_style pace`` of LAMMPS and other readers of C-tilde files.

    Parameters
    ----------
    model : SiteModel
        From :func:`halberd.potentials.load`. Of a committee, and of a model with sigma, the mean is written.
    path : path-like
        Ends in ``.yace``. The pair part of the model goes to a file beside it that ends in ``.table``.

    Returns
    -------
    WrittenPace

    Raises
    ------
    ConfigurationError
        If the model is no linear ACE, has no many-body part, or radial functions that polynomials do not meet to 1e-5.
    OutputError
        If a file cannot be written.
    """
    target = Path(path)
    if target.suffix != ".yace":
        raise ConfigurationError(f"'{target}' must end in .yace: that is how LAMMPS tells what it reads.")
    table = target.with_suffix(".table")
    sites = _sites_of(model)
    weights = [getattr(sites, f"weights{order}").mean(dim=1).double().numpy() for order in range(1, sites.orders + 1)]
    functions = _functions(sites, weights)
    if not any(functions):
        raise ConfigurationError(f"Model '{model.name}' has pair functions alone; there is nothing for a .yace file.")
    pairs = _pair_energies(sites, weights[0])
    for file in (target, *([table] if pairs else [])):
        check_writable(file)
    bonds, error = _bonds(model, sites)
    if pairs:
        with replacing(table) as unfinished:
            unfinished.write_text(_table_text(model, pairs), encoding="utf-8")
    with replacing(target) as unfinished:
        unfinished.write_text(_yace_text(model, bonds, functions), encoding="utf-8")
    return WrittenPace(
        path=target,
        table=table if pairs else None,
        n_functions=sum(map(len, functions)),
        n_terms=sum(len(terms) for groups in functions for terms in groups.values()),
        radial_error=error,
        lammps=_script(model, target, table if pairs else None),
    )


def _sites_of(model: SiteModel) -> Any:
    """The module that holds tables, products and weights."""
    kind = model.metadata.get("kind")
    if kind not in (LINEAR_ACE, ACE_WITH_SIGMA):
        raise ConfigurationError(
            f"Model '{model.name}' is no linear ACE of halberd ({kind or 'another kind'}); only these can be written "
            "as .yace."
        )
    module: Any = getattr(model.module, "portable", model.module)
    return module.sites if kind == ACE_WITH_SIGMA else module


def _columns(sites: Any, pair: int, r: torch.Tensor) -> torch.Tensor:
    """Radial functions of one ordered pair of species, shape (E, C)."""
    return hermite(sites.table.double(), torch.full(r.shape, pair, dtype=torch.int64), r, sites.spacing)


# -- many-body part -----------------------------------------------------------------------------------------------


def _bonds(model: SiteModel, sites: Any) -> tuple[dict[tuple[int, int], dict[str, Any]], float]:
    """Entries of the file for all ordered pairs of species, and the largest error of a radial function."""
    settings = AceSettings(**model.metadata["settings"])
    used = [sites.count[0] - sites.n_core, *sites.count[1:]]
    n_radial = max(used)
    places = [settings.elements.index(z) for z in model.atomic_numbers]  # the model may know fewer
    pairs = [(a, b) for a in range(len(places)) for b in range(len(places))]
    reaches = {(a, b): float(settings.cutoffs[places[a], places[b]]) for a, b in pairs}
    radials = {(a, b): many_body_radials(settings, places[a], places[b], n_radial) for a, b in pairs}
    for n_base in BASES:
        fitted = {pair: _polynomials(radials[pair], reaches[pair], n_base) for pair in pairs}
        error = max(worst for _, worst in fitted.values())
        if error < ENOUGH:
            break
    if not error <= TOLERABLE:  # no number either
        raise ConfigurationError(
            f"{BASES[-1]} polynomials miss a radial function of the model by {error:.1e} of its largest value, so that "
            "the file would be another potential. Fit with a lower degree, or the usual transform and envelope."
        )
    bonds = {}
    for pair, (coefficients, _) in fitted.items():
        by_degree = np.stack([np.where(np.arange(n_radial)[:, None] < count, coefficients, 0.0) for count in used], 1)
        bonds[pair] = {
            **{"nradmax": n_radial, "lmax": len(used) - 1, "nradbasemax": n_base, "radbasename": "ChebPow"},
            **{"radparameters": [1.0], "radcoefficients": by_degree.tolist(), "prehc": 0.0, "lambdahc": 1.0},
            **{"rcut": reaches[pair], "dcut": 0.01},
        }
    return bonds, error


def _polynomials(radials: RadialFunction, reach: float, n_base: int) -> tuple[NDArray[np.float64], float]:
    """Coefficients (n, n_base) of ``(1 - T_k(2 r/reach - 1))/2``, and the largest error over the largest value."""

    def values_at(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return radials(torch.from_numpy(0.5 * reach * (x + 1.0))).numpy()

    interpolate: Any = np.polynomial.chebyshev.chebinterpolate  # annotated for one function at a time
    series: NDArray[np.float64] = interpolate(values_at, n_base)
    # Functions vanish at x = 1, where all T_k are 1: the constant is minus the sum of the others.
    coefficients = -2.0 * series[1:]
    grid = np.linspace(-1.0, 1.0, 4001)
    found = 0.5 * (1.0 - np.polynomial.chebyshev.chebvander(grid, n_base)[:, 1:]) @ coefficients
    values = values_at(grid)
    largest = np.maximum(np.abs(values).max(axis=0), 1e-300)
    return coefficients.T, float((np.abs(found - values).max(axis=0) / largest).max())


def _functions(sites: Any, weights: list[NDArray]) -> list[dict[tuple, list[tuple[tuple[int, ...], float]]]]:
    """Per central species: m of all factors and coefficients, by (species, n, l) of all factors.

    ``Y_real = U Y_complex`` turns a product into up to 2^nu others. Those whose m do not sum to zero cancel, and a
    product and the one with all m reversed have the same real part, so one of the two is kept.
    """
    n_species = sites.n_species
    collected: dict[tuple[Factor, ...], NDArray] = defaultdict(lambda: np.zeros(n_species, dtype=complex))
    for order in range(2, sites.orders + 1):
        products = getattr(sites, f"products{order}").numpy()
        factors = {int(entry): _complex_factors(sites, int(entry)) for entry in np.unique(products)}
        kept = np.flatnonzero(np.abs(weights[order - 1]).max(axis=0) > 0)
        for product, weight in zip(products[kept].tolist(), weights[order - 1].T[kept], strict=True):
            for choice in itertools.product(*(factors[entry] for entry in product)):
                if sum(factor[3] for factor, _ in choice) == 0:
                    value = np.prod([number for _, number in choice])
                    collected[tuple(sorted(factor for factor, _ in choice))] += value * weight
    halves: dict[tuple[Factor, ...], NDArray] = defaultdict(lambda: np.zeros(n_species))
    for key, values in collected.items():
        reverse = tuple(sorted((z, n, degree, -m) for z, n, degree, m in key))
        halves[min(key, reverse)] += values.real
    groups: list[dict[tuple, list[tuple[tuple[int, ...], float]]]] = [defaultdict(list) for _ in range(n_species)]
    largest = max((float(np.abs(values).max()) for values in halves.values()), default=0.0)
    for key, values in sorted(halves.items(), key=lambda item: (len(item[0]), item[0])):
        for z in np.flatnonzero(np.abs(values) > ROUNDING * largest):
            groups[z][tuple(factor[:3] for factor in key)].append((tuple(factor[3] for factor in key), values[z]))
    return groups


def _complex_factors(sites: Any, entry: int) -> list[tuple[Factor, complex]]:
    """An entry of the atomic basis as a sum over complex harmonics."""
    z, place = divmod(entry, sites.size)
    degree = 0
    while place >= (2 * degree + 1) * sites.count[degree]:
        place -= (2 * degree + 1) * sites.count[degree]
        degree += 1
    row, column = divmod(place, sites.count[degree])
    n = column + sites.start[degree] - sites.n_core + 1
    line = real_from_complex(degree)[row]
    return [((z, n, degree, int(m) - degree), complex(line[m])) for m in np.flatnonzero(line)]


def _yace_text(model: SiteModel, bonds: dict, functions: list[dict]) -> str:
    lines = [
        f"elements: {_flow(list(model.symbols))}",
        f"E0: {_flow([float(energy) for energy in _mean_e0s(model)])}",
        f"deltaSplineBins: {SPACING}",
        "embeddings:",
    ]
    embedding = {
        **{"ndensity": 1, "FS_parameters": [1.0, 1.0], "npoti": "FinnisSinclairShiftedScaled"},
        **{"rho_core_cutoff": 100000, "drho_core_cutoff": 250},
    }
    lines += [f"  {z}: {_flow(embedding)}" for z in range(len(model.symbols))]
    lines += ["bonds:", *(f"  {_flow(list(pair))}: {_flow(entry)}" for pair, entry in bonds.items()), "functions:"]
    for z, groups in enumerate(functions):
        lines.append(f"  {z}:" if groups else f"  {z}: []")
        for key, terms in groups.items():
            mus, ns, degrees = ([factor[k] for factor in key] for k in range(3))
            entry = {
                **{"mu0": z, "rank": len(key), "ndensity": 1, "num_ms_combs": len(terms)},
                **{"mus": mus, "ns": ns, "ls": degrees},
                **{"ms_combs": [m for ms, _ in terms for m in ms], "ctildes": [float(value) for _, value in terms]},
            }
            lines.append(f"    - {_flow(entry)}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    # Y, N and No, the elements, would be read as yes and no.
    return f'"{value}"' if value in ("Y", "N", "No") else repr(value) if isinstance(value, float) else str(value)


def _mean_e0s(model: SiteModel) -> NDArray[np.float64]:
    return model.e0s if model.e0s.ndim == 1 else model.e0s.mean(axis=1)


# -- pair part ----------------------------------------------------------------------------------------------------


def _pair_energies(sites: Any, weights: NDArray) -> dict[tuple[int, int], tuple[NDArray, NDArray, NDArray]]:
    """Distances, energies and forces of all pairs of species; empty if there are none."""
    products = sites.products1.numpy()[:, 0]
    n_species = sites.n_species
    r_max = sites.spacing * (sites.table.shape[1] - 1)
    r = np.linspace(INNERMOST, r_max, round((r_max - INNERMOST) / SPACING) + 1)
    found = {}
    for a, b in itertools.combinations_with_replacement(range(n_species), 2):
        # Every atom of the pair counts its own part.
        parts = []
        for centre, near in ((a, b), (b, a)):
            own = products // sites.size == near
            mixing = np.zeros(sites.table.shape[3])
            mixing[products[own] % sites.size] = weights[centre][own]
            parts.append((centre * n_species + near, torch.from_numpy(mixing)))

        def energy(x: torch.Tensor, parts: list = parts) -> torch.Tensor:
            return sum((_columns(sites, pair, x) @ mixing for pair, mixing in parts), torch.zeros_like(x))

        values, slopes = with_slope(energy, torch.from_numpy(r))
        found[a, b] = (r, values.numpy(), -slopes.numpy())
    return found if any(np.abs(energies).max() > 0 for _, energies, _ in found.values()) else {}


def _table_text(model: SiteModel, pairs: dict) -> str:
    lines = [f"# Pair part of {model.name}, for pair_style table; distances in angstrom, energies in eV"]
    for (a, b), (r, energies, forces) in pairs.items():
        lines += ["", f"{model.symbols[a]}_{model.symbols[b]}", f"N {len(r)} R {r[0]:.10g} {r[-1]:.10g}", ""]
        rows = zip(r, energies, forces, strict=True)
        lines += [f"{row} {x:.10g} {e:.14g} {f:.14g}" for row, (x, e, f) in enumerate(rows, start=1)]
    return "\n".join(lines) + "\n"


def _script(model: SiteModel, target: Path, table: Path | None) -> str:
    names = " ".join(model.symbols)
    lines = ["units metal"]
    if table is None:
        return "\n".join([*lines, "pair_style pace", f"pair_coeff * * {target.name} {names}"])
    lines += ["pair_style hybrid/overlay pace table spline 10000", f"pair_coeff * * pace {target.name} {names}"]
    for a, b in itertools.combinations_with_replacement(range(len(model.symbols)), 2):
        lines.append(f"pair_coeff {a + 1} {b + 1} table {table.name} {model.symbols[a]}_{model.symbols[b]}")
    return "\n".join(lines)
