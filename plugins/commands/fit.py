"""``halberd fit``: a linear ACE from a file of labelled structures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from halberd.plugins.commands.output import JsonOption, console, error_table, print_json
from halberd.potentials.errors import ConfigurationError


def fit(
    train: Annotated[Path, typer.Argument(help="Labelled structures, usually extended XYZ.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .pt file to write.")],
    test: Annotated[Path | None, typer.Option(help="Labelled structures to test on.")] = None,
    order: Annotated[int, typer.Option(help="Correlation order: neighbours seen at once, 1 to 4.")] = 3,
    degree: Annotated[
        str | None, typer.Option(help="Largest degree, or one per order: 12 or 20,16,12 (first of 20,16,12,10).")
    ] = None,
    cutoff: Annotated[float, typer.Option(help="Range of the many-body functions, angstrom.")] = 5.5,
    pair_degree: Annotated[int | None, typer.Option(help="Pair functions per pair; 0 for none.")] = None,
    pair_cutoff: Annotated[float | None, typer.Option(help="Range of the pair functions; cutoff + 1.")] = None,
    pair_cutoffs: Annotated[str | None, typer.Option(help="Shorter ranges of some pairs: H-H=3.0,C-H=4.0.")] = None,
    inner_cutoff: Annotated[float, typer.Option(help="Many-body functions vanish below, angstrom.")] = 0.0,
    transform: Annotated[str | None, typer.Option(help="Exponents p,q of the distance transform (2,4).")] = None,
    pair_transform: Annotated[str | None, typer.Option(help="The same for the pair functions (1,4).")] = None,
    l_weight: Annotated[float, typer.Option(help="Weight of l in the degree.")] = 1.5,
    e0: Annotated[str | None, typer.Option(help="isolated, average, or energies in eV: Al=-105.8,Si=-163.2.")] = None,
    energy_weight: Annotated[float | None, typer.Option(help="Weight of energies (30).")] = None,
    forces_weight: Annotated[float | None, typer.Option(help="Weight of forces (1).")] = None,
    virial_weight: Annotated[float | None, typer.Option(help="Weight of virials (1).")] = None,
    config_weight: Annotated[
        list[str] | None, typer.Option(help="Weights of a config type, repeatable: liq=10,0.66,0.25.")
    ] = None,
    solver: Annotated[str, typer.Option(help="blr, ridge, svd or ard.")] = "blr",
    ridge: Annotated[float | None, typer.Option(help="Regularisation of solver ridge.")] = None,
    rtol: Annotated[float | None, typer.Option(help="Relative singular value that solver svd drops.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Precision above which solver ard drops.")] = None,
    prior_power: Annotated[
        str, typer.Option(help="Exponent of the smoothness prior, 0 for none; auto picks it by the evidence.")
    ] = "4",
    committee: Annotated[int, typer.Option(help="Committee members; 0 for the mean alone.", min=0)] = 8,
    seed: Annotated[int, typer.Option(help="Of the committee.")] = 0,
    energy_key: Annotated[str | None, typer.Option(help="Where the energy is kept.")] = None,
    forces_key: Annotated[str | None, typer.Option(help="Where the forces are kept.")] = None,
    virial_key: Annotated[str | None, typer.Option(help="Where the virial is kept.")] = None,
    state: Annotated[Path | None, typer.Option(help="Keep the fit here, to add frames later.")] = None,
    extend: Annotated[Path | None, typer.Option(help="Add the frames to the fit kept here.")] = None,
    plots: Annotated[bool, typer.Option(help="Draw parity and dimers.")] = True,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    memory_mb: Annotated[float, typer.Option(help="Bound on the arrays of one block of rows.", min=1)] = 512.0,
    as_json: JsonOption = False,
) -> None:
    """Fit a linear ACE, with a committee, to energies, forces and virials."""
    from halberd.plugins.commands.fit_file import fit_file
    from halberd.potentials.frames.labelled import LabelKeys
    from halberd.potentials.regression.weighted_rows import FitWeights

    chosen: dict[str, Any] = {
        "order": order,
        "degree": None if degree is None else _numbers(degree, "--degree"),
        "cutoff": cutoff,
        "pair_degree": pair_degree,
        "pair_cutoff": pair_cutoff,
        "pair_cutoffs": None if pair_cutoffs is None else _assignments(pair_cutoffs, "--pair-cutoffs"),
        "inner_cutoff": inner_cutoff,
        "l_weight": l_weight,
    }
    for name, text in (("transform", transform), ("pair_transform", pair_transform)):
        if text is not None:
            chosen[name] = _numbers(text, "--" + name.replace("_", "-"))
    weights: FitWeights | None = None
    given = {"energy": energy_weight, "forces": forces_weight, "virial": virial_weight}
    given = {key: value for key, value in given.items() if value is not None}
    if given or config_weight:
        weights = FitWeights(**given, per_config_type=_config_weights(config_weight or []))
    settings = chosen if extend is None else _settings_when_extending(chosen)
    e0s: Any = e0
    if e0 is not None and "=" in e0:
        e0s = _assignments(e0, "--e0")
    options = {"ridge": ridge, "rtol": rtol, "threshold": threshold}
    report = fit_file(
        train,
        output,
        test=test,
        settings=settings,
        keys=LabelKeys(energy_key, forces_key, virial_key),
        weights=weights,
        e0s=e0s,
        solver=solver,
        solver_options={key: value for key, value in options.items() if value is not None},
        prior_power=_prior_power(prior_power),
        committee=committee,
        seed=seed,
        state=state,
        extend=extend,
        plots=plots,
        threads=threads,
        memory_mb=memory_mb,
    )
    if as_json:
        print_json(report)
        return
    for name in ("train", "test"):
        if name in report:
            Console().print(error_table(report[name], f"{name} errors"))
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


def _settings_when_extending(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Nothing, if the options are the defaults; otherwise what was asked for, to be refused."""
    defaults = {"order": 3, "cutoff": 5.5, "inner_cutoff": 0.0, "l_weight": 1.5}
    changed = {key: value for key, value in settings.items() if value != defaults.get(key)}
    return changed or None


def _prior_power(text: str) -> float | str:
    if text == "auto":
        return text
    number = _numbers(text, "--prior-power")
    if isinstance(number, tuple) or number < 0:
        raise ConfigurationError(f"--prior-power is '{text}'; it must be a number of 0 or more, or auto.")
    return number


def _numbers(text: str, option: str) -> float | tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.replace("[", "").replace("]", "").split(","))
    except ValueError:
        raise ConfigurationError(f"{option} is '{text}'; write a number, or numbers such as 20,16,12.") from None
    return values[0] if len(values) == 1 else values


def _assignments(text: str, option: str) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise ConfigurationError(f"{option} is '{text}'; write it like Al=-1.5,Si=-2.5.") from None


def _config_weights(texts: list[str]) -> dict[str, tuple[float, float, float]]:
    weights = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        values = _numbers(numbers, "--config-weight") if name else ()
        if not isinstance(values, tuple) or len(values) != 3:
            raise ConfigurationError(
                f"--config-weight is '{text}'; write the config type and weights of energy, forces and virial, like "
                "liq=10,0.66,0.25."
            )
        weights[name] = (values[0], values[1], values[2])
    return weights
