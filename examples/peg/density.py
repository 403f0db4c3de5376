"""Density of polyethylene glycol from a potential that has only seen single chains.

A box of chains at low density is compressed at 450 K and 2000 bar for the first third of the run, then kept at 1 bar;
the density is the mean over the last third. Experiment for chains of about 8 monomers (PEG 400): 1.13 g/cm^3 at 293 K.

What to expect: the potential knows how atoms of one chain see each other, folded chains included, up to its cutoff.
Chains attract one another through the same terms; dispersion beyond the pair cutoff is missing, and GFN2-xTB itself is
not a density functional to set densities by. The number is a test of transfer, not a prediction.

Usage: ``python density.py MODEL [--monomers 8] [--chains 6] [--picoseconds 60]``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ase.io
import numpy as np
import openmm
import torch
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from chains import box
from openmm import app, unit

from halberd.plugins import (
    ExtXYZReporter,
    LearnedPotential,
    ProgressReporter,
    new_figure,
    save_figure,
    topology_from_atoms,
)
from halberd.samplers import mean_and_error

EXPERIMENT = 1.13  # g/cm^3, PEG 400 at 293 K


def bonded_pairs(atoms: Atoms) -> list[tuple[int, int]]:
    """Pairs closer than 1.25 times the sum of their covalent radii."""
    i, j, d = neighbor_list("ijd", atoms, natural_cutoffs(atoms, mult=1.25))
    return [(int(a), int(b)) for a, b, _ in zip(i, j, d, strict=True) if a < b]


def broken_bonds(simulation: app.Simulation, start: Atoms) -> int:
    """Bonds of the start that are longer than 1.6 times the sum of covalent radii now."""
    state = simulation.context.getState(positions=True)
    now = start.copy()
    now.set_cell(state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom))
    now.set_positions(state.getPositions(asNumpy=True).value_in_unit(unit.angstrom))
    radii = natural_cutoffs(now, mult=1.6)
    return int(sum(now.get_distance(i, j, mic=True) > radii[i] + radii[j] for i, j in bonded_pairs(start)))


def set_conditions(simulation: app.Simulation, temperature: float, pressure: float) -> None:
    """Temperature (K) of thermostat and barostat, and pressure (bar)."""
    simulation.integrator.setTemperature(temperature * unit.kelvin)
    simulation.context.setParameter(openmm.MonteCarloBarostat.Temperature(), temperature)
    simulation.context.setParameter(openmm.MonteCarloBarostat.Pressure(), pressure)


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--monomers", type=int, default=8)
    parser.add_argument("--chains", type=int, default=6)
    parser.add_argument("--start-density", type=float, default=0.2, help="g/cm^3")
    parser.add_argument("--temperature", type=float, default=293.0, help="K")
    parser.add_argument("--picoseconds", type=float, default=60.0)
    parser.add_argument("--timestep", type=float, default=1.0, help="fs, with hydrogens of 4 dalton")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("density_out"))
    arguments = parser.parse_args()
    arguments.output.mkdir(exist_ok=True)
    torch.set_num_threads(arguments.threads)
    atoms = box(arguments.monomers, arguments.chains, arguments.start_density, arguments.seed)
    ase.io.write(arguments.output / "start.extxyz", atoms)
    topology, positions = topology_from_atoms(atoms)
    system = LearnedPotential(arguments.model).createSystem(topology, skin=1.0)
    # Heavier hydrogens move slower and allow a longer step; averages do not depend on masses.
    carbon_like = [k for k, z in enumerate(atoms.numbers) if z != 1]
    for k in np.flatnonzero(atoms.numbers == 1):
        near = carbon_like[int(np.argmin(atoms.get_distances(int(k), carbon_like, mic=True)))]
        system.setParticleMass(near, system.getParticleMass(near) - 3.0 * unit.dalton)
        system.setParticleMass(int(k), system.getParticleMass(int(k)) + 3.0 * unit.dalton)
    # Bonds of no strength tell the barostat what a molecule is: it moves molecules apart instead of stretching them.
    bonds = openmm.HarmonicBondForce()
    for i, j in bonded_pairs(atoms):
        bonds.addBond(i, j, 0.1, 0.0)
    bonds.setUsesPeriodicBoundaryConditions(True)
    system.addForce(bonds)
    barostat = openmm.MonteCarloBarostat(2000 * unit.bar, arguments.temperature * unit.kelvin, 10)
    barostat.setRandomNumberSeed(arguments.seed)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(
        arguments.temperature * unit.kelvin, 2 / unit.picosecond, arguments.timestep * unit.femtosecond
    )
    integrator.setRandomNumberSeed(arguments.seed)
    simulation = app.Simulation(topology, system, integrator, openmm.Platform.getPlatformByName("CPU"))
    simulation.context.setPositions(positions)
    simulation.minimizeEnergy(maxIterations=200)
    simulation.context.setVelocitiesToTemperature(arguments.temperature * unit.kelvin, arguments.seed)
    steps = int(1000 * arguments.picoseconds / arguments.timestep)
    every = max(1, steps // 300)
    simulation.reporters.append(ProgressReporter(steps, "NPT"))
    simulation.reporters.append(ExtXYZReporter(arguments.output / "frames.extxyz", max(1, steps // 30), forces=False))
    mass = atoms.get_masses().sum()
    time, density = [], []
    set_conditions(simulation, 450.0, 2000.0)
    while simulation.currentStep < steps:
        if simulation.currentStep >= steps // 3:
            set_conditions(simulation, arguments.temperature, 1.0)
        simulation.step(every)
        state = simulation.context.getState()
        time.append(state.getTime().value_in_unit(unit.picosecond))
        density.append(mass / 602.214 / state.getPeriodicBoxVolume()._value)
    for reporter in simulation.reporters:
        reporter.close()
    value, error = mean_and_error(np.array(density[2 * len(density) // 3 :]))
    broken = broken_bonds(simulation, atoms)
    if broken:
        print(f"{broken} bonds broke: the potential is not to be trusted under these conditions")
    print(f"{len(atoms)} atoms, {arguments.temperature:g} K: {value:.3f} ± {error:.3f} g/cm3, experiment {EXPERIMENT}")
    result = {
        "broken_bonds": broken,
        "density_g_cm3": value,
        "error": None if np.isnan(error) else error,
        "experiment_g_cm3": EXPERIMENT,
    }
    (arguments.output / "density.json").write_text(json.dumps(result, indent=1))
    figure, axes = new_figure(1, width=5.5, height=3.0)
    axes[0, 0].plot(time, density)
    axes[0, 0].axhline(EXPERIMENT, color="0.5", linestyle="--", label="experiment, PEG 400")
    axes[0, 0].set(xlabel="time, ps", ylabel="density, g/cm³")
    axes[0, 0].legend(frameon=False)
    save_figure(figure, arguments.output / "density.png")


if __name__ == "__main__":
    main()
