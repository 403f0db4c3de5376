"""Commands of the ``halberd`` command line that live above plugins/; registered as entry points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from halberd.plugins.commands.output import JsonOption, console, print_json
from halberd.potentials.errors import ConfigurationError


def md(
    config: Annotated[Path | None, typer.Argument(help="YAML file; flags win over it.")] = None,
    structure: Annotated[str | None, typer.Option(help="Structure file (PDB, or anything ASE reads).")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model file or pretrained name; repeat for a committee.")
    ] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Output folder.")] = None,
    ensemble: Annotated[str | None, typer.Option(help="NVE, NVT or NPT.")] = None,
    temperature: Annotated[float | None, typer.Option(help="K.")] = None,
    pressure: Annotated[float | None, typer.Option(help="bar.")] = None,
    steps: Annotated[int | None, typer.Option(help="Total number of steps.")] = None,
    timestep: Annotated[float | None, typer.Option(help="fs.")] = None,
    friction: Annotated[float | None, typer.Option(help="1/ps.")] = None,
    minimize: Annotated[bool | None, typer.Option("--minimize/--no-minimize", help="Relax first.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    report_interval: Annotated[int | None, typer.Option(help="Steps between rows and frames.")] = None,
    checkpoint_interval: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    platform: Annotated[str | None, typer.Option(help="OpenMM platform.")] = None,
    device_index: Annotated[str | None, typer.Option(help="GPU index.")] = None,
    precision: Annotated[str | None, typer.Option(help="single or double.")] = None,
    backend: Annotated[str | None, typer.Option(help="torchforce, python or auto.")] = None,
    skin: Annotated[float | None, typer.Option(help="Verlet skin, angstrom.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch.")] = None,
    head: Annotated[str | None, typer.Option(help="Head of a multi-head model.")] = None,
    charge: Annotated[float | None, typer.Option(help="Total charge, for models that take it.")] = None,
    multiplicity: Annotated[int | None, typer.Option(help="Spin multiplicity, for models that take it.")] = None,
    reporter: Annotated[list[str] | None, typer.Option(help="csv, dcd or extxyz; repeat for several.")] = None,
    plumed: Annotated[str | None, typer.Option(help="PLUMED script.")] = None,
    max_hours: Annotated[float | None, typer.Option(help="Stop, ready to go on, after so long.")] = None,
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

    flags: dict[str, Any] = {
        "structure": structure,
        "output": output,
        "ensemble": ensemble,
        "temperature": temperature,
        "pressure": pressure,
        "steps": steps,
        "timestep": timestep,
        "friction": friction,
        "minimize": minimize,
        "seed": seed,
        "report_interval": report_interval,
        "checkpoint_interval": checkpoint_interval,
        "platform": platform,
        "device_index": device_index,
        "precision": precision,
        "backend": backend,
        "skin": skin,
        "threads": threads,
        "head": head,
        "charge": charge,
        "multiplicity": multiplicity,
        "reporters": list(reporter) if reporter else None,
        "plumed": plumed,
        "max_hours": max_hours,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    if model:
        given["model"] = model[0] if len(model) == 1 else list(model)
    if config is None and structure is None:
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
