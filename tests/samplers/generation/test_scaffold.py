"""Fragments from files."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from rdkit import Chem
from rdkit.Chem import AllChem

from halberd.potentials.errors import DataError, GeometryError
from halberd.samplers.generation.scaffold import Scaffold


def write(path, smiles, hydrogens=True, seed=1):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=seed)
    Chem.MolToMolFile(mol if hydrogens else Chem.RemoveHs(mol), str(path))
    return mol


def test_bonds_hydrogens_and_marks_of_an_sdf_file(tmp_path):
    mol = write(tmp_path / "a.sdf", "c1ccccc1C*")
    found = Scaffold.from_file(tmp_path / "a.sdf")
    assert list(found.numbers) == [6] * 7
    assert sorted(found.bonds.values()) == [1, 1, 1, 1, 2, 2, 2]
    assert [len(h) for h in found.hydrogens] == [1, 1, 1, 1, 1, 0, 2]
    np.testing.assert_allclose(found.anchors, mol.GetConformer().GetPositions()[7:8], atol=1e-3)
    assert found.open_valences == 5 + 3  # ring hydrogens, and three on the carbon beside the mark
    known = found.known_bonds(4)
    assert len(known) == 21
    assert known[4, 5] in (1, 2)
    assert sum(order > 0 for order in known.values()) == 7


def test_other_files_are_perceived_fragment_by_fragment(tmp_path):
    two = molecule("CH3OH")
    other = molecule("C2H4")
    other.positions += 5.0
    two += other
    ase.io.write(tmp_path / "two.xyz", two)
    found = Scaffold.from_file(tmp_path / "two.xyz")
    assert sorted(found.bonds.values()) == [1, 2]
    assert sorted(len(h) for h in found.hydrogens) == [1, 2, 2, 3]
    bare = molecule("CH3")
    ase.io.write(tmp_path / "bare.xyz", bare)
    with pytest.raises(DataError, match="cannot be perceived"):
        Scaffold.from_file(tmp_path / "bare.xyz")


def test_bad_fragments(tmp_path):
    write(tmp_path / "charged.sdf", "CC[NH3+]")
    with pytest.raises(DataError, match="holds a charge on atom 3"):
        Scaffold.from_file(tmp_path / "charged.sdf")
    write(tmp_path / "iron.sdf", "C[Fe]")
    with pytest.raises(DataError, match="Fe"):
        Scaffold.from_file(tmp_path / "iron.sdf")
    mol = write(tmp_path / "x.sdf", "CCO")
    conformer = mol.GetConformer()
    conformer.SetAtomPosition(1, conformer.GetAtomPosition(0))
    Chem.MolToMolFile(mol, str(tmp_path / "clash.sdf"))
    with pytest.raises(GeometryError, match="they clash"):
        Scaffold.from_file(tmp_path / "clash.sdf")
    mol = Chem.MolFromSmiles("CCO")
    AllChem.Compute2DCoords(mol)
    Chem.MolToMolFile(mol, str(tmp_path / "flat.sdf"))
    with pytest.raises(DataError, match="three dimensions"):
        Scaffold.from_file(tmp_path / "flat.sdf")
    with pytest.raises(DataError, match="does not exist"):
        Scaffold.from_file(tmp_path / "none.sdf")
