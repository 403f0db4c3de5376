"""Hyperactive learning spread over a cluster with dask.distributed: any ``concurrent.futures.Executor`` will do.

Here the "cluster" is two processes on this machine; on a real one, use ``dask_jobqueue.SLURMCluster`` or an address of
a running scheduler instead. All workers must see the folder of the run. Labels come from effective medium theory, so
that nothing needs to be installed but ``pip install distributed``. Half a minute; leaves ``hal_dask_out/``.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import ase.io
import numpy as np
from ase.build import bulk

from halberd.samplers import HALSettings, run_hal


@contextlib.contextmanager
def cluster(workers: int):
    """An executor over dask workers, or the default pool of processes if dask is not installed."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        print("dask.distributed is not installed; using a pool of processes")
        yield None
        return
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as local,
        Client(local) as client,
    ):
        yield client.get_executor()


def main() -> None:
    """Make initial frames, learn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    out = Path("hal_dask_out")
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
    with cluster(arguments.workers) as executor:
        result = run_hal(settings, executor)
    print(f"{result['n_labels']} labels in {result['seconds']['total']:.0f} s, converged: {result['converged']}")
    print(f"written: {result['model']}, {result['database']}, {result['figure']}")


if __name__ == "__main__":
    main()
