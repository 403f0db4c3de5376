"""``halberd generate`` and ``halberd metrics``."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from halberd.plugins.commands.options import Flag, offers
from halberd.plugins.commands.output import JsonOption, console, print_json
from halberd.plugins.commands.settings_file import merged, read_yaml
from halberd.potentials.errors import ConfigurationError

if TYPE_CHECKING:
    from halberd.samplers.generation.generator import Generated
    from halberd.samplers.generation.settings import GenerationSettings


def _elements(text: str, _: str) -> list[str]:
    return [each.strip() for each in text.split(",")]


@offers(
    "halberd.samplers.generation.settings:GenerationSettings",
    [
        Flag("n", help="Molecules wanted. Default: 100."),
        Flag("heavy_atoms", help="Heavy atoms to generate: 8, or a range. Default: 7:9."),
        Flag("shape", help="gaussian, gaussian:1,1,2, line:8, circle:4, or a file of points. Default: gaussian."),
        Flag("scaffold", help="SDF (or other) file of fragments to build around."),
        "host",
        Flag("seed", help="Random seed. Default: 0."),
        Flag("model", help="MACE: pretrained name or file. Default: gfn2-chnof@1."),
        Flag("references", help="qm9, qm9-small, joined, or a file of molecules. Default: by size."),
        Flag("sampler.elements", read=_elements, help="Elements to make molecules of. Default: C,N,O."),
        "coverage",
        "sampler.particles",
        Flag("sampler.n_levels", name="levels", help="Noise levels. Default: 50."),
        "sampler.integrator",
        Flag("sampler.strength", help="Factor of the shape's pull."),
        Flag(
            "finish.relax_scaffold", name="relax-scaffold", off="fix-scaffold", help="Let the scaffold move in the end."
        ),
        "sweep",
        Flag("unique", off="duplicates", help="Keep one of each molecule. Default: yes."),
        "batch",
        "max_attempts",
        "sampler.platform",
        "device",
    ],
)
def generate(
    given: dict[str, Any],
    output: Annotated[Path, typer.Option("--output", "-o", help=".sdf, .extxyz, .xyz or .pdb file.")] = Path(
        "generated.sdf"
    ),
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; flags win over it.")] = None,
    picture: Annotated[bool, typer.Option("--picture/--no-picture", help="Draw a sheet beside the output.")] = True,
    raw: Annotated[
        Path | None, typer.Option(help="Also write what was annealed, hydrogens placed and nothing relaxed, here.")
    ] = None,
    with_metrics: Annotated[bool, typer.Option("--metrics/--no-metrics", help="Measure what came out.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Generate molecules from the similarity of atoms to reference molecules: no training, any shape."""
    from halberd.plugins.molecules.files import check_molecule_file, draw_molecules, write_molecules
    from halberd.potentials.files import check_writable
    from halberd.potentials.sites.torchscript import set_threads
    from halberd.samplers.generation.settings import GenerationSettings

    if raw is not None:
        check_molecule_file(raw)
        check_writable(raw)
        if raw.resolve() == output.resolve():
            raise ConfigurationError(f"--raw and --output are both '{raw}'; give one of them another name.")
    set_threads(threads)
    values = merged({} if config is None else read_yaml(config), given)
    settings = GenerationSettings.from_mapping(values, f"'{config}'" if config else "the command line")
    started = time.perf_counter()
    made = _made(settings, output)
    sheet = output.with_suffix(".png")
    if picture:
        draw_molecules(sheet, made.molecules)
    if raw is not None:
        write_molecules(raw, made.raw)
    measured: dict[str, Any] = {}
    if with_metrics:
        with _progress() as tell:
            measured = _measure(made.atoms, made.distinct_attempts, tell, posebusters=None, xtb=0)
        measured.update(made.rates())
        measured.update(made.repair())
    result = {
        "output": str(output),
        "picture": str(sheet) if picture else None,
        "requested": settings.n,
        "written": len(made.molecules),
        "attempts": made.attempts,
        "failures": made.failures,
        "metrics": measured,
        "seconds": {**made.seconds, "all": time.perf_counter() - started},
        "settings": dataclasses.asdict(settings),
    }
    if as_json:
        print_json(result)
    else:
        _print_summary(result)
    if len(made.molecules) < settings.n:
        raise typer.Exit(1)


def _made(settings: GenerationSettings, output: Path) -> Generated:
    """Generate with a bar, and repeat halberd's own warnings once each."""
    from halberd.samplers.generation.generator import generate as run

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with _progress() as tell:
            made = run(settings, output=output, progress=tell)
    for text in dict.fromkeys(str(w.message) for w in caught if str(w.message).startswith("halberd:")):
        console.print(f"[yellow]{text.removeprefix('halberd: ')}[/]")
    return made


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
    with _progress() as tell:
        result = _measure(structures, attempts, tell, posebusters, xtb, before)
        like = None if references is None else _likeness(structures, references, tell)
    if as_json:
        print_json({"file": str(file), "metrics": result, "likeness": like})
        return
    Console().print(metrics_table(result, f"{file}: {result['molecules']} molecules"))
    if like is not None:
        Console().print(likeness_table(like, f"{file} beside {references}"))


#: Of QM9, unless a number is given.
_REFERENCES = 5000


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


def _measure(
    structures: list[Any],
    attempts: int | None,
    tell: Callable[[str, float], None],
    posebusters: bool | None,
    xtb: int,
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


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
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


def _print_summary(result: dict[str, Any]) -> None:
    """What came out, what did not and why."""
    out = Console()
    if result["metrics"]:
        out.print(metrics_table(result["metrics"], "what was generated"))
    table = Table(title=f"{result['attempts']} attempts", show_header=False)
    table.add_row("molecules", f"{result['written']} of {result['requested']}")
    for cause, count in sorted(result["failures"].items(), key=lambda item: -item[1]):
        table.add_row(f"failed: {cause}", str(count))
    table.add_row("seconds", f"{result['seconds']['total']:.0f}")
    out.print(table)
    written = [result["output"], *([result["picture"]] if result["picture"] else [])]
    console.print(f"written: {', '.join(written)}", markup=False)
