"""Digests of one run of every method from fixed seeds: ``python tests/benchmarks/same_bits.py OUT > digests.txt``.

For changes that must not change a result: run it before and after, on one machine, and compare the two lists. Dates and
durations are left out: headers of DCD files, seconds in reports.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
from pathlib import Path

import ase.io
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

#: Of a DCD file, before the first frame: title and date.
DCD_HEADER = 276
MD = ["--temperature", "350", "--seed", "5", "--reporter", "csv", "--reporter", "dcd", "--reporter", "extxyz"]
HAL = {
    "initial": "train.xyz",
    "label": {"calculator": "emt", "timeout": 60},
    "model": {"basis": {"order": 3, "degree": 6, "cutoff": 4.5}, "committee": 5},
    "md": {
        **{
            "steps": 60,
            "temperature": 900.0,
            "friction": 5.0,
            "check_interval": 5,
            "tau_history": 10,
            "tolerance": 0.08,
        },
        **{"checkpoint_interval": 20, "swap_interval": 20, "cell_move": "shape", "pressure": 100},
    },
    **{"walkers": 2, "workers": 0, "seed": 3, "max_labels": 14, "max_iterations": 6, "test_fraction": 0.2},
    "first_tolerance": 0.08,
}
RUNS = [
    ["md", "--structure", "box.xyz", "--ensemble", "NPT", "--steps", "120", *MD],
    ["md", "--structure", "box.xyz", "--ensemble", "NVE", "--steps", "60", *MD, "--backend", "python",
     "-o", "md_python"],
    ["fit", "train.xyz", "--test", "test.xyz", "--degree", "8", "--cutoff", "4.5", "--committee", "4", "-o", "fit.pt"],
    ["hal", "hal.yaml", "-o", "hal_out"],
    ["generate", "--n", "3", "--heavy-atoms", "5:6", "--shape", "line:6", "--seed", "1", "--particles", "3",
     "--references", "qm9-small", "-o", "generated.extxyz"],
]  # fmt: skip


def labelled(seed: int) -> Atoms:
    """Eight atoms of copper and gold with EMT's labels."""
    atoms = bulk("Cu", cubic=True, a=3.7) * (2, 1, 1)
    atoms.numbers[[1, 5]] = 79
    atoms.rattle(0.08 + 0.01 * seed, seed=seed)
    bare = atoms.copy()
    atoms.calc = EMT()
    bare.info["REF_energy"] = atoms.get_potential_energy()
    bare.arrays["REF_forces"] = atoms.get_forces()
    bare.info["REF_virial"] = -atoms.get_volume() * atoms.get_stress(voigt=False)
    return bare


def weights(path: Path) -> bytes:
    """Every number in a model file, whatever its classes are called."""
    from halberd.potentials import load

    model = load(path)
    parts = sorted({**dict(model.module.named_parameters()), **dict(model.module.named_buffers())}.items())
    return b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in parts) + model.e0s.tobytes()


def numbers(report: object) -> object:
    """A report without durations."""
    if isinstance(report, dict):
        return {key: numbers(value) for key, value in report.items() if key not in ("seconds", "peak_memory_mb")}
    return report


def main() -> None:
    """Run every method and print digests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True)
    frames = [labelled(seed) for seed in range(12)]
    ase.io.write(folder / "train.xyz", frames[:9])
    ase.io.write(folder / "test.xyz", frames[9:])
    box = molecule("CH3CH2OH", cell=[8, 8.5, 9], pbc=True)
    box.rattle(0.03, seed=1)
    box.center()
    ase.io.write(folder / "box.xyz", box)
    (folder / "hal.yaml").write_text(yaml.safe_dump(HAL))
    for run in RUNS:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        subprocess.run(["halberd", *run], cwd=folder, env=environment, check=True, capture_output=True)
    files = ["md_out/log.csv", "md_out/frames.extxyz", "md_python/log.csv", "hal_out/fit.extxyz", "hal_out/test.extxyz"]
    files += ["md_out/trajectory.dcd", "md_python/trajectory.dcd", "generated.extxyz"]
    files += sorted(str(p.relative_to(folder)) for p in folder.glob("hal_out/iterations/*/walker*/*.csv"))
    contents = {name: (folder / name).read_bytes() for name in files}
    contents = {name: data[DCD_HEADER:] if name.endswith("dcd") else data for name, data in contents.items()}
    contents.update({name: weights(folder / name) for name in ("fit.pt", "hal_out/model.pt")})
    errors = json.loads((folder / "fit.json").read_text())
    contents["fit.json"] = json.dumps(numbers({k: errors[k] for k in ("n_basis", "n_rows", "train", "test")})).encode()
    for name, data in contents.items():
        print(hashlib.sha256(data).hexdigest()[:16], name)


if __name__ == "__main__":
    main()
