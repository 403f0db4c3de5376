"""From what is drawn and asked for to the inputs of a job, as files that ``halberd generate`` takes too."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.files import replacing
from halberd.samplers.generation.settings import GenerationSettings
from halberd.samplers.web.drawing import cloud, curve
from halberd.samplers.web.fragment import Fragment
from halberd.samplers.web.rooms import Job, Room
from halberd.samplers.web.settings import JobRequest, WebSettings
from halberd.samplers.web.tasks import FRAGMENT, SCAFFOLD, SETTINGS, SHAPE

#: Molecules that are made together: the first are there before the last are begun.
_BATCH = 4
#: Heavy atoms per angstrom of a linker.
_LINEAR_DENSITY = 1.2


def order(room: Room, request: JobRequest, settings: WebSettings) -> Job:
    """Make a job of what a room holds.

    Parameters
    ----------
    room : Room
    request : JobRequest
    settings : WebSettings

    Returns
    -------
    Job
        Not in the queue yet.

    Raises
    ------
    ConfigurationError
        If it asks for what is not there, makes no sense, or is too much.
    """
    if request.kind in ("generate", "link"):
        return _generation(room, request, settings)
    fragment = room.fragment
    if fragment is None:
        raise ConfigurationError("There is no fragment yet: upload one, or take a molecule of the gallery.")
    if request.kind in ("relax", "md") and fragment.molecule is None:
        raise ConfigurationError(
            f"'{fragment.name}' is no neutral molecule with all its hydrogens. Hydrogenate it first."
        )
    text = json.dumps(fragment.to_json())
    return room.new_job(request.kind, _as_json(request), lambda folder: _write(folder / FRAGMENT, text))


def _generation(room: Room, request: JobRequest, settings: WebSettings) -> Job:
    fragment = room.fragment if room.fragment is not None and room.fragment.kept else None
    points = _points(room, request, fragment)
    values: dict[str, Any] = {
        "n": request.n,
        "heavy_atoms": _size(request, fragment),
        "seed": request.seed,
        "batch": _BATCH,
        "model": settings.model,
        "sampler": {"elements": list(request.elements)},
    }
    if points is not None:
        values["shape"] = SHAPE
    if fragment is not None:
        values["scaffold"] = SCAFFOLD
    checked = GenerationSettings.from_mapping(values, "the request")
    if checked.sizes is None:
        raise ConfigurationError("heavy_atoms is 'references'; here give a number, or a range such as 7:9.")
    largest = max(checked.sizes)
    if request.n > settings.most_molecules or largest > settings.most_atoms:
        raise ConfigurationError(
            f"{request.n} molecules of up to {largest} heavy atoms are too much here; "
            f"{settings.most_molecules} and {settings.most_atoms} are the most."
        )

    def prepare(folder: Path) -> None:
        if points is not None:
            _write(folder / SHAPE, "".join(f"{x:.4f},{y:.4f},{z:.4f}\n" for x, y, z in points))
        if fragment is not None:
            fragment.write_scaffold(folder / SCAFFOLD)
        _write(folder / SETTINGS, yaml.safe_dump(values, sort_keys=False))

    if fragment is not None and fragment.bonds is None:
        fragment.write_scaffold(Path())  # says why it cannot
    return room.new_job(request.kind, _as_json(request), prepare)


def _points(room: Room, request: JobRequest, fragment: Fragment | None) -> np.ndarray | None:
    """What to fill; ``None`` for a ball."""
    kept = () if fragment is None else fragment.positions[list(fragment.kept)]
    if request.kind == "link":
        ends = _ends(fragment)
        if not room.drawn:
            return curve(ends)
    return cloud(room.drawn, kept) if room.drawn else None


def _ends(fragment: Fragment | None) -> np.ndarray:
    """Where a linker begins and ends, shape (2, 3), angstrom."""
    if fragment is None or len(fragment.anchors) != 2:
        count = 0 if fragment is None else len(fragment.anchors)
        raise ConfigurationError(f"{count} atoms are marked to grow from; mark the two that are to be linked.")
    return np.array([fragment.outlet(index) for index in fragment.anchors])


def _size(request: JobRequest, fragment: Fragment | None) -> str:
    """Heavy atoms; of a linker by its length if none are given."""
    if request.heavy_atoms != "auto":
        return request.heavy_atoms
    if request.kind != "link":
        raise ConfigurationError("heavy_atoms is 'auto', which is for linkers; give a number or a range.")
    first, second = _ends(fragment)
    return str(max(1, math.ceil(_LINEAR_DENSITY * float(np.linalg.norm(second - first)))))


def _as_json(request: JobRequest) -> dict[str, Any]:
    return dict(json.loads(json.dumps(vars(request))))


def _write(file: Path, text: str) -> None:
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
