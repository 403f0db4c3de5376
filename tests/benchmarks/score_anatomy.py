"""What the score of a diffusion model is, from noise to molecules: directions against sigma, in one figure.

    python tests/benchmarks/score_anatomy.py MODEL.diffusion MOLECULES OUT.png [--count 60] [--levels 16] [--seed 0]
        [--validation 0.1]

MOLECULES is a file of molecules that the model has not seen, or ``qm9``: drawn from the clusters of QM9 that ``halberd
train`` with ``train: qm9`` keeps aside by the same share of validation and seed 0. They get noise of a level, positions
(centred), elements alike; then vectors of all coordinates, net translation and rotation taken out, are compared by the
cosine of the angle between them: the model's score; the direction to the centre, -x; the exact one to the molecule
without noise, x0 - x; and the forces of GFN2-xTB on the noisy geometry, where it converges. Medians and quartiles over
molecules.

Controls: random vectors against the same; what the preconditioning puts into the score without any learning (a pull to
the centre) is taken out in a row of its own; the exact direction and the forces against -x, which is what a perfect
score would have; SiMGen's similarity kernel, on heavy atoms alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from ase import Atoms

from halberd.plugins import TrainSettings, read_molecules
from halberd.plugins.commands.train_diffusion import molecules_of
from halberd.potentials import DiffusionModel, ReferenceSet, SimilarityScore, TrainingSettings, load, mace_descriptor
from halberd.potentials.sites.block_list import BlockNeighbors
from halberd.potentials.sites.torchscript import set_threads

mpl.use("Agg")
import matplotlib.pyplot as plt

#: Molecules that a median is drawn of at least: GFN2-xTB does not converge for many with much noise.
_FEWEST = 10
#: Rows: what is compared with what, and how it is drawn.
PAIRS = {
    "score, -x": ("score", "centre", "C0"),
    "score, x0 - x": ("score", "exact", "C1"),
    "score, GFN2-xTB": ("score", "force", "C2"),
    "learnt part, -x": ("learnt", "centre", "C0"),
    "learnt part, x0 - x": ("learnt", "exact", "C1"),
    "learnt part, GFN2-xTB": ("learnt", "force", "C2"),
    "x0 - x, -x": ("exact", "centre", "C0"),
    "x0 - x, GFN2-xTB": ("exact", "force", "C2"),
    "random, -x": ("random", "centre", "0.7"),
    "random, GFN2-xTB": ("random", "force", "0.7"),
    "kernel, -x": ("kernel", "heavy centre", "C0"),
    "kernel, x0 - x": ("kernel", "heavy exact", "C1"),
    "kernel, GFN2-xTB": ("kernel", "heavy force", "C2"),
}
PANELS = {"score": "score of the model", "learnt part": "without the pull put in", "x0 - x": "exact direction",
          "kernel": "SiMGen's kernel, heavy atoms"}  # fmt: skip


def without_motion(vector: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Shape (N, 3), less what translates and turns the molecule."""
    x = positions - positions.mean(axis=0)
    motions = [np.tile(axis, (len(x), 1)) for axis in np.eye(3)] + [np.cross(axis, x) for axis in np.eye(3)]
    basis = np.linalg.svd(np.array([each.ravel() for each in motions]).T, full_matrices=False)
    kept = basis[0][:, basis[1] > 1e-8 * basis[1][0]]
    return (vector.ravel() - kept @ (kept.T @ vector.ravel())).reshape(-1, 3)


def cosine(one: np.ndarray, other: np.ndarray, positions: np.ndarray) -> float:
    """Of two vectors of all coordinates."""
    a, b = (without_motion(each, positions).ravel() for each in (one, other))
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size > 0 else np.nan


