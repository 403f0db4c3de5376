"""Trials by seed: made once each, written down one per line, gone on with after an end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from children import import_everything

#: Exit codes that halberd promises: done, refused or failed (1 and 2), stopped by the user.
PROMISED = (0, 1, 2, 3)


def make_trials(
    seeds: Sequence[int],
    results: Path,
    good: Path,
    prepare: Callable[[Path], None],
    try_one: Callable[[int, Path, Path], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Make the trials of seeds that have not been made.

    Parameters
    ----------
    seeds : sequence of int
    results : path
        One line per trial is added; its folder is made, and holds what trials leave.
    good : path
        Folder of the files that trials start with; made if it is not there.
    prepare : callable
        Writes these files into a folder.
    try_one : callable
        Takes a seed, the folder of ``results``, and ``good``; returns an outcome with ``seed`` and ``verdict``.

    Returns
    -------
    list of dict
        Outcomes of the seeds, those of earlier calls included.
    """
    folder = results.parent
    folder.mkdir(parents=True, exist_ok=True)
    import_everything()
    if not good.exists():
        fresh = good.with_name(f"{good.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        prepare(fresh)
        fresh.rename(good)
    outcomes = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {outcome["seed"] for outcome in outcomes}
    for seed in seeds:
        if seed not in done:
            outcomes.append(try_one(seed, folder, good))
            with open(results, "a", encoding="utf-8") as handle:
                handle.write(json.dumps(outcomes[-1]) + "\n")
    return [outcome for outcome in outcomes if outcome["seed"] in seeds]
