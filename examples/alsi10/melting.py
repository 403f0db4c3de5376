"""Melting of an Al-Si alloy by two-phase coexistence, and what the reference would have given.

A long cell, one half crystal, the other melt, is run at constant temperature and pressure. Above the melting point
the crystal shrinks and the energy rises, below it the melt freezes and the energy falls; the temperature at which the
slope is zero is the melting point. Atoms have no time to diffuse between the phases, so this is the temperature at
which crystal and melt of one and the same composition are equally stable.

The reference is far too slow for that. But it can judge snapshots: with D = E_reference - E_ACE per atom, averaged over
bulk melt and bulk crystal at the melting point T of the ACE, first-order perturbation theory moves the melting point by
``T (<D>_melt - <D>_crystal) / (H_melt - H_crystal)``.

Usage: ``python melting.py MODEL [--reference chgnet] [--cells 4 4 6] [--temperatures 100 200 300 400 500]``
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import openmm
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from openmm import app, unit

from halberd.plugins import LearnedPotential, make_calculator, new_figure, save_figure, topology_from_atoms
from halberd.potentials import load
from halberd.samplers import mean_and_error

TIMESTEP = 2.0  # fs
EV = 96.48533212331  # kJ/mol


def crystal(cells: tuple[int, int, int], fraction: float, seed: int) -> Atoms:
    """An fcc solid solution."""
    atoms = bulk("Al", cubic=True, a=4.10) * cells
    generator = np.random.default_rng(seed)
    atoms.numbers[generator.choice(len(atoms), round(fraction * len(atoms)), replace=False)] = 14
    return atoms


def simulation_of(model, atoms: Atoms, temperature: float, seed: int, barostat: bool, frozen=()) -> app.Simulation:
    """A run at constant temperature, and with a barostat at 1 bar along each axis."""
    topology, positions = topology_from_atoms(atoms)
    system = LearnedPotential(model).createSystem(topology)
    for index in frozen:
        system.setParticleMass(int(index), 0.0)
    if barostat:
        force = openmm.MonteCarloAnisotropicBarostat((1.0, 1.0, 1.0) * unit.bar, temperature * unit.kelvin)
        force.setFrequency(20)
        force.setRandomNumberSeed(seed)
        system.addForce(force)
    integrator = openmm.LangevinMiddleIntegrator(
        temperature * unit.kelvin, 2 / unit.picosecond, TIMESTEP * unit.femtosecond
    )
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatformByName("CPU")
    simulation = app.Simulation(topology, system, integrator, platform, {"Threads": "1"})
    simulation.context.setPositions(positions)
    simulation.context.setVelocitiesToTemperature(temperature * unit.kelvin, seed)
    return simulation


def atoms_of(simulation: app.Simulation, template: Atoms) -> Atoms:
    """The structure as it is now."""
    state = simulation.context.getState(positions=True)
    atoms = template.copy()
    atoms.set_cell(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom))
    atoms.set_positions(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))
    return atoms


def energy(simulation: app.Simulation) -> float:
    """Potential energy, eV per atom."""
    value = simulation.context.getState(energy=True).getPotentialEnergy()._value
    return float(value / EV / simulation.topology.getNumAtoms())


def two_phases(model, cells, fraction: float, temperature: float, seed: int, picoseconds: float) -> Atoms:
    """A cell whose upper half has been melted while the lower one, relaxed before, was held."""
    atoms = crystal(cells, fraction, seed)
    steps = int(1000 * picoseconds / TIMESTEP)
    relaxed = simulation_of(model, atoms, temperature, seed, True)
    relaxed.step(steps)
    atoms = atoms_of(relaxed, atoms)
    height = atoms.cell.array[2, 2]
    z = (atoms.positions[:, 2] + 0.25 * height / cells[2]) % height - 0.25 * height / cells[2]
    atoms.positions[:, 2] = z
    upper = z >= 0.5 * height - 0.25 * height / cells[2]
    # Room for the melt alone: it is 6 % less dense.
    atoms.positions[upper, 2] = 0.5 * height + 1.06 * (z[upper] - 0.5 * height)
    atoms.set_cell(atoms.cell.array * [[1], [1], [1.03]])
    hot = simulation_of(model, atoms, 2500.0, seed, False, np.flatnonzero(~upper))
    hot.step(steps)
    atoms = atoms_of(hot, atoms)
    cool = simulation_of(model, atoms, 900.0, seed + 1, False, np.flatnonzero(~upper))
    cool.step(steps // 2)
    return atoms_of(cool, atoms)


def disorder(atoms: Atoms) -> tuple[float, float]:
    """Mean centrosymmetry of the lower and upper half, angstrom^2: small in a crystal, about 10 in a melt."""
    i, distance, vector = neighbor_list("idD", atoms, 4.8)
    values = np.zeros(len(atoms))
    for k in range(len(atoms)):
        near = vector[i == k][np.argsort(distance[i == k])[:12]]
        sums = ((near[:, None] + near[None]) ** 2).sum(-1)[np.triu_indices(len(near), 1)]
        values[k] = np.sort(sums)[: len(near) // 2].sum()
    upper = atoms.get_scaled_positions()[:, 2] >= 0.5
    return float(values[~upper].mean()), float(values[upper].mean())


def drift(arguments) -> tuple[float, float, float, list[float], tuple[float, float]]:
    """Slope of the energy at a temperature with its error, eV/atom/ps, the series, and the disorder at the end."""
    path, atoms, temperature, seed, picoseconds = arguments
    torch.set_num_threads(1)
    simulation = simulation_of(load(path), atoms, temperature, seed, True)
    every = int(100 / TIMESTEP)  # 0.1 ps
    simulation.step(int(1000 * min(1.0, 0.2 * picoseconds) / TIMESTEP))
    series = []
    for _ in range(max(8, int(10 * picoseconds))):
        simulation.step(every)
        series.append(energy(simulation))
    time = 0.1 * np.arange(len(series))
    slope, offset = np.polyfit(time, series, 1)
    # The slope is known as well as the difference of the two halves; fluctuations about the line are correlated.
    first, second = np.array_split(series - slope * time - offset, 2)
    errors = [mean_and_error(half)[1] for half in (first, second)]
    error = float(np.hypot(*errors) / (0.5 * (time[-1] - time[0])))
    end = disorder(atoms_of(simulation, atoms))
    return temperature, float(slope), error if np.isfinite(error) else 1e-3, series, end


def zero_crossing(temperatures, slopes, errors, seed: int = 0) -> tuple[float, float]:
    """Temperature of zero slope from a weighted line, and its standard error by resampling the slopes."""
    generator = np.random.default_rng(seed)
    x, y, s = (np.asarray(v, dtype=float) for v in (temperatures, slopes, errors))

    def crossing(values):
        b, a = np.polyfit(x, values, 1, w=1.0 / s)
        return -a / b

    centre = crossing(y)
    # Runs at one temperature differ by more than their own errors: scale these to the scatter about the line.
    b, a = np.polyfit(x, y, 1, w=1.0 / s)
    chi = np.sqrt((((y - a - b * x) / s) ** 2).sum() / max(len(x) - 2, 1))
    draws = [crossing(y + generator.normal(size=len(y)) * s * max(chi, 1.0)) for _ in range(500)]
    return float(centre), float(np.subtract(*np.percentile(draws, [84, 16])) / 2)


def snapshots(model, atoms: Atoms, temperature: float, melt: bool, seed: int, count: int) -> tuple[list[Atoms], list]:
    """Bulk configurations at a temperature and their energies, eV/atom."""
    if melt:
        hot = simulation_of(model, atoms, 2500.0, seed, False)
        hot.step(int(2000 / TIMESTEP))
        atoms = atoms_of(hot, atoms)
    simulation = simulation_of(model, atoms, temperature, seed + 1, True)
    simulation.step(int(2000 / TIMESTEP))
    frames, energies = [], []
    for _ in range(count):
        simulation.step(int(300 / TIMESTEP))
        frames.append(atoms_of(simulation, atoms))
        energies.append(energy(simulation))
    return frames, energies


def reference_shift(arguments) -> tuple[list[float], list[float]]:
    """E_reference - E_ACE and E_ACE per atom over snapshots of one phase."""
    path, calculator_name, kwargs, temperature, melt, seed, count, fraction, cells = arguments
    torch.set_num_threads(1)
    model = load(path)
    frames, energies = snapshots(model, crystal(cells, fraction, seed), temperature, melt, seed, count)
    calculator = make_calculator(calculator_name, kwargs)
    differences = []
    for atoms, ace in zip(frames, energies, strict=True):
        atoms.calc = calculator
        interaction = (
            float(model.self_energy(atoms.numbers)[0]) if model.n_columns else model.self_energy(atoms.numbers)
        )
        differences.append((atoms.get_potential_energy() - interaction) / len(atoms) - ace)
    return differences, energies


def main() -> None:
    """Find the melting point of the potential, and of the reference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--reference", help="calculator, such as chgnet; left out if not given")
    parser.add_argument("--kwargs", default='{"use_device": "cpu"}')
    parser.add_argument("--cells", type=int, nargs=3, default=[4, 4, 6])
    parser.add_argument("--bulk-cells", type=int, nargs=3, default=[3, 3, 3])
    parser.add_argument("--silicon", type=float, default=0.1, help="fraction of the atoms")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[100, 200, 300, 400, 500])
    parser.add_argument("--picoseconds", type=float, default=10.0, help="of every coexistence run")
    parser.add_argument("--snapshots", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path("melting_out"))
    arguments = parser.parse_args()
    arguments.output.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    model = load(arguments.model)
    middle = float(np.median(arguments.temperatures))
    heating = min(3.0, arguments.picoseconds)
    start = two_phases(model, tuple(arguments.cells), arguments.silicon, middle, arguments.seed, heating)
    print("{} atoms; disorder of the halves {:.1f}, {:.1f}".format(len(start), *disorder(start)), flush=True)
    with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as pool:
        tasks = [
            (arguments.model, start, t, arguments.seed + k, arguments.picoseconds)
            for k, t in enumerate(arguments.temperatures)
        ]
        runs = list(pool.map(drift, tasks))
        for temperature, slope, error, _, end in runs:
            ending = "{:.1f}, {:.1f}".format(*end)
            print(
                f"{temperature:6.0f} K: {1e3 * slope:+.3f} ± {1e3 * error:.3f} meV/atom/ps, disorder {ending}",
                flush=True,
            )
        melting, uncertainty = zero_crossing(*zip(*[run[:3] for run in runs], strict=True))
        result = {"melting_K": melting, "error_K": uncertainty, "slopes": [run[:3] for run in runs]}
        print(f"melting point of the ACE: {melting:.0f} ± {uncertainty:.0f} K", flush=True)
        if arguments.reference:
            tasks = [
                (arguments.model, arguments.reference, json.loads(arguments.kwargs), melting, melt, arguments.seed,
                 arguments.snapshots, arguments.silicon, tuple(arguments.bulk_cells))
                for melt in (True, False)
            ]  # fmt: skip
            (melt, melt_energy), (solid, solid_energy) = pool.map(reference_shift, tasks)
            heat = np.mean(melt_energy) - np.mean(solid_energy)
            shift = melting * (np.mean(melt) - np.mean(solid)) / heat
            scatter = np.sqrt((np.var(melt) + np.var(solid)) / max(arguments.snapshots // 4, 1))  # correlated
            error = float(np.hypot(uncertainty, melting * scatter / heat))
            result.update(heat_of_fusion_eV=float(heat), reference_K=float(melting + shift), reference_error_K=error)
            print(f"heat of fusion {1e3 * heat:.0f} meV/atom; reference minus ACE {1e3 * np.mean(melt):+.2f} (melt), "
                  f"{1e3 * np.mean(solid):+.2f} (crystal) meV/atom")  # fmt: skip
            print(f"melting point of the reference: {melting + shift:.0f} ± {error:.0f} K", flush=True)
    (arguments.output / "melting.json").write_text(json.dumps(result, indent=1))
    figure, axes = new_figure(2, width=4.0, height=3.2)
    for temperature, _, _, series, _ in runs:
        axes[0, 0].plot(
            0.1 * np.arange(len(series)), 1e3 * (np.array(series) - series[0]), label=f"{temperature:.0f} K"
        )
    axes[0, 0].set(xlabel="time, ps", ylabel="energy − first, meV/atom")
    axes[0, 0].legend(frameon=False, fontsize=7)
    x, y, s = np.array([run[:3] for run in runs]).T
    axes[0, 1].errorbar(x, 1e3 * y, 1e3 * s, fmt="o", ms=4)
    b, a = np.polyfit(x, y, 1, w=1 / s)
    axes[0, 1].plot(x, 1e3 * (a + b * x), color="0.6")
    axes[0, 1].axhline(0, color="0.6", linewidth=0.5)
    axes[0, 1].axvspan(melting - uncertainty, melting + uncertainty, alpha=0.2)
    axes[0, 1].set(xlabel="temperature, K", ylabel="slope, meV/atom/ps", title=f"{melting:.0f} ± {uncertainty:.0f} K")
    save_figure(figure, arguments.output / "melting.png")


if __name__ == "__main__":
    main()
