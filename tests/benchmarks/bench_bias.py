"""What the bias costs: a biased OpenMM step over a plain one with the same mean potential, in interleaved rounds.

Usage: ``python bench_bias.py [--threads 1] [--rounds 9] [--sizes 32 256]``. The linear ACE has 1138 functions and the
members asked for; the MACE is the pretrained one, plain, with a last-layer committee, and with the exact sigma of its
last layer. ``ensemble`` is as many whole networks as there are members, over one of them.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from bench_ace import alloy, compare, step_timer

from halberd.plugins import HalberdCalculator
from halberd.potentials import AceFit, AceSettings, Frame, LastLayerFit, committee, load
from halberd.potentials.ace.model import ace_site_model


def ace_models(members: int) -> dict:
    fit = AceFit(AceSettings(("Al", "Si"), order=3, degree=10, cutoff=5.5))
    generator = np.random.default_rng(0)
    frames = []
    for seed in range(6):
        atoms = alloy(32, ("Al", "Si"), seed=seed)
        frames.append(Frame(atoms, -3.0 * len(atoms), generator.normal(scale=0.5, size=(len(atoms), 3)), None, "x"))
    fit.add(frames)
    fitted = fit.solve(committee=members)
    return {
        "plain": ace_site_model(fit.basis, fitted.coefficients),
        "committee": fitted.model,
        "exact sigma": fitted.with_exact_sigma(),
    }


def mace_models(members: int) -> dict:
    base = load("gfn2-chnof", elements=["H", "C", "O"], precision="double")
    fit = LastLayerFit(base)
    calculator, generator, frames = HalberdCalculator(base), np.random.default_rng(0), []
    for seed in range(4):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.1, seed=seed)
        results = calculator.evaluate(atoms)
        noise = generator.normal(scale=0.1, size=(len(atoms), 3))
        frames.append(Frame(atoms, results["energy"], results["forces"] + noise, None, "x"))
    fit.add(frames)
    fitted = fit.solve(committee=members, correction=True)
    return {
        "plain": base,
        "committee": fitted.model,
        "exact sigma": fitted.with_exact_sigma(),
        "ensemble": committee([base] * members),
    }


def droplets(size: int) -> Atoms:
    """Ethanol molecules on a grid, a cutoff apart from nobody."""
    count = max(1, round(size / 9))
    side = int(np.ceil(count ** (1 / 3)))
    cluster = Atoms()
    for k in range(count):
        piece = molecule("CH3CH2OH")
        piece.rotate(40.0 * k, (1, 1, 0.3))
        piece.translate(5.5 * np.array(np.unravel_index(k, (side,) * 3)))
        cluster += piece
    return cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--tau", type=float, default=0.5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| potential | atoms | plain, us/atom | biased: members | over plain |")
    print("| --- | --- | --- | --- | --- |")
    for name, models, make, steps in (
        ("linear ACE", ace_models(arguments.members), lambda n: alloy(n, ("Al", "Si")), 6000),
        ("MACE", mace_models(arguments.members), droplets, 600),
    ):
        for size in arguments.sizes:
            atoms = make(size)
            timers = {
                kind: step_timer(model, atoms, "double", None if kind == "plain" else arguments.tau)
                for kind, model in models.items()
            }
            seconds = compare(timers, max(4, steps // len(atoms)), arguments.rounds)
            plain = seconds.pop("plain")
            for kind, value in seconds.items():
                row = f"| {name} | {len(atoms)} | {1e6 * plain / len(atoms):.1f} | {kind} | {value / plain:.2f} |"
                print(row, flush=True)


if __name__ == "__main__":
    main()
