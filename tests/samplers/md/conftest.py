"""Cheap systems for runs, and runs in processes of their own."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase.build import bulk

from halberd.potentials.sites.lennard_jones import lennard_jones
from halberd.samplers.md.settings import MDSettings


@pytest.fixture
def argon(tmp_path):
    """A Lennard-Jones crystal and its models, cheap enough for thousands of steps."""
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    ase.io.write(tmp_path / "argon.xyz", atoms, format="extxyz")
    lennard_jones([18]).save(tmp_path / "lj.pt")
    lennard_jones([18], epsilon=0.0095).save(tmp_path / "softer.pt")
    return {"structure": str(tmp_path / "argon.xyz"), "model": str(tmp_path / "lj.pt"), "temperature": 40.0}


def settings(argon, tmp_path, **more) -> MDSettings:
    own = {"output": str(tmp_path / "out"), "timestep": 2.0, "report_interval": 10}
    return MDSettings.from_mapping({**argon, **own, **more})


def dimer(tmp_path) -> dict[str, object]:
    ase.io.write(tmp_path / "dimer.xyz", ase.Atoms("Ar2", [[0, 0, 0], [3.9, 0, 0]]), format="extxyz")
    return {"structure": str(tmp_path / "dimer.xyz"), "friction": 5.0, "temperature": 60.0}


def launched(config: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-m", "halberd.plugins.commands.app", "md", str(config), "--json", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def written(tmp_path, run: MDSettings) -> Path:
    """The settings as a YAML file that leaves defaults out."""
    defaults = dataclasses.asdict(MDSettings(structure=""))
    values = {key: value for key, value in dataclasses.asdict(run).items() if value != defaults[key]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "run.yaml"


def wait_for(file: Path, process: subprocess.Popen | None = None) -> None:
    for _ in range(1200):
        if file.exists():
            return
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{file} never came")


@pytest.fixture
def unsure(argon, tmp_path):
    """A committee of two Lennard-Jones potentials."""
    return {**argon, "model": [argon["model"], str(tmp_path / "softer.pt")]}


def rows_of(file: Path) -> np.ndarray:
    return np.loadtxt(file, comments="#", ndmin=2)


METAD = """
d: DISTANCE ATOMS=1,2
UPPER_WALLS ARG=d AT=0.6 KAPPA=500
m: METAD ARG=d SIGMA=0.02 HEIGHT=0.1 PACE=10 FILE=HILLS
PRINT ARG=d,m.bias STRIDE=5 FILE=COLVAR
"""
