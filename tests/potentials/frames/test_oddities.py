"""What looks odd is said, once, and nothing is said of good frames."""

from __future__ import annotations

import dataclasses
import re

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from halberd.potentials.frames.labelled import Frame, read_frames, to_atoms
from halberd.potentials.frames.oddities import oddities
from halberd.potentials.frames.training_set import is_isolated, self_energies
from tests.potentials.training.frames import E0S, alone, molecules


def copper(seed, kind="bulk", size=2):
    atoms = bulk("Cu", cubic=True) * (size, 1, 1)
    atoms.rattle(0.1, seed=seed)
    atoms.calc = EMT()
    frame = Frame(atoms.copy(), atoms.get_potential_energy(), atoms.get_forces(), None, kind)
    return dataclasses.replace(frame, virial=-atoms.get_volume() * atoms.get_stress(voigt=False))


GOOD = [copper(seed) for seed in range(30)]


@pytest.mark.parametrize(
    "frames",
    [
        GOOD,
        molecules(30) + alone(),
        molecules(20, periodic=True),
        [copper(seed, "a") for seed in range(12)] + [copper(seed, "b", 1) for seed in range(20, 30)],
    ],
)
def test_nothing_is_said_of_good_frames(frames):
    assert oddities(frames) == []


def written(tmp_path, change):
    """Frames read from a file in which every structure has been changed."""
    images = [to_atoms(frame) for frame in GOOD[:12]]
    for atoms in images:
        change(atoms)
    ase.io.write(tmp_path / "a.xyz", images, format="extxyz")
    return read_frames(tmp_path / "a.xyz")


@pytest.mark.parametrize(
    ("old", "new", "place", "said"),
    [
        ("REF_forces", "force", "arrays", "No frame has forces .* but 'force' looks like it: say --forces-key force"),
        ("REF_forces", "dft_gradient", "arrays", "say --forces-key dft_gradient"),
        (
            "REF_energy",
            "DFT_Energy",
            "info",
            "No frame has energy .* say --energy-key DFT_E",
        ),
        ("REF_virial", "dft_virial", "info", "No frame has virial .* say --virial-key dft_virial"),
    ],
)
def test_labels_under_other_names(old, new, place, said, tmp_path):
    def change(atoms):
        getattr(atoms, place)[new] = getattr(atoms, place).pop(old)

    (sentence,) = oddities(written(tmp_path, change))
    assert re.search(said, sentence)


def test_units(tmp_path):
    def change(atoms):
        atoms.info["REF_energy"] *= 23.06

    (sentence,) = oddities(written(tmp_path, change))
    assert 15 < float(re.search(r"Energies change about ([\d.]+) times", sentence)[1]) < 30


def test_one_atom_in_a_cell_is_a_crystal_and_in_a_large_one_alone():
    near, far = bulk("Cu"), Atoms("Cu", cell=[20.0] * 3, pbc=True)
    assert not is_isolated(near)
    assert is_isolated(far)
    assert is_isolated(Atoms("Cu"))
    assert not is_isolated(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.0]]))
    crystals = [Frame(near, -3.5, np.zeros((1, 3)), None, "default")]
    assert any("Frames 30 hold one atom in a periodic cell" in sentence for sentence in oddities([*GOOD, *crystals]))
    # And no self-energy comes of it, while that of the atom alone is taken.
    energies, source = self_energies([*GOOD, *crystals], [29])
    assert source == "average"
    assert energies[0] == pytest.approx(np.mean([f.energy / len(f.atoms) for f in [*GOOD, *crystals]]), abs=1e-6)
    assert self_energies([*GOOD, *crystals, Frame(far, 0.7, None, None, "x")], [29]) == (
        pytest.approx([0.7]),
        "isolated",
    )
    assert self_energies(molecules(3) + alone(), [1, 8])[0] == pytest.approx([E0S["H"], E0S["O"]])


def test_damaged_frames_are_left_to_those_who_refuse_them():
    broken = dataclasses.replace(GOOD[3], energy=np.nan)
    oddities([*GOOD, broken, Frame(Atoms("Cu", pbc=True), 1.0, None, None, "default")])


def test_structures_with_two_answers():
    other = dataclasses.replace(GOOD[3], energy=GOOD[3].energy + 1e-3)
    (sentence,) = oddities([*GOOD, other, GOOD[4]])
    assert "Frames 3 and 30 are the same structure" in sentence
    other = dataclasses.replace(GOOD[3], forces=GOOD[3].forces + 1e-3)
    assert "Frames 3 and 30" in " ".join(oddities([*GOOD, other]))


def test_a_config_type_that_drowns_the_others():
    few = [dataclasses.replace(frame, config_type="surface") for frame in GOOD[:1]]
    (sentence,) = oddities([*GOOD[1:], *few])
    assert "'bulk' has 96.7 % of all atoms" in sentence


def test_frames_far_from_the_rest():
    frames = list(GOOD)
    frames[7] = dataclasses.replace(frames[7], energy=frames[7].energy + 40.0)
    sentences = [s for s in oddities(frames) if "far from those of the rest" in s]
    assert len(sentences) == 1
    assert "frames 7 are far" in sentences[0]
    assert "by up to 4.9" in sentences[0]
    mixed = molecules(30)
    mixed[4] = dataclasses.replace(mixed[4], energy=mixed[4].energy - 60.0)
    assert any("frames 4 are far" in sentence for sentence in oddities(mixed))


def test_large_forces():
    frames = list(GOOD)
    frames[2] = dataclasses.replace(frames[2], forces=frames[2].forces + np.eye(8, 3) * 500.0)
    assert any("Frames 2 have forces of up to 50" in sentence for sentence in oddities(frames))
