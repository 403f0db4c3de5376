"""Fit a linear ACE to a copper-aluminium alloy and run it: data, committee, errors, molecular dynamics.

The labels come from effective medium theory, which ASE brings along; put your own extended XYZ file in its place.
Leaves the training set, the model, its report and figures, and a plot of how sure the committee was along the run in
``fit_ace_out/``. About a minute on two cores; ``--steps 100 --frames 30`` for a quick look.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import numpy as np
import openmm
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from openmm import unit

from halberd.plugins import (
    FitSettings,
    HalberdCalculator,
    LearnedPotential,
    fit_file,
    new_figure,
    save_figure,
    topology_from_atoms,
)


def cell(generator: np.random.Generator, size: int = 2) -> Atoms:
    """A strained, rattled crystal with a random fifth of its copper replaced."""
    atoms = bulk("Cu", cubic=True, a=3.7) * (size, size, size)
    atoms.symbols[generator.choice(len(atoms), size=len(atoms) // 5, replace=False)] = "Al"
    strain = np.eye(3) * generator.uniform(0.95, 1.06) + generator.normal(scale=0.02, size=(3, 3))
    atoms.set_cell(np.array(atoms.cell) @ strain, scale_atoms=True)
    atoms.positions += generator.normal(scale=generator.uniform(0.03, 0.16), size=(len(atoms), 3))
    return atoms


def label(atoms: Atoms) -> Atoms:
    """Energy, forces and virial under the keys that ``halberd fit`` looks for first."""
    atoms.calc = EMT()
    atoms.info["REF_energy"] = atoms.get_potential_energy()
    atoms.info["REF_virial"] = -atoms.get_volume() * atoms.get_stress(voigt=False)
    atoms.arrays["REF_forces"] = atoms.get_forces()
    atoms.calc = None
    return atoms


def main() -> None:
    """Make data, fit, run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=80)
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    out = Path("fit_ace_out")
    out.mkdir(exist_ok=True)

    generator = np.random.default_rng(0)
    frames = [label(cell(generator)) for _ in range(arguments.frames)]
    split = max(1, arguments.frames // 5)
    ase.io.write(out / "test.xyz", frames[:split])
    ase.io.write(out / "train.xyz", frames[split:])

    # The same as: halberd fit train.xyz --test test.xyz -o cual.pt --order 3 --degree 9 --cutoff 5.5
    report = fit_file(
        FitSettings(
            train=str(out / "train.xyz"),
            output=str(out / "cual.pt"),
            test=str(out / "test.xyz"),
            basis={"order": 3, "degree": 9, "cutoff": 5.5},
            committee=8,
            seed=1,
        )
    )
    test = report["test"]
    print(
        f"{report['n_basis']} functions fitted to {report['n_rows']} rows in {report['seconds']['total']:.1f} s; "
        f"test MAE {1e3 * test['energy']['mae']:.2f} meV/atom, {1e3 * test['forces']['mae']:.1f} meV/A"
    )

    atoms = cell(generator, 3)
    topology, positions = topology_from_atoms(atoms)
    system = LearnedPotential(out / "cual.pt").createSystem(topology)
    integrator = openmm.LangevinMiddleIntegrator(600 * unit.kelvin, 2 / unit.picosecond, 2 * unit.femtosecond)
    integrator.setRandomNumberSeed(3)
    simulation = openmm.app.Simulation(topology, system, integrator)
    simulation.context.setPositions(positions)
    calculator = HalberdCalculator(out / "cual.pt")
    time, sigma, error = [], [], []
    for _ in range(max(1, arguments.steps // 50)):
        simulation.step(50)
        state = simulation.context.getState(positions=True)
        atoms.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        results = calculator.evaluate(atoms)
        atoms.calc = EMT()
        time.append(state.getTime().value_in_unit(unit.picosecond))
        sigma.append(1e3 * results["forces_std"].mean())
        error.append(1e3 * np.linalg.norm(results["forces"] - atoms.get_forces(), axis=1).mean())
    print(f"600 K: mean force error {np.mean(error):.1f} meV/A, the committee expected {np.mean(sigma):.1f}")

    figure, axes = new_figure(1, width=6.0)
    axes[0, 0].plot(time, error, label="error of the forces against the reference")
    axes[0, 0].plot(time, sigma, label="spread of the committee")
    axes[0, 0].set(xlabel="time, ps", ylabel="mean over atoms, meV/Å", ylim=(0, None))
    axes[0, 0].legend(frameon=False)
    save_figure(figure, out / "run.png")
    print(f"written: {', '.join(sorted(path.name for path in out.iterdir()))} in {out}/")


if __name__ == "__main__":
    main()
