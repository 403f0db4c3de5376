"""Clusters of similar molecules, and splits of whole clusters."""

from __future__ import annotations

import numpy as np
import pytest

from halberd.plugins.molecules.bonding import import_rdkit
from halberd.plugins.molecules.clusters import leader_clusters, split_by_cluster
from halberd.plugins.molecules.metrics import fingerprints
from halberd.potentials.errors import ConfigurationError, DataError

SMILES = ["CCO", "CCCO", "CCO", "c1ccccc1", "Cc1ccccc1", "CC(=O)N", "CCCCO", "CC(=O)NC", "N", "OCC", "C1CC1"]


def test_leaders_are_unlike_each_other_and_others_like_their_leader():
    """Against RDKit's own similarities, one by one."""
    pytest.importorskip("rdkit")
    from rdkit import DataStructs

    clusters = leader_clusters(SMILES, 0.6)
    prints = fingerprints([import_rdkit().MolFromSmiles(each) for each in SMILES])
    leaders: list[int] = []
    for number, each in enumerate(prints):
        similarities = [DataStructs.TanimotoSimilarity(each, prints[k]) for k in leaders]
        if not leaders or max(similarities) <= 0.4:
            leaders.append(number)
            assert clusters[number] == len(leaders) - 1
        else:
            assert clusters[number] == int(np.argmax(similarities))
    assert 3 < len(leaders) < len(SMILES) - 2
    assert clusters[0] == clusters[2] == clusters[9]


def test_blocks_make_no_difference(monkeypatch):
    pytest.importorskip("rdkit")
    whole = leader_clusters(SMILES * 3, 0.6)
    monkeypatch.setattr("halberd.plugins.molecules.clusters._BLOCK", 4)
    np.testing.assert_array_equal(leader_clusters(SMILES * 3, 0.6), whole)


def test_clusters_are_split_as_a_whole():
    clusters = np.random.default_rng(0).integers(0, 300, 10_000)
    chosen = split_by_cluster(clusters, 0.8, 1)
    assert 0.8 < chosen.mean() < 0.81
    assert not set(clusters[chosen]) & set(clusters[~chosen])
    np.testing.assert_array_equal(split_by_cluster(clusters, 0.8, 1), chosen)
    assert (split_by_cluster(clusters, 0.8, 2) != chosen).any()


def test_what_is_refused():
    pytest.importorskip("rdkit")
    with pytest.raises(DataError, match=r"SMILES 1 \(counted from 0\), 'C\(\(', cannot be read"):
        leader_clusters(["C", "C(("])
    with pytest.raises(ConfigurationError, match="distance of clusters is 0"):
        leader_clusters(["C"], 0)
    for share in (0.0, 1.0):
        with pytest.raises(ConfigurationError, match="share of molecules"):
            split_by_cluster(np.zeros(3, dtype=int), share)
