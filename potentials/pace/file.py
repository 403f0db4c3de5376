"""Reading ML-PACE potential files: C-tilde (``.yace``) and B-basis (``.yaml``), into one description.

Both list, per central element, products of atomic bases with complex spherical harmonics, of which the real part
counts. A C-tilde file spells every product out; a B-basis file names the coupling and leaves the Clebsch-Gordan
coefficients to the reader.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.data
import torch
import yaml

from halberd.potentials.ace.couplings import clebsch_gordan
from halberd.potentials.errors import ModelFileError
from halberd.potentials.pace.radial import RADIAL_BASES, PaceBond

#: Products of more factors than this are refused.
MAX_RANK = 6


@dataclasses.dataclass(frozen=True)
class PaceTerm:
    """One product of atomic bases.

    Attributes
    ----------
    centre : int
        Species of the central atom.
    species, n, l, m : tuple of int
        Of every factor; n counted from 1.
    weights : tuple of float
        Coefficient of the real part in every density.
    """

    centre: int
    species: tuple[int, ...]
    n: tuple[int, ...]
    l: tuple[int, ...]  # noqa: E741
    m: tuple[int, ...]
    weights: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class PaceEmbedding:
    """Finnis-Sinclair parameters of one central species: (weight, power) of every density, and the core switch."""

    shifted: bool
    parameters: tuple[float, ...]
    core_cut: float
    core_width: float


@dataclasses.dataclass(frozen=True)
class PacePotential:
    """Contents of a potential file."""

    elements: tuple[int, ...]
    e0s: tuple[float, ...]
    bonds: dict[tuple[int, int], PaceBond]
    embeddings: tuple[PaceEmbedding, ...]
    terms: list[PaceTerm]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML whose mappings may have lists for keys."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    pairs = [(loader.construct_object(k, deep=True), loader.construct_object(v, deep=True)) for k, v in node.value]
    return {tuple(key) if isinstance(key, list) else key: value for key, value in pairs}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def is_pace_file(path: str | os.PathLike[str]) -> bool:
    """Whether the suffix is one of a PACE potential."""
    return Path(path).suffix.lower() in (".yace", ".yaml", ".yml")


def read_pace(path: str | os.PathLike[str]) -> PacePotential:
    """Read a ``.yace`` or B-basis ``.yaml`` file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    PacePotential

    Raises
    ------
    ModelFileError
        If the file is damaged, or needs something that is not supported: another embedding, radial basis, kind of
        inner cutoff, or more than six factors in a product. Says which.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelFileError(f"'{path}' cannot be read as a PACE potential: {str(error).splitlines()[0]}") from error
    if not isinstance(content, Mapping) or not ({"elements", "functions"} <= set(content) or "species" in content):
        raise ModelFileError(
            f"'{path}' is YAML, but not a PACE potential: it has neither elements and functions (C-tilde) nor species "
            "blocks (B-basis)."
        )
    try:
        return _c_tilde(content) if "functions" in content else _b_basis(content)
    except ModelFileError as error:
        raise ModelFileError(f"'{path}': {error}") from None
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"'{path}' lacks or garbles a part of a PACE potential: {error!r}") from error


