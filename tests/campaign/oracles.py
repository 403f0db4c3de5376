"""Whether an end with code 0 left what it says: results are read again by other means."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from jobs import dcd_coordinates

#: K. No run of the campaign that counts as sound may come near.
HOTTEST = 1e5


def wrong_result(place: Path, good: Path, command: list[str]) -> str | None:
    """What is wrong with the files of an invocation that ended with code 0, or ``None``.

    Parameters
    ----------
    place : path
        Where it ran.
    good : path
        The files it would have had, had nobody changed them.
    command : list of str
        Arguments of ``halberd``.
    """
    kind = command[0] if command else ""
    if kind == "md":
        return next((problem for report in place.rglob("report.json") if (problem := _of_run(report))), None)
    if kind == "evaluate" and (place / "p.xyz").is_file() and command[1:2] == ["lj.pt"]:
        return _of_predictions(place / "p.xyz", good)
    if kind == "export" and (place / "out.pt").is_file():
        return _of_model(place / "out.pt", good)
    if kind == "fit" and (place / "fitted.json").is_file():
        return _of_numbers(place / "fitted.json")
    return None


def _of_run(report: Path) -> str | None:
    """Rows are finite, each step once, as many as frames; the last is the one that was asked for."""
    said, folder = json.loads(report.read_text()), report.parent
    log = folder / "log.csv"
    if not log.is_file():
        return None  # replicas
    rows = np.loadtxt([line for line in log.read_text().splitlines() if line[:1] not in '#"'], delimiter=",", ndmin=2)
    if not np.isfinite(rows).all():
        return f"{folder.name}: the log holds numbers that are none"
    steps, temperatures = rows[:, 0], rows[:, 5]
    if steps[0] != 0 or not (np.diff(steps) > 0).all() or steps[-1] > said["steps"]:
        return f"{folder.name}: steps {steps.tolist()[:5]} to {steps[-1]:g} of {said['steps']}"
    if temperatures.max() > HOTTEST:
        return f"{folder.name}: {temperatures.max():g} K"
    frames = folder / "trajectory.dcd"
    if frames.is_file():
        found = len(dcd_coordinates(frames))
        if found != len(rows):
            return f"{folder.name}: {len(rows)} rows, {found} frames"
    return None


@functools.cache
def _energies(good: Path) -> Any:
    from halberd.plugins.hosts.ase_calculator import HalberdCalculator

    return HalberdCalculator(str(good / "lj.pt"))


def _of_predictions(file: Path, good: Path) -> str | None:
    """Whatever was done to the files: if it was taken for a model, it is the one that it was."""
    for atoms in ase.io.read(file, ":"):
        energy = float(_energies(good).evaluate(atoms)["energy"])
        if not math.isclose(energy, atoms.info["halberd_energy"], rel_tol=1e-4, abs_tol=1e-6):
            return f"an energy of {atoms.info['halberd_energy']}, not {energy}"
    return None


def _of_model(file: Path, good: Path) -> str | None:
    from halberd.plugins.hosts.ase_calculator import HalberdCalculator

    atoms = ase.io.read(good / "argon.xyz")
    energies = [float(each.evaluate(atoms)["energy"]) for each in (HalberdCalculator(str(file)), _energies(good))]
    return None if math.isclose(*energies, rel_tol=1e-4) else f"energies {energies}"


def _of_numbers(file: Path) -> str | None:
    numbers = list(_numbers(json.loads(file.read_text())))
    return None if all(map(math.isfinite, numbers)) else "the report holds numbers that are none"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _numbers(each)
