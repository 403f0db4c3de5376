"""How much a set of molecules resembles a set of references: what a chemist asks of them beyond being valid.

Random trees with the right bond lengths are valid; what they lack is likeness. All distances are zero between a set and
itself, and are above zero between two draws from the same source: compare them with those of a second draw of the
references as large as the set, and of molecules made without any method.

References
----------
.. [1] Preuer, Renz, Unterthiner, Hochreiter and Klambauer, J. Chem. Inf. Model. 58, 1736 (2018): ChemNet.
.. [2] Gretton, Borgwardt, Rasch, Schoelkopf and Smola, J. Mach. Learn. Res. 13, 723 (2012): mean discrepancy.
.. [3] Ertl and Schuffenhauer, J. Cheminf. 1, 8 (2009): synthetic accessibility.
.. [4] Brenk et al., ChemMedChem 3, 435 (2008); Jadhav et al., J. Med. Chem. 53, 37 (2010): unwanted groups.
"""

from __future__ import annotations

import collections
import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halberd.plugins.molecules.bonding import canonical_smiles, import_rdkit, without_hydrogens
from halberd.plugins.molecules.metrics import fingerprints
from halberd.potentials.errors import DataError, missing_dependency

#: Range, width of the kernel, and what a width is divided into: angstrom, degrees, degrees.
_KERNELS = {"lengths": ((0.8, 2.8), 0.02), "angles": ((0.0, 180.0), 5.0), "torsions": ((0.0, 180.0), 15.0)}
_BINS_PER_WIDTH = 4
#: Sizes of rings that are told apart; larger ones are taken together.
_RINGS = range(3, 9)
#: Kind of bond, angle or torsion -> its values.
Values = dict[str, list[float]]


