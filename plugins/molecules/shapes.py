"""Shapes for generation: words such as ``line:8``, and files of points, molecules, volumes and meshes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.errors import ConfigurationError, DataError, missing_dependency
from halberd.potentials.simgen.guidance import GaussianPrior, PointCloudPrior

#: Most points of a cloud; larger files are thinned out.
MOST_POINTS = 500
#: angstrom; a molecule on a longer line or circle has thousands of atoms.
LARGEST = 1000.0
#: Points of a line or circle, per angstrom.
_DENSITY = 5.0
#: Of a cube file, the part of the largest value that counts as inside.
_LEVEL = 0.2


def parse_shape(text: str, beta: float = 5.0) -> GaussianPrior | PointCloudPrior:
    """Make a prior from a word or a file.

    Parameters
    ----------
    text : str
        ``gaussian``; ``gaussian:1,1,2`` (ratios of the variances along x, y and z); ``line:8`` (length in angstrom,
        along x); ``circle:4`` (radius in angstrom, in the xy plane); or a file: a molecule of any format, a table of
        points (``.csv``, ``.txt``, ``.npy``), a volume (``.cube``), a mesh (``.stl``, ``.obj``, ``.ply``; its volume if
        it is closed, its surface if not).
    beta : float
        How exclusively the nearest points of a cloud attract, 1/angstrom^2.

    Raises
    ------
    ConfigurationError
        If the word or its numbers are not understood.
    DataError
        If a file is missing, empty or unreadable.
    MissingDependencyError
        If a mesh is given and ``trimesh`` is not installed.
    """
    word, _, rest = text.partition(":")
    if word == "gaussian":
        ratios = _numbers(rest, text) if rest else [1.0, 1.0, 1.0]
        if len(ratios) != 3 or not all(0 < ratio < np.inf for ratio in ratios):
            raise ConfigurationError(f"Shape '{text}' needs three positive numbers, such as gaussian:1,1,2.")
        return GaussianPrior(ratios)
    if word in ("line", "circle"):
        values = _numbers(rest, text)
        if len(values) != 1 or not 0 < values[0] <= LARGEST:
            raise ConfigurationError(
                f"Shape '{text}' needs one positive length in angstrom, up to {LARGEST:g}, such as {word}:8."
            )
        return PointCloudPrior(line(values[0]) if word == "line" else circle(values[0]), beta)
    if not Path(text).exists():
        raise DataError(
            f"Shape '{text}' is neither a file that exists nor a word halberd knows: gaussian, gaussian:1,1,2, line:8, "
            "circle:4."
        )
    return PointCloudPrior(read_points(text), beta)


def line(length: float) -> NDArray[np.float64]:
    """Points on the x axis, centred, shape (K, 3), angstrom."""
    x = np.linspace(-length / 2, length / 2, max(2, round(length * _DENSITY)))
    return np.stack([x, np.zeros_like(x), np.zeros_like(x)], axis=1)


def circle(radius: float) -> NDArray[np.float64]:
    """Points on a circle in the xy plane, none of them twice, shape (K, 3), angstrom."""
    angles = np.linspace(0.0, 2 * np.pi, max(8, round(2 * np.pi * radius * _DENSITY)), endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)


def read_points(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Read the points of a shape from a file, at most :data:`MOST_POINTS`.

    Returns
    -------
    array, shape (K, 3), angstrom

    Raises
    ------
    DataError
        If the file is missing, empty or unreadable.
    MissingDependencyError
        If it is a mesh and ``trimesh`` is not installed.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"Shape file '{path}' does not exist.")
    suffix = file.suffix.lower()
    readers = {".npy": _table, ".csv": _table, ".txt": _table, ".cube": _volume}
    readers.update(dict.fromkeys((".stl", ".obj", ".ply"), _mesh))
    try:
        points = readers.get(suffix, _molecule)(file)
    except (DataError, ImportError):
        raise
    except Exception as error:  # readers raise anything
        raise DataError(f"Shape file '{path}' cannot be read: {type(error).__name__}: {error}") from error
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise DataError(f"Shape file '{path}' holds no points in three dimensions (shape {points.shape}).")
    if not np.isfinite(points).all():
        raise DataError(f"Shape file '{path}' holds points that are not finite.")
    if len(points) > MOST_POINTS:
        points = points[np.sort(np.random.default_rng(0).choice(len(points), MOST_POINTS, replace=False))]
    return points


def _numbers(text: str, whole: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise ConfigurationError(f"Shape '{whole}' has a part that is no number: '{text}'.") from None


def _table(file: Path) -> NDArray[np.float64]:
    if file.suffix.lower() == ".npy":
        return np.atleast_2d(np.load(file))
    text = file.read_text(encoding="utf-8").replace(",", " ").replace(";", " ")
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]  # a header
    return np.array([[float(value) for value in row] for row in rows]) if rows else np.zeros((0, 3))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _molecule(file: Path) -> NDArray[np.float64]:
    from halberd.plugins.molecules.files import read_molecules

    atoms = read_molecules(file)[0]
    heavy = atoms.numbers != 1
    return np.asarray(atoms.positions[heavy] if heavy.any() else atoms.positions)


def _volume(file: Path) -> NDArray[np.float64]:
    from ase.io.cube import read_cube

    with open(file, encoding="utf-8") as handle:
        data = read_cube(handle)
    values = np.asarray(data["data"])
    inside = np.argwhere(values > _LEVEL * values.max())
    return np.asarray(inside @ np.asarray(data["spacing"]) + np.asarray(data["origin"]))


def _mesh(file: Path) -> NDArray[np.float64]:
    try:
        import trimesh
    except ImportError:
        raise missing_dependency("trimesh", "molecules", "read a mesh") from None
    mesh: Any = trimesh.load(file, force="mesh")
    generator = np.random.default_rng(0)
    if mesh.is_watertight:
        low, high = mesh.bounds
        trial = generator.uniform(low, high, size=(20 * MOST_POINTS, 3))
        return np.asarray(trial[mesh.contains(trial)])
    return np.asarray(trimesh.sample.sample_surface(mesh, MOST_POINTS, seed=0)[0])


def read_host(path: str | os.PathLike[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Heavy and light atoms of a host with the closest approach of a heavy atom to each.

    Returns
    -------
    positions : array, shape (H, 3), angstrom
    radii : array, shape (H,), angstrom
        0.85 times the sum of van der Waals radii with carbon.

    Raises
    ------
    DataError
        If the file is missing, empty or unreadable.
    """
    from ase.data.vdw import vdw_radii

    from halberd.plugins.molecules.files import read_molecules

    atoms = read_molecules(path)[0]
    radii = np.nan_to_num(vdw_radii[atoms.numbers], nan=2.0)
    return np.asarray(atoms.positions), 0.85 * (radii + 1.7)
