"""Quality and speed of ``halberd generate``: every number of the README's table, each kept in a file when it is done.

    python tests/benchmarks/simgen_quality.py OUT small large          # 500 molecules of 4-9, 100 of 12-20 heavy atoms
    python tests/benchmarks/simgen_quality.py OUT changes              # which changes to the published settings help
    python tests/benchmarks/simgen_quality.py OUT shapes speed qm9
    python tests/benchmarks/simgen_quality.py OUT likeness             # beside molecules made without any method
    python tests/benchmarks/simgen_quality.py OUT diffusion [--model FILE]   # as made, by EDM's measures

``changes`` begins with the settings of the ``simgen`` release (50 levels, 10 particles, element moves every 2 steps,
the likeliest order of every bond by itself, hydrogens that fill up valences) and adds ours one by one, on the same
seeds.
Everything is appended to ``OUT/results.jsonl``; parts that are there are not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from null_molecules import embedded_references, grow_trees
from rich.console import Console
from rich.table import Table
from shape_similarity import shape_similarity

from halberd.plugins import draw_molecules, likeness, measure
from halberd.plugins.evaluation.figures import BLUE, GREY, new_figure, save_figure
from halberd.plugins.molecules.bonding import atoms_of, canonical_smiles, is_valid, perceive_molecule
from halberd.plugins.molecules.metrics import edm_stability
from halberd.plugins.molecules.qm9 import draw_qm9, known_smiles
from halberd.plugins.molecules.shapes import parse_shape
from halberd.samplers import FinishOptions, GenerationSettings, SamplerOptions
from halberd.samplers.generation.denoised import DenoisedGenerator
from halberd.samplers.generation.generator import Generated, generate

console = Console(width=150)
SMALL = GenerationSettings(heavy_atoms="4:9", seed=1)
LARGE = GenerationSettings(heavy_atoms="12:20", seed=1, batch=20)
RELEASE = SamplerOptions(particles=10, fragment_penalty=0.0, strength=0.7)


class Results:
    """Finished parts, one JSON object a line."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.file = folder, folder / "results.jsonl"

    def get(self, name: str) -> dict[str, Any] | None:
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        return next((row for row in map(json.loads, lines) if row["name"] == name), None)

    def add(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        with open(self.file, "a", encoding="utf-8") as handle:
            handle.write(json.dumps({"name": name, **row}) + "\n")
        return row


def attempt(
    results: Results, name: str, settings: GenerationSettings, count: int, xtb: int = 0, different: bool = False
) -> dict[str, Any]:
    """Make and measure so many attempts, or so many different molecules, unless that has been done."""
    row = results.get(name)
    if row is not None:
        return row
    settings = dataclasses.replace(settings, n=count, max_attempts=3 * count if different else count, unique=different)
    file = results.folder / f"{name.replace(' ', '_')}.sdf"
    made = generate(settings, output=file)
    draw_molecules(file.with_suffix(".png"), made.molecules)
    metrics = measure(made.atoms, made.distinct_attempts, known=known_smiles(), xtb=xtb)
    metrics.update(made.rates())
    by_size: dict[int, list[str]] = {}
    for mol in made.molecules:
        by_size.setdefault(mol.GetNumHeavyAtoms(), []).append(mol.GetProp("smiles"))
    unique = {str(size): [len(smiles), len(set(smiles))] for size, smiles in sorted(by_size.items())}
    seconds = made.seconds["total"]
    return results.add(
        name,
        {
            "metrics": metrics,
            "molecules": len(made.molecules),
            "attempts": made.attempts,
            "failures": made.failures,
            "unique_by_size": unique,
            "seconds": seconds,
            "molecules_per_minute": 60 * len(made.molecules) / seconds,
            "attempts_per_minute": 60 * made.attempts / seconds,
        },
    )


#: Of QM9, by another seed than those of the rows: a few in a hundred of a row are among them.
REFERENCES = 5000


def like_qm9(molecules: list[Any]) -> dict[str, Any]:
    """Likeness to QM9."""
    return likeness(molecules, _references())


@functools.cache
def _references() -> list[Any]:
    found = [perceive_molecule(a.numbers, a.positions) for a in draw_qm9(REFERENCES, seed=20_000)]
    return [mol for mol in found if is_valid(mol)]


def _by_diffusion(settings: GenerationSettings, model: str | None, **changes: Any) -> GenerationSettings:
    """As many molecules of the same sizes."""
    kept = {name: getattr(settings, name) for name in ("n", "max_attempts", "unique", "heavy_atoms", "seed")}
    return GenerationSettings(method="diffusion", model=model, **kept, **changes)


def as_made(results: Results, attempts: int, model: str | None) -> None:
    """What a diffusion model makes, by EDM's measures, over all attempts, beside QM9 and atoms at random places."""
    settings = GenerationSettings(method="diffusion", model=model, heavy_atoms="references", repair=False, seed=1)
    table = Table(title=f"as made, of {attempts} attempts at sizes of QM9, %")
    for column in ("", "atoms stable", "molecules stable", "valid", "different, of valid", "a minute"):
        table.add_column(column, justify="right" if column else "left")

    def sampled() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        generator = DenoisedGenerator(settings)
        for first in range(0, attempts, settings.batch):
            batch = range(first, min(first + settings.batch, attempts))
            made = generator.sampler.run([generator.size_of(k) for k in batch], [[settings.seed, k] for k in batch])
            yield from (
                (m.numbers, m.positions) if m is not None else (np.ones(1, int), np.zeros((1, 3))) for m in made
            )

    def scattered() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(1)
        for atoms in draw_qm9(attempts, seed=1):
            places = atoms.positions - atoms.positions.mean(axis=0)
            yield atoms.numbers, places.std() * rng.normal(size=places.shape)

    makers: dict[str, Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]] = {
        "diffusion": sampled,
        "null: QM9's atoms at random places": scattered,
        "QM9 itself": lambda: ((a.numbers, a.positions) for a in draw_qm9(attempts, seed=1)),
    }
    for name, make in makers.items():
        row = results.get(f"as made: {name}")
        if row is None:
            started = time.perf_counter()
            made = list(make())
            seconds = time.perf_counter() - started
            stable = [edm_stability(numbers, positions) for numbers, positions in made]
            found = [perceive_molecule(numbers, positions) for numbers, positions in made]
            valid = [canonical_smiles(mol) for mol in found if is_valid(mol)]
            row = results.add(
                f"as made: {name}",
                {
                    "atoms": float(np.concatenate(stable).mean()),
                    "molecules": float(np.mean([each.all() for each in stable])),
                    "valid": len(valid) / attempts,
                    "different": len(set(valid)) / max(1, len(valid)),
                    "a minute": 60 * attempts / seconds,
                },
            )
        cells = [f"{100 * row[key]:.1f}" for key in ("atoms", "molecules", "valid", "different")]
        table.add_row(name, *cells, f"{row['a minute']:.0f}" if name == "diffusion" else "-")
    console.print(table)