def likeness(
    molecules: Sequence[Any],
    references: Sequence[Any],
    *,
    chemnet: bool = True,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Compare a set of molecules with references.

    Parameters
    ----------
    molecules, references : sequence of rdkit.Chem.Mol
        With bonds and a conformer, hydrogens included.
    chemnet : bool
        Whether to measure the Frechet distance, which needs ``fcd``.
    progress : callable, optional
        Told what is being done, and the part of it that is, 0 to 1.

    Returns
    -------
    dict
        ``frechet_chemnet`` [1]_, ``None`` if not measured; it falls with the size of the sets: compare sets of one
        size. ``lengths``, ``angles``, ``torsions``: see :func:`discrepancy`. ``rings``, ``groups``: dissimilarity of
        Bray and Curtis, 0 to 1, of rings of every size and of RDKit's 85 functional groups per molecule. ``nearest``:
        see :func:`nearest_similarity`. ``of_molecules`` and ``of_references``: what :func:`describe` says of either.

    Raises
    ------
    DataError
        If one of them is empty.
    MissingDependencyError
        If ``fcd`` is not installed and asked for.
    """
    if not molecules or not references:
        raise DataError("There are no molecules to compare, or no references to compare them with.")
    tell = progress or (lambda _what, _part: None)
    result: dict[str, Any] = {"molecules": len(molecules), "references": len(references), "frechet_chemnet": None}
    tell("bonds, angles and torsions", 0.0)
    found = [_all_values(each) for each in (molecules, references)]
    for name in _KERNELS:
        result[name] = discrepancy(name, found[0][name], found[1][name])
    tell("rings and functional groups", 0.0)
    for name, count in (("rings", _ring_counts), ("groups", _group_counts)):
        result[name] = dissimilarity(count(molecules), count(references))
    tell("similarity to references", 0.0)
    result["nearest"] = nearest_similarity(molecules, references)
    result["of_molecules"], result["of_references"] = describe(molecules), describe(references)
    if chemnet:
        tell("ChemNet", 0.0)
        result["frechet_chemnet"] = frechet_chemnet(
            *([canonical_smiles(mol) for mol in each] for each in (molecules, references))
        )
    tell("done", 1.0)
    return result


def describe(molecules: Sequence[Any]) -> dict[str, Any]:
    """What a set of molecules is like.

    Parameters
    ----------
    molecules : sequence of rdkit.Chem.Mol

    Returns
    -------
    dict
        ``rings`` per molecule, of any size; ``ring_sizes``, the same by size; ``hetero_pairs``, share of molecules in
        which nitrogen or oxygen is bonded to nitrogen or oxygen; ``accessibility``, mean of the score of reference
        [3]_, 1 (easy) to 10; ``brenk`` and ``nih``, shares that hold none of the groups of reference [4]_.
    """
    heavy = [without_hydrogens(mol) for mol in molecules]
    count = max(len(heavy), 1)
    rings = _ring_counts(molecules)
    score = _accessibility()
    return {
        "rings": sum(rings.values()),
        "ring_sizes": {str(size): rings.get(str(size), 0.0) for size in (*_RINGS, "larger")},
        "hetero_pairs": sum(_has_hetero_pair(mol) for mol in heavy) / count,
        "accessibility": float(np.mean([score(mol) for mol in heavy])) if heavy else None,
        **{name: sum(not _catalog(name).HasMatch(mol) for mol in heavy) / count for name in ("brenk", "nih")},
    }


def unwanted_groups(mol: Any) -> list[str]:
    """Groups of reference [4]_ that a molecule holds, such as ``brenk: aldehyde``; none if it passes both filters.

    Parameters
    ----------
    mol : rdkit.Chem.Mol
    """
    heavy = without_hydrogens(mol)
    return [
        f"{name}: {match.GetDescription().replace('_', ' ')}"
        for name in ("brenk", "nih")
        for match in _catalog(name).GetMatches(heavy)
    ]


def discrepancy(name: str, values: Mapping[str, Sequence[float]], others: Mapping[str, Sequence[float]]) -> float:
    """Maximum mean discrepancy [2]_ of bond lengths, angles or torsions together with their kinds.

    The kernel is a Gaussian of 0.02 angstrom, 5 or 15 degrees between values of one kind, and zero between kinds: a
    kind that one set lacks counts as much as it is frequent.

    Parameters
    ----------
    name : {'lengths', 'angles', 'torsions'}
    values, others : mapping of kind to sequence of float
        Angstrom or degrees.

    Returns
    -------
    float
        0 for identical sets, at most ``sqrt(2)``.
    """
    (low, high), width = _KERNELS[name]
    edges = np.arange(low, high + 0.5 * width / _BINS_PER_WIDTH, width / _BINS_PER_WIDTH)
    centres = 0.5 * (edges[1:] + edges[:-1])
    kernel = np.exp(-0.5 * ((centres[:, None] - centres[None]) / width) ** 2)
    sizes = [max(sum(map(len, each.values())), 1) for each in (values, others)]
    total = 0.0
    for kind in sorted({*values, *others}):
        first, second = (
            np.histogram(np.clip(each.get(kind, ()), edges[0], edges[-1]), edges)[0] / size
            for each, size in zip((values, others), sizes, strict=True)
        )
        total += float((first - second) @ kernel @ (first - second))
    return float(np.sqrt(max(total, 0.0)))


def dissimilarity(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Bray and Curtis: sum of the differences over the sum of all, 0 for equal frequencies and 1 for disjoint ones."""
    keys = sorted({*first, *second})
    a, b = (np.array([each.get(key, 0.0) for key in keys]) for each in (first, second))
    whole = float((a + b).sum())
    return float(np.abs(a - b).sum()) / whole if whole else 0.0


def geometry(mol: Any) -> dict[str, Values]:
    """Bond lengths, angles and torsions of the heavy atoms of a molecule, by kind.

    Parameters
    ----------
    mol : rdkit.Chem.Mol
        With a conformer.

    Returns
    -------
    dict
        ``lengths`` in angstrom, ``angles`` and ``torsions`` (without sign) in degrees; kinds like ``C=O``, ``C-C=O``
        and ``C-C`` or, in a ring, ``C-C ring`` for the bond in the middle of a torsion.
    """
    positions = mol.GetConformer().GetPositions()
    found: dict[str, Values] = {name: collections.defaultdict(list) for name in _KERNELS}
    near: dict[int, list[int]] = collections.defaultdict(list)
    bonds = [b for b in mol.GetBonds() if b.GetBeginAtom().GetAtomicNum() > 1 and b.GetEndAtom().GetAtomicNum() > 1]
    for bond in bonds:
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        near[i].append(j)
        near[j].append(i)
        found["lengths"][_bond_kind(mol, i, j)].append(float(np.linalg.norm(positions[i] - positions[j])))
    for centre, ends in near.items():
        for i, j in itertools.combinations(ends, 2):
            found["angles"][_angle_kind(mol, i, centre, j)].append(
                _angle(positions[i] - positions[centre], positions[j] - positions[centre])
            )
    for bond in bonds:
        j, k = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        kind = _bond_kind(mol, j, k) + (" ring" if bond.IsInRing() else "")
        axis = positions[k] - positions[j]
        for i, end in itertools.product(near[j], near[k]):
            if i not in (k, end) and end != j:
                first = np.cross(positions[i] - positions[j], axis)
                second = np.cross(positions[end] - positions[k], axis)
                if min(np.linalg.norm(first), np.linalg.norm(second)) > 1e-3:  # else three are in a line
                    found["torsions"][kind].append(_angle(first, second))
    return found


def nearest_similarity(molecules: Sequence[Any], references: Sequence[Any]) -> float | None:
    """Mean over molecules of the largest Tanimoto similarity to a reference that is another molecule.

    Of :func:`halberd.plugins.molecules.metrics.fingerprints`. ``None`` if there is no other molecule.
    """
    import_rdkit()
    from rdkit import DataStructs

    own, known = (fingerprints([without_hydrogens(mol) for mol in each]) for each in (molecules, references))
    names = np.array([canonical_smiles(mol) for mol in references])
    largest = []
    for mol, print_of in zip(molecules, own, strict=True):
        similar = np.array(DataStructs.BulkTanimotoSimilarity(print_of, known))
        others = similar[names != canonical_smiles(mol)]
        if len(others):
            largest.append(others.max())
    return float(np.mean(largest)) if largest else None


def frechet_chemnet(smiles: Sequence[str], others: Sequence[str]) -> float:
    """Frechet distance of the activations of ChemNet [1]_.

    Parameters
    ----------
    smiles, others : sequence of str
        At least two of each.

    Raises
    ------
    DataError
        If there are fewer.
    MissingDependencyError
        If ``fcd`` is not installed.
    """
    if min(len(smiles), len(others)) < 2:
        raise DataError("A Frechet distance takes two molecules and two references at least.")
    first, second = (_activations(tuple(each)) for each in (smiles, others))
    from fcd.utils import calculate_frechet_distance

    distance = calculate_frechet_distance(
        mu1=first.mean(0), sigma1=np.cov(first.T), mu2=second.mean(0), sigma2=np.cov(second.T)
    )
    return float(distance)


@functools.lru_cache(maxsize=4)
def _activations(smiles: tuple[str, ...]) -> NDArray[np.float64]:
    """Of ChemNet, shape (n, 512); those of the references are wanted again."""
    import_rdkit()  # silences it
    try:
        from fcd import get_predictions, load_ref_model
    except ImportError:
        raise missing_dependency("fcd", "molecules", "measure Frechet ChemNet distances") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses what numpy has renamed
        return np.asarray(get_predictions(load_ref_model(), list(smiles), n_jobs=0, device="cpu"), dtype=np.float64)


def _all_values(molecules: Iterable[Any]) -> dict[str, Values]:
    found: dict[str, Values] = {name: collections.defaultdict(list) for name in _KERNELS}
    for mol in molecules:
        for name, kinds in geometry(mol).items():
            for kind, values in kinds.items():
                found[name][kind] += values
    return found


def _order(mol: Any, i: int, j: int) -> str:
    bond = mol.GetBondBetweenAtoms(int(i), int(j))
    return ":" if bond.GetIsAromatic() else {1.0: "-", 2.0: "=", 3.0: "#"}[bond.GetBondTypeAsDouble()]


def _symbol(mol: Any, i: int) -> str:
    return str(mol.GetAtomWithIdx(int(i)).GetSymbol())


def _bond_kind(mol: Any, i: int, j: int) -> str:
    first, second = sorted((_symbol(mol, i), _symbol(mol, j)))
    return f"{first}{_order(mol, i, j)}{second}"


def _angle_kind(mol: Any, i: int, centre: int, j: int) -> str:
    ends = sorted((_symbol(mol, each), _order(mol, each, centre)) for each in (i, j))
    return f"{ends[0][0]}{ends[0][1]}{_symbol(mol, centre)}{ends[1][1]}{ends[1][0]}"


def _angle(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _ring_counts(molecules: Sequence[Any]) -> dict[str, float]:
    """Rings per molecule by size."""
    counts: collections.Counter[str] = collections.Counter()
    for mol in molecules:
        sizes = [len(ring) for ring in mol.GetRingInfo().AtomRings()]
        counts.update(str(size) if size in _RINGS else "larger" for size in sizes)
    return {size: count / max(len(molecules), 1) for size, count in counts.items()}


def _group_counts(molecules: Sequence[Any]) -> dict[str, float]:
    """Functional groups per molecule by name."""
    import_rdkit()
    from rdkit.Chem import Fragments

    functions = {name[3:]: getattr(Fragments, name) for name in dir(Fragments) if name.startswith("fr_")}
    heavy = [without_hydrogens(mol) for mol in molecules]
    return {name: sum(count(mol) for mol in heavy) / max(len(heavy), 1) for name, count in functions.items()}


def _has_hetero_pair(mol: Any) -> bool:
    return any(
        {bond.GetBeginAtom().GetAtomicNum(), bond.GetEndAtom().GetAtomicNum()} <= {7, 8} for bond in mol.GetBonds()
    )


@functools.cache
def _catalog(name: str) -> Any:
    import_rdkit()
    from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

    parameters = FilterCatalogParams()
    parameters.AddCatalog(getattr(FilterCatalogParams.FilterCatalogs, name.upper()))
    return FilterCatalog(parameters)


def _accessibility() -> Callable[[Any], float]:
    import_rdkit()
    from rdkit.Contrib.SA_Score import sascorer

    return lambda mol: float(sascorer.calculateScore(mol))
