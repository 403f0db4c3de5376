"""Long jobs of every kind, short enough to be killed a thousand times, and how to tell that nothing was lost."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import yaml
from ase.build import bulk
from places import prepare as prepare_good

#: Before the first frame of a DCD file: title and date.
DCD_HEADER = 276
METAD = "d: DISTANCE ATOMS=1,2\nMETAD ARG=d SIGMA=0.02 HEIGHT=0.1 PACE=5\nPRINT ARG=d STRIDE=5 FILE=COLVAR\n"
OPES = """d: DISTANCE ATOMS=1,2
OPES_METAD ...
  ARG=d PACE=5 BARRIER=5 TEMP=40 SIGMA=0.02 STATE_WFILE=STATE STATE_RFILE=STATE
... OPES_METAD
PRINT ARG=d STRIDE=5 FILE=COLVAR
"""
WALKERS = """d: DISTANCE ATOMS=1,2
METAD ...
  ARG=d SIGMA=0.02 HEIGHT=0.1 PACE=5
  WALKERS_N={walkers} WALKERS_ID={walker} WALKERS_DIR=../shared WALKERS_RSTRIDE=20
... METAD
"""


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that goes on where it was ended, and what it must have made in the end.

    Attributes
    ----------
    command : list of str
        The same at the start and after every kill.
    output : str
        File or folder that it makes.
    files : dict
        Name below ``output`` (or ``""`` for itself) -> how it is compared with that of the uninterrupted run.
    often : int
        How often it is chosen beside the others.
    patience : float
        Seconds after which it counts as hung.
    """

    command: list[str]
    output: str
    files: dict[str, Callable[[Path, Path], bool]]
    often: int = 2
    patience: float = 120.0


def dcd_coordinates(file: Path) -> Any:
    """Frames of a DCD file as OpenMM writes them, (F, 3, N), angstrom; readers in C speak on standard output."""
    content = file.read_bytes()
    has_box, n_atoms = (struct.unpack_from("<i", content, at)[0] for at in (48, 268))
    axis, box = 4 * n_atoms + 8, 56 if has_box else 0
    frames = np.frombuffer(content[DCD_HEADER:], dtype=np.uint8).reshape(-1, box + 3 * axis)
    return frames[:, box:].reshape(-1, 3, axis)[:, :, 4:-4].copy().view("<f4")


def same_bytes(one: Path, other: Path) -> bool:
    """Equal to the byte."""
    return one.read_bytes() == other.read_bytes()


def same_frames(one: Path, other: Path) -> bool:
    """DCD files that differ at most in their dates."""
    return one.read_bytes()[DCD_HEADER:] == other.read_bytes()[DCD_HEADER:]


def close_frames(one: Path, other: Path) -> bool:
    """DCD files of a biased run, whose hills come back from a file with 15 digits."""
    found, expected = dcd_coordinates(one), dcd_coordinates(other)
    return found.shape == expected.shape and bool(np.allclose(found, expected, atol=1e-2))


def same_size(one: Path, other: Path) -> bool:
    """As many frames: for runs that draw numbers anew."""
    return one.stat().st_size == other.stat().st_size


def same_rows(one: Path, other: Path) -> bool:
    """PLUMED's rows: all steps once; values as far as the digits of the file carry them over a restart."""
    found, expected = _rows(one), _rows(other)
    if found.shape != expected.shape or not np.array_equal(found[:, 0], expected[:, 0]):
        return False
    return bool(np.allclose(found, expected, rtol=1e-3, atol=1e-4))


def same_steps(one: Path, other: Path) -> bool:
    """All rows once; values depend on what other processes did when."""
    found, expected = _rows(one), _rows(other)
    return found.shape == expected.shape and np.array_equal(found[:, 0], expected[:, 0])


def close_log(one: Path, other: Path) -> bool:
    """Rows of a biased run's log: hills come back from a file with 15 digits."""
    found, expected = _rows(one), _rows(other)
    return found.shape == expected.shape and bool(np.allclose(found, expected, rtol=1e-4, atol=1e-3))


def same_model(one: Path, other: Path) -> bool:
    """Model files with the same numbers."""
    from halberd.potentials.loading import load

    models = [load(path) for path in (one, other)]
    states = [{**dict(model.module.named_parameters()), **dict(model.module.named_buffers())} for model in models]
    return states[0].keys() == states[1].keys() and all(bool((states[0][k] == states[1][k]).all()) for k in states[0])


def same_completion(one: Path, other: Path) -> bool:
    """Reports of replica exchange that are complete, with as many iterations."""
    found, expected = (json.loads(path.read_text()) for path in (one, other))
    return bool(found["complete"]) and found["iterations"] == expected["iterations"]


def _rows(file: Path) -> Any:
    lines = [line.replace(",", " ") for line in file.read_text().splitlines() if line and line[0] not in '#"']
    return np.loadtxt(lines, ndmin=2)


