"""``halberd fit``: a linear ACE from a file of labelled structures."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from halberd.plugins.commands.options import LABEL_FLAGS, Flag, offers
from halberd.plugins.commands.output import JsonOption, console, error_table, left_out_table, print_json, sigma_table
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.validation import from_mapping


def _prior_power(text: str, option: str) -> float | str:
    if text == "auto":
        return text
    number = _numbers(text, option)
    if isinstance(number, tuple):
        raise ConfigurationError(f"{option} is '{text}'; it must be a number of 0 or more, or auto.")
    return number


def _degree(text: str, option: str) -> float | tuple[float, ...] | str:
    return text if text == "auto" else _numbers(text, option)


def _numbers(text: str, option: str) -> float | tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.replace("[", "").replace("]", "").split(","))
    except ValueError:
        raise ConfigurationError(f"{option} is '{text}'; write a number, or numbers such as 20,16,12.") from None
    return values[0] if len(values) == 1 else values


def _seconds(text: str, option: str) -> float:
    units = {"s": 1.0, "min": 60.0, "h": 3600.0}
    number = text.rstrip("hmins ")
    unit = text[len(number) :].strip() or "s"
    try:
        return float(number) * units[unit]
    except (ValueError, KeyError):
        raise ConfigurationError(f"{option} is '{text}'; write it like 300, 90s, 5min or 1h.") from None


def _assignments(text: str, option: str) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise ConfigurationError(f"{option} is '{text}'; write it like Al=-1.5,Si=-2.5.") from None


def _config_weights(texts: list[str], option: str) -> dict[str, tuple[float, float, float]]:
    weights = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        values = _numbers(numbers, option) if name else ()
        if not isinstance(values, tuple) or len(values) != 3:
            raise ConfigurationError(
                f"{option} is '{text}'; write the config type and weights of energy, forces and virial, like "
                "liq=10,0.66,0.25."
            )
        weights[name] = (values[0], values[1], values[2])
    return weights


def _e0s(text: str, option: str) -> str | dict[str, float]:
    return _assignments(text, option) if "=" in text else text


@offers(
    "halberd.plugins.commands.fit_settings:FitSettings",
    [
    Flag("output", short="-o", help="The .pt file to write (required)."),
    "test",
    "basis.order",
    Flag(
        "basis.degree", read=_degree,
        help="Largest degree, or one per order: 12 or 20,16,12; auto compares. Default: as frames and budget allow.",
    ),
    Flag("budget", read=_seconds, help="How long it may take if no degree is given: 300, 5min, 1h. Default: 5min."),
    "basis.cutoff",
    "basis.pair_degree",
    "basis.pair_cutoff",
    Flag("basis.pair_cutoffs", read=_assignments, help="Shorter ranges of some pairs: H-H=3.0,C-H=4.0."),
    "basis.inner_cutoff",
    Flag("basis.transform", read=_numbers, help="Exponents p,q of the distance transform. Default: 2,4."),
    Flag("basis.pair_transform", read=_numbers, help="The same for the pair functions. Default: 1,4."),
    "basis.l_weight",
    Flag("e0s", name="e0", read=_e0s, help="isolated, average, or energies in eV: Al=-105.8,Si=-163.2."),
    Flag("weights.energy", name="energy-weight", help="Weight of energies. Default: 30."),
    Flag("weights.forces", name="forces-weight", help="Weight of forces. Default: 1."),
    Flag("weights.virial", name="virial-weight", help="Weight of virials. Default: 1."),
    Flag(
        "weights.per_config_type", name="config-weight", read=_config_weights, many=True,
        help="Weights of a config type, repeatable: liq=10,0.66,0.25.",
    ),
    "solver",
    Flag("solver_options.ridge", kind=float, help="Regularisation of solver ridge."),
    Flag("solver_options.rtol", kind=float, help="Relative singular value that solver svd drops."),
    Flag("solver_options.threshold", kind=float, help="Precision above which solver ard drops."),
    Flag("prior_power", read=_prior_power),
    "committee",
    "calibrate",
    "distortions",
    "folds",
    "seed",
    *LABEL_FLAGS,
    "state",
    "extend",
    "plots",
    "threads",
    "memory_mb",
    ],
    sections={"basis": "halberd.potentials.ace.settings:AceSettings"},
)  # fmt: skip
def fit(
    train: Annotated[str, typer.Argument(help="Labelled structures, usually extended XYZ.")],
    given: dict[str, Any],
    as_json: JsonOption = False,
) -> None:
    """Fit a linear ACE, with a committee, to energies, forces and virials."""
    from halberd.plugins.commands.fit_file import fit_file
    from halberd.plugins.commands.fit_settings import FitSettings

    if "output" not in given:
        raise ConfigurationError("Nowhere to write the model: give --output NAME.pt.")
    report = fit_file(from_mapping(FitSettings, {"train": train, **given}, "the command line"))
    if as_json:
        print_json(report)
        return
    for name in ("train", "test"):
        if name in report:
            Console().print(error_table(report[name], f"{name} errors"))
            if "sigma" in report[name] and name == "test":
                Console().print(sigma_table(report[name]["sigma"], f"sigma on {name} frames"))
    if "cross_validation" in report:
        found = report["cross_validation"]
        Console().print(error_table(found, f"{found['folds']} parts, each left out once: errors"))
        if "sigma" in found:
            Console().print(sigma_table(found["sigma"], "sigma on parts left out"))
    if report["leave_one_out"]:
        Console().print(left_out_table(report["leave_one_out"]))
    seconds = report["seconds"]
    console.print(
        f"{report['n_basis']} functions, {report['n_rows']} rows; assembled in {seconds['assemble']:.1f} s, solved in "
        f"{seconds['solve']:.1f} s, {seconds['total']:.1f} s in all; {report['peak_memory_mb']:.0f} MB at most",
        markup=False,
    )
    if report["left_out"]:
        console.print(f"left out, being copies of other frames: {report['left_out']}", markup=False)
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print(f"written: {report['model']}, and .json and figures beside it", markup=False)
