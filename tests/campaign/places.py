"""Good inputs of every command, small enough to be tried ten thousand times; bad ones are made of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from halberd.potentials.sites.lennard_jones import lennard_jones


@dataclasses.dataclass(frozen=True)
class Good:
    """An invocation that works.

    Attributes
    ----------
    command : list of str
        Arguments of ``halberd``; flags with values stand as two words.
    settings : str, optional
        YAML file among them.
    files : tuple of str
        Files that it reads.
    outputs : tuple of str
        Words that name what it writes.
    """

    command: list[str]
    settings: str | None = None
    files: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def prepare(folder: Path) -> None:
    """Write every file that the good invocations read."""
    argon = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 2, 2)
    ase.io.write(folder / "argon.xyz", argon, format="extxyz")
    ase.io.write(folder / "argon.pdb", argon)
    lennard_jones([18]).save(folder / "lj.pt")
    ase.io.write(folder / "frames.xyz", _labelled(4), format="extxyz")
    ase.io.write(folder / "train.xyz", _copper(6), format="extxyz")
    ase.io.write(folder / "molecules.xyz", [molecule("CH3CH2OH"), molecule("CH4")], format="extxyz")
    (folder / "plumed.dat").write_text(
        "d: DISTANCE ATOMS=1,2\nMETAD ARG=d SIGMA=0.02 HEIGHT=0.1 PACE=5\nPRINT ARG=d STRIDE=5 FILE=COLVAR\n"
    )
    _write_settings(folder)


def _write_settings(folder: Path) -> None:
    force: dict[str, Any] = {"precision": "double", "skin": 0.5}
    md = {
        "structure": "argon.xyz", "model": "lj.pt", "output": "md", "ensemble": "NVT", "temperature": 40.0, "steps": 20,
        "timestep": 2.0, "friction": 1.0, "seed": 3, "report_interval": 10, "checkpoint_interval": 10, "force": force,
        "reporters": ["csv", "dcd"],
    }  # fmt: skip
    npt = {**md, "ensemble": "NPT", "pressure": 1.0, "barostat": "isotropic", "equilibration": [{"steps": 10}]}
    biased = {**md, "plumed": "plumed.dat", "stability": {"temperature": 10.0}, "max_hours": 1.0}
    hal = {
        "initial": "train.xyz", "output": "hal", "label": {"calculator": "emt"}, "walkers": 1, "workers": 0,
        "max_iterations": 1, "max_labels": 7, "seed": 1,
        "model": {"kind": "ace", "basis": {"order": 2, "degree": 4, "cutoff": 4.0, "pair_cutoff": 4.5}, "committee": 3},
        "md": {"steps": 20, "timestep": 1.0, "temperature": 300.0, "tolerance": 0.3, "check_interval": 10},
    }  # fmt: skip
    generation = {
        "n": 1, "heavy_atoms": "3:4", "seed": 1, "batch": 2, "max_attempts": 2, "shape": "line:4",
        "sampler": {"n_levels": 4, "particles": 2}, "finish": {"steps": 5, "tries": 1},
    }  # fmt: skip
    for name, values in {"md": md, "npt": npt, "biased": biased, "hal": hal, "generation": generation}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))


def _labelled(count: int) -> list[Atoms]:
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(count):
        atoms = Atoms("Ar3", generator.uniform(0, 8, (3, 3)) + np.eye(3) * 9)
        atoms.info["REF_energy"] = float(generator.normal())
        atoms.arrays["REF_forces"] = generator.normal(size=(3, 3))
        frames.append(atoms)
    return frames


def _copper(count: int) -> list[Atoms]:
    generator = np.random.default_rng(1)
    frames = []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += generator.normal(scale=0.1, size=atoms.positions.shape)
        atoms.calc = EMT()
        labelled = atoms.copy()
        labelled.info["REF_energy"] = atoms.get_potential_energy()
        labelled.arrays["REF_forces"] = atoms.get_forces()
        frames.append(labelled)
    return frames


FIT = [
    "fit",
    "train.xyz",
    "--output",
    "fitted.pt",
    "--order",
    "2",
    "--degree",
    "4",
    "--cutoff",
    "4.0",
    "--committee",
    "3",
]
FLAGS = ["md", "--structure", "argon.pdb", "--model", "lj.pt"]
#: Name -> invocation, and how often it is tried beside the others: the expensive ones less.
GOOD: dict[str, tuple[Good, int]] = {
    "md": (Good(["md", "md.yaml"], "md.yaml", ("md.yaml", "argon.xyz", "lj.pt"), ("md",)), 6),
    "npt": (Good(["md", "npt.yaml"], "npt.yaml", ("npt.yaml", "argon.xyz", "lj.pt"), ("md",)), 4),
    "biased": (Good(["md", "biased.yaml"], "biased.yaml", ("biased.yaml", "plumed.dat"), ("md",)), 4),
    "flags": (
        Good(
            [*FLAGS, "-o", "flags", "--steps", "10", "--temperature", "40"],
            None, ("argon.pdb", "lj.pt"), ("flags",),
        ), 4,
    ),
    "fit": (Good(FIT, None, ("train.xyz",), ("fitted.pt",)), 5),
    "evaluate": (
        Good(
            ["evaluate", "lj.pt", "frames.xyz", "--plot", "p.png", "--predictions", "p.xyz", "--json"], None,
            ("lj.pt", "frames.xyz"), ("p.png", "p.xyz"),
        ), 6,
    ),
    "export": (Good(["export", "lj.pt", "--output", "out.pt", "--elements", "Ar"], None, ("lj.pt",), ("out.pt",)), 6),
    "hal": (Good(["hal", "hal.yaml"], "hal.yaml", ("hal.yaml", "train.xyz"), ("hal",)), 3),
    "generate": (
        Good(
            ["generate", "--config", "generation.yaml", "-o", "g.sdf", "--no-metrics", "--no-picture"],
            "generation.yaml", ("generation.yaml",), ("g.sdf",),
        ), 2,
    ),
    "metrics": (Good(["metrics", "molecules.xyz", "--json"], None, ("molecules.xyz",)), 2),
}  # fmt: skip
