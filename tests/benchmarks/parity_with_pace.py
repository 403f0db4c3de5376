"""PACE potentials against pacemaker's own evaluator, which needs an environment of its own: pip install python-ace.

    python tests/benchmarks/parity_with_pace.py evaluate frames.xyz POTENTIAL... > reference.json   # with python-ace
    python tests/benchmarks/parity_with_pace.py compare frames.xyz reference.json FOLDER            # with halberd
    python tests/benchmarks/parity_with_pace.py fixture FOLDER                                      # with halberd

``compare`` prints the largest deviations. ``fixture`` writes potentials of the tests, and ``frames.xyz``, of which
``evaluate`` makes ``tests/potentials/pace/pacemaker.json``. Pacemaker interpolates radial functions by splines.
"""

from __future__ import annotations

import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

warnings.filterwarnings("ignore")


def evaluate(frames: str, *potentials: str) -> None:
    """Print energies (eV), forces (eV/angstrom) and stresses (eV/angstrom^3) of potentials as JSON."""
    from pyace import PyACECalculator

    results: dict[str, list[dict[str, Any]]] = {}
    for path in potentials:
        calculator = PyACECalculator(path)
        results[Path(path).name] = []
        for atoms in ase.io.read(frames, ":"):
            atoms.calc = calculator
            found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces().tolist()}
            if atoms.pbc.all():
                found["stress"] = atoms.get_stress().tolist()
            results[Path(path).name].append(found)
    print(json.dumps(results))


def compare(frames: str, reference: str, folder: str = ".") -> None:
    """Print the largest deviations, and the null row: the deviation from zero."""
    from halberd.plugins import HalberdCalculator
    from halberd.potentials import load

    for name, expected in json.loads(Path(reference).read_text(encoding="utf-8")).items():
        calculator = HalberdCalculator(load(Path(folder) / name))
        worst = {"energy": 0.0, "forces": 0.0, "stress": 0.0}
        sizes = dict(worst)
        for atoms, truth in zip(ase.io.read(frames, ":"), expected, strict=True):
            atoms.calc = calculator
            found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
            if "stress" in truth:
                found["stress"] = atoms.get_stress()
            for key, value in found.items():
                worst[key] = max(worst[key], float(np.abs(value - np.array(truth[key])).max()))
                sizes[key] = max(sizes[key], float(np.abs(truth[key]).max()))
        print(name, ", ".join(f"{key} {worst[key]:.2e} of {sizes[key]:.4g}" for key in worst))


def fixture(folder: str) -> None:
    """Write the potentials that tests make, one per radial basis, and frames."""
    # Not the package of that name which others leave in site-packages.
    sys.modules["tests"] = types.ModuleType("tests")
    sys.modules["tests"].__path__ = [str(Path(__file__).parents[1])]
    from tests.potentials.pace.test_model import PACEMAKER_FILES, pacemaker_frames

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    for name, make in PACEMAKER_FILES.items():
        make(place / name)
    ase.io.write(place / "frames.xyz", pacemaker_frames(), format="extxyz")


if __name__ == "__main__":
    {"evaluate": evaluate, "compare": compare, "fixture": fixture}[sys.argv[1]](*sys.argv[2:])
