"""Molecules in clusters of similar ones, so that what is kept aside is unlike what is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from halberd.plugins.molecules.bonding import import_rdkit
from halberd.plugins.molecules.metrics import fingerprints
from halberd.plugins.molecules.qm9 import qm9_smiles
from halberd.potentials.cache import kept
from halberd.potentials.errors import ConfigurationError, DataError

#: Tanimoto distance between leaders of clusters, at least, as in the SiMGen paper's code; QM9 has 7,766 clusters.
DISTANCE = 0.65
#: Fingerprints that are compared with all leaders at once.
_BLOCK = 1000


def leader_clusters(smiles: Sequence[str], distance: float = DISTANCE) -> NDArray[np.int64]:
    """Clusters around leaders: molecules in their order that are unlike every leader before them.

    Parameters
    ----------
    smiles : sequence of str
    distance : float
        Tanimoto distance of :func:`halberd.plugins.molecules.metrics.fingerprints` that leaders have at least; all
        others belong to the one before them that is most like them.

    Returns
    -------
    array of int, shape (len(smiles),)
        Number of every molecule's cluster, in the order of the leaders.

    Raises
    ------
    DataError
        If RDKit cannot read a SMILES; says which.
    ConfigurationError
        If the distance is not between 0 and 1.
    """
    if not 0 < distance <= 1:
        raise ConfigurationError(f"The distance of clusters is {distance}; it must be between 0 and 1.")
    bits = _bits(smiles)
    leaders = np.zeros((256, bits.shape[1]), dtype=np.float32)
    clusters = np.zeros(len(bits), dtype=np.int64)
    count = 0
    for first in range(0, len(bits), _BLOCK):
        block = bits[first : first + _BLOCK].astype(np.float32)
        known = count
        best, place = _most_similar(block, leaders[:known])
        for number, each in enumerate(block):
            similarity, leader = best[number], int(place[number])
            # Leaders from this block, which the product did not know.
            if count > known:
                (other,), (own,) = _most_similar(each[None], leaders[known:count])
                if other > similarity:
                    similarity, leader = other, known + int(own)
            if similarity <= 1.0 - distance:
                leader = count
                if count == len(leaders):
                    leaders = np.concatenate([leaders, np.zeros_like(leaders)])
                leaders[count] = each
                count += 1
            clusters[first + number] = leader
    return clusters


def _bits(smiles: Sequence[str]) -> NDArray[np.uint8]:
    """Fingerprints as numbers, shape (N, 2048)."""
    Chem = import_rdkit()
    from rdkit import DataStructs

    molecules = []
    for number, text in enumerate(smiles):
        mol = Chem.MolFromSmiles(text)
        if mol is None:
            # Some molecules of QM9, as published, break RDKit's rules of valence; fingerprints do not mind.
            mol = Chem.MolFromSmiles(text, sanitize=False)
            if mol is None:
                raise DataError(f"SMILES {number} (counted from 0), '{text}', cannot be read.")
            mol.UpdatePropertyCache(strict=False)
            Chem.FastFindRings(mol)
        molecules.append(mol)
    bits = np.zeros((len(molecules), 2048), dtype=np.uint8)
    for row, each in zip(bits, fingerprints(molecules), strict=True):
        DataStructs.ConvertToNumpyArray(each, row)
    return bits


def _most_similar(
    prints: NDArray[np.float32], leaders: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Largest Tanimoto similarity of every fingerprint to leaders, and to which; -1 if there are none."""
    if not len(leaders):
        return np.full(len(prints), -1.0, dtype=np.float32), np.zeros(len(prints), dtype=np.int64)
    shared = prints @ leaders.T
    either = prints.sum(axis=1)[:, None] + leaders.sum(axis=1)[None] - shared
    similarity = shared / np.maximum(either, 1.0)
    place = similarity.argmax(axis=1)
    return similarity[np.arange(len(prints)), place], place


def qm9_clusters() -> NDArray[np.int64]:
    """Cluster of every molecule of QM9, in the order of :func:`halberd.plugins.molecules.qm9.qm9_smiles`.

    Worked out once per user (minutes) and kept in the user's cache folder.

    Raises
    ------
    MissingDependencyError
        If ``qm9pack`` or RDKit is not installed.
    """
    text = kept("qm9-clusters.txt", lambda: "\n".join(map(str, leader_clusters(qm9_smiles()))))
    return np.array(text.split(), dtype=np.int64)


def split_by_cluster(clusters: NDArray[np.int64], share: float, seed: int = 0) -> NDArray[np.bool_]:
    """Which molecules to train on: whole clusters in random order, until they hold more than a share of all.

    Parameters
    ----------
    clusters : array of int, shape (N,)
    share : float
    seed : int

    Returns
    -------
    array of bool, shape (N,)

    Raises
    ------
    ConfigurationError
        If the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ConfigurationError(f"The share of molecules to train on is {share}; it must be between 0 and 1.")
    counts = np.bincount(clusters)
    order = np.random.default_rng(seed).permutation(len(counts))
    enough = int(np.searchsorted(np.cumsum(counts[order]), share * len(clusters), side="right")) + 1
    return np.isin(clusters, order[:enough])
