"""Does a model hold in a liquid? Boxes of molecules at constant pressure, checked against GFN2-xTB.

    python examples/pretrain/liquids.py MODEL --liquid water --molecules 64 --picoseconds 200
    python examples/pretrain/liquids.py MODEL --liquid ethanol --molecules 24 --picoseconds 200

Leaves in ``liquids_out/``: the run of ``halberd md``, which goes on when it was ended; ``LIQUID.json`` with density,
bonds that broke, and errors of forces along the run; ``LIQUID.png`` with density and radial distribution functions.
Forces are compared on balls of molecules cut out of the box, in open space: GFN2-xTB knows boxes
of one point in reciprocal space only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import ase.io
import matplotlib as mpl
import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed
from hal_inputs import pressed
from make_data import calculator, write_whole
from structures import GRAMS, KEPT_ASIDE, LIQUIDS, bonds, box, solvents

from halberd.plugins import HalberdCalculator
from halberd.potentials import StabilityError, load
from halberd.samplers import MDSettings, run_md

mpl.use("Agg")
import matplotlib.pyplot as plt

#: A bond that is longer than this times its length in the molecule alone is broken.
BROKEN = 1.5
#: Pairs of elements to draw, by liquid; of carbon otherwise.
PAIRS = {"water": ("O", "O"), "methanol": ("C", "O"), "ethanol": ("C", "O")}


def box_of(name: str, count: int, seed: int, model: str) -> Atoms:
    """Molecules a tenth below the density of the liquid: placed with room between them, pressed together by the model.

    At that density random places overlap, and molecules that overlap react.
    """
    generator = np.random.default_rng(seed)
    density = 0.9 * (LIQUIDS | KEPT_ASIDE)[name][1]
    loose, owner = box([solvents()[name]] * count, 0.4 * density, generator)
    return pressed(loose, owner, 2.5, HalberdCalculator(load(model)))


def run(
    model: str, name: str, molecules: int, seed: int, folder: Path, picoseconds: float, temperature: float
) -> tuple[Path, str | None]:
    """Relax, heat and run at one bar; where the run is, and how it blew up if it did."""
    folder.mkdir(parents=True, exist_ok=True)
    start = folder / f"{name}.xyz"
    if not start.exists():
        write_whole(start, [box_of(name, molecules, seed, model)])
    output = folder / name
    settings = MDSettings(
        structure=str(start),
        model=model,
        output=str(output),
        ensemble="NPT",
        temperature=temperature,
        # Averages of positions do not depend on masses: heavy hydrogens take longer steps.
        hydrogen_mass=3.0,
        timestep=1.0,
        steps=int(1000 * picoseconds),
        minimize=True,
        # Heated with short steps, then time for hydrogen bonds to form before the volume is let go.
        equilibration=[
            {"ensemble": "NVT", "steps": 4000, "temperature": temperature, "timestep": 0.25},
            {"ensemble": "NVT", "steps": 5000, "temperature": temperature},
        ],
        report_interval=100,
        checkpoint_interval=1000,
        reporters=["csv", "extxyz"],
    )
    try:
        run_md(settings, start_or_restart=True)
    except StabilityError as error:
        return output, str(error)
    return output, None


def broken(frames: list[Atoms], molecule: Atoms) -> int:
    """Bonds that are broken in any frame, the first one included, as compared to the molecule alone."""
    size = len(molecule)
    before = np.array([molecule.get_distance(i, j) for i, j in bonds(molecule)])
    pairs = np.array([(i + k, j + k) for k in range(0, len(frames[0]), size) for i, j in bonds(molecule)])
    gone = np.zeros(len(pairs), bool)
    for frame in frames:
        vectors = frame.positions[pairs[:, 1]] - frame.positions[pairs[:, 0]]
        edge = frame.cell.lengths()
        vectors -= np.round(vectors / edge) * edge
        gone |= np.linalg.norm(vectors, axis=1) > BROKEN * np.tile(before, len(pairs) // len(before))
    return int(gone.sum())


def whole(atoms: Atoms, size: int) -> np.ndarray:
    """Positions with every molecule in one piece."""
    positions = atoms.positions.copy().reshape(-1, size, 3)
    edge = atoms.cell.lengths()
    away = positions - positions[:, :1]
    return (positions[:, :1] + away - np.round(away / edge) * edge).reshape(-1, 3)


def ball(atoms: Atoms, size: int, centre: int, n_atoms: int) -> Atoms:
    """The molecules nearest to one of them, in open space."""
    edge = atoms.cell.lengths()
    positions = whole(atoms, size).reshape(-1, size, 3)
    middles = positions.mean(axis=1)
    away = middles - middles[centre]
    images = np.round(away / edge) * edge
    order = np.argsort(np.linalg.norm(away - images, axis=1))[: max(2, n_atoms // size)]
    placed = (positions - images[:, None])[order].reshape(-1, 3)
    numbers = atoms.numbers.reshape(-1, size)[order].ravel()
    return Atoms(numbers, placed - placed.mean(axis=0))


def force_errors(model: str, frames: list[Atoms], size: int, seed: int, count: int = 40) -> dict[str, float]:
    """Root mean square errors of forces on balls of molecules, and of no forces."""
    generator = np.random.default_rng(seed)
    own = HalberdCalculator(load(model))
    differences, forces, energies = [], [], []
    for number in np.linspace(0, len(frames) - 1, count).astype(int):
        atoms = ball(frames[number], size, int(generator.integers(len(frames[number]) // size)), 60)
        atoms.calc = calculator()
        try:
            reference, energy = atoms.get_forces(), atoms.get_potential_energy()
        except CalculationFailed:  # of a box that fell apart
            continue
        found = own.evaluate(atoms)
        differences.append((found["forces"] - reference).ravel())
        forces.append(reference.ravel())
        energies.append((found["energy"] - energy) / len(atoms))
    errors, null = (float(np.sqrt((np.concatenate(parts) ** 2).mean())) for parts in (differences, forces))
    return {"forces": errors, "null": null, "energy_per_atom": float(np.abs(energies).mean())}


def distribution(
    frames: list[Atoms], pair: tuple[str, str], size: int, bins: int = 150
) -> tuple[np.ndarray, np.ndarray]:
    """Radial distribution function between molecules."""
    reach = min(frame.cell.lengths().min() for frame in frames) / 2
    edges = np.linspace(0, reach, bins + 1)
    counts, expected = np.zeros(bins), np.zeros(bins)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    for frame in frames:
        symbols = np.array(frame.get_chemical_symbols())
        left, right = (np.flatnonzero(symbols == element) for element in pair)
        vectors = frame.positions[right][None] - frame.positions[left][:, None]
        edge = frame.cell.lengths()
        vectors -= np.round(vectors / edge) * edge
        other = left[:, None] // size != right[None] // size
        counts += np.histogram(np.linalg.norm(vectors, axis=2)[other], edges)[0]
        expected += other.sum() / frame.get_volume() * shells
    return (edges[1:] + edges[:-1]) / 2, counts / expected


def main() -> None:
    """Run and look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--liquid", default="water", choices=list(LIQUIDS | KEPT_ASIDE))
    parser.add_argument("--molecules", type=int, default=64)
    parser.add_argument("--picoseconds", type=float, default=200.0)
    parser.add_argument("--temperature", type=float, default=300.0)
    parser.add_argument("--output", type=Path, default=Path("liquids_out"))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    name, size = arguments.liquid, len(solvents()[arguments.liquid])
    output, blown_up = run(
        arguments.model,
        name,
        arguments.molecules,
        arguments.seed,
        folder=arguments.output,
        picoseconds=arguments.picoseconds,
        temperature=arguments.temperature,
    )
    if not (output / "frames.extxyz").exists():
        print(f"blew up while it was heated: {blown_up}")
        return
    frames = ase.io.read(output / "frames.extxyz", ":")
    densities = np.array([frame.get_masses().sum() * GRAMS / frame.get_volume() for frame in frames])
    later = frames[len(frames) // 4 :]
    result = {
        "picoseconds": 0.1 * (len(frames) - 1),
        "blown_up": blown_up,
        "density": float(densities[len(frames) // 4 :].mean()),
        "density_spread": float(densities[len(frames) // 4 :].std()),
        "experiment": (LIQUIDS | KEPT_ASIDE)[name][1],
        "broken_bonds": broken(frames, solvents()[name]),
        "errors": force_errors(arguments.model, frames, size, arguments.seed),
    }
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    axes[0].plot(0.1 * np.arange(len(densities)), densities)
    axes[0].axhline(result["experiment"], color="0.6", linestyle="--", label="experiment")
    axes[0].set(xlabel="time, ps", ylabel="density, g/cm³")
    axes[0].legend(frameon=False)
    pair = PAIRS.get(name, ("C", "C"))
    axes[1].plot(*distribution(later, pair, size))
    axes[1].set(xlabel="distance, Å", ylabel=f"g({pair[0]}–{pair[1]}) between molecules")
    figure.savefig(arguments.output / f"{name}.png", dpi=150)
    text = json.dumps(result, indent=2)
    (arguments.output / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