PLAIN: dict[str, Callable[[Path, Path], bool]] = {
    "log.csv": same_bytes,
    "trajectory.dcd": same_frames,
    "frames.extxyz": same_bytes,
}
BIASED: dict[str, Callable[[Path, Path], bool]] = {
    "log.csv": close_log,
    "trajectory.dcd": close_frames,
    "COLVAR": same_rows,
}
#: What is left to compare of two runs of one ensemble: every row and frame once.
LOOSELY: dict[str, Callable[[Path, Path], bool]] = {
    ".csv": same_steps,
    ".dcd": same_size,
    ".extxyz": lambda one, other: len(ase.io.read(one, ":")) == len(ase.io.read(other, ":")),
}
FIT = ["train.xyz", "--order", "3", "--degree", "8", "--cutoff", "4.0", "--committee", "3", "--state", "state.npz"]
JOBS: dict[str, Job] = {
    "nve": Job(["md", "nve.yaml", "--continue"], "nve", PLAIN),
    "nvt": Job(["md", "nvt.yaml", "--continue"], "nvt", {**PLAIN, "trajectory.xtc": same_bytes}, 3),
    "npt": Job(["md", "npt.yaml", "--continue"], "npt", PLAIN, 3),
    "stages": Job(
        ["md", "stages.yaml", "--continue"], "stages", {**PLAIN, "equilibration-1/log.csv": same_bytes,
        "equilibration-2/log.csv": same_bytes}, 3,
    ),
    "ramp": Job(["md", "ramp.yaml", "--continue"], "ramp", PLAIN),
    "metad": Job(["md", "metad.yaml", "--continue"], "metad", {**BIASED, "HILLS": same_rows}, 4),
    "opes": Job(["md", "opes.yaml", "--continue"], "opes", {**BIASED, "KERNELS": same_rows}, 4),
    "walkers": Job(
        ["md", "walkers.yaml", "--continue"], "walkers",
        {"walker-0/log.csv": same_steps, "walker-1/log.csv": same_steps, "shared/HILLS.0": same_steps,
         "shared/HILLS.1": same_steps}, 1,
    ),
    "replicas": Job(
        ["md", "replicas.yaml", "--continue"], "replicas",
        {"report.json": same_completion, "temperature-40.dcd": same_size, "temperature-50.dcd": same_size}, 1,
    ),
    "hal": Job(["hal", "hal.yaml"], "hal", {"fit.extxyz": same_bytes, "test.extxyz": same_bytes,
                                            "model.pt": same_model}, 3),
    "fit": Job(["fit", *FIT, "-o", "fitted.pt"], "fitted.pt", {"": same_model}, 2),
    "generate": Job(
        ["generate", "--config", "generation.yaml", "-o", "g.extxyz", "--no-metrics", "--no-picture"], "g.extxyz",
        {"": same_bytes}, 1,
    ),
}  # fmt: skip


def prepare(folder: Path) -> None:
    """Write what the jobs read."""
    prepare_good(folder)
    ase.io.write(folder / "argon.pdb", bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2))
    md: dict[str, Any] = {
        "structure": "argon.xyz", "model": "lj.pt", "temperature": 40.0, "steps": 600, "timestep": 2.0,
        "friction": 1.0, "seed": 3, "report_interval": 5, "checkpoint_interval": 20, "force": {"precision": "double"},
        "reporters": ["csv", "dcd", "extxyz"], "platform": "Reference",
    }  # fmt: skip
    runs: dict[str, dict[str, Any]] = {
        "nve": {"ensemble": "NVE"},
        "nvt": {"reporters": ["csv", "dcd", "xtc", "extxyz"]},
        "npt": {"ensemble": "NPT", "barostat": "anisotropic", "barostat_interval": 5},
        "stages": {"minimize": True, "equilibration": [{"steps": 150}, {"steps": 150, "ensemble": "NPT"}]},
        "ramp": {"temperature_end": 60.0},
        "metad": {"plumed": "metad.dat"},
        "opes": {"plumed": "opes.dat"},
        "walkers": {"plumed": "walkers.dat", "walkers": 2, "steps": 400},
        "replicas": {"replica_temperatures": [40.0, 50.0], "exchange_interval": 20, "steps": 240},
    }
    for name, own in runs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**md, "output": name, **own}))
    for name, script in {"metad": METAD, "opes": OPES, "walkers": WALKERS}.items():
        (folder / f"{name}.dat").write_text(script)
    hal = yaml.safe_load((folder / "hal.yaml").read_text())
    hal.update({"walkers": 2, "max_iterations": 3, "max_labels": 30, "test_fraction": 0.2})
    hal["md"]["checkpoint_interval"] = 10
    (folder / "hal.yaml").write_text(yaml.safe_dump(hal))
    generation = {
        "n": 4, "heavy_atoms": "4", "seed": 1, "batch": 1, "max_attempts": 4, "references": "qm9-small",
        "sampler": {"n_levels": 6, "particles": 2}, "finish": {"steps": 5, "tries": 1},
    }  # fmt: skip
    (folder / "generation.yaml").write_text(yaml.safe_dump(generation))
