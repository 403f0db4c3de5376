"""The ``halberd`` command: thin commands over the Python API."""

from __future__ import annotations

import importlib.metadata
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from halberd.plugins.commands.options import with_options, without_options
from halberd.plugins.commands.output import JsonOption, console, error_table, print_json, sigma_table
from halberd.potentials.errors import HalberdError

app = typer.Typer(
    help="Learned forces for OpenMM.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut long options off at 80 columns
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"halberd {importlib.metadata.version('halberd-md')}\n")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Learned forces for OpenMM."""


class _EndedBySignal(SystemExit):
    """Raised where a signal finds the program."""

    #: The last one; libraries that call Python turn it into errors of their own.
    last: _EndedBySignal | None = None


def _end(number: int, _: FrameType | None) -> None:
    sys.stderr.write(f"halberd: ended by {signal.Signals(number).name}.\n")
    _EndedBySignal.last = _EndedBySignal(128 + number)
    raise _EndedBySignal.last


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2, never in a traceback.

    SIGTERM, SIGUSR1 and Ctrl-C clean up and end in one line, too, where a command does not take them as a wish to stop.
    """
    own = threading.current_thread() is threading.main_thread()
    mine = [signal.SIGTERM, signal.SIGUSR1]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        mine.append(signal.SIGINT)
    before = {number: signal.signal(number, _end) for number in mine if own}
    _EndedBySignal.last = None
    try:
        _run()
    except KeyboardInterrupt:
        _end(signal.SIGINT, None)
    except BaseException:
        if _EndedBySignal.last is not None:
            raise _EndedBySignal.last from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run() -> None:
    wanted = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    try:
        for entry in importlib.metadata.entry_points(group="halberd.commands"):
            # Options are made of settings, whose modules take seconds to import: only of the command that is wanted.
            shown = with_options if entry.name == wanted else without_options
            app.command(entry.name)(shown(entry.load()))
        app()
    except HalberdError as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"halberd: error: {message}\n")
        sys.exit(2)
    except OSError as error:  # names that are too long, say, wherever they turn up
        if error.strerror is None or error.filename is None:
            raise
        sys.stderr.write(f"halberd: error: {error.strerror}: '{str(error.filename)[:100]}'.\n")
        sys.exit(2)


@app.command()
def doctor(
    as_json: JsonOption = False,
) -> None:
    """Check this installation: versions, platforms, and which force backends really work."""
    from halberd.plugins.commands.doctor import diagnose

    with console.status("trying the force backends, each in a process of its own"):
        result = diagnose()
    if as_json:
        print_json(result)
    else:
        table = Table(title="halberd doctor", show_header=False)
        for name, version in result["versions"].items():
            table.add_row(name, version)
        table.add_row("OpenMM platforms", ", ".join(result["platforms"]))
        for name, works in result["backends"].items():
            table.add_row(f"backend {name}", "[green]works[/]" if works else "[red]does not work[/]")
        for name, works in result["operators"].items():
            table.add_row(f"operator {name}", "[green]compiled[/]" if works else "[yellow]not compiled[/]")
        Console().print(table)
        for problem in result["problems"]:
            Console().print(f"- {problem}", markup=False)
    if not (result["backends"]["torchforce"] or result["backends"]["python"]):
        raise typer.Exit(1)


@app.command()
def export(
    model: Annotated[list[str], typer.Argument(help="Model file or pretrained name; several make a committee.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The .pt file to write; or a .yace for LAMMPS, of linear ACE.")
    ],
    elements: Annotated[str | None, typer.Option(help="Keep these elements only, such as H,C,O.")] = None,
    head: Annotated[str | None, typer.Option(help="Head of a multi-head model.")] = None,
    precision: Annotated[str | None, typer.Option(help="single or double; the model's own if omitted.")] = None,
    charge: Annotated[float | None, typer.Option(help="Total charge, for models that take it.")] = None,
    multiplicity: Annotated[int | None, typer.Option(help="Spin multiplicity, for models that take it.")] = None,
    engine: Annotated[str, typer.Option(help="halberd, or gromacs for NNPot.")] = "halberd",
    periodic: Annotated[bool, typer.Option(help="GROMACS: whether the system is periodic.")] = True,
    trust: Annotated[bool, typer.Option("--trust", help="Let the file run code that halberd does not know.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert a model into a .pt file that needs neither mace-torch nor e3nn, or a linear ACE into a .yace."""
    from halberd.potentials.errors import ConfigurationError
    from halberd.potentials.files import check_writable
    from halberd.potentials.loading import load

    check_writable(output)
    kept = None if elements is None else [symbol.strip() for symbol in elements.split(",")]
    loaded = load(
        model[0] if len(model) == 1 else model,
        elements=kept,
        head=head,
        precision=precision,
        charge=charge,
        multiplicity=multiplicity,
        trust=trust,
    )
    if output.suffix == ".yace":
        from halberd.potentials.pace.writing import write_pace

        if engine != "halberd":
            raise ConfigurationError(f"A .yace is for LAMMPS, not for '{engine}'. Give another suffix, or no engine.")
        written = write_pace(loaded, output)
        if not as_json:
            sys.stdout.write(f"{written.lammps}\n")
    elif engine == "gromacs":
        from halberd.plugins.hosts.gromacs_export import export_for_gromacs

        text = export_for_gromacs(loaded, output, periodic)
        if not as_json:
            sys.stdout.write(text)
    elif engine == "halberd":
        loaded.save(output)
    else:
        raise ConfigurationError(f"There is no engine '{engine}' to export for; there are halberd and gromacs.")
    if as_json:
        print_json({"model": str(output), "engine": engine, **loaded.sidecar()})
    else:
        console.print(f"{loaded!r} -> {output}", markup=False)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Model file or pretrained name.")],
    frames: Annotated[Path, typer.Argument(help="Labelled structures, usually extended XYZ.")],
    energy_key: Annotated[str | None, typer.Option(help="Where the energy is kept.")] = None,
    forces_key: Annotated[str | None, typer.Option(help="Where the forces are kept.")] = None,
    virial_key: Annotated[str | None, typer.Option(help="Where the virial is kept.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a parity plot here.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Write predictions here, as extended XYZ.")] = None,
    head: Annotated[str | None, typer.Option(help="Head of a multi-head model.")] = None,
    precision: Annotated[str | None, typer.Option(help="single or double.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:0.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a model with labels: MAE and RMSE per property and per config type."""
    from halberd.plugins.evaluation.evaluate import evaluate_file
    from halberd.potentials.frames.labelled import LabelKeys

    report = evaluate_file(
        model,
        frames,
        keys=LabelKeys(energy_key, forces_key, virial_key),
        plot=plot,
        predictions_file=predictions,
        head=head,
        precision=precision,
        device=device,
        threads=threads,
    )
    if as_json:
        print_json(report)
    else:
        Console().print(error_table(report))
        if "sigma" in report:
            Console().print(sigma_table(report["sigma"], "predicted standard deviations"))
        for written in (plot, predictions):
            if written is not None:
                console.print(f"written: {written}", markup=False)


if __name__ == "__main__":
    main()
