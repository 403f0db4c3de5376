"""A network trained further on few frames of another method: whole, in parts, or by changes of low rank.

    python tests/benchmarks/fine_tuning.py DATA OUT [--learn acetylacetone] [--start gfn2-chnof] [--counts 20 100]
        [--seeds 0 1 2] [--steps 1500] [--rates 0.01 0.001 0.0001] [--ways whole ...]

DATA holds the folders ``acac``, ``3bpa`` and ``rmd17``. The network (GFN2-xTB) is trained further on a few frames of
acetylacetone (PBE-D3/def2-SVP) or of 3BPA (wB97X/6-31G(d)), in so many steps, with three learning rates; a fifth of the
frames is kept aside, and tells which epoch is best. Then tests it has not seen: the same molecule at 300 K, and ethanol
and aspirin (PBE/def2-SVP), of which no frame is trained on: what is learnt of one molecule may help with others, or
cost what was known of them. 3BPA comes in one file, whose second half is the test.

Null rows: the network as it was, one that begins with random weights, and no forces. RMSE of forces, meV/A; rows that
are there are not trained again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from train_tables import null_errors

from halberd.plugins import TrainSettings, evaluate_file, train_file
from halberd.potentials import LabelKeys, TrainingSettings, read_frames
from halberd.potentials.frames.labelled import to_atoms
from halberd.potentials.sites.torchscript import set_threads
from halberd.potentials.training.settings import ScheduleSettings, named_loss

#: What is trained, by the name of the row.
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "read-outs and products": {"frozen": ("embedding", "layers.0.radial", "layers.1.radial")},
    "rank 16": {"lora_rank": 16},
    "rank 4": {"lora_rank": 4},
    "rank 1": {"lora_rank": 1},
    "whole, others replayed": {},
    "from nothing": {},
}
#: Molecules that the network knew, without whose labels it is to go on as it was.
KNOWN = Path("qm9_gfn2") / "val.xyz.gz"
KNOWN_COUNT = 200
RATES = (1e-2, 1e-3, 1e-4)
KCAL = LabelKeys(unit="kcal/mol")
BATCH = 5


def tests_of(arguments: argparse.Namespace) -> dict[str, tuple[Path, LabelKeys]]:
    """Files to test on, by what is in them."""
    data = arguments.data
    rmd17 = {name: (data / "rmd17" / f"rmd17_{name}_test_01.npz", KCAL) for name in ("ethanol", "aspirin")}
    if arguments.learn == "acetylacetone":
        return {"acetylacetone": (data / "acac" / "test_MD_300K.xyz", LabelKeys()), **rmd17}
    held = arguments.out / "3bpa.xyz"
    if not held.exists():
        frames = ase.io.read(data / "3bpa" / "train_300K.xyz", ":")
        ase.io.write(held, frames[len(frames) // 2 :], format="extxyz")
    return {"3BPA": (held, LabelKeys()), **rmd17}


def tested(model: Path | str, arguments: argparse.Namespace) -> dict[str, float]:
    """RMSE of forces, meV/A."""
    return {
        name: 1e3 * evaluate_file(model, file, keys=keys, precision="single", progress=False)["forces"]["rmse"]
        for name, (file, keys) in tests_of(arguments).items()
    }


def chosen_frames(arguments: argparse.Namespace, folder: Path, count: int, seed: int) -> str:
    """A file of some frames of the molecule."""
    if arguments.learn == "acetylacetone":
        frames = read_frames(str(arguments.data / "acac" / "train_300K.xyz"), LabelKeys())
    else:
        frames = read_frames(str(arguments.data / "3bpa" / "train_300K.xyz"), LabelKeys())
        frames = frames[: len(frames) // 2]
    chosen = np.random.default_rng(seed).permutation(len(frames))[:count]
    file = folder / "train.xyz"
    ase.io.write(file, [to_atoms(frames[n]) for n in sorted(chosen)], format="extxyz")
    return str(file)


def known_frames(data: Path, folder: Path) -> str:
    """A file of molecules without labels: they get those of the network itself."""
    file = folder / "known.xyz"
    frames = read_frames(str(data / KNOWN), LabelKeys())[:KNOWN_COUNT]
    ase.io.write(file, [Atoms(frame.atoms.numbers, frame.atoms.positions) for frame in frames], format="extxyz")
    return str(file)


def trained(arguments: argparse.Namespace, way: str, count: int, seed: int, rate: float) -> tuple[float, Path]:
    """Train, unless it has been done: RMSE of forces of the frames kept aside, and the model."""
    learn = "" if arguments.learn == "acetylacetone" else f"{arguments.learn}-"
    folder = arguments.out / f"{learn}{way.replace(' ', '_')}-{count}-{seed}-{rate:g}"
    done = folder / "kept_aside.json"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        begin = {"network": {"hidden": "64x0e+64x1o"}} if way == "from nothing" else {"start_from": arguments.start}
        if "replayed" in way:
            begin["replay"] = known_frames(arguments.data, folder)
        training = TrainingSettings(
            loss=named_loss("mace-paper"),
            epochs=max(1, arguments.steps * BATCH * 5 // (4 * count)),
            batch_size=BATCH,
            learning_rate=rate,
            validation=0.2,
            schedule=ScheduleSettings("cosine", 0.001),
            precision="single",
            seed=seed,
            **WAYS[way],
        )
        settings = TrainSettings(
            train=chosen_frames(arguments, folder, count, seed),
            output=str(folder / "model.pt"),
            training=training,
            e0s="average",
            threads=1,
            plots=False,
            **begin,
        )
        report = train_file(settings, progress=False)
        done.write_text(json.dumps(1e3 * report["validation"]["forces"]["rmse"]))
    return json.loads(done.read_text()), folder / "model.pt"


def row(arguments: argparse.Namespace, way: str, count: int, seed: int, rate: float) -> dict[str, float]:
    """Errors on the frames kept aside and on tests, meV/A."""
    kept_aside, model = trained(arguments, way, count, seed, rate)
    file = model.with_name("row.json")
    if not file.exists():
        file.write_text(json.dumps({"kept aside": kept_aside, **tested(model, arguments)}))
    return json.loads(file.read_text())


def printed(name: str, rows: list[dict[str, float]]) -> None:
    """Median and range of every test."""
    cells = []
    for test in rows[0]:
        values = [each[test] for each in rows]
        spread = f" ({min(values):.0f} to {max(values):.0f})" if len(values) > 1 else ""
        cells.append(f"{np.median(values):.0f}{spread}")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Train, test and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--learn", default="acetylacetone", choices=["acetylacetone", "3bpa"])
    parser.add_argument("--start", default="gfn2-chnof")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--counts", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    set_threads(1)
    print(f"| frames, what is trained, rate | kept aside | {' | '.join(tests_of(arguments))} |")
    held = {name: read_frames(str(file), keys) for name, (file, keys) in tests_of(arguments).items()}
    nothing = {name: null_errors(frames, frames, "rmse")[1] for name, frames in held.items()}
    printed("null: no forces |", [nothing])
    printed("null: as it was |", [tested(arguments.start, arguments)])
    for count in arguments.counts:
        for way in arguments.ways:
            for rate in arguments.rates:
                rows = [row(arguments, way, count, seed, rate) for seed in arguments.seeds]
                printed(f"{count}, {way}, {rate:g}", rows)


if __name__ == "__main__":
    main()
