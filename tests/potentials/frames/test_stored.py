"""Frames on disk: what comes back, views of them, what is stored anew, damage."""

from __future__ import annotations

import os

import ase.io
import numpy as np
import pytest
from ase import Atoms

from halberd.potentials.errors import DataError
from halberd.potentials.frames.labelled import Frame, LabelKeys, read_frames, to_atoms
from halberd.potentials.frames.stored import Picked, StoredFrames, first_number, picked, store_frames, stored_frames
from tests.potentials.training.frames import alone, molecules


def same(one, other):
    assert np.array_equal(one.atoms.numbers, other.atoms.numbers)
    assert np.array_equal(one.atoms.positions, other.atoms.positions)
    assert np.array_equal(one.atoms.cell.array, other.atoms.cell.array)
    assert np.array_equal(one.atoms.pbc, other.atoms.pbc)
    assert one.energy == other.energy
    for name in ("forces", "virial"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (mine is None) == (theirs is None)
        assert mine is None or np.array_equal(mine, theirs)
    assert one.config_type == other.config_type


def test_what_is_stored_comes_back(tmp_path):
    frames = [
        *molecules(5),
        *molecules(3, periodic=True),
        *alone(),
        Frame(Atoms("H2", [[0, 0, 0], [0, 0, 0.8]]), -3.0, None, None, "no forces"),
        Frame(Atoms("H2", [[0, 0, 0], [0, 0, 0.8]]), None, np.ones((2, 3)), None, "no energy"),
    ]
    stored = store_frames(iter(frames), tmp_path / "a.frames")
    assert len(stored) == len(frames)
    for one, other in zip(StoredFrames(tmp_path / "a.frames"), frames, strict=True):
        same(one, other)
    same(stored[-1], frames[-1])
    view = stored[1:-1:2]
    assert isinstance(view, Picked)
    assert len(view[::2]) == len(frames[1:-1:2][::2])
    for one, other in zip(view[::2], frames[1:-1:2][::2], strict=True):
        same(one, other)
    single = picked(stored, lambda _, frame: len(frame.atoms) == 1)
    assert [len(frame.atoms) for frame in single] == [1, 1]
    later = picked(frames, lambda number, _: number > 2)
    assert first_number(picked(later, lambda number, _: number > 0), 1) == 5
    assert first_number(later[1:], 0) == 4
    assert first_number(frames, 1) == 1
    with pytest.raises(IndexError):
        stored[len(frames)]


def test_files_are_stored_once_and_anew_when_they_change(tmp_path):
    files = [tmp_path / "a.xyz", tmp_path / "b.xyz"]
    ase.io.write(files[0], [to_atoms(frame) for frame in molecules(4)])
    ase.io.write(files[1], [to_atoms(frame) for frame in alone()])
    stored = stored_frames(files, tmp_path / "x.frames")
    for one, other in zip(stored, [*read_frames(files[0]), *read_frames(files[1])], strict=True):
        same(one, other)
    stamp = (tmp_path / "x.frames" / "positions.bin").stat().st_mtime_ns
    stored_frames(files, tmp_path / "x.frames")
    assert (tmp_path / "x.frames" / "positions.bin").stat().st_mtime_ns == stamp
    ase.io.write(files[1], [to_atoms(frame) for frame in molecules(1)])
    assert len(stored_frames(files, tmp_path / "x.frames")) == 5
    # Other labels in a file of the same size, and labels under another key.
    text = files[0].read_text()
    files[0].write_text(text.replace("REF_energy=", "XYZ_energy="))
    os.utime(files[0], ns=(1, 1))
    changed = stored_frames(files, tmp_path / "x.frames")
    assert changed[0].energy is None
    named = stored_frames(files[:1], tmp_path / "x.frames", LabelKeys(energy="XYZ_energy"))
    assert named[0].energy == molecules(1)[0].energy
    with pytest.raises(DataError, match=r"b.xyz' has no energy under 'XYZ_energy'; it has"):
        stored_frames(files, tmp_path / "x.frames", LabelKeys(energy="XYZ_energy"))


def test_what_cannot_be_stored(tmp_path):
    with pytest.raises(DataError, match="no frames"):
        store_frames([], tmp_path / "a.frames")
    with pytest.raises(DataError, match="does not exist"):
        stored_frames([tmp_path / "none.xyz"], tmp_path / "a.frames")
    with pytest.raises(DataError, match="holds no stored frames"):
        StoredFrames(tmp_path / "a.frames")
    ase.io.write(tmp_path / "a.xyz", [to_atoms(frame) for frame in molecules(3)])
    text = (tmp_path / "a.xyz").read_text().splitlines()
    text[7] = "O 0.0 zero 0.0 1 1 1"
    (tmp_path / "a.xyz").write_text("\n".join(text))
    with pytest.raises(DataError, match="cannot be read after structure 0"):
        stored_frames([tmp_path / "a.xyz"], tmp_path / "a.frames")
    with pytest.raises(DataError, match="holds no stored frames"):  # half a set counts as none
        StoredFrames(tmp_path / "a.frames")