def xtb_forces(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray | None:
    """Forces of GFN2-xTB, eV/angstrom; ``None`` where it does not converge."""
    from tblite.ase import TBLite

    atoms = Atoms(numbers, positions, calculator=TBLite(method="GFN2-xTB", verbosity=0))
    try:
        forces = atoms.get_forces()
    except Exception:  # tblite raises its own types, ASE others
        return None
    return forces if np.isfinite(forces).all() else None


def kernel_force(score: SimilarityScore, numbers: np.ndarray, positions: np.ndarray, sigma: float) -> np.ndarray:
    """Gradient of the log density of all atoms, 1/angstrom."""
    moving = torch.tensor(positions, requires_grad=True)
    species = score.descriptor.species_of(numbers)
    neighbors = BlockNeighbors([len(numbers)], score.descriptor.cutoff)
    (gradient,) = torch.autograd.grad(score.log_density(moving, species, neighbors, sigma).sum(), moving)
    return gradient.numpy()


def cosines(
    model: DiffusionModel, kernel: SimilarityScore, molecules: list[Atoms], levels: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Of every pair, shape (levels, molecules)."""
    found = {name: np.full((len(levels), len(molecules)), np.nan) for name in PAIRS}
    rng = np.random.default_rng(seed)
    for number, atoms in enumerate(molecules):
        clean = atoms.positions - atoms.positions.mean(axis=0)
        heavy = atoms.numbers > 1
        for place, sigma in enumerate(levels):
            noise = rng.normal(size=clean.shape)
            x = clean + sigma * (noise - noise.mean(axis=0))
            kinds = model.elements_of(atoms.numbers)
            kinds = kinds + sigma / model.settings.element_scale * rng.normal(size=kinds.shape)
            score = model.evaluate(x, kinds, float(sigma)).score
            pull = -x * float(model.preconditioning.rest(torch.tensor(float(sigma))))
            vectors = {"score": score, "learnt": score - pull, "centre": -x, "exact": clean - x}
            vectors |= {"random": rng.normal(size=x.shape), "force": xtb_forces(atoms.numbers, x)}
            y = x[heavy]
            vectors["kernel"] = kernel_force(kernel, atoms.numbers[heavy], y, min(float(sigma), 1.0))
            vectors |= {"heavy centre": -(y - y.mean(axis=0)), "heavy exact": (clean - x)[heavy]}
            vectors["heavy force"] = None if vectors["force"] is None else vectors["force"][heavy]
            for name, (one, other, _) in PAIRS.items():
                if vectors[one] is not None and vectors[other] is not None:
                    found[name][place, number] = cosine(vectors[one], vectors[other], y if one == "kernel" else x)
    return found


def unseen(name: str, model: DiffusionModel, validation: float, seed: int) -> list[Atoms]:
    """Molecules of a file in their order, or of the part of QM9 that was kept aside, in any."""
    if name != "qm9":
        return read_molecules(name)
    settings = TrainSettings(
        train="qm9",
        output="unused.diffusion",
        diffusion=model.settings,
        training=TrainingSettings(validation=validation),
    )
    held = molecules_of(settings, model.settings)[1]
    assert held is not None
    return [held[k] for k in np.random.default_rng(seed).permutation(len(held))]


def main() -> None:
    """Compute, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("molecules")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--levels", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validation", type=float, default=0.1, help="Share that the training kept aside.")
    arguments = parser.parse_args()
    set_threads(1)
    model = DiffusionModel.load(arguments.model)
    kernel = SimilarityScore(mace_descriptor(load("gfn2-chnof@1")), ReferenceSet.load("qm9"))
    every = [
        atoms
        for atoms in unseen(arguments.molecules, model, arguments.validation, arguments.seed)
        if set(atoms.numbers) <= {1, 6, 7, 8}
    ]
    molecules = [each for each in every if (each.numbers > 1).sum() > 3][: arguments.count]
    levels = np.geomspace(0.003, 10.0, arguments.levels)
    found = cosines(model, kernel, molecules, levels, arguments.seed)
    print(f"{len(molecules)} molecules; median cosine (quartiles); GFN2-xTB converged for, %: "
          + ", ".join(f"{100 * np.isfinite(row).mean():.0f}" for row in found["score, GFN2-xTB"]))  # fmt: skip
    print(f"| sigma, angstrom | {' | '.join(PAIRS)} |")
    for place, sigma in enumerate(levels):
        cells = []
        for name in PAIRS:
            values = found[name][place][np.isfinite(found[name][place])]
            low, middle, high = np.percentile(values, [25, 50, 75]) if len(values) else [np.nan] * 3
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        print(f"| {sigma:.3g} | {' | '.join(cells)} |")
    figure, axes = plt.subplots(1, len(PANELS), figsize=(3.2 * len(PANELS), 3.2), sharey=True, layout="constrained")
    for axis, (begin, title) in zip(axes, PANELS.items(), strict=True):
        for name, (_, other, colour) in PAIRS.items():
            if name.partition(", ")[0] != begin and not (begin == "score" and name.startswith("random")):
                continue
            there = np.isfinite(found[name]).sum(axis=1) >= _FEWEST
            low, middle, high = np.nanpercentile(found[name][there], [25, 50, 75], axis=1)
            axis.plot(levels[there], middle, color=colour, label=f"with {name.partition(', ')[2]}"
                      if not name.startswith("random") else "random" if other == "centre" else None)  # fmt: skip
            axis.fill_between(levels[there], low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set(xscale="log", xlabel="σ, Å", title=title, ylim=(-0.3, 1.05))
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("cosine, median and quartiles")
    figure.savefig(arguments.out, dpi=150)


if __name__ == "__main__":
    main()
