"""How commands print: JSON for programs, tables for people."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

#: Where people read; stays off standard output, which belongs to ``--json``.
console = Console(stderr=True)


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def print_json(result: dict[str, Any]) -> None:
    """Print a result as one JSON object on standard output; numbers that are none become ``null``."""
    sys.stdout.write(json.dumps(_valid(result), indent=2, allow_nan=False) + "\n")


def _valid(value: Any) -> Any:
    """What JSON can hold: numbers that are none become ``null``."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _valid(each) for key, each in value.items()}
    return [_valid(each) for each in value] if isinstance(value, (list, tuple)) else value


#: Units of errors as they are shown, in thousandths.
_UNITS = {"energy": "meV/atom", "forces": "meV/Å", "virial": "meV/atom"}


def sigma_table(sigma: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Lay out how predicted standard deviations compare with errors."""
    table = Table(title=title, caption="normal: 68.3 and 95.4 % within; of no use: rank 0, gain 0")
    for name in ("of", "within 1 sigma", "within 2 sigma", "RMSE / mean sigma", "rank", "gain"):
        table.add_column(name, justify="left" if name == "of" else "right")
    for name, row in sigma.items():
        shares = [f"{100 * row[key]:.1f} %" for key in ("within_one", "within_two")]
        table.add_row(
            name, *shares, *("-" if row[key] is None else f"{row[key]:.2f}" for key in ("ratio", "rank", "gain"))
        )
    return table


def left_out_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lay out the errors of frames that were left out of a fit one by one."""
    frames = max(row["frames"] for row in found.values())
    table = Table(title=f"{frames} training frames, left out one by one")
    for name in ("of", "MAE", "RMSE", "within 1 sigma", "within 2 sigma"):
        table.add_column(name, justify="left" if name == "of" else "right")
    for name, row in found.items():
        shares = [f"{100 * row[key]:.1f} %" for key in ("within_one", "within_two")]
        error = "" if row["rmse_error"] is None else f" ± {1e3 * row['rmse_error']:.1g}"
        rmse = f"{1e3 * row['rmse']:.4g}{error}"
        table.add_row(f"{name}, {_UNITS[name]}", f"{1e3 * row['mae']:.4g}", rmse, *shares)
    return table


def _error(found: Mapping[str, float], kind: str) -> str:
    """In thousandths, with its standard error if there is one."""
    error = found.get(f"{kind}_error")
    return f"{1e3 * found[kind]:.4g}" + ("" if error is None else f" ± {1e3 * error:.1g}")


def error_table(report: dict[str, Any], title: str = "errors") -> Table:
    """Lay an error report out for people, in meV."""
    properties = [name for name in ("energy", "forces", "virial") if name in report]
    took = f" ({report['seconds']:.1f} s)" if "seconds" in report else ""
    table = Table(title=f"{title} over {report['n_frames']} frames{took}")
    table.add_column("config type")
    table.add_column("frames", justify="right")
    for name in properties:
        for kind in ("MAE", "RMSE"):
            table.add_column(f"{name} {kind}\n{_UNITS[name]}", justify="right")
    rows = dict(report["per_config_type"])
    if len(rows) > 1 or not rows or "folds" in report:
        rows["all"] = report
    for config_type, row in rows.items():
        cells = [_error(row[name], kind) if name in row else "-" for name in properties for kind in ("mae", "rmse")]
        table.add_row(config_type, str(row["n_frames"]), *cells)
    total = report["n_frames"]
    counts = report["n_labelled"]
    # Many sets have no virials at all.
    if any(counts[name] < total for name in ("energy", "forces")) or 0 < counts["virial"] < total:
        found = ", ".join(f"{name} in {count} of {total}" for name, count in counts.items())
        table.caption = f"Not every frame has every label: {found}."
    return table
