"""Labels under every key they come with, and the error table made from them."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.frames.error_table import Prediction, error_report
from halberd.potentials.frames.labelled import Frame, LabelKeys, read_frames


def crystal() -> Atoms:
    return Atoms("SiC", positions=[[0, 0, 0], [1, 1, 1]], cell=[4, 5, 6], pbc=True)


FORCES = np.arange(6.0).reshape(2, 3)
VIRIAL = np.array([[1.0, 0.1, 0.2], [0.1, 2.0, 0.3], [0.2, 0.3, 3.0]])


def test_standard_keys(tmp_path):
    atoms = crystal()
    atoms.info.update(REF_energy=-1.5, REF_virial=VIRIAL, config_type="bulk")
    atoms.arrays["REF_forces"] = FORCES
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    (frame,) = read_frames(tmp_path / "a.xyz")
    assert (frame.energy, frame.config_type) == (-1.5, "bulk")
    np.testing.assert_allclose(frame.forces, FORCES)
    np.testing.assert_allclose(frame.virial, VIRIAL)


def test_ase_results_and_stress(tmp_path):
    atoms = crystal()
    stress = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0, forces=FORCES, stress=stress)
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    (frame,) = read_frames(tmp_path / "a.xyz")
    assert frame.energy == -2.0
    np.testing.assert_allclose(frame.forces, FORCES)
    # virial = -volume * stress; Voigt order xx yy zz yz xz xy
    assert frame.virial[1, 2] == pytest.approx(-120 * 0.4)
    assert frame.virial[0, 1] == pytest.approx(-120 * 0.6)


def test_other_keys(tmp_path):
    atoms = crystal()
    atoms.info["dft_energy"] = -3.0
    atoms.arrays["dft_force"] = FORCES
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    (frame,) = read_frames(tmp_path / "a.xyz", LabelKeys("dft_energy", "dft_force"))
    assert frame.energy == -3.0
    with pytest.raises(DataError, match=r"no energy under 'nope'; it has .*dft_energy"):
        read_frames(tmp_path / "a.xyz", LabelKeys("nope"))


def test_bad_files(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_frames(tmp_path / "none.xyz")
    (tmp_path / "broken.xyz").write_text("3\nbroken\nH 0 0")
    with pytest.raises(DataError, match="cannot be read"):
        read_frames(tmp_path / "broken.xyz")


def test_error_report_by_hand():
    frames = [
        Frame(crystal(), 0.0, np.zeros((2, 3)), np.zeros((3, 3)), "a"),
        Frame(crystal(), 1.0, None, None, "b"),
    ]
    predictions = [Prediction(0.2, np.full((2, 3), 0.5), np.full((3, 3), 2.0)), Prediction(0.4, np.zeros((2, 3)))]
    report = error_report(frames, predictions)
    # per atom: +0.1 and -0.3 eV
    assert report["energy"] == {"mae": pytest.approx(0.2), "rmse": pytest.approx(np.sqrt((0.01 + 0.09) / 2))}
    assert report["forces"] == {"mae": pytest.approx(0.5), "rmse": pytest.approx(0.5)}
    assert report["virial"] == {"mae": pytest.approx(1.0), "rmse": pytest.approx(1.0)}
    assert report["n_labelled"] == {"energy": 2, "forces": 1, "virial": 1}
    assert report["per_config_type"]["b"] == {
        "n_frames": 1,
        "n_labelled": {"energy": 1, "forces": 0, "virial": 0},
        "energy": {"mae": pytest.approx(0.3), "rmse": pytest.approx(0.3)},
    }


def test_units_are_converted(tmp_path):
    atoms = crystal()
    atoms.info.update(REF_energy=-1.5, REF_virial=VIRIAL)
    atoms.arrays["REF_forces"] = FORCES
    write(tmp_path / "a.xyz", atoms, format="extxyz")
    for unit, factor in (("kcal/mol", units.kcal / units.mol), ("kJ/mol", units.kJ / units.mol), ("hartree", units.Ha)):
        (frame,) = read_frames(tmp_path / "a.xyz", LabelKeys(unit=unit))
        assert frame.energy == pytest.approx(-1.5 * factor, rel=1e-6)
        np.testing.assert_allclose(frame.forces, FORCES * factor, rtol=1e-6)
        np.testing.assert_allclose(frame.virial, VIRIAL * factor, rtol=1e-6)
    with pytest.raises(ConfigurationError, match="unit"):
        LabelKeys(unit="kcal")


def test_arrays_of_one_molecule(tmp_path):
    generator = np.random.default_rng(0)
    positions, forces, energies = generator.normal(size=(4, 2, 3)), generator.normal(size=(4, 2, 3)), np.arange(4.0)
    numbers = np.array([8, 1], dtype=np.uint8)
    np.savez(tmp_path / "r.npz", nuclear_charges=numbers, coords=positions, energies=energies, forces=forces)
    frames = read_frames(tmp_path / "r.npz", LabelKeys(unit="kcal/mol"))
    assert len(frames) == 4
    assert frames[3].atoms.get_chemical_symbols() == ["O", "H"]
    np.testing.assert_allclose(frames[3].atoms.positions, positions[3])
    np.testing.assert_allclose(frames[3].forces, forces[3] * units.kcal / units.mol, rtol=1e-6)
    assert len(read_frames(tmp_path / "r.npz", index="1:3")) == 2
    np.savez(tmp_path / "md17.npz", z=numbers, R=positions, E=energies[:, None], F=forces)
    assert read_frames(tmp_path / "md17.npz")[2].energy == 2.0
    np.savez(tmp_path / "bad.npz", z=numbers, R=positions[:3], E=energies, F=forces)
    with pytest.raises(DataError, match=r"must have the shape \(4, 2, 3\)"):
        read_frames(tmp_path / "bad.npz")
    np.savez(tmp_path / "other.npz", z=numbers, R=positions)
    with pytest.raises(DataError, match="no array energies or E; it has z, R"):
        read_frames(tmp_path / "other.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "r.npz").read_bytes()[:200])
    for name in ("cut.npz", "absent.npz"):
        with pytest.raises(DataError, match="cannot be read"):
            read_frames(tmp_path / name)


def test_an_ase_database(tmp_path):
    atoms = crystal()
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0, forces=FORCES)
    with connect(tmp_path / "a.db") as database:
        database.write(atoms)
        database.write(atoms)
    frames = read_frames(tmp_path / "a.db")
    assert [frame.energy for frame in frames] == [-2.0, -2.0]
    np.testing.assert_allclose(frames[1].forces, FORCES)
