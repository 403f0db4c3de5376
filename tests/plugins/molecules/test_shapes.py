"""Shapes from words and files."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from halberd.plugins.molecules.shapes import MOST_POINTS, circle, line, parse_shape, read_host, read_points
from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.simgen.guidance import GaussianPrior, PointCloudPrior


def test_words():
    assert isinstance(parse_shape("gaussian"), GaussianPrior)
    ratios = np.diag(parse_shape("gaussian:1,2,4").covariance)
    np.testing.assert_allclose(ratios / ratios[0], [1.0, 2.0, 4.0])
    points = parse_shape("line:8").points.numpy()
    np.testing.assert_allclose(np.ptp(points, axis=0), [8.0, 0.0, 0.0])
    points = parse_shape("circle:4").points.numpy()
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 4.0)
    assert len(np.unique(points.round(6), axis=0)) == len(points)
    np.testing.assert_allclose(circle(2.0).mean(0), 0.0, atol=1e-12)
    np.testing.assert_allclose(line(3.0).mean(0), 0.0, atol=1e-12)


@pytest.mark.parametrize("text", ["line:", "line:-3", "circle:a", "circle:1,2", "gaussian:1,2", "gaussian:1,1,-1"])
def test_words_that_are_not_understood(text):
    with pytest.raises(ConfigurationError, match="Shape"):
        parse_shape(text)


def test_point_files(tmp_path):
    points = np.random.default_rng(0).normal(size=(12, 3))
    np.save(tmp_path / "a.npy", points)
    np.savetxt(tmp_path / "a.csv", points, delimiter=",", header="x,y,z", comments="")
    np.savetxt(tmp_path / "a.txt", points)
    for name in ("a.npy", "a.csv", "a.txt"):
        np.testing.assert_allclose(read_points(tmp_path / name), points)
    ase.io.write(tmp_path / "a.xyz", molecule("CH3CH2OH"))
    found = parse_shape(str(tmp_path / "a.xyz"))
    assert isinstance(found, PointCloudPrior)
    assert len(found.points) == 3  # its heavy atoms
    np.save(tmp_path / "many.npy", np.random.default_rng(0).normal(size=(5000, 3)))
    assert len(read_points(tmp_path / "many.npy")) == MOST_POINTS


def test_volumes_and_meshes(tmp_path):
    import trimesh
    from ase.io.cube import write_cube

    atoms = molecule("CH4")
    atoms.set_cell([6.0, 6.0, 6.0])
    grid = np.stack(np.meshgrid(*[np.arange(12) * 0.5] * 3, indexing="ij"), -1)
    with open(tmp_path / "ball.cube", "w") as handle:
        write_cube(handle, atoms, data=np.exp(-((grid - 3.0) ** 2).sum(-1)))
    points = read_points(tmp_path / "ball.cube")
    assert np.linalg.norm(points - 3.0, axis=1).max() < 1.35
    np.testing.assert_allclose(points.mean(0), 3.0, atol=0.1)
    trimesh.creation.box((2.0, 4.0, 6.0)).export(tmp_path / "box.stl")
    inside = read_points(tmp_path / "box.stl")
    assert (np.abs(inside) <= [1.0, 2.0, 3.0]).all()
    assert np.abs(inside).min(axis=0).max() < 0.2  # not only its surface
    open_mesh = trimesh.creation.box((2.0, 4.0, 6.0))
    open_mesh.update_faces(np.arange(len(open_mesh.faces)) > 1)
    open_mesh.export(tmp_path / "open.ply")
    surface = np.abs(read_points(tmp_path / "open.ply")) / [1.0, 2.0, 3.0]
    np.testing.assert_allclose(surface.max(axis=1), 1.0, atol=1e-5)


def test_bad_files(tmp_path):
    with pytest.raises(DataError, match="neither a file"):
        parse_shape("lin:8")
    with pytest.raises(DataError, match="does not exist"):
        read_points(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="no points"):
        read_points(tmp_path / "empty.csv")
    (tmp_path / "bad.csv").write_text("1,2,x\n")
    with pytest.raises(DataError, match="cannot be read"):
        read_points(tmp_path / "bad.csv")
    (tmp_path / "two.csv").write_text("1,2\n3,4\n")
    with pytest.raises(DataError, match="no points in three"):
        read_points(tmp_path / "two.csv")
    np.save(tmp_path / "nan.npy", np.full((2, 3), np.nan))
    with pytest.raises(DataError, match="not finite"):
        read_points(tmp_path / "nan.npy")
    (tmp_path / "bad.stl").write_text("what")
    with pytest.raises(DataError, match="cannot be read"):
        read_points(tmp_path / "bad.stl")


def test_host(tmp_path):
    ase.io.write(tmp_path / "host.xyz", molecule("CH3CH2OH"))
    positions, radii = read_host(tmp_path / "host.xyz")
    assert len(positions) == 9
    assert ((radii > 2.0) & (radii < 3.2)).all()