def compare(results: Results, attempts: int, model: str | None) -> None:
    """How like QM9 molecules are, and how much repair they took, beside QM9 itself and molecules without a method."""
    sized = dataclasses.replace(SMALL, heavy_atoms="7:9", n=attempts, max_attempts=attempts, unique=False)
    large = dataclasses.replace(LARGE, n=attempts // 2, max_attempts=attempts // 2, unique=False)
    makers: dict[str, Callable[[], Any]] = {
        "7-9: halberd": lambda: generate(sized),
        "7-9: elements not balanced": lambda: generate(dataclasses.replace(sized, balance=0.0)),
        "7-9: diffusion": lambda: generate(_by_diffusion(sized, model)),
        "7-9: diffusion, as made": lambda: generate(_by_diffusion(sized, model, repair=False)),
        "7-9: random trees": lambda: grow_trees(sized),
        "QM9 again": lambda: [perceive_molecule(a.numbers, a.positions) for a in draw_qm9(attempts, seed=1)],
        "QM9, embedded anew": lambda: embedded_references(attempts, seed=2),
        "12-20: halberd": lambda: generate(large),
        "12-20: elements not balanced": lambda: generate(dataclasses.replace(large, balance=0.0)),
        "12-20: random trees": lambda: grow_trees(large),
    }
    table = Table(title=f"likeness to {REFERENCES} of QM9; {attempts} attempts, half of 12 to 20 heavy atoms")
    columns = ("frechet_chemnet", "lengths", "angles", "torsions", "rings", "groups", "nearest")
    shown = ("rings", "hetero_pairs", "accessibility", "brenk", "nih")
    for column in ("", "valid", *columns, "rings, each", *shown[1:], "moved, Å", "bonds\nchanged", "raw strain,\neV"):
        table.add_column(column.replace("_", "\n"), justify="right" if column else "left")
    for name, make in makers.items():
        row = results.get(f"likeness: {name}")
        if row is None:
            made = make()
            molecules = [m for m in (made.molecules if isinstance(made, Generated) else made) if is_valid(m)]
            row = {"valid": len(molecules) / (made.attempts if isinstance(made, Generated) else len(made))}
            row["likeness"] = like_qm9(molecules)
            if isinstance(made, Generated):
                row["repair"] = made.repair()
                before = [atoms_of(each) for each in made.raw]
                row["strain"] = measure(made.atoms, posebusters=False, xtb=40, raw=before)["xtb_raw"]
                draw_molecules(results.folder / f"likeness_{name.replace(': ', '_').replace(' ', '_')}.png", molecules)
            results.add(f"likeness: {name}", row)
        like, repair = row["likeness"], row.get("repair", {})
        own = [like["of_molecules"][key] for key in shown]
        changes = [repair.get("moved_A"), repair.get("bonds_changed"), row.get("strain", {}).get("strain_eV")]
        numbers = [row["valid"], *(like[key] for key in columns), *own, *changes]
        table.add_row(name, *("-" if number is None else f"{number:.2f}" for number in numbers))
    console.print(table)


def show(title: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print a table of metrics."""
    keys = (
        "validity",
        "validity_rdkit",
        "uniqueness",
        "novelty",
        "posebusters",
        "atom_stability",
        "molecule_stability",
    )
    table = Table(title=title)
    table.add_column("")
    for key in (*keys, "diversity", "rings", "sp3"):
        table.add_column(key.replace("_", "\n"), justify="right")
    table.add_column("per\nminute", justify="right")
    for name, row in rows.items():
        metrics = row["metrics"]
        cells = ["-" if metrics[key] is None else f"{100 * metrics[key]:.1f}" for key in keys]
        cells += ["-" if metrics[key] is None else f"{metrics[key]:.2f}" for key in ("diversity", "rings", "sp3")]
        speed = row.get("molecules_per_minute")
        table.add_row(name, *cells, "-" if speed is None else f"{speed:.0f}")
    console.print(table)
    for name, row in rows.items():
        for key in ("failures", "unique_by_size"):
            if row.get(key):
                console.print(f"{name}: {key.replace('_', ' ')} {row[key]}", markup=False)
        if row["metrics"].get("xtb"):
            console.print(f"{name}: GFN2-xTB {row['metrics']['xtb']}", markup=False)


def changes(
    results: Results, settings: GenerationSettings, label: str, attempts: int, only: str = ""
) -> dict[str, dict[str, Any]]:
    """The release's settings, and what ours add to them; or those whose name begins with some letters."""
    plain = FinishOptions(hydrogens="lengths", joint=False, classical=False, tries=1)
    together = dataclasses.replace(plain, joint=True)
    vote = dataclasses.replace(together, hydrogens="vote")
    classical = dataclasses.replace(vote, classical=True, tries=3)
    baseline = dataclasses.replace(settings, balance=0.0, sampler=RELEASE, finish=plain)
    fewer = dataclasses.replace(RELEASE, particles=5)
    steps = {
        "release settings": baseline,
        "+ hydrogens and bonds together": dataclasses.replace(baseline, finish=together),
        "+ vote on hydrogens": dataclasses.replace(baseline, finish=vote),
        "+ classical relaxation first": dataclasses.replace(baseline, finish=classical),
        "+ 5 particles": dataclasses.replace(baseline, finish=classical, sampler=fewer),
        "+ weaker, varied pull; fragment penalty": dataclasses.replace(settings, balance=0.0),
        "+ balanced elements: ours": settings,
        "ours with element sweep": dataclasses.replace(settings, sweep=True),
        "ours, annealed Langevin": dataclasses.replace(
            settings, sampler=dataclasses.replace(settings.sampler, integrator="langevin", n_levels=25)
        ),
        "ours, no element moves": dataclasses.replace(
            settings, sampler=dataclasses.replace(settings.sampler, particles=1)
        ),
    }
    chosen = {name: each for name, each in steps.items() if name.startswith(only)}
    return {name: attempt(results, f"{label}{name}", each, attempts) for name, each in chosen.items()}


def shapes(results: Results, attempts: int) -> None:
    """Similarity of molecules to the shape that was asked for, and of unshaped ones to the same shape."""
    wanted = {"line:9": 10, "circle:2.5": 16, "gaussian:1,1,6": 10}
    rng = np.random.default_rng(0)
    table = Table(title="shape similarity to the prior (Tanimoto of Gaussian clouds)")
    for column in ("shape", "heavy atoms", "shaped", "unshaped", "elongation", "unshaped", "validity %"):
        table.add_column(column, justify="right")
    series = {}
    for text, size in wanted.items():
        row = results.get(text)
        if row is None:
            settings = dataclasses.replace(
                SMALL, heavy_atoms=str(size), n=attempts, max_attempts=attempts, unique=False
            )
            shaped = generate(dataclasses.replace(settings, shape=text))
            plain = generate(settings)
            outline = parse_shape(text).outline(200, rng)
            if text.startswith("gaussian"):
                # A shape without a size: give it that of the molecules.
                outline = (
                    outline * np.mean([_radius(m) for m in [*shaped.molecules, *plain.molecules]]) / _spread(outline)
                )
            values = {
                name: [shape_similarity(_heavy(mol), outline) for mol in made.molecules]
                for name, made in (("shaped", shaped), ("unshaped", plain))
            }
            stretch = {
                f"elongation_{name}": float(np.median([_elongation(mol) for mol in made.molecules]))
                for name, made in (("shaped", shaped), ("unshaped", plain))
            }
            row = results.add(text, {**values, **stretch, "validity": len(shaped.molecules) / attempts})
            draw_molecules(results.folder / f"{text.replace(':', '_')}.png", shaped.molecules)
        series[text] = row
        cells = [f"{np.mean(row[k]):.2f} ± {np.std(row[k]):.2f}" for k in ("shaped", "unshaped")]
        cells += [f"{row[f'elongation_{k}']:.1f}" for k in ("shaped", "unshaped")]
        table.add_row(text, str(size), *cells, f"{100 * row['validity']:.0f}")
    console.print(table)
    figure, axes = new_figure(len(series), width=3.2, height=2.6)
    for axis, (text, row) in zip(axes[0], series.items(), strict=True):
        bins = np.linspace(0, 1, 26)
        axis.hist(row["unshaped"], bins, color=GREY, alpha=0.7, label="unshaped")
        axis.hist(row["shaped"], bins, color=BLUE, alpha=0.7, label="shaped")
        axis.set_xlabel(f"similarity to {text}", fontsize=9)
        axis.legend(fontsize=8, frameon=False)
    save_figure(figure, results.folder / "shapes.png")


def _heavy(mol: Any) -> np.ndarray:
    return np.array(
        [p for a, p in zip(mol.GetAtoms(), mol.GetConformer().GetPositions(), strict=True) if a.GetAtomicNum() > 1]
    )


def _spread(points: np.ndarray) -> float:
    return float(np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean()))


def _elongation(mol: Any) -> float:
    """Largest principal variance of the heavy atoms over the mean of the other two."""
    points = _heavy(mol)
    variances = np.linalg.eigvalsh(np.cov(points.T))
    return float(variances[2] / max(variances[:2].mean(), 1e-9))


def _radius(mol: Any) -> float:
    return _spread(_heavy(mol))


def speed(results: Results, rounds: int) -> None:
    """Molecules per minute in batches and one at a time, in alternation."""
    settings = dataclasses.replace(SMALL, heavy_atoms="8", unique=False)

    def rate(**change: Any) -> float:
        started = time.perf_counter()
        made: Generated = generate(dataclasses.replace(settings, **change))
        return 60 * made.attempts / (time.perf_counter() - started)

    table = Table(title="attempts per minute, 8 heavy atoms, setup included")
    for column in ("particles", "batch of 50", "one by one", "ratio"):
        table.add_column(column, justify="right")
    for particles in (1, settings.sampler.particles):
        sampler = dataclasses.replace(settings.sampler, particles=particles)
        rate(n=2, max_attempts=2, sampler=sampler)  # warm
        batches, singles = [], []
        for round_ in range(rounds):
            batches.append(rate(n=50, max_attempts=50, batch=50, sampler=sampler, seed=round_))
            started = time.perf_counter()
            for k in range(3):
                generate(
                    dataclasses.replace(settings, n=1, max_attempts=1, sampler=sampler, seed=1000 + 3 * round_ + k)
                )
            singles.append(60 * 3 / (time.perf_counter() - started))
        ratio = float(np.median(np.array(batches) / np.array(singles)))
        results.add(f"speed {particles}", {"batch": batches, "single": singles, "ratio": ratio})
        table.add_row(str(particles), f"{np.median(batches):.0f}", f"{np.median(singles):.1f}", f"{ratio:.1f}")
    console.print(table)


PARTS = ("small", "large", "changes", "shapes", "speed", "qm9", "likeness", "diffusion")


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--attempts", type=int, help="in place of 500, 200, 100, 100, 40, 300, 500 and 1000")
    parser.add_argument("--model", help="Of diffusion, in place of the one that comes with halberd.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = Results(arguments.output)
    if "small" in arguments.parts:
        row = attempt(results, "small", SMALL, arguments.attempts or 500, xtb=50, different=True)
        show("4 to 9 heavy atoms, %", {"small": row})
        sized = dataclasses.replace(SMALL, heavy_atoms="references")
        show("sizes of QM9, %", {"sizes of QM9": attempt(results, "sizes of QM9", sized, arguments.attempts or 200)})
    if "large" in arguments.parts:
        row = attempt(results, "large", LARGE, arguments.attempts or 100, xtb=20, different=True)
        show("12 to 20 heavy atoms, %", {"large": row})
    if "changes" in arguments.parts:
        show("4 to 9 heavy atoms, %", changes(results, SMALL, "", arguments.attempts or 100))
        release = changes(results, LARGE, "large: ", arguments.attempts or 100, "release")
        show("12 to 20 heavy atoms, %", release)
    if "shapes" in arguments.parts:
        shapes(results, arguments.attempts or 40)
    if "speed" in arguments.parts:
        speed(results, arguments.rounds)
    if "likeness" in arguments.parts:
        compare(results, arguments.attempts or 300, arguments.model)
    if "diffusion" in arguments.parts:
        as_made(results, arguments.attempts or 500, arguments.model)
    if "qm9" in arguments.parts:
        row = results.get("QM9") or results.add(
            "QM9", {"metrics": measure(draw_qm9(arguments.attempts or 1000, 1), known=known_smiles(), xtb=50)}
        )
        show("QM9 itself, %", {"QM9": row})


if __name__ == "__main__":
    main()
