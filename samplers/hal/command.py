"""``halberd hal``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from halberd.plugins.commands.output import JsonOption, console, error_table, print_json


def hal(
    config: Annotated[Path, typer.Argument(help="YAML file; see the documentation of HALSettings.")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="Folder of the run.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes for walkers and labels; 0 for none.")] = None,
    max_labels: Annotated[int | None, typer.Option(help="Frames in the database at which to stop.")] = None,
    max_iterations: Annotated[int | None, typer.Option(help="Iterations at which to stop.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Grow a database and a potential by hyperactive learning; the same command goes on with a killed run."""
    from halberd.samplers.hal.loop import run_hal
    from halberd.samplers.hal.settings import HALSettings

    flags = {
        "output": output,
        "workers": workers,
        "max_labels": max_labels,
        "max_iterations": max_iterations,
        "seed": seed,
    }
    settings = HALSettings.from_file(config, {key: value for key, value in flags.items() if value is not None})
    result = run_hal(settings)
    if as_json:
        print_json(result)
        return
    table = Table(title="hyperactive learning", show_header=False)
    table.add_row("tolerance holds", "yes" if result["converged"] else "not yet: the budget is spent")
    table.add_row("labels", f"{result['n_fit']} fit, {result['n_test']} test, {result['n_failed_labels']} failed")
    table.add_row("iterations", str(result["iterations"]))
    for key, title in (("md", "dynamics"), ("label", "labels"), ("fit", "fits"), ("total", "in all")):
        table.add_row(f"seconds: {title}", f"{result['seconds'][key]:.0f}")
    Console().print(table)
    for name in ("fit", "test"):
        if name in result["errors"]:
            Console().print(error_table(result["errors"][name], f"{name} set: errors"))
    console.print(f"written: {result['model']}, {result['database']}, {result['figure']}", markup=False)
