"""``halberd hal``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from halberd.plugins.commands.options import Flag, offers
from halberd.plugins.commands.output import JsonOption, console, error_table, print_json


@offers(
    "halberd.samplers.hal.settings:HALSettings",
    [
        Flag("output", short="-o"),
        "workers",
        "max_labels",
        Flag("max_iterations", help="Iterations at which to stop. Default: 100."),
        Flag("seed", help="Random seed. Default: 0."),
    ],
)
def hal(
    config: Annotated[Path, typer.Argument(help="YAML file; see the documentation of HALSettings.")],
    given: dict[str, Any],
    as_json: JsonOption = False,
) -> None:
    """Grow a database and a potential by hyperactive learning; the same command goes on with a killed run."""
    from halberd.samplers.hal.loop import run_hal
    from halberd.samplers.hal.settings import HALSettings

    settings = HALSettings.from_file(config, given)
    result = run_hal(settings)
    if as_json:
        print_json(result)
        return
    table = Table(title="hyperactive learning", show_header=False)
    table.add_row("ended because", result["ended"])
    table.add_row("labels", f"{result['n_fit']} fit, {result['n_test']} test, {result['n_failed_labels']} failed")
    table.add_row("iterations", str(result["iterations"]))
    for key, title in (("md", "dynamics"), ("label", "labels"), ("fit", "fits"), ("this_call", "by the clock")):
        table.add_row(f"seconds: {title}", f"{result['seconds'][key]:.0f}")
    Console().print(table)
    for name in ("fit", "test"):
        if name in result["errors"]:
            Console().print(error_table(result["errors"][name], f"{name} set: errors"))
    console.print(f"written: {result['model']}, {result['database']}, {result['figure']}", markup=False)
