"""Make a pretrained model like ``gfn2-chnof`` from scratch: QM9 geometries, GFN2-xTB labels, MACE.

    pip install 'halberd-md[cpu,reference]'
    python examples/pretrain/pretrain.py --molecules 40 --epochs 2 --channels 8      # try it: two minutes
    python examples/pretrain/pretrain.py --molecules 12000 --epochs 28               # a model worth having

Three stages, each leaving a file and skipped when that file is there, so an interrupted run goes on where it was:

1. ``data/*.xyz``: molecules drawn from QM9 (the ``qm9pack`` wheel holds all 130,831), each as it is and as rattled
   copies, labelled with GFN2-xTB by ``tblite``, split by molecule into training, validation and test sets. Labels are
   written in batches.
2. ``train/``: ``mace_run_train``, first with the weight on forces, then (stage two) on energies. It writes
   checkpoints and restarts from them.
3. ``model.pt``: the halberd file, with its errors on the test set.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from rich.progress import track

from halberd.plugins import draw_qm9, evaluate_file
from halberd.potentials import load

#: Frames beyond this are not chemistry any more, eV/angstrom.
LARGEST_FORCE = 20.0
BATCH = 50


def label(atoms: Atoms) -> Atoms | None:
    """Label a structure with GFN2-xTB; None if it does not converge or is too far from chemistry."""
    from tblite.ase import TBLite

    labelled = atoms.copy()
    labelled.calc = TBLite(method="GFN2-xTB", verbosity=0)
    try:
        energy, forces = labelled.get_potential_energy(), labelled.get_forces()
    except Exception:  # tblite raises its own types, ASE others; a failed label is a frame less
        return None
    if not np.isfinite(forces).all() or np.abs(forces).max() > LARGEST_FORCE:
        return None
    labelled.calc = None
    labelled.info["REF_energy"] = float(energy)
    labelled.arrays["REF_forces"] = np.array(forces)
    return labelled


def make_data(folder: Path, molecules: int, copies: int, seed: int, workers: int) -> dict[str, Path]:
    """Draw, rattle, label and split."""
    files = {name: folder / f"{name}.xyz" for name in ("train", "valid", "test")}
    if all(file.exists() for file in files.values()):
        return files
    (folder / "batches").mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    groups = []
    for molecule in draw_qm9(molecules, seed):
        group = [molecule]
        for _ in range(copies):
            rattled = molecule.copy()
            rattled.info["rattle"] = float(generator.choice([0.03, 0.06, 0.1, 0.15, 0.2, 0.3]))
            rattled.positions += generator.normal(scale=rattled.info["rattle"], size=rattled.positions.shape)
            group.append(rattled)
        groups.append(group)
    split = {"valid": max(1, molecules // 25), "test": max(1, molecules // 25)}
    names = ["valid"] * split["valid"] + ["test"] * split["test"]
    names += ["train"] * (molecules - len(names))
    frames: dict[str, list[Atoms]] = {name: [] for name in files}
    with ProcessPoolExecutor(workers) as pool:
        for start in track(range(0, molecules, BATCH), "labelling with GFN2-xTB"):
            batch = folder / "batches" / f"{start:06d}.xyz"
            if not batch.exists():
                flat = [(i, atoms) for i in range(start, min(start + BATCH, molecules)) for atoms in groups[i]]
                labelled = []
                for (i, _), result in zip(flat, pool.map(label, [atoms for _, atoms in flat]), strict=True):
                    if result is not None:
                        result.info["molecule"] = i
                        labelled.append(result)
                write_whole(batch, labelled)
            for atoms in ase.io.read(batch, ":"):
                frames[names[int(atoms.info["molecule"])]].append(atoms)
    for name, file in files.items():
        write_whole(file, frames[name])
        print(f"{name}: {len(frames[name])} frames")
    return files


def write_whole(file: Path, frames: list[ase.Atoms]) -> None:
    """Write frames under another name and rename: what has the name is whole."""
    unfinished = file.with_suffix(".part")
    ase.io.write(unfinished, frames, format="extxyz")
    unfinished.replace(file)


def train(folder: Path, files: dict[str, Path], arguments: argparse.Namespace) -> Path:
    """Train with ``mace_run_train``; restarts from its own checkpoints."""
    stage_two = max(1, arguments.epochs * 15 // 28)
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "name": "model",
        "work_dir": folder,
        "train_file": files["train"],
        "valid_file": files["valid"],
        "E0s": "average",
        "energy_key": "REF_energy",
        "forces_key": "REF_forces",
        "model": "ScaleShiftMACE",
        "num_interactions": 2,
        "num_channels": arguments.channels,
        "max_L": 0,
        "max_ell": 2,
        "correlation": 3,
        "r_max": 4.5,
        "loss": "weighted",
        "energy_weight": 10,
        "forces_weight": 100,
        "swa_energy_weight": 3000,
        "swa_forces_weight": 100,
        "start_swa": stage_two,
        "lr": 0.005,
        "swa_lr": 0.001,
        "scheduler": "ExponentialLR",
        "lr_scheduler_gamma": 0.9,
        "ema_decay": 0.995,
        "batch_size": min(32, arguments.molecules // 2),
        "valid_batch_size": 64,
        "max_num_epochs": arguments.epochs,
        "default_dtype": "float32",
        "device": arguments.device,
        "seed": arguments.seed,
    }
    command = [sys.executable, "-W", "ignore", "-m", "mace.cli.run_train"]
    command += [f"--{key}={value}" for key, value in options.items()]
    command += ["--swa", "--ema", "--amsgrad", "--restart_latest"]
    subprocess.run(command, check=True)
    models = [folder / name for name in ("model_stagetwo.model", "model_swa.model", "model.model")]
    return next(model for model in models if model.exists())


def main() -> None:
    """Run the three stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=12000)
    parser.add_argument("--copies", type=int, default=2, help="rattled copies of each molecule")
    parser.add_argument("--epochs", type=int, default=28)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("pretrain_out"))
    arguments = parser.parse_args()

    out = arguments.output
    files = make_data(out / "data", arguments.molecules, arguments.copies, arguments.seed, arguments.workers)
    trained = train(out / "train", files, arguments)
    model = load(trained)
    model.metadata.update(name=out.name, fitted_to=f"GFN2-xTB, {arguments.molecules} QM9 molecules, rattled")
    report = evaluate_file(model, files["test"], plot=out / "parity.png")
    model.metadata["test_errors"] = {name: report[name] for name in ("energy", "forces")}
    model.save(out / "model.pt")
    print(f"test: energy MAE {1e3 * report['energy']['mae']:.1f} meV/atom, ", end="")
    print(f"forces MAE {1e3 * report['forces']['mae']:.0f} meV/angstrom; {out / 'model.pt'}")


if __name__ == "__main__":
    main()
