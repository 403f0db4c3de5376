"""Likeness and repair against cases made by hand: zero for identical sets, and right numbers for known molecules."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule

from halberd.plugins.molecules.bonding import import_rdkit, perceive_molecule
from halberd.plugins.molecules.likeness import (
    describe,
    discrepancy,
    dissimilarity,
    frechet_chemnet,
    geometry,
    likeness,
    nearest_similarity,
    unwanted_groups,
)
from halberd.plugins.molecules.qm9 import draw_qm9
from halberd.plugins.molecules.repair import bonds_changed, heavy_rmsd, note_repair, raw_molecule
from halberd.potentials.errors import DataError
from halberd.samplers import GenerationSettings
from tests.benchmarks.null_molecules import RandomTrees, embedded_references, grow_trees


def perceived(*names):
    return [perceive_molecule(atoms.numbers, atoms.positions) for atoms in map(molecule, names)]


def of_smiles(*smiles):
    Chem = import_rdkit()
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    made = []
    for each in smiles:
        mol = Chem.AddHs(Chem.MolFromSmiles(each))
        assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
        made.append(mol)
    return made


@pytest.fixture(scope="module")
def qm9():
    made = [perceive_molecule(a.numbers, a.positions) for a in draw_qm9(130, seed=5)]
    return [mol for mol in made if mol is not None][:120]


def test_a_set_is_like_itself_more_than_another_draw_and_that_more_than_trees(qm9):
    same = likeness(qm9[:60], qm9[:60])
    for name in ("frechet_chemnet", "lengths", "angles", "torsions", "rings", "groups"):
        assert same[name] == pytest.approx(0.0, abs=2e-3), name
    other = likeness(qm9[:60], qm9[60:])
    settings = GenerationSettings(heavy_atoms="8:9", n=30, batch=30, seed=2)
    trees = likeness(grow_trees(settings).molecules, qm9[60:])
    for name in ("frechet_chemnet", "lengths", "angles", "torsions", "rings", "groups"):
        assert 0.01 < other[name] < 0.8 * trees[name], name
    assert other["nearest"] > trees["nearest"]
    assert trees["of_molecules"]["rings"] == 0.0
    assert other["of_molecules"]["rings"] == pytest.approx(other["of_references"]["rings"], abs=0.6)


def test_the_order_of_molecules_does_not_matter(qm9):
    turned = likeness(qm9[:40][::-1], qm9[40:80][::-1], chemnet=False)
    plain = likeness(qm9[:40], qm9[40:80], chemnet=False)
    assert turned["frechet_chemnet"] is None
    for name in ("lengths", "angles", "torsions", "rings", "groups", "nearest"):
        assert turned[name] == pytest.approx(plain[name], abs=1e-12)


def test_discrepancies_by_hand():
    one = {"C-C": [1.54] * 4}
    assert discrepancy("lengths", one, {"C-C": [1.54]}) == 0.0
    assert discrepancy("lengths", one, {"C-C": [1.2]}) == pytest.approx(np.sqrt(2))
    assert discrepancy("lengths", one, {"C-O": [1.54]}) == pytest.approx(np.sqrt(2))
    assert discrepancy("lengths", one, {"C-C": [1.52]}) == pytest.approx(np.sqrt(2 - 2 * np.exp(-0.5)), rel=1e-6)
    # A fifth of the bonds are of a kind the other set lacks: 0.2^2 + 0.2^2.
    assert discrepancy("lengths", {**one, "C-O": [1.43]}, one) == pytest.approx(np.sqrt(0.08))
    assert discrepancy("torsions", {"C-C": [60.0]}, {"C-C": [45.0]}) == pytest.approx(
        np.sqrt(2 - 2 * np.exp(-0.5)), rel=1e-6
    )
    assert discrepancy("angles", {}, {}) == 0.0


def test_dissimilarities_by_hand():
    assert dissimilarity({"3": 1.0}, {"3": 1.0}) == 0.0
    assert dissimilarity({"3": 1.0}, {"6": 2.0}) == 1.0
    assert dissimilarity({"3": 1.0, "6": 1.0}, {"3": 1.0}) == pytest.approx(1 / 3)
    assert dissimilarity({}, {}) == 0.0


def test_geometries_of_known_molecules():
    (acid, butane, ethyne) = perceived("CH3COOH", "trans-butane", "C2H2")
    found = geometry(acid)
    assert {kind: len(values) for kind, values in found["lengths"].items()} == {"C-C": 1, "C=O": 1, "C-O": 1}
    assert found["lengths"]["C=O"][0] == pytest.approx(1.22, abs=0.02)
    assert set(found["angles"]) == {"C-C-O", "C-C=O", "O-C=O"}
    assert sum(values[0] for values in found["angles"].values()) == pytest.approx(360.0, abs=0.1)  # planar
    assert not found["torsions"]
    assert geometry(butane)["torsions"] == {"C-C": [pytest.approx(180.0, abs=0.1)]}
    assert set(geometry(ethyne)["lengths"]) == {"C#C"}
    (ring,) = of_smiles("C1CCCCC1")
    torsions = geometry(ring)["torsions"]
    assert set(torsions) == {"C-C ring"}
    assert np.median(torsions["C-C ring"]) == pytest.approx(56.0, abs=8.0)  # chair
    (benzene,) = perceived("C6H6")
    assert set(geometry(benzene)["lengths"]) == {"C:C"}
    assert np.max(geometry(benzene)["torsions"]["C:C ring"]) < 0.1


def test_descriptions_of_known_molecules():
    found = describe(of_smiles("C1CC1", "C1CCCCC1", "NO", "CCCCCCC"))
    assert found["rings"] == 0.5
    assert found["ring_sizes"]["3"] == found["ring_sizes"]["6"] == 0.25
    assert found["hetero_pairs"] == 0.25
    assert describe(of_smiles("CC=O"))["brenk"] == 0.0  # an aldehyde
    assert describe(of_smiles("CCO"))["brenk"] == describe(of_smiles("CCO"))["nih"] == 1.0
    easy, hard = (describe(of_smiles(each))["accessibility"] for each in ("CCOC(C)=O", "C1CC2CC1C1NOC21"))
    assert 1.0 < easy < hard < 10.0


def test_unwanted_groups_have_names():
    (aldehyde,), (ethanol,) = of_smiles("CC=O"), of_smiles("CCO")
    assert "brenk: aldehyde" in [name.lower() for name in unwanted_groups(aldehyde)]
    assert unwanted_groups(ethanol) == []


def test_the_nearest_reference_is_another_molecule():
    ethanol, propanol, benzene = of_smiles("CCO", "CCCO", "c1ccccc1")
    assert nearest_similarity([ethanol], [ethanol]) is None
    assert nearest_similarity([ethanol], [ethanol, benzene]) == 0.0
    assert 0.2 < nearest_similarity([ethanol], [ethanol, benzene, propanol]) < 1.0


def test_sets_that_cannot_be_compared(qm9):
    with pytest.raises(DataError, match="no references"):
        likeness(qm9[:3], [])
    with pytest.raises(DataError, match="two molecules and two references"):
        frechet_chemnet(["CCO"], ["CCO", "CCN"])


def test_repair_by_hand():
    (before,) = perceived("CH3COOH")
    after = import_rdkit().Mol(before)
    places = before.GetConformer().GetPositions()
    heavy = np.array([a.GetAtomicNum() > 1 for a in before.GetAtoms()])
    turned = places @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = turned if np.linalg.det(np.linalg.lstsq(places, turned, rcond=None)[0]) > 0 else -turned
    numbers = np.array([a.GetAtomicNum() for a in before.GetAtoms()])
    assert heavy_rmsd(numbers, places, turned + 3.0) == pytest.approx(0.0, abs=1e-6)
    only_hydrogens = places + np.where(heavy, 0.0, 0.3)[:, None]
    assert heavy_rmsd(numbers, places, only_hydrogens) == pytest.approx(0.0, abs=1e-6)
    pulled = places.copy()
    pulled[np.nonzero(heavy)[0][0]] += [0.2, 0.0, 0.0]
    assert 0.02 < heavy_rmsd(numbers, places, pulled) < 0.1
    assert bonds_changed(before, after) == 0.0
    ester, chain = of_smiles("COC=O", "CCCO")
    assert bonds_changed(*of_smiles("CCC", "CC=C")) == 0.5
    assert bonds_changed(ester, chain) == pytest.approx(1 / 3)  # C-O, O-C, C=O and C-C, C-C, C-O: orders alone count
    after.GetConformer().SetPositions(pulled)
    note_repair(after, before)
    assert after.GetDoubleProp("bonds_changed") == 0.0
    assert after.GetDoubleProp("moved_A") == pytest.approx(heavy_rmsd(numbers, places, pulled))
    raw = raw_molecule(after)
    assert raw.GetNumBonds() == 0
    assert np.array_equal(raw.GetConformer().GetPositions(), places)


def test_null_molecules_are_the_same_for_the_same_seed():
    first, second = (RandomTrees([6, 7, 8], 2).run([7, 9], [[1, 0], [1, 1]]) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.positions, other.positions)
        assert np.array_equal(one.numbers, other.numbers)
        gaps = np.linalg.norm(one.positions[0][:, None] - one.positions[0][None], axis=2)
        gaps = np.sort(gaps[np.triu_indices(len(gaps), 1)])
        assert np.allclose(gaps[: one.positions.shape[1] - 1], 1.47)
        assert gaps[one.positions.shape[1] - 1] > 2.2
    one, other = (embedded_references(6, 3) for _ in range(2))
    assert [mol.GetProp("smiles") for mol in one] == [mol.GetProp("smiles") for mol in other]
    assert np.array_equal(one[0].GetConformer().GetPositions(), other[0].GetConformer().GetPositions())
