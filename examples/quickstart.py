"""Quickstart: from a SMILES string to an annotated trajectory, in about a minute on two cores.

    python examples/quickstart.py                          # acetamide
    python examples/quickstart.py --smiles CCO --steps 4000
    python examples/quickstart.py --file molecule.sdf

A molecule is embedded in three dimensions, relaxed with the pretrained potential, and heated in OpenMM through
TorchForce. The output folder then holds

    topology.pdb, trajectory.dcd   for mdtraj, VMD, PyMOL ...
    log.csv                        energies and temperature against time
    frames.extxyz                  frames with energy and forces, for ASE and for fitting
    quickstart.png                 energy, temperature and RMSD in one figure
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mdtraj
import numpy as np
from ase import Atoms
from ase.optimize import LBFGS
from openmm import LangevinMiddleIntegrator, app, unit
from rich.console import Console
from rich.table import Table

from halberd.plugins import (
    ExtXYZReporter,
    HalberdCalculator,
    LearnedPotential,
    ProgressReporter,
    ThermoReporter,
    run_plot,
    topology_from_atoms,
)
from halberd.samplers import mean_and_error, read_log

console = Console()


def molecule_from_smiles(smiles: str, seed: int = 1) -> Atoms:
    """Embed a molecule in three dimensions with RDKit."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise SystemExit(f"'{smiles}' is not a SMILES string that RDKit understands")
    mol = Chem.AddHs(mol)
    AllChem.EmbedMolecule(mol, randomSeed=seed)
    return Atoms([a.GetSymbol() for a in mol.GetAtoms()], positions=mol.GetConformer().GetPositions())


def main() -> None:
    """Run the quickstart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--smiles", default="CC(N)=O", help="molecule of H, C, N, O, F")
    source.add_argument("--file", help="any structure file that ASE reads")
    parser.add_argument("--steps", type=int, default=2000, help="steps of 0.5 fs")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--output", type=Path, default=Path("quickstart_out"))
    arguments = parser.parse_args()
    out = arguments.output
    out.mkdir(parents=True, exist_ok=True)

    # 1. A real molecule, relaxed with the learned potential.
    if arguments.file:
        import ase.io

        atoms = ase.io.read(arguments.file)
    else:
        atoms = molecule_from_smiles(arguments.smiles)
    atoms.pbc = False
    atoms.calc = HalberdCalculator("gfn2-chnof", precision="double")
    before = atoms.get_potential_energy()
    relaxation = LBFGS(atoms, logfile=None)
    relaxation.run(fmax=0.02, steps=300)
    console.print(
        f"{atoms.get_chemical_formula()}: relaxed in {relaxation.get_number_of_steps()} steps, "
        f"{before - atoms.get_potential_energy():.3f} eV down, "
        f"largest force {np.abs(atoms.get_forces()).max():.3f} eV/Å"
    )

    # 2. OpenMM: a System in which the model computes everything.
    topology, positions = topology_from_atoms(atoms)
    system = LearnedPotential("gfn2-chnof", threads=2).createSystem(topology)
    integrator = LangevinMiddleIntegrator(
        arguments.temperature * unit.kelvin, 2.0 / unit.picosecond, 0.5 * unit.femtosecond
    )
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(topology, system, integrator)
    simulation.context.setPositions(positions)
    simulation.context.setVelocitiesToTemperature(arguments.temperature * unit.kelvin, 1)

    # A minimum holds no potential energy to share: bring it to temperature with a strong thermostat first.
    integrator.setFriction(50 / unit.picosecond)
    simulation.step(500)
    integrator.setFriction(2 / unit.picosecond)
    simulation.currentStep = 0
    simulation.context.setTime(0)

    # 3. Run, with ordinary reporters.
    with open(out / "topology.pdb", "w", encoding="utf-8") as handle:
        app.PDBFile.writeFile(topology, positions * unit.nanometer, handle)
    frames = ExtXYZReporter(out / "frames.extxyz", 50)
    log = ThermoReporter(str(out / "log.csv"), 10)
    bar = ProgressReporter(arguments.steps, f"NVT at {arguments.temperature:g} K")
    simulation.reporters += [log, app.DCDReporter(str(out / "trajectory.dcd"), 10), frames, bar]
    simulation.step(arguments.steps)
    for reporter in (frames, log, bar):
        reporter.close()
    del simulation

    # 4. Look at it.
    columns = read_log(out / "log.csv")
    trajectory = mdtraj.load(out / "trajectory.dcd", top=out / "topology.pdb")
    reference = mdtraj.Trajectory(positions[None].astype(np.float32), trajectory.topology)
    rmsd = mdtraj.rmsd(trajectory, reference) * 10
    time = columns["time_ps"]
    run_plot(
        columns,
        out / "quickstart.png",
        f"{atoms.get_chemical_formula()}, NVT at {arguments.temperature:g} K, gfn2-chnof",
        arguments.temperature,
        extra={"RMSD from the minimum, Å": (time, rmsd)},
    )
    table = Table(title="what happened")
    table.add_column("quantity")
    table.add_column("mean", justify="right")
    table.add_column("standard error", justify="right")
    for title, values in {
        "potential energy, kJ/mol": columns["potential_kj_mol"],
        "temperature, K": columns["temperature_K"],
        "RMSD, Å": rmsd,
    }.items():
        mean, error = mean_and_error(values)
        table.add_row(title, f"{mean:.2f}", f"{error:.2f}")
    console.print(table)
    console.print(f"files in {out}/: " + ", ".join(sorted(path.name for path in out.iterdir())))


if __name__ == "__main__":
    main()
