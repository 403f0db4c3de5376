"""Inputs that once ended in a traceback, a crash, a hang or a wrong number, and what is said of them now."""

from __future__ import annotations

import re
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import yaml
from children import start, wait
from inputs import PATIENCE, bounded
from places import FIT, prepare

#: Takes the folder, which holds the good inputs, and returns the arguments of ``halberd``.
Case = Callable[[Path], list[str]]
EVALUATE = ["evaluate", "lj.pt", "frames.xyz"]


def _set(file: str, path: str, value: Any) -> Case:
    """Run with one setting changed."""

    def case(folder: Path) -> list[str]:
        values = yaml.safe_load((folder / file).read_text())
        *sections, key = path.split("/")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
        (folder / file).write_text(yaml.safe_dump(values))
        command = Path(file).stem
        return ["generate", "--config", file, "-o", "g.sdf"] if command == "generation" else [command, file]

    return case


def _write(file: str, content: bytes | str, *command: str) -> Case:
    """Run with another file."""

    def case(folder: Path) -> list[str]:
        (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
        return list(command)

    return case


def _frames(change: Callable[[ase.Atoms], None], *command: str) -> Case:
    """Evaluate with the first frame changed."""

    def case(folder: Path) -> list[str]:
        frames = ase.io.read(folder / "frames.xyz", ":")
        change(frames[0])
        ase.io.write(folder / "frames.xyz", frames, format="extxyz")
        return list(command or EVALUATE)

    return case


def _far(atoms: ase.Atoms) -> None:
    atoms.positions[0] = 1e10


def _infinite_cell(atoms: ase.Atoms) -> None:
    atoms.cell[:] = np.diag([np.inf, 9.0, 9.0])
    atoms.pbc = True


def _text_energy(atoms: ase.Atoms) -> None:
    atoms.info["REF_energy"] = "low"


def _small_virial(atoms: ase.Atoms) -> None:
    atoms.info["REF_virial"] = np.eye(2)


def _after_a_run(change: Callable[[Path], None]) -> Case:
    """Go on with a run whose files were changed."""

    def case(folder: Path) -> list[str]:
        child = start(folder, ["md", "md.yaml"], bounded)
        if wait(child, time.monotonic() + PATIENCE) != 0:
            raise RuntimeError("the run itself failed")
        change(folder / "md")
        values = yaml.safe_load((folder / "md.yaml").read_text())
        (folder / "md.yaml").write_text(yaml.safe_dump({**values, "steps": 40}))
        return ["md", "md.yaml", "--restart"]

    return case


def _other_facts(folder: Path) -> None:
    with zipfile.ZipFile(folder / "restart.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content["facts.json"] = b'{"step": "ten", "fingerprint": [], "sizes": {"../argon.xyz": 3}}'
    with zipfile.ZipFile(folder / "restart.zip", "w") as archive:
        for name, each in content.items():
            archive.writestr(name, each)


def _no_dcd_header(folder: Path) -> None:
    file = folder / "trajectory.dcd"
    file.write_bytes(bytes(300) + file.read_bytes()[300:] + bytes(100))


#: Name -> what is done, and what is said. All end with code 2.
CASES: dict[str, tuple[Case, str]] = {
    "a cell of inf": (_frames(_infinite_cell), "a cell that is no number"),
    "KAPPA=1e308": (
        _write("plumed.dat", "d: DISTANCE ATOMS=1,2\nRESTRAINT ARG=d AT=0.3 KAPPA=1e308\n", "md", "biased.yaml"),
        "not finite|exploded|cannot start",
    ),
    "YAML in Latin-1": (_write("md.yaml", "output: m\u00fc".encode("latin-1"), "md", "md.yaml"), "no YAML file"),
    "nested YAML": (_write("md.yaml", "a: " + "[" * 3000, "md", "md.yaml"), "no YAML file"),
    "a key twice": (_write("md.yaml", "steps: 1\nsteps: 2\n", "md", "md.yaml"), "duplicate key"),
    "a damaged state": (
        _write(
            "state.npz", b"PK\x03\x04" + bytes(100), "fit", "train.xyz", "-o", "fitted.pt", "--extend", "state.npz"
        ), "cannot be read|damaged",
    ),
    "a damaged model": (_write("lj.pt", b"PK\x03\x04" + bytes(1000), *EVALUATE), "damaged"),
    "a DCD file without its header": (_after_a_run(_no_dcd_header), "does not begin as a DCD file"),
    "facts that are none": (_after_a_run(_other_facts), "damaged"),
    "a seed below zero": (_set("md.yaml", "seed", -1), "seed is -1"),
    "a seed beyond 32 bits": (_set("hal.yaml", "seed", 2**33), "seed is 8589934592"),
    "endless steps": (_set("md.yaml", "steps", float("inf")), "steps is inf"),
    "element X": (_write("argon.xyz", "1\n\nX 0 0 0\n", "md", "md.yaml"), "X"),
    "atoms far away": (_frames(_far), "1e\\+?10|far"),
    "an energy in words": (_frames(_text_energy), "energy of structure 0"),
    "a virial of four numbers": (_frames(_small_virial), "virial of structure 0"),
    "numbers for forces": (lambda _: [*EVALUATE, "--forces-key", "numbers"], "forces of structure 0"),
    "a prior power that is none": (lambda _: [*FIT, "--prior-power", "nan"], "prior_power|prior-power"),
    "an enormous weight": (lambda _: [*FIT, "--forces-weight", "1e300"], "Weights are .* nothing is left"),
    "an endless line": (_set("generation.yaml", "shape", "line:inf"), "shape|line"),
    "a circle of 10^9": (_set("generation.yaml", "shape", "circle:1e9"), "shape|circle"),
    "a line of 10^6": (_set("generation.yaml", "shape", "line:1e6"), "shape|line"),
    "10^12 atoms": (_write("frames.xyz", "1000000000000\n\nAr 0 0 0\n", *EVALUATE), "frames.xyz"),
    "a sampler that is a number": (_set("generation.yaml", "sampler", 5), "sampler"),
    "a device of the CPU": (lambda _: ["md", "md.yaml", "--platform", "CPU", "--device-index", "0"], "device_index"),
    "10^308 workers": (_set("hal.yaml", "workers", 1e308), "workers"),
    "a cutoff in letters": (_set("hal.yaml", "model/basis/cutoff", "abc"), "cutoff"),
    "other braces in a command": (_set("hal.yaml", "label", {"command": "run {frame} {x}"}), "label|command"),
    "one atom": (_write("argon.xyz", "1\n\nAr 0 0 0\n", "md", "md.yaml"), "one atom"),
    "atoms in one place": (
        _write("argon.xyz", "3\n\nAr 0 0 0\nAr 0 0 0\nAr 4 0 0\n", "md", "md.yaml"), r"cannot start.*0 \(Ar\)",
    ),
    "labels that are no numbers": (
        _write("frames.xyz", '1\nProperties=species:S:1:pos:R:3 energy=nan\nAr 0 0 0\n', *EVALUATE), "not finite",
    ),
}  # fmt: skip


def try_corpus(folder: Path) -> dict[str, int]:
    """Try every case.

    Returns
    -------
    dict
        Verdict -> number of cases: ``fine``, or what was said instead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    good = folder / "good"
    shutil.rmtree(good, ignore_errors=True)
    good.mkdir()
    prepare(good)
    verdicts: Counter[str] = Counter()
    for number, (name, (case, expected)) in enumerate(CASES.items()):
        place = folder / f"case-{number}"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(good, place)
        command = case(place)
        (place / "stderr.txt").unlink(missing_ok=True)
        code = wait(start(place, command, bounded), time.monotonic() + PATIENCE)
        said = (place / "stderr.txt").read_text(encoding="utf-8", errors="replace")
        lines = [line for line in said.splitlines() if line.startswith("halberd: error: ")]
        fine = code == 2 and len(lines) == 1 and "Traceback" not in said and re.search(expected, lines[0])
        verdicts["fine" if fine else f"{name}: code {code}, {said[-300:]}"] += 1
        if fine:
            shutil.rmtree(place)
    return dict(verdicts)
