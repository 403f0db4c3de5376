"""What the choices of the family are worth: one choice changed at a time, and learning curves by correlation order.

    python tests/benchmarks/ablation.py SET DATA OUT [--epochs 150] [--seeds 0 1] [--threads 1] [--only axes curves]

SET and DATA as for ``train_tables.py``; on acetylacetone a row of 150 epochs takes ten minutes of one core. Every
network trains for the same number of epochs, which is what is compared; the time it took is printed beside it, and the
number of weights. Rows that are there are not trained again. ``OUT/ablation.png`` and ``OUT/curves.png`` show the
errors of forces on the test frames, with the null row: no forces.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from train_tables import PAPERS, errors_of, files_of, null_errors

from halberd.plugins import TrainSettings, evaluate_file, train_file
from halberd.potentials import TrainingSettings, read_frames
from halberd.potentials.frames.labelled import to_atoms
from halberd.potentials.sites.torchscript import set_threads
from halberd.potentials.training.settings import ScheduleSettings, named_loss

mpl.use("Agg")
import ase.io
import matplotlib.pyplot as plt

#: The network that choices are changed of.
BASE: dict[str, Any] = {"preset": "mace", "hidden": "32x0e+32x1o", "redundant_couplings": False}
AXES: dict[str, dict[str, Any]] = {
    "base: T 2, nu 3, L 1, l 3": {},
    "L 0": {"hidden": "32x0e"},
    "L 2": {"hidden": "32x0e+32x1o+32x2e"},
    "nu 1": {"correlation": 1},
    "nu 2": {"correlation": 2},
    "T 1": {"layers": 1},
    "T 3": {"layers": 3},
    "l 1": {"max_ell": 1},
    "l 2": {"max_ell": 2},
    "gated update": {"update": "gate"},
    "gated, nu 1": {"update": "gate", "correlation": 1},
    "density for number": {"density": True},
    "no species in products": {"product_species": False},
    "no residual": {"residual": "none"},
    "linear radial": {"radial_widths": ()},
    "cutoff 4": {"cutoff": 4.0},
}
COUNTS = (25, 50, 100, 200, 450)


@dataclasses.dataclass(frozen=True)
class Row:
    """One training: errors of energy (meV) and forces (meV/A) on the test, seconds, and weights."""

    energy: float
    forces: float
    seconds: float
    weights: int


def trained(arguments: argparse.Namespace, name: str, changes: dict[str, Any], seed: int, count: int | None) -> Row:
    """Train, unless it has been done."""
    folder = arguments.out / f"{name.replace(' ', '_').replace(':', '').replace(',', '')}-{count or 'all'}-{seed}"
    done = folder / "row.json"
    if done.exists():
        return Row(**json.loads(done.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    train, test, keys = files_of(arguments.set, arguments.data)
    frames = [frame for file in train for frame in read_frames(file, keys)]
    epochs = arguments.epochs
    if count is not None:
        molecules = [frame for frame in frames if len(frame.atoms) > 1]
        chosen = np.random.default_rng(seed).permutation(len(molecules))[:count]
        kept = [frame for frame in frames if len(frame.atoms) == 1] + [molecules[n] for n in sorted(chosen)]
        ase.io.write(folder / "train.xyz", [to_atoms(frame) for frame in kept], format="extxyz")
        train, keys = (str(folder / "train.xyz"),), dataclasses.replace(keys, unit="eV")
        # As many steps whatever the number of frames, within reason.
        epochs = min(8 * epochs, epochs * 450 // count)
    settings = TrainingSettings(
        loss=named_loss("mace-paper"),
        epochs=epochs,
        batch_size=5,
        validation=0.1,
        schedule=ScheduleSettings("cosine", 0.001),
        precision="single",
        seed=seed,
    )
    report = train_file(
        TrainSettings(
            train=train,
            output=str(folder / "model.pt"),
            network={**BASE, **changes},
            training=settings,
            keys=keys,
            threads=arguments.threads,
            plots=False,
        ),
        progress=False,
    )
    found = evaluate_file(folder / "model.pt", test, keys=files_of(arguments.set, arguments.data)[2])
    n_atoms = len(frames[-1].atoms)
    energy, forces = errors_of(found, arguments.kind, n_atoms)
    row = Row(energy, forces, report["seconds"]["training"], report["weights"])
    done.write_text(json.dumps(dataclasses.asdict(row)) + "\n")
    return row


def table(arguments: argparse.Namespace, names: dict[str, dict[str, Any]], count: int | None) -> dict[str, list[Row]]:
    """Rows of all seeds by name; printed."""
    found = {}
    for name, changes in names.items():
        rows = [trained(arguments, name, changes, seed, count) for seed in arguments.seeds]
        found[name] = rows
        forces, energies = ([getattr(row, key) for row in rows] for key in ("forces", "energy"))
        print(
            f"| {name} | {count or 'all'} | {np.median(energies):.2f} ({min(energies):.2f} to {max(energies):.2f}) "
            f"| {np.median(forces):.1f} ({min(forces):.1f} to {max(forces):.1f}) "
            f"| {np.median([row.seconds for row in rows]) / 60:.1f} min | {rows[0].weights} |",
            flush=True,
        )
    return found


def main() -> None:
    """Train all rows and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(PAPERS))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=["axes", "curves"], choices=["axes", "curves"])
    arguments = parser.parse_args()
    arguments.kind = "rmse" if arguments.set == "acac" else "mae"
    set_threads(arguments.threads)
    train, test, keys = files_of(arguments.set, arguments.data)
    frames = [frame for file in train for frame in read_frames(file, keys)]
    null = null_errors(frames, read_frames(test, keys), arguments.kind)
    print(f"null row: {null[0]:.0f} meV, {null[1]:.0f} meV/A")
    if "axes" in arguments.only:
        found = table(arguments, AXES, None)
        figure, axis = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
        for place, rows in enumerate(found.values()):
            axis.plot([row.forces for row in rows], [place] * len(rows), "o", color="C0", alpha=0.7)
        axis.set_yticks(range(len(found)), list(found))
        axis.axvline(np.median([row.forces for row in next(iter(found.values()))]), color="0.7", linewidth=1)
        axis.invert_yaxis()
        axis.set(xlim=(0, None), xlabel=f"{arguments.kind.upper()} of forces, meV/Å (null: {null[1]:.0f})")
        figure.savefig(arguments.out / "ablation.png", dpi=150)
    if "curves" in arguments.only:
        figure, axis = plt.subplots(figsize=(4.5, 3.5), layout="constrained")
        for nu in (1, 2, 3):
            points = [table(arguments, {f"nu {nu}, curve": {"correlation": nu}}, count) for count in COUNTS]
            errors = np.array([[row.forces for row in next(iter(rows.values()))] for rows in points])
            axis.loglog(COUNTS, np.median(errors, axis=1), "o-", label=f"ν = {nu}")
            axis.fill_between(COUNTS, errors.min(axis=1), errors.max(axis=1), alpha=0.2)
        axis.set(xlabel="frames", ylabel=f"{arguments.kind.upper()} of forces, meV/Å")
        axis.legend(frameon=False)
        figure.savefig(arguments.out / "curves.png", dpi=150)


if __name__ == "__main__":
    main()
