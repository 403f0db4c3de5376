"""A molecular crystal at constant pressure: solid CO2 under the Monte Carlo barostat, through ``halberd md``'s API.

    python examples/npt_crystal.py                # a minute: 2 x 2 x 2 cells, 96 atoms
    python examples/npt_crystal.py --steps 20000  # long enough to read a density

Everything lands in the output folder: trajectory, log, restart file, figure, ``report.json``. Interrupt it and run it
again with ``--restart``: it goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write

from halberd.plugins import ForceOptions
from halberd.samplers import MDSettings, run_md


def dry_ice(cells: int = 2) -> Atoms:
    """Pa-3 carbon dioxide at 150 K: four molecules along the body diagonals of a cubic cell of 5.62 angstrom."""
    edge, bond = 5.62, 1.155
    atoms = Atoms(cell=[edge] * 3, pbc=True)
    centres = [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    axes = [(1, 1, 1), (-1, 1, 1), (1, 1, -1), (1, -1, 1)]
    for centre, axis in zip(centres, axes, strict=True):
        middle = edge * np.array(centre)
        along = bond * np.array(axis) / np.sqrt(3)
        atoms += Atoms("CO2", positions=[middle, middle + along, middle - along])
    return atoms * (cells, cells, cells)


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--pressure", type=float, default=1.0, help="bar")
    parser.add_argument("--temperature", type=float, default=150.0, help="K")
    parser.add_argument("--cells", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("npt_out"))
    parser.add_argument("--restart", action="store_true")
    arguments = parser.parse_args()

    arguments.output.mkdir(parents=True, exist_ok=True)
    structure = arguments.output / "start.extxyz"
    write(structure, dry_ice(arguments.cells))
    settings = MDSettings(
        structure=str(structure),
        model="gfn2-chnof",
        output=str(arguments.output),
        ensemble="NPT",
        temperature=arguments.temperature,
        pressure=arguments.pressure,
        steps=arguments.steps,
        timestep=1.0,
        friction=2.0,
        minimize=True,
        barostat_interval=10,
        report_interval=10,
        force=ForceOptions(threads=2),
    )
    result = run_md(settings, restart=arguments.restart)
    for key, value in result["mean"].items():
        error = result["error"][key]
        print(f"{key:>15}: {value:10.4g}" + (f" +- {error:.2g}" if error is not None else ""))
    print("experiment, 150 K: 1.62 g/cm3 (the model was fitted to single molecules: a trend, not a prediction)")
    print(f"figure: {result['figure']}")


if __name__ == "__main__":
    main()
