"""``halberd metrics``: molecules measured by their geometries, alone and beside references."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from halberd.plugins.commands.output import JsonOption, console, print_json
from halberd.potentials.errors import ConfigurationError

#: Of QM9, unless a number is given.
_REFERENCES = 5000


def metrics(
    file: Annotated[Path, typer.Argument(help="Molecules with hydrogens: SDF, extended XYZ ...; or 'qm9'.")],
    attempts: Annotated[int | None, typer.Option(help="Attempts behind them, failures included.", min=1)] = None,
    sample: Annotated[int | None, typer.Option(help="Measure so many, drawn at random.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 0,
    posebusters: Annotated[bool | None, typer.Option("--posebusters/--no-posebusters", help="Run PoseBusters.")] = None,
    xtb: Annotated[int, typer.Option(help="Relax so many with GFN2-xTB.", min=0)] = 0,
    raw: Annotated[Path | None, typer.Option(help="File of 'generate --raw': relax as many of these too.")] = None,
    references: Annotated[
        str | None, typer.Option(help="Compare with these molecules: qm9, qm9:N, or a file. Needs fcd.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure molecules by their geometries: stability, validity, novelty, strain, and likeness to references."""
    structures = _read(str(file), sample, seed)
    if attempts is not None and attempts < len(structures):
        raise ConfigurationError(f"--attempts is {attempts}, but there are {len(structures)} molecules.")
    if raw is not None and not xtb:
        raise ConfigurationError("--raw is relaxed with GFN2-xTB: say how many with --xtb.")
    before = None if raw is None else _read(str(raw), sample, seed)
    if before is not None and [sorted(a.numbers) for a in before] != [sorted(a.numbers) for a in structures]:
        raise ConfigurationError(f"'{raw}' does not hold the molecules of '{file}' as they were before.")
    with progress_bar() as tell:
        result = measure_what_can_be(structures, attempts, tell, posebusters=posebusters, xtb=xtb, raw=before)
        like = None if references is None else _likeness(structures, references, tell)
    if as_json:
        print_json({"file": str(file), "metrics": result, "likeness": like})
        return
    Console().print(metrics_table(result, f"{file}: {result['molecules']} molecules"))
    if like is not None:
        Console().print(likeness_table(like, f"{file} beside {references}"))


def _read(source: str, sample: int | None, seed: int) -> list[Any]:
    """Molecules of a file or of QM9 (``qm9``, ``qm9:N``), some of them if so many are too many."""
    import numpy as np

    from halberd.plugins.molecules.files import read_molecules
    from halberd.plugins.molecules.qm9 import draw_qm9

    if source == "qm9" or source.startswith("qm9:"):
        count = source.removeprefix("qm9").removeprefix(":") or str(sample or 1000)
        if not count.isdigit() or not int(count):
            raise ConfigurationError(f"'{source}' is not qm9:N with a number N of molecules of QM9.")
        return draw_qm9(int(count), seed)
    structures = read_molecules(source)
    if sample is not None and sample < len(structures):
        chosen = np.sort(np.random.default_rng(seed).choice(len(structures), sample, replace=False))
        structures = [structures[k] for k in chosen]
    return structures


def _likeness(structures: list[Any], references: str, tell: Callable[[str, float], None]) -> dict[str, Any]:
    """Valid ones of both, compared."""
    from halberd.plugins.molecules.bonding import is_valid, perceive_molecule
    from halberd.plugins.molecules.likeness import likeness

    # Another seed than that of a file 'qm9' to compare.
    others = _read(references, _REFERENCES, seed=20_000)
    tell("bonds of references", 0.0)
    perceived = [[perceive_molecule(a.numbers, a.positions) for a in each] for each in (structures, others)]
    valid = [[mol for mol in each if is_valid(mol)] for each in perceived]
    return likeness(*valid, progress=tell)


