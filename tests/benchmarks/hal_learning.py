"""Does hyperactive learning learn faster? Al-Si at equal numbers of labels: HAL, plain MD, random structures.

For every seed, 12 labelled cells of 32 atoms are the beginning of all methods:

- ``hal``: biased runs that stop where the committee is unsure (``tau_rel`` 0.2);
- ``trigger``: the same without bias (trajectories are relayed and the tolerance begins at 0.9 in both);
- ``md``: plain runs of 2 ps whose last frame is labelled, or the last sound one if the run fails;
- ``random``: more strained and rattled crystals like the first ones.

Everything else, the potential, the ramp from 800 to 1500 K, swaps and cell moves included, is the same. Judged by force
RMSE on liquid (made by the reference's own dynamics) and strained solid, and by 50 ps of plain MD at 1500 K. (Energies
are not compared: at one composition the self-energies of the elements are not determined, and some liquids have
another.)

Usage: ``python hal_learning.py OUT [--calculator chgnet] [--seeds 3] [--labels 20 40 80] [--workers 2]``. Goes on where
it was stopped. Leaves ``learning.json`` and ``learning.png`` in OUT. About an hour on two cores with CHGNet.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from concurrent.futures import Executor
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from halberd.plugins import HalberdCalculator, new_figure, save_figure
from halberd.plugins.evaluation.prediction import predict
from halberd.plugins.labelling.worker import label, make_calculator
from halberd.potentials import AceFit, AceSettings, read_frames
from halberd.potentials.frames.error_table import error_report
from halberd.samplers import BiasedSettings, HALSettings, run_hal
from halberd.samplers.hal.tasks import WalkerTask, run_walker
from halberd.samplers.runs.processes import make_executor

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "alsi10"))
from structures import alsi_cell

BASIS = {"order": 3, "degree": 8, "cutoff": 5.5}
METHODS = {
    "hal": {"tau_rel": 0.2, "tolerance": 0.3},
    "trigger": {"tau_rel": 0.0, "tolerance": 0.3},
    "md": {"tau_rel": 0.0, "tolerance": 9.9},
}
RUN = {
    "steps": 2000,
    "tau_burn_in": 20,
    "temperature": (800.0, 1500.0),
    "pressure": 10000.0,
    "cell_move": "shape",
    "swap_interval": 50,
    "keep_last": True,
}


def make_test_set(path: Path, calculator, seed: int = 1000) -> None:
    """Liquid from the reference's own dynamics, and strained solids."""
    generator = np.random.default_rng(seed)
    frames = []
    for run in range(4):
        atoms = alsi_cell(generator, silicon=3 + run % 2)
        atoms.set_cell(atoms.cell.array * (16.5 * 32 / atoms.get_volume() * 1.12) ** (1 / 3), scale_atoms=True)
        atoms.calc = calculator
        rng = np.random.RandomState(seed + run)
        MaxwellBoltzmannDistribution(atoms, temperature_K=3500, rng=rng)
        dynamics = Langevin(atoms, 2 * units.fs, temperature_K=3500, friction=0.02 / units.fs, rng=rng)
        dynamics.run(250)
        dynamics.set_temperature(temperature_K=1600)
        dynamics.run(250)
        for _ in range(6):
            dynamics.run(50)
            frames.append(label(atoms, calculator))
            frames[-1].info["config_type"] = "liquid"
            print(f"\rtest set: {len(frames)} frames", end="", flush=True)
    for _ in range(24):
        frames.append(label(alsi_cell(generator, silicon=3, rattle=(0.02, 0.15), strain=0.04), calculator))
        frames[-1].info["config_type"] = "solid"
    print(f"\rtest set: {len(frames)} frames")
    ase.io.write(path, frames)


def initial_frames(path: Path, seed: int, calculator) -> None:
    generator = np.random.default_rng(seed)
    ase.io.write(path, [label(alsi_cell(generator, silicon=3), calculator) for _ in range(12)])


def grow(out: Path, method: str, seed: int, labels: list[int], arguments: argparse.Namespace, pool: Executor) -> None:
    """Run one method, keeping the model at every number of labels."""
    folder = out / f"{method}-{seed}"
    for count in labels:
        kept = out / "models" / f"{method}-{seed}-{count}.pt"
        if kept.is_file():
            continue
        settings = HALSettings.from_mapping(
            {
                "initial": str(out / f"initial-{seed}.xyz"),
                "output": str(folder),
                "seed": seed,
                "label": {"calculator": arguments.calculator, "kwargs": json.loads(arguments.kwargs)},
                "model": {"basis": BASIS},
                "md": {**RUN, **METHODS[method]},
                "test_fraction": 0.0,
                "first_tolerance": 9.9 if method == "md" else None,
                "max_labels": count,
                "max_iterations": 400,
                "converged_after": 10000,
            }
        )
        result = run_hal(settings, pool, progress=False)
        print(f"{method} seed {seed}: {result['n_labels']} labels after {result['iterations']} iterations", flush=True)
        shutil.copyfile(folder / "model.pt", kept)


