"""``halberd md``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from halberd.plugins.commands.options import Flag, offers
from halberd.plugins.commands.output import JsonOption, console, print_json
from halberd.potentials.errors import ConfigurationError


def _one_or_several(names: list[str], _: str) -> str | list[str]:
    return names[0] if len(names) == 1 else names


@offers(
    "halberd.samplers.md.settings:MDSettings",
    [
    Flag("structure", help="Structure file (PDB, or anything ASE reads)."),
    Flag(
        "model", read=_one_or_several, many=True,
        help="Model file or pretrained name; repeat for a committee. Default: gfn2-chnof.",
    ),
    Flag("output", short="-o", help="Output folder. Default: md_out."),
    "ensemble",
    "temperature",
    Flag("pressure", help="bar, NPT only. Default: 1."),
    "steps",
    "timestep",
    "friction",
    "minimize",
    "seed",
    "report_interval",
    "checkpoint_interval",
    "platform",
    "device_index",
    "force.precision",
    "force.backend",
    "force.skin",
    "force.threads",
    "force.head",
    Flag("force.charge", help="Total charge, for models that take it."),
    Flag("force.multiplicity", help="Spin multiplicity, for models that take it."),
    Flag("reporters", name="reporter", many=True, help="csv, dcd, xtc or extxyz; repeat for several."),
    "plumed",
    "max_hours",
    ],
)  # fmt: skip
def md(
    given: dict[str, Any],
    config: Annotated[Path | None, typer.Argument(help="YAML file; flags win over it.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Go on from the last checkpoint.")] = False,
    start_or_restart: Annotated[
        bool, typer.Option("--continue", help="Go on if there is a checkpoint, otherwise start.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run molecular dynamics with a learned potential; exit code 3 if it was stopped before its last step.

    Everything else, equilibration, multiple time steps, replica exchange, walkers and watching, is set in the file.
    """
    from halberd.samplers.md.production import run_md
    from halberd.samplers.md.settings import MDSettings

    if config is None and "structure" not in given:
        raise ConfigurationError("Nothing to run: give a configuration file, or --structure.")
    settings = (
        MDSettings.from_mapping(given, "the command line") if config is None else MDSettings.from_file(config, given)
    )
    result = run_md(settings, restart=restart, start_or_restart=start_or_restart)
    if as_json:
        print_json(result)
    else:
        _show(settings, result)
    if not result["complete"]:
        raise typer.Exit(3)


def _show(settings: Any, result: dict[str, Any]) -> None:
    """Lay the report of a run out for people."""
    table = Table(title=f"{settings.ensemble}, {result['steps']} steps of {settings.timestep:g} fs")
    table.add_column("quantity")
    table.add_column("value", justify="right")
    if "walkers" in result:
        for number, report in enumerate(result["walkers"]):
            if report["steps"] == 0:
                continue
            table.add_row(f"walker {number}: temperature, K", f"{report['mean']['temperature_K']:.5g}")
    elif "temperatures_K" in result:
        for temperature, energy in zip(result["temperatures_K"], result["potential_kj_mol"], strict=True):
            error = "" if energy["error"] is None else f" ± {energy['error']:.2g}"
            table.add_row(f"potential energy at {temperature:g} K, kJ/mol", f"{energy['mean']:.6g}{error}")
        table.add_row("exchanges accepted", ", ".join(f"{ratio:.2f}" for ratio in result["acceptance"]))
        table.add_row("round trips", str(result["round_trips"]))
    else:
        _add_single(table, result)
    Console().print(table)
    for remark in result.get("remarks", ()):
        console.print(f"[yellow]{remark}[/]")
    if not result["complete"]:
        console.print(f"stopped: {result['stopped']}. Go on with --restart.", markup=False)
    figure = f"; figure: {result['figure']}" if result["figure"] else ""
    console.print(f"written to {result['output']}{figure}", markup=False)


def _add_single(table: Table, result: dict[str, Any]) -> None:
    titles = {"temperature_K": "temperature, K", "pressure_bar": "pressure, bar", "density_g_cm3": "density, g/cm³"}
    for key, title in titles.items():
        if result["mean"][key] is not None:
            error = result["error"][key]
            table.add_row(title, f"{result['mean'][key]:.5g}" + (f" ± {error:.2g}" if error is not None else ""))
    if result["drift"] is not None:
        table.add_row("energy drift, eV/atom/ps", f"{result['drift']:.2g}")
    if result["uncertainty"] is not None:
        above = result["uncertainty"]["n_above"]
        table.add_row("largest uncertainty, looks above", f"{result['uncertainty']['largest']:.3g}, {above}")
    table.add_row("µs per atom and step", f"{result['us_per_atom_step']:.1f}")
    table.add_row("ns per day", f"{result['ns_per_day']:.3g}")