def measure_what_can_be(
    structures: list[Any],
    attempts: int | None,
    tell: Callable[[str, float], None],
    *,
    posebusters: bool | None = None,
    xtb: int = 0,
    raw: list[Any] | None = None,
) -> dict[str, Any]:
    """Measure; what optional packages are needed for is left out where they are not installed and not asked for."""
    import importlib.util

    from halberd.plugins.molecules.metrics import measure
    from halberd.plugins.molecules.qm9 import known_smiles

    has_buster = importlib.util.find_spec("posebusters") is not None
    known = None
    if importlib.util.find_spec("qm9pack") is not None:
        tell("reading the SMILES of QM9", 0.0)
        known = known_smiles()
    return measure(
        structures,
        attempts,
        known=known,
        posebusters=has_buster if posebusters is None else posebusters,
        xtb=xtb,
        raw=raw,
        progress=tell,
    )


def metrics_table(result: dict[str, Any], title: str) -> Table:
    """Lay metrics out for people."""
    table = Table(title=title)
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("of")
    rows = {
        "validity": ("sanitised, one piece, no radicals or charges", "attempts"),
        "validity_rdkit": ("RDKit finds bonds, one piece", "attempts"),
        "uniqueness": ("different molecules", "valid"),
        "novelty": ("not in QM9", "unique"),
        "posebusters": ("PoseBusters, all checks", "valid"),
        "atom_stability": ("atoms stable (EDM)", "atoms"),
        "molecule_stability": ("molecules stable (EDM)", "attempts"),
    }
    for key, (name, of) in rows.items():
        value = result.get(key)
        table.add_row(name, "not measured" if value is None else f"{100 * value:.1f} %", of)
    for key, name in {
        "diversity": "diversity (1 - mean Tanimoto)",
        "heavy_atoms": "heavy atoms, mean",
        "rings": "rings, mean",
        "sp3": "sp3 part of carbon, mean",
        "qed": "QED, mean",
    }.items():
        if result.get(key) is not None:
            table.add_row(name, f"{result[key]:.2f}", "valid")
    for key, name, unit in (
        ("moved_A", "heavy atoms moved by finishing, median", "Å"),
        ("bonds_changed", "bonds changed by finishing, mean", "%"),
        ("first_particle", "made of the most similar particle", "%"),
    ):
        if result.get(key) is not None:
            number = f"{result[key]:.2f} Å" if unit == "Å" else f"{100 * result[key]:.1f} %"
            table.add_row(name, number, "written")
    for key, what in (("xtb", ""), ("xtb_raw", " before any repair")):
        found = result.get(key)
        if found and found["strain_eV"] is not None:
            table.add_row(f"GFN2-xTB strain{what}, median", f"{found['strain_eV']:.2f} eV", f"{found['molecules']}")
            table.add_row(f"GFN2-xTB RMSD{what}, median", f"{found['rmsd_A']:.2f} Å", f"{found['molecules']}")
    return table


def likeness_table(result: dict[str, Any], title: str) -> Table:
    """Lay likeness out for people."""
    table = Table(
        title=title, caption="distances of a set to itself are 0; compare with a second draw of the references"
    )
    for name in ("", f"{result['molecules']} molecules", f"{result['references']} references"):
        table.add_column(name, justify="left" if not name else "right")
    for key, name in {
        "frechet_chemnet": "Frechet ChemNet distance",
        "lengths": "bond lengths, discrepancy",
        "angles": "angles, discrepancy",
        "torsions": "torsions, discrepancy",
        "rings": "ring sizes, dissimilarity",
        "groups": "functional groups, dissimilarity",
        "nearest": "nearest other reference, Tanimoto",
    }.items():
        table.add_row(name, "not measured" if result[key] is None else f"{result[key]:.3g}", "")
    own, theirs = result["of_molecules"], result["of_references"]
    table.add_row("rings a molecule", f"{own['rings']:.2f}", f"{theirs['rings']:.2f}")
    table.add_row("synthetic accessibility, 1 to 10", f"{own['accessibility']:.2f}", f"{theirs['accessibility']:.2f}")
    for key, name in {
        "hetero_pairs": "N or O bonded to N or O",
        "brenk": "pass the filter of Brenk et al.",
        "nih": "pass the filter of the NIH",
    }.items():
        table.add_row(name, *(f"{100 * each[key]:.1f} %" for each in (own, theirs)))
    return table


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error; yields what to tell it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, part: bar.update(task, description=what, completed=part)