def grow_random(out: Path, seed: int, labels: list[int], calculator) -> None:
    generator = np.random.default_rng(seed + 500)
    file = out / f"random-{seed}.xyz"
    if not file.is_file():
        ase.io.write(file, [label(alsi_cell(generator, silicon=3), calculator) for _ in range(max(labels) - 12)])
    frames = read_frames(out / f"initial-{seed}.xyz") + read_frames(file)
    for count in labels:
        kept = out / "models" / f"random-{seed}-{count}.pt"
        if not kept.is_file():
            fit = AceFit(AceSettings(("Al", "Si"), **BASIS))
            fit.add(frames[:count])
            fit.solve(committee=8, seed=seed).model.save(kept)


def survival(out: Path, names: list[str], pool: Executor, steps: int) -> dict[str, float]:
    """Picoseconds of plain MD at 1500 K before atoms collide or forces diverge."""
    settings = BiasedSettings(
        steps=steps, temperature=1500.0, tau_rel=0.0, tolerance=9.9, check_interval=100, stop_at_trigger=False
    )
    start = read_frames(out / "test.xyz")[0].atoms
    futures = {}
    for name in names:
        model = str(out / "models" / f"{name}.pt")
        task = WalkerTask(model, model, start, settings, str(out / "survival" / name), 7)
        futures[name] = pool.submit(run_walker, task)
    return {name: 1e-3 * settings.timestep * future.result().step for name, future in futures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--calculator", default="chgnet")
    parser.add_argument("--kwargs", default='{"use_device": "cpu"}', help="arguments of the calculator, JSON")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", type=int, nargs="+", default=[20, 40, 80])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--survival-steps", type=int, default=50000)
    arguments = parser.parse_args()
    out = arguments.output
    for folder in (out, out / "models", out / "survival"):
        folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    calculator = make_calculator(arguments.calculator, json.loads(arguments.kwargs))
    if not (out / "test.xyz").is_file():
        make_test_set(out / "test.xyz", calculator)
    seeds = range(1, arguments.seeds + 1)
    with make_executor(arguments.workers) as pool:
        for seed in seeds:
            if not (out / f"initial-{seed}.xyz").is_file():
                initial_frames(out / f"initial-{seed}.xyz", seed, calculator)
            grow_random(out, seed, arguments.labels, calculator)
            for method in METHODS:
                grow(out, method, seed, arguments.labels, arguments, pool)
        methods = [*METHODS, "random"]
        names = [f"{m}-{s}-{c}" for m in methods for s in seeds for c in arguments.labels]
        survived = survival(out, names, pool, arguments.survival_steps)
    test = read_frames(out / "test.xyz")
    results: dict[str, dict] = {}
    for name in names:
        report = error_report(test, predict(HalberdCalculator(out / "models" / f"{name}.pt"), test))
        kinds = report["per_config_type"]
        results[name] = {
            "liquid": kinds["liquid"]["forces"]["rmse"],
            "solid": kinds["solid"]["forces"]["rmse"],
            "all": report["forces"]["rmse"],
            "energy": report["energy"]["rmse"],
            "survived_ps": survived[name],
        }
    (out / "learning.json").write_text(json.dumps(results, indent=1))
    report_table(results, methods, list(seeds), arguments.labels)
    draw(results, methods, list(seeds), arguments.labels, out / "learning.png")


def report_table(results: dict, methods: list[str], seeds: list[int], labels: list[int]) -> None:
    print("| method | labels | liquid, meV/A | solid, meV/A | ps at 1500 K, of each seed |")
    print("| --- | --- | --- | --- | --- |")
    for method in methods:
        for count in labels:
            rows = [results[f"{method}-{seed}-{count}"] for seed in seeds]
            values = {key: 1e3 * np.array([row[key] for row in rows]) for key in ("liquid", "solid")}
            cells = [f"{v.mean():.1f} ± {v.std():.1f}" for v in values.values()]
            survived = ", ".join(f"{row['survived_ps']:.1f}" for row in rows)
            print(f"| {method} | {count} | {' | '.join(cells)} | {survived} |")


def draw(results: dict, methods: list[str], seeds: list[int], labels: list[int], path: Path) -> None:
    figure, axes = new_figure(3, width=3.2, height=3.0)
    panels = {"liquid": "force RMSE, liquid, meV/Å", "solid": "force RMSE, solid, meV/Å", "survived_ps": "ps at 1500 K"}
    for axis, (key, title) in zip(axes[0], panels.items(), strict=True):
        scale = 1.0 if key == "survived_ps" else 1e3
        for k, method in enumerate(methods):
            values = scale * np.array([[results[f"{method}-{s}-{c}"][key] for c in labels] for s in seeds])
            axis.plot(labels, values.mean(axis=0), "o-", ms=4, color=f"C{k}", label=method)
            axis.fill_between(labels, values.min(axis=0), values.max(axis=0), color=f"C{k}", alpha=0.15, linewidth=0)
        axis.set(xlabel="labels", ylabel=title, xticks=labels)
        if key != "survived_ps":
            axis.set_yscale("log")
    axes[0, 0].legend(frameon=False, fontsize=8)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
