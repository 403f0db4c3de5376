"""What hyperactive learning tells people: a line and two figures per iteration, one figure for the whole run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halberd.plugins.evaluation.dimer_curves import draw_dimers
from halberd.plugins.evaluation.figures import BLUE, GREY, RED, new_figure, save_figure
from halberd.potentials.files import replacing
from halberd.potentials.loading import load
from halberd.samplers.hal.folder import Iteration
from halberd.samplers.hal.settings import HALSettings
from halberd.samplers.hal.walker import LOG


def describe(iteration: Iteration, history: Sequence[Iteration], settings: HALSettings) -> str:
    """One line about an iteration."""
    parts = []
    for outcome in iteration.walkers:
        picosecond = 1e-3 * settings.md.timestep
        if outcome["held"]:
            parts.append(f"{outcome['step'] * picosecond:.2f} ps held (f {outcome['max_f']:.2f})")
        elif outcome["reason"] in ("uncertain", "finished"):
            parts.append(f"f {outcome['max_f']:.2f} at {outcome['selected_step'] * picosecond:.2f} ps")
        else:
            parts.append(f"{outcome['reason']} at {outcome['step'] * picosecond:.2f} ps")
    n_fit, n_test = (sum(len(getattr(it, name)) for it in history) for name in ("fit", "test"))
    new = len(iteration.fit) + len(iteration.test)
    text = f"{iteration.number:3d}  {', '.join(parts) or 'initial frames'} | +{new} labels"
    if iteration.walkers and iteration.tolerance > settings.md.tolerance:
        text += f" (tolerance {iteration.tolerance:.2f})"
    if iteration.n_failed:
        text += f", {iteration.n_failed} failed"
    if iteration.n_duplicates:
        text += f", {iteration.n_duplicates} alike"
    text += f": {n_fit} fit, {n_test} test"
    fit_errors = iteration.errors.get("fit", {})
    if "forces" in fit_errors and "energy" in fit_errors:
        text += (
            f" | fit RMSE {1e3 * fit_errors['energy']['rmse']:.1f} meV/atom, "
            f"{1e3 * fit_errors['forces']['rmse']:.0f} meV/A"
        )
    seconds = iteration.seconds
    return text + f" | MD {seconds['md']:.0f}, label {seconds['label']:.0f}, fit {seconds['fit']:.0f} s"


def report_iteration(
    iteration: Iteration,
    settings: HALSettings,
    folder: Path,
    closest: NDArray[np.float64] | None,
    model_file: Path,
) -> None:
    """Leave the error table, the walkers' logs as a figure and, where there is a new model, its dimer curves."""
    write_error_table(iteration.errors, folder / "errors.csv")
    logs = [_read_log(folder / f"walker{k}" / LOG) for k in range(len(iteration.walkers))]
    if logs:
        draw_walkers([log for log in logs if log is not None], settings, iteration.tolerance, folder / "walkers.png")
    if closest is not None:
        draw_dimers(load(model_file), closest, folder / "dimers.png", points=60)


def write_error_table(errors: Mapping[str, Any], path: Path) -> None:
    """Write errors of the fit and the test set, by config type, as CSV."""
    lines = ["set,config_type,frames,energy_mae_eV,energy_rmse_eV,forces_mae_eV_A,forces_rmse_eV_A,virial_rmse_eV"]
    wanted = (("energy", "mae"), ("energy", "rmse"), ("forces", "mae"), ("forces", "rmse"), ("virial", "rmse"))
    for name, report in errors.items():
        for config_type, row in [*report["per_config_type"].items(), ("all", report)]:
            values = [f"{row[key][kind]:.6g}" if key in row else "" for key, kind in wanted]
            lines.append(",".join([name, config_type, str(row["n_frames"]), *values]))
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read_log(path: Path) -> dict[str, np.ndarray] | None:
    if not path.is_file():
        return None
    rows = np.genfromtxt(path, delimiter=",", names=True, ndmin=1)
    return {name: rows[name] for name in rows.dtype.names or ()} if rows.size else None


def draw_walkers(logs: Sequence[dict[str, np.ndarray]], settings: HALSettings, tolerance: float, path: Path) -> None:
    """Energy, temperature, pressure, tau and the uncertainty with its threshold, against time."""
    if not logs:
        return
    series = [
        ("energy_eV", "energy − first, eV"),
        ("temperature_K", "temperature, K"),
        ("pressure_bar", "pressure, GPa"),
        ("tau", "tau"),
        ("max_f", "largest f"),
    ]
    series = [s for s in series if any(np.isfinite(log[s[0]]).any() for log in logs)]
    figure, axes = new_figure(1, len(series), width=6.5, height=1.6)
    for axis, (name, label) in zip(axes[:, 0], series, strict=True):
        for k, log in enumerate(logs):
            values = log[name]
            if name == "energy_eV":
                values = values - values[0]
            if name == "pressure_bar":
                values = values / 1e4
            axis.plot(log["time_ps"], values, linewidth=1.0, color=f"C{k}", label=f"walker {k}")
        axis.set_ylabel(label, fontsize=8)
        axis.tick_params(labelsize=8)
    if settings.md.criterion == "max":
        axes[-1, 0].axhline(tolerance, color=GREY, linestyle="--", linewidth=1)
    axes[0, 0].legend(fontsize=7, frameon=False, ncols=4)
    axes[-1, 0].set_xlabel("time, ps", fontsize=8)
    save_figure(figure, path)


def draw_learning(history: Sequence[Iteration], settings: HALSettings, path: Path) -> None:
    """Labels, uncertainty met, trajectory length and errors against the iteration."""
    numbers = [it.number for it in history]
    labels = np.cumsum([len(it.fit) + len(it.test) for it in history])
    figure, axes = new_figure(1, 3, width=6.5, height=2.1)
    axes[0, 0].step(numbers, labels, where="post", color=BLUE)
    axes[0, 0].set_ylabel("labels", fontsize=8)
    walked = [it for it in history if it.walkers]
    for it in walked:
        for outcome in it.walkers:
            color = BLUE if outcome["held"] else RED
            axes[1, 0].plot(it.number, 1e-3 * settings.md.timestep * outcome["step"], "o", ms=3.5, color=color)
    axes[1, 0].set_ylabel("trajectory, ps\n(red: stopped)", fontsize=8)
    for name, color in (("fit", BLUE), ("test", RED)):
        points = [
            (it.number, it.errors[name]["forces"]["rmse"]) for it in history if "forces" in it.errors.get(name, {})
        ]
        if points:
            x, y = np.array(points).T
            axes[2, 0].plot(x, 1e3 * y, color=color, label=f"{name} set")
    axes[2, 0].set_yscale("log")
    axes[2, 0].set_ylabel("force RMSE, meV/Å", fontsize=8)
    axes[2, 0].legend(fontsize=7, frameon=False)
    axes[2, 0].set_xlabel("iteration", fontsize=8)
    for axis in axes[:, 0]:
        axis.tick_params(labelsize=8)
    save_figure(figure, path)
