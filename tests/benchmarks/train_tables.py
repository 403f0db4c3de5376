"""Networks trained on the sets of the papers, beside the papers' errors.

    python tests/benchmarks/train_tables.py SET DATA OUT [--preset mace] [--hidden 64x0e+64x1o] [--hours 2]
        [--threads 2] [--seeds 0 1 2] [--density]

SET is ``acac`` (DATA holds ``train_300K.xyz``, ``test_MD_300K.xyz`` and ``isolated_atoms.xyz``), ``ethanol`` or
``aspirin`` (``rmd17_NAME_train_01.npz`` and ``..._test_01.npz``). As many epochs as fit into the time, with the
learning rate falling along a cosine; 50 frames of the training set tell which epoch is best, as in the papers. One
folder per seed in OUT; what was ended goes on.

Null rows: the mean energy per atom of the training frames, and no forces. Errors are of whole molecules in meV, and of
components in meV/A, RMSE for acac and MAE for rMD17, as the papers print them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from halberd.plugins import TrainSettings, train_file
from halberd.potentials import LabelKeys, TrainingSettings, new_network, read_frames, trainer_for
from halberd.potentials.sites.torchscript import set_threads
from halberd.potentials.training.settings import ScheduleSettings, named_loss

#: MACE with 256 channels (arXiv 2206.07697, tables 1 and 3), BOTNet and NequIP: energy, forces.
PAPERS = {
    "acac": {"MACE": (0.9, 5.1), "BOTNet": (0.89, 6.3), "NequIP": (0.81, 5.9)},
    "ethanol": {"MACE": (0.4, 2.1), "BOTNet": (0.4, 3.2), "NequIP": (0.4, 2.8), "linear ACE": (1.2, 7.3)},
    "aspirin": {"MACE": (2.2, 6.6), "BOTNet": (2.3, 8.5), "NequIP": (2.3, 8.2), "linear ACE": (6.1, 17.9)},
}
#: A network and what it is trained with take so much longer than its steps: validation, checkpoints.
_MARGIN = 1.1


def files_of(name: str, data: Path) -> tuple[tuple[str, ...], str, LabelKeys]:
    """To train on, to test on, and their units."""
    if name == "acac":
        train = (str(data / "isolated_atoms.xyz"), str(data / "train_300K.xyz"))
        return train, str(data / "test_MD_300K.xyz"), LabelKeys()
    train = (str(data / f"rmd17_{name}_train_01.npz"),)
    return train, str(data / f"rmd17_{name}_test_01.npz"), LabelKeys(unit="kcal/mol")


def errors_of(report: dict[str, Any], kind: str, n_atoms: int) -> tuple[float, float]:
    """Energy in meV of a molecule, forces in meV/A."""
    return 1e3 * n_atoms * report["energy"][kind], 1e3 * report["forces"][kind]


def null_errors(train: list[Any], test: list[Any], kind: str) -> tuple[float, float]:
    """Of the mean energy and of no forces."""
    mean = np.mean([frame.energy for frame in train if len(frame.atoms) > 1])
    energies = np.array([frame.energy - mean for frame in test])
    forces = np.concatenate([frame.forces.ravel() for frame in test])
    size = {"mae": lambda x: np.abs(x).mean(), "rmse": lambda x: np.sqrt((x**2).mean())}[kind]
    return 1e3 * float(size(energies)), 1e3 * float(size(forces))


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(PAPERS))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="mace")
    parser.add_argument("--hidden", default="64x0e+64x1o")
    parser.add_argument("--density", action="store_true", help="Sums over neighbours are divided by a learned density.")
    parser.add_argument("--hours", type=float, default=2.0, help="Of training, per seed.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--precision", default="single")
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    arguments = parser.parse_args()
    set_threads(arguments.threads)
    train, test, keys = files_of(arguments.set, arguments.data)
    frames = [frame for file in train for frame in read_frames(file, keys)]
    network = {"preset": arguments.preset, "hidden": arguments.hidden, "density": arguments.density}
    name = f"{arguments.set}-{arguments.preset}" + ("-density" if arguments.density else "")
    n_molecules = sum(len(frame.atoms) > 1 for frame in frames)
    kind = "rmse" if arguments.set == "acac" else "mae"
    n_atoms = len(frames[-1].atoms)
    rows = []
    for seed in arguments.seeds:
        folder = arguments.out / f"{name}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        plan = arguments.out / f"{name}-epochs.json"  # the same for all seeds
        settings = TrainingSettings(
            loss=named_loss("mace-paper"),
            batch_size=arguments.batch,
            learning_rate=arguments.learning_rate,
            validation=50 / n_molecules,
            precision=arguments.precision,
            seed=seed,
        )
        if not plan.exists():
            trial = trainer_for(new_network(network, frames, None, seed), frames, settings)
            trial.epoch()
            begun = time.perf_counter()
            trial.epoch()
            epochs = int(3600 * arguments.hours / (_MARGIN * (time.perf_counter() - begun)))
            plan.write_text(json.dumps({"epochs": max(1, epochs)}))
        epochs = json.loads(plan.read_text())["epochs"]
        settings = TrainingSettings(
            **{**vars(settings), "epochs": epochs, "schedule": ScheduleSettings("cosine", 0.001)}
        )
        report = train_file(
            TrainSettings(
                train=train,
                test=test,
                output=str(folder / "model.pt"),
                network=network,
                training=settings,
                keys=keys,
                threads=arguments.threads,
            )
        )
        rows.append((epochs, report["seconds"]["training"], *errors_of(report["test"], kind, n_atoms)))
        print(
            f"seed {seed}: {epochs} epochs, {rows[-1][1] / 60:.0f} min, {rows[-1][2]:.2f} meV, {rows[-1][3]:.2f} meV/A"
        )
    found = np.array(rows)[:, 2:]
    low, high = found.min(axis=0), found.max(axis=0)
    print(f"\n{arguments.set}, {kind.upper()} of {len(rows)} seeds, median (range); {torch.get_num_threads()} threads")
    middle = np.median(found, axis=0)
    print(f"halberd {name} {arguments.hidden} | {middle[0]:.2f} ({low[0]:.2f} to {high[0]:.2f}) | "
          f"{middle[1]:.2f} ({low[1]:.2f} to {high[1]:.2f})")  # fmt: skip
    for name, (energy, forces) in PAPERS[arguments.set].items():
        print(f"{name}, paper | {energy} [{middle[0] / energy:.2f}] | {forces} [{middle[1] / forces:.2f}]")
    null = null_errors(frames, read_frames(test, keys), kind)
    print(f"null | {null[0]:.1f} | {null[1]:.0f}")


if __name__ == "__main__":
    main()
