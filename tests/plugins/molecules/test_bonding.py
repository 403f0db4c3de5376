"""Perceiving molecules, and the files they come from and go to."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from rdkit import Chem
from rdkit.Chem import AllChem

from halberd.plugins.molecules.bonding import atoms_of, canonical_smiles, is_valid, perceive_molecule, skeleton_molecule
from halberd.plugins.molecules.files import draw_molecules, read_bonded, read_molecules, write_molecules
from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.simgen.valence import Valences

SMILES = ["CCO", "c1ccccc1", "CC(=O)N", "C#CC=O", "C1CC1C(=O)O", "c1ncc[nH]1", "OC1CC(F)C1=NC", "CN=C=O", "N#CC1CO1"]


def embedded(smiles, seed=1):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=seed)
    AllChem.MMFFOptimizeMolecule(mol)
    return mol


@pytest.mark.parametrize("smiles", SMILES)
def test_molecules_are_perceived_as_they_were_made(smiles):
    mol = embedded(smiles)
    atoms = atoms_of(mol)
    found = perceive_molecule(atoms.numbers, atoms.positions)
    assert is_valid(found)
    assert canonical_smiles(found) == Chem.CanonSmiles(smiles)
    np.testing.assert_array_equal(found.GetConformer().GetPositions(), atoms.positions)


def test_what_is_no_molecule_is_not_perceived():
    methyl = molecule("CH3")
    assert perceive_molecule(methyl.numbers, methyl.positions) is None  # a radical
    two = molecule("CH4")
    two += molecule("CH4")
    two.positions[5:] += 6.0
    assert perceive_molecule(two.numbers, two.positions) is None  # two pieces
    hydrogen = molecule("H2")
    assert perceive_molecule(hydrogen.numbers, hydrogen.positions) is None
    loose = molecule("CH4")
    loose.positions[1] *= 3
    assert perceive_molecule(loose.numbers, loose.positions) is None
    broken = molecule("CH4")
    broken.positions[0] = np.nan
    assert perceive_molecule(broken.numbers, broken.positions) is None
    iron = np.array([26])
    assert perceive_molecule(iron, np.zeros((1, 3))) is None


def test_validity():
    assert is_valid(Chem.MolFromSmiles("CCO"))
    for smiles in ("C[CH2]", "CC.CC", "C[NH3+]", "[O-]C=[NH2+]"):
        assert not is_valid(Chem.MolFromSmiles(smiles))
    assert not is_valid(None)


def test_smiles_say_the_constitution_alone():
    for smiles in ("CC(=N)N", "CC=CC", "C[C@H](O)F", "N=C1CO1"):
        assert canonical_smiles(embedded(smiles)) == Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)


def test_skeleton_molecule_counts_hydrogens():
    positions = np.array([[0.0, 0, 0], [1.5, 0, 0], [2.1, 1.3, 0]])
    mol = skeleton_molecule(np.array([6, 6, 8]), positions, Valences({(0, 1): 1, (1, 2): 2}, np.array([3, 1, 0]), 0.0))
    assert Chem.MolToSmiles(mol) == "CC=O"
    refused = Valences({(0, 1): 3, (1, 2): 2}, np.array([3, 1, 0]), 0.0)
    assert skeleton_molecule(np.array([6, 6, 8]), positions, refused) is None


@pytest.mark.parametrize("suffix", [".sdf", ".extxyz", ".xyz", ".pdb"])
def test_files_hold_what_was_written(tmp_path, suffix):
    mols = [embedded(smiles) for smiles in SMILES[:3]]
    for mol in mols:
        mol.SetProp("smiles", canonical_smiles(mol))
        mol.SetDoubleProp("energy_eV", -1.5)
    path = tmp_path / f"out{suffix}"
    write_molecules(path, mols)
    back = read_molecules(path)
    assert [len(atoms) for atoms in back] == [mol.GetNumAtoms() for mol in mols]
    for atoms, mol in zip(back, mols, strict=True):
        np.testing.assert_array_equal(atoms.numbers, [a.GetAtomicNum() for a in mol.GetAtoms()])
        np.testing.assert_allclose(atoms.positions, mol.GetConformer().GetPositions(), atol=1e-3)
        if suffix != ".pdb":
            assert float(atoms.info["energy_eV"]) == -1.5
    assert list(tmp_path.iterdir()) == [path]


def test_bonds_come_back_from_sdf(tmp_path):
    write_molecules(tmp_path / "a.sdf", [embedded("CC=O")])
    assert sum(bond.GetBondTypeAsDouble() == 2 for bond in read_bonded(tmp_path / "a.sdf").GetBonds()) == 1


def test_pictures(tmp_path):
    draw_molecules(tmp_path / "sheet.png", [embedded(smiles) for smiles in SMILES])
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    draw_molecules(tmp_path / "none.png", [])


def test_bad_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_molecules(tmp_path / "none.sdf")
    with pytest.raises(DataError, match="does not exist"):
        read_molecules(tmp_path / "none.xyz")
    (tmp_path / "bad.xyz").write_text("what\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_molecules(tmp_path / "bad.xyz")
    (tmp_path / "bad.sdf").write_text("what\n")
    with pytest.raises(DataError, match="cannot be read as an SDF file"):
        read_molecules(tmp_path / "bad.sdf")
    with pytest.raises(ConfigurationError, match=r"\.sdf, \.xyz"):
        write_molecules(tmp_path / "out.cif", [])
    ase.io.write(tmp_path / "empty.xyz", molecule("CH4")[:0], format="extxyz")
    with pytest.raises(DataError, match=r"no atoms|cannot be read"):
        read_molecules(tmp_path / "empty.xyz")