def _embedding(entry: Mapping[str, Any], parameters: str, cut: str, width: str) -> PaceEmbedding:
    kind = entry["npoti"]
    if kind not in ("FinnisSinclair", "FinnisSinclairShiftedScaled"):
        raise ModelFileError(
            f"embedding '{kind}' is not supported; halberd reads FinnisSinclair and FinnisSinclairShiftedScaled."
        )
    values = tuple(float(v) for v in entry[parameters])
    if len(values) != 2 * int(entry.get("ndensity", entry.get("ndensityi", len(values) // 2))):
        raise ModelFileError(f"{len(values)} Finnis-Sinclair parameters do not fit the number of densities.")
    return PaceEmbedding(
        kind.endswith("ShiftedScaled"), values, float(entry.get(cut, 100000.0)), float(entry.get(width, 250.0)) or 1e-6
    )


def _bond(entry: Mapping[str, Any], names: Mapping[str, str]) -> PaceBond:
    if entry[names["basis"]] not in (*RADIAL_BASES, "Tabulated"):
        raise ModelFileError(
            f"radial basis '{entry[names['basis']]}' is not supported; halberd reads {', '.join(RADIAL_BASES)} and "
            "Tabulated."
        )
    inner = entry.get("inner_cutoff_type", "density")
    if inner != "density" and any(float(entry.get(key) or 0.0) > 0 for key in ("r_in", "rcut_in")):
        raise ModelFileError(f"inner cutoff of type '{inner}' is not supported; halberd reads 'density'.")
    n_radial, l_max, n_base = (int(entry[names[key]]) for key in ("n_radial", "l_max", "n_base"))
    shape = (n_radial, l_max + 1, n_base)
    tabulated = entry[names["basis"]] == "Tabulated"
    if tabulated:
        coefficients, values = torch.zeros(shape, dtype=torch.float64), _tabulated(entry["radtable"], shape)
    else:
        coefficients, values = torch.tensor(entry["radcoefficients"], dtype=torch.float64), None
        if coefficients.dim() == 1:  # as files were once written: the base function is the slowest index
            coefficients = coefficients.reshape(n_base, n_radial, l_max + 1).permute(1, 2, 0)
        coefficients = coefficients.reshape(shape)
    core = entry.get("core-repulsion", (entry.get("prehc", 0.0), entry.get("lambdahc", 1.0)))
    return PaceBond(
        basis=str(entry[names["basis"]]),
        decay=0.0 if tabulated else float(entry["radparameters"][0]),
        cutoff=float(entry[names["cutoff"]]),
        width=float(entry[names["width"]]),
        coefficients=coefficients,
        n_base=n_base,
        core=(float(core[0]), float(core[1])),
        values=values,
    )


def _tabulated(table: Mapping[str, Any], shape: tuple[int, int, int]) -> torch.Tensor:
    """Values of g_k, then of R_nl for l = 0, 1, ..., at the knots of a tabulated bond."""
    n_radial, n_degrees, n_base = shape
    values = torch.zeros(int(table["nbins"]) + 1, n_base + n_degrees * n_radial, dtype=torch.float64)
    for column in table["gk"]:
        values[:, int(column["k"]) - 1] = torch.tensor(column["f"], dtype=torch.float64)
    for column in table["rnl"]:
        place = n_base + int(column["l"]) * n_radial + int(column["n"]) - 1
        values[:, place] = torch.tensor(column["f"], dtype=torch.float64)
    return values


_C_TILDE_NAMES = {
    **{"n_radial": "nradmax", "l_max": "lmax", "n_base": "nradbasemax"},
    **{"basis": "radbasename", "cutoff": "rcut", "width": "dcut"},
}
_B_BASIS_NAMES = {
    **{"n_radial": "nradmaxi", "l_max": "lmaxi", "n_base": "nradbaseij"},
    **{"basis": "radbase", "cutoff": "rcutij", "width": "dcutij"},
}


def _numbers(symbols: Sequence[str]) -> tuple[int, ...]:
    unknown = [symbol for symbol in symbols if symbol not in ase.data.atomic_numbers]
    if unknown:
        raise ModelFileError(f"'{unknown[0]}' is not a chemical element.")
    return tuple(ase.data.atomic_numbers[symbol] for symbol in symbols)


def _c_tilde(content: Mapping[str, Any]) -> PacePotential:
    elements = _numbers(content["elements"])
    embeddings = [
        _embedding(content["embeddings"][s], "FS_parameters", "rho_core_cutoff", "drho_core_cutoff")
        for s in range(len(elements))
    ]
    bonds = {tuple(key): _bond(entry, _C_TILDE_NAMES) for key, entry in content["bonds"].items()}
    terms = []
    for functions in content["functions"].values():
        for entry in functions:
            rank, densities = int(entry["rank"]), int(entry["ndensity"])
            _check_rank(rank)
            for k in range(int(entry["num_ms_combs"])):
                terms.append(
                    PaceTerm(
                        centre=int(entry["mu0"]),
                        species=tuple(entry["mus"]),
                        n=tuple(entry["ns"]),
                        l=tuple(entry["ls"]),
                        m=tuple(entry["ms_combs"][k * rank : (k + 1) * rank]),
                        weights=tuple(float(c) for c in entry["ctildes"][k * densities : (k + 1) * densities]),
                    )
                )
    return _complete(
        elements, tuple(float(e) for e in content.get("E0", [0.0] * len(elements))), bonds, embeddings, terms
    )


def _check_rank(rank: int) -> None:
    if rank > MAX_RANK:
        raise ModelFileError(f"a product has {rank} factors; halberd evaluates up to {MAX_RANK}.")


def _b_basis(content: Mapping[str, Any]) -> PacePotential:
    blocks = {tuple(str(block["speciesblock"]).split()): block for block in content["species"]}
    symbols = tuple(sorted(names[0] for names in blocks if len(names) == 1))
    elements = _numbers(symbols)
    index = {symbol: s for s, symbol in enumerate(symbols)}
    bonds = {
        (index[names[0]], index[names[-1]]): _bond(block, _B_BASIS_NAMES)
        for names, block in blocks.items()
        if len(names) <= 2 and "radbase" in block
    }
    embeddings = [_embedding(blocks[(s,)], "parameters", "rho_core_cut", "drho_core_cut") for s in symbols]
    energies = content.get("E0", {})
    e0s = tuple(float(energies.get(s, 0.0)) if isinstance(energies, Mapping) else 0.0 for s in symbols)
    terms: list[PaceTerm] = []
    for block in blocks.values():
        for function in block.get("nbody", ()):
            terms += _coupled_terms(function, index)
    return _complete(elements, e0s, bonds, embeddings, terms)


def _coupled_terms(function: Mapping[str, Any], index: Mapping[str, int]) -> list[PaceTerm]:
    names = str(function["type"]).split()
    angular, radial = tuple(function["nl"]), tuple(function["nr"])
    inner = tuple(function.get("lint", ()))
    rank = len(names) - 1
    if rank > 4:
        raise ModelFileError(
            f"a B-basis function has {rank} factors; halberd couples up to 4. Convert the file to .yace with "
            "pacemaker's pace_yaml2yace, where up to 6 are read."
        )
    terms = []
    for ms in itertools.product(*(range(-degree, degree + 1) for degree in angular)):
        if sum(ms) != 0:
            continue
        weight = _generalised(angular, ms, inner)
        if weight != 0.0:
            weights = tuple(float(c) * weight for c in function["c"])
            species = tuple(index[name] for name in names[1:])
            terms.append(PaceTerm(centre=index[names[0]], species=species, n=radial, l=angular, m=ms, weights=weights))
    return terms


def _generalised(angular: Sequence[int], ms: Sequence[int], inner: Sequence[int]) -> float:
    """Coupling of up to four angular momenta to zero: ((1 2) 3) or ((1 2)(3 4))."""
    if len(angular) == 1:
        return 1.0 if angular[0] == 0 else 0.0
    if len(angular) == 2:
        return clebsch_gordan((angular[0], ms[0]), (angular[1], ms[1]), (0, 0))
    low = inner[0]
    first = clebsch_gordan((angular[0], ms[0]), (angular[1], ms[1]), (low, ms[0] + ms[1]))
    if len(angular) == 3:
        return first * clebsch_gordan((low, ms[0] + ms[1]), (angular[2], ms[2]), (0, 0))
    high = inner[1]
    second = clebsch_gordan((angular[2], ms[2]), (angular[3], ms[3]), (high, ms[2] + ms[3]))
    return first * second * clebsch_gordan((low, ms[0] + ms[1]), (high, ms[2] + ms[3]), (0, 0))


def _complete(
    elements: tuple[int, ...],
    e0s: tuple[float, ...],
    bonds: dict[Any, PaceBond],
    embeddings: Sequence[PaceEmbedding],
    terms: list[PaceTerm],
) -> PacePotential:
    for a, b in itertools.product(range(len(elements)), repeat=2):
        if (a, b) not in bonds:
            if (b, a) not in bonds:
                names = " and ".join(ase.data.chemical_symbols[elements[s]] for s in (a, b))
                raise ModelFileError(f"the file has no radial functions for bonds of {names}.")
            bonds[a, b] = bonds[b, a]
    return PacePotential(elements, e0s, bonds, tuple(embeddings), terms)
