"""Fragments that people upload."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import molecule
from rdkit import Chem
from rdkit.Chem import AllChem

from halberd.potentials.errors import ConfigurationError, DataError, GeometryError
from halberd.samplers.generation.scaffold import Scaffold
from halberd.samplers.web.fragment import Fragment
from tests.samplers.web.conftest import sdf_of


def xyz_of(atoms) -> bytes:
    rows = [f"{s} {x:.5f} {y:.5f} {z:.5f}" for s, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)]
    return "\n".join([str(len(atoms)), "", *rows, ""]).encode()


def test_an_sdf_file_and_back():
    made = Fragment.from_upload("toluene.sdf", sdf_of("Cc1ccccc1").encode())
    assert made.name == "toluene.sdf"
    assert sorted(made.bonds.values()) == [1] * 12 + [2] * 3
    assert made.kept == tuple(range(7))
    assert Chem.MolToSmiles(Chem.RemoveHs(made.molecule)) == "Cc1ccccc1"
    again = Fragment.from_json(json.loads(json.dumps(made.to_json())))
    assert again.bonds == made.bonds
    assert again.kept == made.kept
    np.testing.assert_allclose(again.positions, made.positions, atol=1e-4)


def test_bonds_of_other_files_are_perceived_and_those_without_hydrogens_have_none():
    ethanol = molecule("CH3CH2OH")
    made = Fragment.from_upload("ethanol.xyz", xyz_of(ethanol))
    assert len(made.bonds) == 8
    bare = Fragment.from_upload("bare.xyz", xyz_of(ethanol[ethanol.numbers > 1]))
    assert bare.bonds is None
    with pytest.raises(ConfigurationError, match="hydrogenate it first"):
        bare.write_scaffold(None)
    mol = Chem.AddHs(Chem.MolFromSmiles("CCN"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    pdb = Fragment.from_upload("a.PDB", Chem.MolToPDBBlock(mol).encode())
    assert Chem.MolToSmiles(Chem.RemoveHs(pdb.molecule)) == "CCN"


def test_what_is_kept_is_the_scaffold(tmp_path):
    made = Fragment.from_upload("x.sdf", sdf_of("CCCO").encode()).chosen([1, 2], [1])
    file = tmp_path / "scaffold.sdf"
    made.write_scaffold(file)
    found = Scaffold.from_file(str(file))
    np.testing.assert_allclose(found.positions, made.positions[[1, 2]], atol=1e-4)
    assert found.bonds == {(0, 1): 1}
    assert [len(each) for each in found.hydrogens] == [2, 2]  # theirs alone
    # Methyl and hydroxyl are gone: what they held is open, and so is every hydrogen.
    assert found.open_valences == 6
    # It begins where the methyl was.
    np.testing.assert_allclose(np.linalg.norm(found.anchors[0] - made.positions[1]), 1.5, atol=1e-3)
    assert angle(found.anchors[0] - made.positions[1], made.positions[0] - made.positions[1]) < 1


def angle(first, second) -> float:
    """In degrees."""
    return np.degrees(np.arccos(min(1.0, first @ second / np.linalg.norm(first) / np.linalg.norm(second))))


@pytest.mark.parametrize(
    ("smiles", "dropped", "index"),
    [
        ("Cc1ccccc1", 0, 1),
        ("NC(=O)c1ccccc1", 1, 3),
        ("FC(F)(F)F", 0, 1),
        ("COC", 0, 1),
        ("CC(=O)O", 3, 1),
        ("CCO", 2, 1),
    ],
)
def test_an_outlet_is_where_a_neighbour_was_dropped(smiles, dropped, index):
    made = Fragment.from_upload("x.sdf", sdf_of(smiles).encode())
    left = [k for k in made.heavy if k != dropped]
    made = made.chosen(left, [index])
    here = made.positions[index]
    assert angle(made.outlet(index) - here, made.positions[dropped] - here) < 0.1


def test_an_outlet_without_anything_dropped_is_over_a_hydrogen_or_points_away():
    made = Fragment.from_upload("x.sdf", sdf_of("CCO").encode())
    hydrogens = [made.positions[k] - made.positions[1] for k in made.near(1) if made.numbers[k] == 1]
    assert min(angle(made.outlet(1) - made.positions[1], each) for each in hydrogens) < 0.1
    made = Fragment.from_upload("x.sdf", sdf_of("CC(C)=O").encode())
    index = next(k for k in made.heavy if made.numbers[k] == 8)
    (bonded,) = made.near(index)
    assert angle(made.outlet(index) - made.positions[index], made.positions[index] - made.positions[bonded]) < 0.1
    # All around: somewhere, at the usual distance.
    made = Fragment.from_upload("x.sdf", sdf_of("CC(C)(C)C").encode())
    np.testing.assert_allclose(np.linalg.norm(made.outlet(1) - made.positions[1]), 1.5)


def test_radicals_and_missing_hydrogens_are_no_molecules():
    for smiles in ("c1ccccc1", "CC(=O)O"):
        made = Fragment.from_upload("x.sdf", sdf_of(smiles, hydrogens=False).encode())
        assert made.molecule is None
        assert made.bonded is not None
        assert Fragment.from_upload("x.sdf", sdf_of(smiles).encode()).molecule is not None
    assert Fragment.from_upload("x.sdf", sdf_of("C[CH2]").encode()).molecule is None


def test_of_several_molecules_the_first_is_taken_and_said():
    both = sdf_of("CO") + sdf_of("CCO")
    assert Fragment.from_upload("two.sdf", both.encode()).name == "two.sdf (first of 2)"
    frame = xyz_of(molecule("CH3OH")).decode()
    assert Fragment.from_upload("two.xyz", (frame + frame).encode()).name == "two.xyz (first of 2)"


def test_choices_that_are_none():
    made = Fragment.from_upload("x.sdf", sdf_of("CO").encode())
    with pytest.raises(ConfigurationError, match="Atom 3 is no heavy atom"):
        made.chosen([2], [])
    with pytest.raises(ConfigurationError, match="Atom 10 is no heavy atom"):
        made.chosen([0, 9], [])
    with pytest.raises(ConfigurationError, match="Atom 2 is to be grown from, but is not kept"):
        made.chosen([0], [1])


ATOM = "C {} 0 0\n"
MANY = ("10000\n\n" + "".join(ATOM.format(2 * k) for k in range(10000))).encode()
WRONG = [
    ("a.sdf", b"", "'a.sdf' is empty"),
    ("a.sdf", b" \n ", "'a.sdf' is empty"),
    ("a.sdf", b"x" * 1_000_001, "more than 1000 kB"),
    ("a.xyz", MANY, "holds 10000 atoms; 500 are the most"),
    ("a.sdf", b"\x89PNG\r\n\x1a\n\x00\x00", "no text file"),
    ("a.xyz", b"\xff\xfe\x00", "no text file"),
    ("a.sdf", b"hello", "cannot be read as an SDF file"),
    ("a.xyz", b"2\n\nC 0 0 0\n", "'a.xyz' cannot be read"),
    ("a.xyz", b"99999999999\n\nC 0 0 0\n", "does not begin with a number of atoms"),
    ("a.xyz", b"900000000\n\nC 0 0 0\n", "holds 900000000 atoms"),
    ("a.xyz", b"<html>", "does not begin with a number of atoms"),
    ("a.xyz", b"3\n\nC 0 0 nan\nC 0 0 1\nC 0 0 2\n", "not finite"),
    ("a.xyz", b"2\n\nC 0 0 0\nC 0 0 0.1\n", "0.10 angstrom apart"),
    ("a.xyz", b"2\n\nC 0 0 0\nC 0 0 5000\n", "farther than 100"),
    ("a.xyz", b"1\n\nH 0 0 0\n", "no heavy atom"),
    ("a.pkl", b"cos\nsystem\n", "of no format that is read here"),
    ("../../etc/passwd", b"x", "'passwd' is of no format"),
    ("<script>alert(1)</script>.exe", b"x", "of no format"),
    ("noname", b"x", "of no format"),
    ("", b"x", "of no format"),
]


@pytest.mark.parametrize(("name", "data", "said"), WRONG, ids=[str(k) for k in range(len(WRONG))])
def test_wrong_uploads_get_one_clear_message(name, data, said):
    with pytest.raises((DataError, GeometryError)) as caught:
        Fragment.from_upload(name, data)
    assert said in str(caught.value)
    assert "tmp" not in str(caught.value)  # no path of the server's


def test_charges_flat_files_and_dummy_atoms_are_refused():
    with pytest.raises(DataError, match="holds a charge on atom 3"):
        Fragment.from_upload("a.sdf", sdf_of("CC[NH3+]").encode())
    flat = Chem.MolFromSmiles("CCO")
    AllChem.Compute2DCoords(flat)
    with pytest.raises(DataError, match="three dimensions"):
        Fragment.from_upload("flat.sdf", Chem.MolToMolBlock(flat).encode())
    with pytest.raises(DataError, match="dummy atoms"):
        Fragment.from_upload("mark.sdf", sdf_of("CC*").encode())
