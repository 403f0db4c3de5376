"""Fit the published benchmark sets with ``halberd fit`` and print test errors beside the published ones.

Usage: ``python fit_accuracy.py DATA [--only Si Cu Ni Li ethanol aspirin Si_tiny TiAl] [--degree 16,12,8] [--out OUT]``
where DATA holds ``zuo2020/``, ``rmd17/``, ``si_tiny/`` and ``tial/``. Every fit is one command, which is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import ase.io
import numpy as np

KCAL_PER_MOL = 0.0433641153087705  # eV
#: Test MAE of GAP: meV/atom, eV/angstrom (Zuo et al. 2020).
GAP = {"Ni": (0.42, 0.02), "Cu": (0.46, 0.01), "Li": (0.49, 0.01), "Si": (2.91, 0.07)}
#: MAE of linear ACE: meV per molecule, meV/angstrom (Kovacs et al. 2021).
LINEAR_ACE = {"ethanol": (1.2, 7.3), "aspirin": (6.1, 17.9)}


def fit(arguments: list[str]) -> dict:
    command = ["fit", *arguments, "--json"]
    print("  halberd " + " ".join(Path(a).name if a.startswith("/") else a for a in command), flush=True)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "halberd.plugins.commands.app", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        sys.exit(result.stderr)
    report = json.loads(result.stdout)
    seconds = report["seconds"]
    print(
        f"  {report['n_basis']} functions, {report['n_rows']} rows, {seconds['total']:.0f} s "
        f"(assemble {seconds['assemble']:.0f}, solve {seconds['solve']:.0f}), {report['peak_memory_mb']:.0f} MB"
    )
    return report


def spread_of(report: dict) -> str:
    """Share of test labels within one sigma, and rank correlation; one sigma for all has 68 % and 0."""
    sigma = report["test"].get("sigma", {})
    return ", ".join(
        f"{name} {100 * row['within_one']:.0f} % within, rank {row['rank']:.2f}" for name, row in sigma.items()
    )


def left_out(report: dict) -> str:
    """Errors of training frames that were left out, with standard errors."""
    rows = report["leave_one_out"]
    if "forces" not in rows or "energy" not in rows:
        return ""
    energy, forces = rows["energy"], rows["forces"]
    return (
        f"left out RMSE {1e3 * energy['rmse']:.2f} ± {1e3 * energy['rmse_error']:.2f} meV/atom, "
        f"{forces['rmse']:.4f} ± {forces['rmse_error']:.4f} eV/A"
    )


def zuo(data: Path, element: str, out: Path) -> None:
    """The plain command."""
    files = [str(data / f"zuo2020/{element}_{part}.xyz") for part in ("train", "test")]
    report = fit([files[0], "--test", files[1], "--forces-key", "force", "-o", str(out / f"{element}.pt")])
    energy, forces = 1e3 * report["test"]["energy"]["mae"], report["test"]["forces"]["mae"]
    test = ase.io.read(files[1], ":")
    frames = ase.io.read(files[0], ":")
    mean = np.mean([atoms.get_potential_energy() / len(atoms) for atoms in frames])
    null = np.mean([abs(atoms.get_potential_energy() / len(atoms) - mean) for atoms in test])
    no_force = np.mean(np.abs(np.concatenate([atoms.arrays["force"].ravel() for atoms in test])))
    print(
        f"| {element} | {energy:.2f} meV/atom | {forces:.4f} eV/A | GAP {GAP[element][0]}, {GAP[element][1]} | "
        f"null {1e3 * null:.1f}, {no_force:.2f} |\n  {spread_of(report)}; RMSE "
        f"{1e3 * report['test']['energy']['rmse']:.2f}, {report['test']['forces']['rmse']:.4f}; {left_out(report)}"
    )


def rmd17(data: Path, name: str, out: Path, degree: str | None) -> None:
    """Many functions, of high angular momenta: bonds hardly change their length."""
    files = {part: str(data / f"rmd17/rmd17_{name}_{part}_01.npz") for part in ("train", "test")}
    report = fit(
        [
            *(files["train"], "--test", files["test"], "--energy-unit", "kcal/mol", "--e0", "average"),
            *("--order", "3", "--degree", degree or "18,14,10", "--l-weight", "1", "--cutoff", "4.5"),
            *("-o", str(out / f"{name}.pt")),
        ]
    )
    test = np.load(files["test"])
    size = len(test["nuclear_charges"])
    mean = np.load(files["train"])["energies"].mean()
    null = 1e3 * KCAL_PER_MOL * np.abs(test["energies"] - mean).mean()
    no_force = 1e3 * KCAL_PER_MOL * np.abs(test["forces"]).mean()
    errors = report["test"]
    print(
        f"| {name} | {1e3 * size * errors['energy']['mae']:.2f} meV | {1e3 * errors['forces']['mae']:.2f} meV/A | "
        f"linear ACE {LINEAR_ACE[name]} | null {null:.0f}, {no_force:.0f} |\n  {spread_of(report)}; {left_out(report)}"
    )


def training_errors(report: dict, name: str, scale: tuple[float, float, float] = (1e3, 1.0, 1e3)) -> None:
    rows = {"all": report["train"], **report["train"]["per_config_type"]}
    for group, row in rows.items():
        shown = [
            f"{s * row[p]['rmse']:.4g}" for p, s in zip(("energy", "forces", "virial"), scale, strict=True) if p in row
        ]
        print(f"| {name} {group} | RMSE meV/atom, eV/A, meV/atom: {', '.join(shown)} |")


def si_tiny(data: Path, out: Path) -> None:
    for solver in (["--solver", "blr", "--prior-power", "2"], ["--solver", "ridge", "--ridge", "1e-3"]):
        report = fit(
            [
                *(str(data / "si_tiny/Si_tiny.xyz"), "--degree", "12", "--energy-key", "dft_energy"),
                *("--forces-key", "dft_force", "--virial-key", "dft_virial", "--config-weight", "liq=10,0.66,0.25"),
                *(*solver, "--committee", "0", "-o", str(out / "si_tiny.pt")),
            ]
        )
        training_errors(report, f"Si_tiny {solver[1]}")


def tial(data: Path, out: Path) -> None:
    frames = ase.io.read(data / "tial/TiAl_tutorial.xyz", ":")
    for name, part in (("train", frames[::5]), ("test", frames[1::10])):
        for atoms in part:
            atoms.info["REF_energy"], atoms.info["REF_virial"] = atoms.get_potential_energy(), atoms.info["virial"]
            atoms.arrays["REF_forces"] = atoms.arrays["force"]
            atoms.calc = None
        ase.io.write(out / f"tial_{name}.xyz", part)
    report = fit(
        [
            *(str(out / "tial_train.xyz"), "--test", str(out / "tial_test.xyz"), "--degree", "6"),
            *("--config-weight", "FLD_TiAl=60,1,1", "--config-weight", "TiAl_T5000=5,1,1", "-o", str(out / "tial.pt")),
        ]
    )
    training_errors(report, "TiAl")
    training_errors({"train": {**report["test"], "per_config_type": {}}}, "TiAl test,")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", default=["Si_tiny", "TiAl", "Li", "Si", "Cu", "Ni", "ethanol", "aspirin"])
    parser.add_argument("--degree", help="of ethanol and aspirin, in place of 18,14,10")
    parser.add_argument("--out", type=Path, help="keep models and reports here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        for name in arguments.only:
            print(name, flush=True)
            if name in GAP:
                zuo(arguments.data, name, out)
            elif name in LINEAR_ACE:
                rmd17(arguments.data, name, out, arguments.degree)
            else:
                {"Si_tiny": si_tiny, "TiAl": tial}[name](arguments.data, out)


if __name__ == "__main__":
    main()
