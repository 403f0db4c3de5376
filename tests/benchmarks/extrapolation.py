"""What a linear ACE fitted to a molecule at 300 K says of torsions, broken bonds and 1000 K, where it has no data.

    python tests/benchmarks/extrapolation.py CH3CH2OH CH3COCH3 mine.xyz [--out OUT] [--distortions 5 0]

Molecules by their names in ASE's G2 set, or a file's first structure. Each runs for 5 ps at 300 K with GFN2-xTB, which
gives 240 frames for a fit by the plain command and 60 for a test; then, from the minimum, every bond that is in no ring
is turned in steps of 10 degrees and stretched to 2.2 times its length, with nothing else relaxed, and compared with
GFN2-xTB's closed shell; and so are the forces of 60 frames of a run at 1000 K. This with what is known of molecules
without a calculation and without it (``--distortions``, see ``halberd fit``). The null row is an energy that stays that
of the minimum. ``OUT/NAME.npz`` holds the reference, which is not computed again; ``OUT/NAME.png`` shows the scans.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import matplotlib as mpl
import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS

from halberd.plugins import FitSettings, HalberdCalculator, fit_file
from halberd.potentials.ace.distorted import bridges

mpl.use("Agg")
import matplotlib.pyplot as plt

FRAMES, TESTED, STRIDE = 300, 60, 15
ANGLES = np.arange(0.0, 360.0, 10.0)
LENGTHS = np.arange(0.8, 2.21, 0.05)


def reference():
    """GFN2-xTB."""
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", verbosity=0)


def energy_of(atoms: Atoms) -> float:
    """By GFN2-xTB; no number if it does not converge."""
    atoms.calc = reference()
    try:
        return float(atoms.get_potential_energy())
    except Exception:  # tblite raises its own types
        return float("nan")


def scans_of(minimum: Atoms) -> list[tuple[str, np.ndarray]]:
    """Kind and positions of every scan."""
    found = []
    for i, j, side in bridges(minimum):
        if i > j or 1 in minimum.numbers[[i, j]]:
            continue
        axis = minimum.positions[j] - minimum.positions[i]
        if 1 < len(side) < len(minimum) - 1:
            turned = []
            for angle in ANGLES:
                part = minimum[side]
                part.rotate(angle, axis, center=minimum.positions[i])
                turned.append(minimum.positions.copy())
                turned[-1][side] = part.positions
            found.append(("turned", np.array(turned)))
        stretched = np.repeat(minimum.positions[None], len(LENGTHS), axis=0)
        stretched[:, side] += (LENGTHS - 1.0)[:, None, None] * axis
        found.append(("stretched", stretched))
    return found


def ran(atoms: Atoms, temperature: float, count: int) -> list[np.ndarray]:
    """Positions, energies and forces along a run."""
    generator = np.random.default_rng(1)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=generator)
    step = 1.0 if temperature < 500 else 0.5
    run = Langevin(atoms, step * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=generator)
    run.run(20 * STRIDE)
    frames = []
    for _ in range(count):
        run.run(STRIDE)
        frames.append((atoms.positions.copy(), atoms.get_potential_energy(), atoms.get_forces()))
    return [np.array(each) for each in zip(*frames, strict=True)]


def reference_of(name: str, path: Path) -> dict[str, np.ndarray]:
    """Minimum, frames at 300 K and scans of a molecule, with labels."""
    if not path.exists():
        atoms = ase.io.read(name, 0) if Path(name).exists() else molecule(name)
        atoms = Atoms(atoms.numbers, atoms.positions)
        atoms.calc = reference()
        BFGS(atoms, logfile=None).run(fmax=0.01)
        minimum, lowest = atoms.copy(), atoms.get_potential_energy()
        stored = {f"frame_{k}": each for k, each in enumerate(ran(atoms, 300.0, FRAMES))}
        atoms.positions = minimum.positions
        stored |= {f"hot_{k}": each for k, each in enumerate(ran(atoms, 1000.0, TESTED))}
        for n, (kind, positions) in enumerate(scans_of(minimum)):
            energies = [energy_of(Atoms(minimum.numbers, each)) - lowest for each in positions]
            stored |= {f"{kind}_{n}_positions": positions, f"{kind}_{n}_energies": np.array(energies)}
        np.savez(path, numbers=minimum.numbers, minimum=minimum.positions, **stored)
    return dict(np.load(path))


def frames_of(data: dict[str, np.ndarray]) -> list[Atoms]:
    """Frames at 300 K with labels."""
    frames = []
    for positions, energy, forces in zip(*(data[f"frame_{k}"] for k in range(3)), strict=True):
        frames.append(Atoms(data["numbers"], positions, info={"REF_energy": energy}))
        frames[-1].arrays["REF_forces"] = forces
    return frames


def scanned(model: Path, data: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Energies along all scans above that of the minimum, and their standard deviations, eV."""
    calculator = HalberdCalculator(model)
    lowest = calculator.evaluate(Atoms(data["numbers"], data["minimum"]))["energies_committee"]
    found = {}
    for key in data:
        if key.endswith("_positions"):
            members = [calculator.evaluate(Atoms(data["numbers"], each))["energies_committee"] for each in data[key]]
            differences = np.array(members) - lowest
            found[key.removesuffix("_positions")] = differences.mean(axis=1), differences.std(axis=1)
    return found


