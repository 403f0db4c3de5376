"""``halberd generate``."""

from __future__ import annotations

import dataclasses
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from halberd.plugins.commands.options import Flag, offers
from halberd.plugins.commands.output import JsonOption, console, print_json
from halberd.plugins.commands.settings_file import merged, read_yaml
from halberd.potentials.errors import ConfigurationError
from halberd.samplers.generation.metrics_command import measure_what_can_be, metrics_table, progress_bar

if TYPE_CHECKING:
    from halberd.samplers.generation.generator import Generated
    from halberd.samplers.generation.settings import GenerationSettings


def _elements(text: str, _: str) -> list[str]:
    return [each.strip() for each in text.split(",")]


@offers(
    "halberd.samplers.generation.settings:GenerationSettings",
    [
        Flag("n", help="Molecules wanted. Default: 100."),
        Flag("method", help="simgen, or diffusion. Default: simgen."),
        Flag("heavy_atoms", help="Heavy atoms to generate: 8, or a range. Default: 7:9."),
        Flag("shape", help="gaussian, gaussian:1,1,2, line:8, circle:4, or a file of points. Default: gaussian."),
        Flag("scaffold", help="SDF (or other) file of fragments to build around."),
        "host",
        Flag("seed", help="Random seed. Default: 0."),
        Flag(
            "model",
            help="MACE: pretrained name or file. Default: gfn2-chnof@1. With diffusion: qm9-diffusion or a file.",
        ),
        Flag("references", help="qm9, qm9-small, joined, or a file of molecules. Default: by size."),
        Flag("sampler.elements", read=_elements, help="Elements to make molecules of. Default: C,N,O."),
        "coverage",
        "sampler.particles",
        Flag("sampler.n_levels", name="levels", help="Noise levels. Default: 50."),
        "sampler.integrator",
        Flag("start", help="With diffusion: file of molecules, of which variations are made."),
        Flag("repair", off="as-made", help="With diffusion: new hydrogens, and a relaxation. Default: yes."),
        Flag("denoising.n_levels", name="denoising-levels", help="Noise levels of diffusion. Default: 100."),
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
    """Generate molecules: by the similarity of atoms to references, in any shape, or by a diffusion model."""
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
        with progress_bar() as tell:
            measured = measure_what_can_be(made.atoms, made.distinct_attempts, tell)
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
        with progress_bar() as tell:
            made = run(settings, output=output, progress=tell)
    for text in dict.fromkeys(str(w.message) for w in caught if str(w.message).startswith("halberd:")):
        console.print(f"[yellow]{text.removeprefix('halberd: ')}[/]")
    return made


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
