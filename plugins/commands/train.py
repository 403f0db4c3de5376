"""``halberd train``: a network of the family from files of labelled structures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from halberd.plugins.commands.options import LABEL_FLAGS, Flag, offers
from halberd.plugins.commands.output import JsonOption, console, error_table, print_json
from halberd.plugins.commands.settings_file import merged, read_yaml
from halberd.potentials.training.settings import named_losses
from halberd.potentials.validation import from_mapping


@offers(
    "halberd.plugins.commands.train_settings:TrainSettings",
    [
    Flag("output", short="-o"),
    Flag("validation", kind=str),
    "start_from",
    "training.epochs",
    "training.batch_size",
    "training.learning_rate",
    "training.seed",
    "training.precision",
    *LABEL_FLAGS,
    "committee",
    "device",
    "threads",
    "max_hours",
    "plots",
    ],
)  # fmt: skip
def train(
    config: Annotated[Path, typer.Argument(help="YAML file of settings; flags override it.")],
    given: dict[str, Any],
    as_json: JsonOption = False,
) -> None:
    """Train a message-passing network, or go on with a training that was ended; exit code 3 if it is not done yet.

    Network, loss, optimiser and files to test on are set in the file.
    """
    from halberd.plugins.commands.train_file import train_file
    from halberd.plugins.commands.train_settings import TrainSettings

    values = merged(read_yaml(config), given)
    report = train_file(from_mapping(TrainSettings, named_losses(values), f"'{config}'"), progress=not as_json)
    if as_json:
        print_json(report)
        if not report["done"]:
            raise typer.Exit(3)
        return
    for name, errors in report.items():
        if isinstance(errors, dict) and "n_frames" in errors:
            Console().print(error_table(errors, f"{name} errors"))
    console.print(f"written: {report['model']}, and .json, .history.csv and figures beside it", markup=False)
    if not report["done"]:
        console.print("The time was over before the training: the same command goes on.", markup=False)
        raise typer.Exit(3)