def hot_error(model: Path, data: dict[str, np.ndarray]) -> float:
    """Mean absolute error of forces at 1000 K, meV/angstrom."""
    calculator = HalberdCalculator(model)
    found = [calculator.evaluate(Atoms(data["numbers"], each))["forces"] for each in data["hot_0"]]
    return 1e3 * float(np.abs(np.array(found) - data["hot_2"]).mean())


def row_of(truth: dict[str, np.ndarray], found: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Largest errors turned and stretched, lowest energy, share of errors within two sigma."""
    worst = {
        kind: max(
            (float(np.nanmax(np.abs(found[key][0] - truth[key]))) for key in truth if key.startswith(kind)), default=0
        )
        for kind in ("turned", "stretched")
    }
    errors = np.concatenate([np.abs(found[key][0] - truth[key]) for key in truth])
    sigma = np.concatenate([found[key][1] for key in truth])
    seen = np.isfinite(errors)
    lowest = min(float(energies.min()) for energies, _ in found.values())
    within = 100 * np.mean(errors[seen] < 2.0 * sigma[seen] + 1e-3)
    return f"{worst['turned']:.2f}, {worst['stretched']:.2f} | {lowest:.2f} | {within:.0f}"


def compared(name: str, out: Path, distortions: list[int], threads: int) -> None:
    """Print the rows of a molecule and draw its scans."""
    label = Path(name).stem
    data = reference_of(name, out / f"{label}.npz")
    frames = frames_of(data)
    for part, chosen in (("train", frames[:-TESTED]), ("test", frames[-TESTED:])):
        ase.io.write(out / f"{label}-{part}.xyz", chosen, format="extxyz")
    truth = {key.removesuffix("_energies"): data[key] for key in data if key.endswith("_energies")}
    curves = {"GFN2-xTB": truth}
    for count in distortions:
        model = out / f"{label}-{count}.pt"
        report = fit_file(
            FitSettings(
                train=str(out / f"{label}-train.xyz"),
                test=str(out / f"{label}-test.xyz"),
                output=str(model),
                distortions=count,
                threads=threads,
                plots=False,
            )
        )
        found = scanned(model, data)
        curves[f"{count} distortions" if count else "none"] = {key: energies for key, (energies, _) in found.items()}
        test = report["test"]
        errors = f"{1e3 * len(data['numbers']) * test['energy']['mae']:.1f}, {1e3 * test['forces']['mae']:.1f}"
        hot = f"{hot_error(model, data):.0f}"
        print(f"| {label} | {count} | {report['n_basis']} | {errors} | {hot} | {row_of(truth, found)} |", flush=True)
    nothing = {key: (np.zeros_like(energies), np.zeros_like(energies)) for key, energies in truth.items()}
    hot = f"{1e3 * float(np.abs(data['hot_2']).mean()):.0f}"
    print(f"| {label} | null | | | {hot} | {row_of(truth, nothing)} |", flush=True)
    figure, axes = plt.subplots(1, len(truth), figsize=(2.4 * len(truth), 2.4), layout="constrained", squeeze=False)
    for axis, key in zip(axes[0], truth, strict=True):
        for title, energies in curves.items():
            axis.plot(ANGLES if key.startswith("turned") else LENGTHS, energies[key], label=title)
        axis.set(title=key.split("_")[0], ylim=(-0.5, 1.5 * np.nanmax(truth[key]) + 0.5))
        axis.set_xlabel("degrees" if key.startswith("turned") else "of its length")
    axes[0, 0].set_ylabel("energy, eV")
    axes[0, 0].legend(fontsize=6)
    figure.savefig(out / f"{label}.png", dpi=130)
    plt.close(figure)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("molecules", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("extrapolation"))
    parser.add_argument("--distortions", nargs="+", type=int, default=[5, 0])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)
    print("| molecule | distortions | functions | test MAE, meV, meV/A | at 1000 K, meV/A ", end="")
    print("| largest error turned, stretched, eV | lowest, eV | within 2 sigma, % |\n|", " --- |" * 8)
    for name in arguments.molecules:
        compared(name, arguments.out, arguments.distortions, arguments.threads)


if __name__ == "__main__":
    main()
