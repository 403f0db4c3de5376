"""Steps of training against mace-torch's, in one run: the same network, weights, frames and batches.

    python tests/benchmarks/bench_training.py FRAMES.xyz [--sizes 64L1 128L1] [--precision single double]
        [--batch 5] [--rounds 5] [--threads 1 2]

mace-torch: ``mace.tools.train.take_step``, the step of ``mace_run_train``, on batches that are made beforehand.
halberd: ``Trainer``, whose batches are made within the step. Both with AMSGrad, clipping and a moving average. Printed
are frames per minute, medians of interleaved rounds, and the relative difference of the losses of the first and the
last round, which shows that both do the same.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ase import Atoms

from halberd.potentials.frames.labelled import Frame, read_frames
from halberd.potentials.frames.training_set import self_energies
from halberd.potentials.loading import import_mace
from halberd.potentials.multi_ace.weights.mace import multi_ace_of
from halberd.potentials.training.graphs import GraphSet, joined
from halberd.potentials.training.loop import Trainer
from halberd.potentials.training.precision import DTYPES
from halberd.potentials.training.settings import TrainingSettings, named_loss

warnings.filterwarnings("ignore")
SIZES = {"16L1": "16x0e+16x1o", "64L1": "64x0e+64x1o", "128L1": "128x0e+128x1o", "64": "64x0e"}


def peer_network(hidden: str, numbers: list[int], e0s: np.ndarray, dtype: torch.dtype) -> Any:
    """A MACE of mace-torch, with random weights."""
    mace = import_mace("compare with it")
    from e3nn import o3

    classes = mace.modules.interaction_classes
    torch.manual_seed(0)
    return mace.modules.ScaleShiftMACE(
        r_max=5.0, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, num_interactions=2, num_elements=len(numbers),
        interaction_cls=classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=classes["RealAgnosticInteractionBlock"], hidden_irreps=o3.Irreps(hidden),
        MLP_irreps=o3.Irreps("16x0e"), atomic_energies=e0s, avg_num_neighbors=12.0, atomic_numbers=numbers,
        correlation=3, gate=torch.nn.functional.silu, atomic_inter_scale=1.0, atomic_inter_shift=0.0,
    ).to(dtype)  # fmt: skip


def peer_step(network: Any, frames: list[Frame], settings: TrainingSettings, batch: int) -> Callable[[], float]:
    """Makes steps of mace-torch, on one batch after the other."""
    from mace import data, modules, tools
    from mace.tools import torch_geometric
    from mace.tools.train import take_step
    from torch_ema import ExponentialMovingAverage

    dtype = next(network.parameters()).dtype
    torch.set_default_dtype(dtype)
    table = tools.AtomicNumberTable([int(z) for z in network.atomic_numbers])
    keys = data.KeySpecification(info_keys={"energy": "E"}, arrays_keys={"forces": "F"})
    graphs = []
    for frame in frames:
        atoms: Atoms = frame.atoms.copy()
        atoms.info["E"], atoms.arrays["F"] = frame.energy, frame.forces
        graphs.append(data.AtomicData.from_config(data.config_from_atoms(atoms, keys), z_table=table, cutoff=5.0))
    loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=batch, shuffle=False)
    loss = modules.WeightedEnergyForcesLoss(settings.loss.energy, settings.loss.forces)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, amsgrad=True)
    average = ExponentialMovingAverage(network.parameters(), decay=settings.average)
    wanted = {"forces": True, "virials": False, "stress": False}
    every = list(loader)
    state = {"n": 0}

    def step() -> float:
        own = every[state["n"] % len(every)].clone()
        state["n"] += 1
        value, _ = take_step(network, loss, own, optimiser, average, wanted, settings.clip, torch.device("cpu"))
        return float(value.detach())

    return step


def our_step(
    network: Any, frames: list[Frame], e0s: np.ndarray, numbers: list[int], settings: TrainingSettings
) -> Callable[[], float]:
    """Makes steps of halberd's trainer, on the same batches."""
    graphs = GraphSet(frames, numbers, e0s, 5.0)
    trainer = Trainer(network, graphs, graphs, settings)
    count = settings.batch_size
    state = {"n": 0}

    def step() -> float:
        first = state["n"] * count % len(frames)
        state["n"] += 1
        graph = joined([graphs[k] for k in range(first, first + count)])
        return float(trainer._step(graph.to("cpu", trainer.dtype)).detach())

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames")
    parser.add_argument("--sizes", nargs="+", default=["64L1", "128L1"], choices=list(SIZES))
    parser.add_argument("--precision", nargs="+", default=["double"], choices=list(DTYPES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="In one round.")
    arguments = parser.parse_args()
    found = [frame for frame in read_frames(arguments.frames) if len(frame.atoms) > 1]
    frames = found[: len(found) // arguments.batch * arguments.batch][: 10 * arguments.batch]
    numbers = sorted({int(z) for frame in frames for z in frame.atoms.numbers})
    e0s, _ = self_energies(frames, numbers, "average")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for precision in arguments.precision:
            for size in arguments.sizes:
                settings = TrainingSettings(
                    loss=named_loss("mace"), batch_size=arguments.batch, precision=precision, weight_decay=0.0
                )
                torch.set_default_dtype(torch.float64)
                theirs = peer_network(SIZES[size], numbers, e0s, DTYPES[precision][0])
                torch.set_default_dtype(torch.float64)
                ours = multi_ace_of(theirs).double()
                for weight in ours.parameters():
                    weight.requires_grad_()
                steps = {
                    "halberd": our_step(ours, frames, e0s, numbers, settings),
                    "mace-torch": peer_step(theirs, frames, settings, arguments.batch),
                }
                times: dict[str, list[float]] = {name: [] for name in steps}
                apart = []
                for _ in range(arguments.rounds):
                    losses = {}
                    for name, step in steps.items():
                        torch.set_default_dtype(DTYPES[precision][0])
                        begun = time.perf_counter()
                        for _ in range(arguments.steps):
                            losses[name] = step()
                        times[name].append((time.perf_counter() - begun) / arguments.steps)
                    apart.append(abs(losses["halberd"] / losses["mace-torch"] - 1))
                rate = {name: 60 * arguments.batch / np.median(each) for name, each in times.items()}
                ratios = np.array(times["mace-torch"]) / np.array(times["halberd"])
                ratio = f"[{np.median(ratios):.2f}, {ratios.min():.2f} to {ratios.max():.2f}]"
                print(
                    f"{size}, {precision}, {threads} threads, batch {arguments.batch}: halberd {rate['halberd']:.0f} "
                    f"frames a minute | mace-torch {rate['mace-torch']:.0f} {ratio} | losses differ by {apart[0]:.1g}, "
                    f"at last {apart[-1]:.1g}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
