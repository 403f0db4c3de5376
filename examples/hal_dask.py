"""Hyperactive learning spread over a cluster with dask.distributed: any ``concurrent.futures.Executor`` will do.

    pip install 'halberd-md[cpu,dask]'
    python examples/hal_dask.py                              # a scheduler and two workers of its own
    python examples/hal_dask.py --kill                       # the same, and a worker is killed in the middle
    python examples/hal_dask.py --scheduler tcp://head:8786  # yours, or that of dask_jobqueue.SLURMCluster

All workers must see the folder of the run. Labels come from effective medium theory. A minute; leaves
``hal_dask_out/``, with the same database whether a worker was killed or not.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
from ase.build import bulk
from distributed import Client

from halberd.samplers import HALSettings, run_hal


@contextlib.contextmanager
def cluster(workers: int, folder: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """Address of a scheduler and processes of its workers, started as one starts them on nodes of a cluster."""
    file = (folder / "scheduler.json").resolve()
    file.unlink(missing_ok=True)
    common = ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", *common, "--port", "0"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", *common, "--nthreads", "1", "--no-nanny"]
    processes = []
    with open(folder / "dask.log", "w", encoding="utf-8") as log:
        try:
            for command in (scheduler, *[worker] * workers):
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
            while not file.exists():
                if processes[0].poll() is not None:
                    sys.exit(f"The scheduler did not start; {folder / 'dask.log'} says why.")
                time.sleep(0.1)
            yield str(file), processes[1:]
        finally:
            for process in reversed(processes):
                process.kill()
                process.wait()


def kill_in_the_middle(process: subprocess.Popen, sign: Path) -> None:
    """Kill a worker as soon as a file is there, as a node does that goes down."""
    while not sign.exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    print("a worker is dead")


def main() -> None:
    """Make initial frames, learn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scheduler", help="address of a scheduler that runs already")
    parser.add_argument("--kill", action="store_true", help="kill a worker while trajectories run")
    parser.add_argument("--out", type=Path, default=Path("hal_dask_out"))
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        atoms = bulk("Cu", cubic=True, a=3.8) * (2, 2, 1)
        atoms.numbers[generator.choice(len(atoms), 4, replace=False)] = 79
        atoms.set_cell(atoms.cell.array * generator.uniform(0.98, 1.05), scale_atoms=True)
        atoms.positions += generator.normal(scale=0.08, size=atoms.positions.shape)
        frames.append(atoms)
    ase.io.write(out / "initial.xyz", frames)
    settings = HALSettings.from_mapping(
        {
            "initial": str(out / "initial.xyz"),
            "output": str(out / "run"),
            "label": {"calculator": "emt"},
            "model": {"basis": {"order": 2, "degree": 10, "cutoff": 4.5}},
            "md": {"steps": 1000, "temperature": [300, 1500], "cell_move": "shape", "swap_interval": 20},
            "walkers": 2 * arguments.workers,
            "workers": arguments.workers,
            "max_iterations": arguments.iterations,
        }
    )
    with contextlib.ExitStack() as stack:
        if arguments.scheduler is None:
            file, processes = stack.enter_context(cluster(arguments.workers, out))
            client = stack.enter_context(Client(scheduler_file=file))
            client.wait_for_workers(arguments.workers)
            if arguments.kill:
                sign = out / "run" / "iterations" / "0001" / "walker0" / "walker.csv"
                threading.Thread(target=kill_in_the_middle, args=(processes[0], sign), daemon=True).start()
        else:
            client = stack.enter_context(Client(arguments.scheduler))
        result = run_hal(settings, client.get_executor())
    print(f"{result['n_labels']} labels in {result['seconds']['total']:.0f} s, converged: {result['converged']}")
    print(f"written: {result['model']}, {result['database']}, {result['figure']}")


if __name__ == "__main__":
    main()
