"""Structure files that are damaged, or hold what no simulation can use, are refused with one sentence."""

from __future__ import annotations

import time

import ase
import ase.io
import numpy as np
import pytest

from halberd.plugins.forces.topology import read_structure, topology_from_atoms
from halberd.potentials.errors import DataError, GeometryError
from halberd.potentials.frames.images import read_images
from halberd.potentials.frames.labelled import LabelKeys, read_frames

XYZ = '2\nProperties=species:S:1:pos:R:3{extra} pbc="{pbc}"{lattice}\nAr 0 0 0{a}\nAr {x} 0 0{b}\n'


def written(tmp_path, **values):
    filled = {"extra": "", "pbc": "F F F", "lattice": "", "a": "", "b": "", "x": "4.0", **values}
    (tmp_path / "s.xyz").write_text(XYZ.format(**filled))
    return tmp_path / "s.xyz"


def test_a_later_frame_that_states_too_many_atoms(tmp_path):
    """ASE would wait for forty million lines."""
    frame = "1\nProperties=species:S:1:pos:R:3\nAr 0.0 0.0 0.0\n"
    (tmp_path / "a.xyz").write_text(frame + frame + frame.replace("1", "42986369", 1))
    with pytest.raises(DataError, match=r"it states 4\.3e\+07 atoms in"):
        read_images(tmp_path / "a.xyz")
    (tmp_path / "a.xyz").write_text(frame + frame)
    assert len(read_images(tmp_path / "a.xyz")) == 2


@pytest.mark.parametrize("count", ["1000000000000", "9" * 30, "300"])
def test_a_count_that_cannot_be_is_no_reason_to_wait(count, tmp_path):
    (tmp_path / "s.xyz").write_text(f"{count}\nProperties=species:S:1:pos:R:3\nAr 0 0 0\n")
    start = time.monotonic()
    for read in (read_images, read_structure, read_frames):
        with pytest.raises(DataError, match=r"it states .* atoms in"):
            read(tmp_path / "s.xyz")
    assert time.monotonic() - start < 5.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"x": "1e10"}, r"has a coordinate of 1e\+10 angstrom"),
        ({"pbc": "T T T", "lattice": ' Lattice="1e9 0 0 0 5 0 0 0 5"'}, r"has a cell vector of 1e\+09"),
        ({"pbc": "T T T", "lattice": ' Lattice="inf 0 0 0 5 0 0 0 5"'}, "has a cell that is no number"),
    ],
)
def test_numbers_out_of_all_bounds(values, message, tmp_path):
    file = written(tmp_path, **values)
    for read in (read_structure, read_frames):
        with pytest.raises(DataError, match=f"Structure 0 of '.*' {message}"):
            read(file)


def test_an_atom_of_no_element(tmp_path):
    ase.io.write(tmp_path / "x.xyz", ase.Atoms("ArX", [[0, 0, 0], [3, 0, 0]]), format="extxyz")
    for read in (read_structure, read_frames):
        with pytest.raises(DataError, match="holds an atom of no element, 'X'"):
            read(tmp_path / "x.xyz")


@pytest.mark.parametrize("cell", [[np.inf, 5, 5], [np.nan, 5, 5], [0, 5, 5]])
def test_cells_that_are_none(cell):
    with pytest.raises(GeometryError, match="has no volume, or is no number"):
        topology_from_atoms(ase.Atoms("Ar", cell=cell, pbc=True))


@pytest.mark.parametrize(
    ("info", "keys", "message"),
    [
        ({"energy": "high"}, LabelKeys(), r"The energy of structure 1 of '.*' is .*not one number"),
        (
            {"REF_virial": np.eye(2)},
            LabelKeys(),
            r"The virial of structure 1 .* of shape \(2, 2\), not",
        ),
        ({}, LabelKeys(forces="numbers"), r"The forces of structure 0 .* not numbers of shape \(2, 3\)"),
    ],
)
def test_labels_that_are_none(info, keys, message, tmp_path):
    frames = [ase.Atoms("Ar2", [[0, 0, 0], [4, 0, 0]], info={"energy": 1.0}) for _ in range(2)]
    frames[1].info.update(info)
    ase.io.write(tmp_path / "f.xyz", frames, format="extxyz")
    with pytest.raises(DataError, match=message):
        read_frames(tmp_path / "f.xyz", keys)


def test_damaged_bytes_of_a_structure_file(tmp_path):
    """Whatever is read is a structure; whatever is not, one error."""
    frames = [ase.Atoms("Ar2", [[0, 0, 0], [4, 0, 0]], info={"energy": 1.0, "REF_virial": np.eye(3)}) for _ in range(3)]
    ase.io.write(tmp_path / "f.xyz", frames, format="extxyz")
    whole = (tmp_path / "f.xyz").read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        at = int(generator.integers(len(content)))
        content[at] = int(generator.integers(256))
        (tmp_path / "g.xyz").write_bytes(bytes(content))
        try:
            assert all(len(frame.atoms) for frame in read_frames(tmp_path / "g.xyz"))
        except DataError:
            refused += 1
    assert 10 < refused < 150
