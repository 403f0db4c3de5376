"""Reference labels from any ASE calculator or any command, under a time limit, checked before they count."""

from __future__ import annotations

import atexit
import dataclasses
import json
import re
import shlex
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from halberd.plugins.labelling.calculator_process import CalculatorProcess
from halberd.plugins.labelling.child_processes import die_with_parent, kill_group
from halberd.plugins.labelling.settings import LabelSettings
from halberd.potentials.errors import DataError, LabelError
from halberd.potentials.files import replacing
from halberd.potentials.frames.electrons import bare
from halberd.potentials.frames.labelled import Frame, LabelKeys, read_frames, to_atoms

_calculators: dict[str, CalculatorProcess] = {}


@atexit.register
def close_calculators() -> None:
    """End the calculators of this process."""
    for process in _calculators.values():
        process.close()
    _calculators.clear()


def label_structure(atoms: Atoms, settings: LabelSettings) -> Frame:
    """Label one structure.

    Parameters
    ----------
    atoms : ase.Atoms
        Labels it may carry are not looked at; charges and magnetic moments are passed on.
    settings : LabelSettings

    Returns
    -------
    Frame

    Raises
    ------
    LabelError
        Says why: an exception, the time limit, missing or unreasonable values.
    ConfigurationError
        If the calculator cannot be made.
    """
    given = bare(atoms)
    with tempfile.TemporaryDirectory(prefix="halberd-label-") as folder:
        source, target = Path(folder) / "input.extxyz", Path(folder) / "output.extxyz"
        ase.io.write(source, given, format="extxyz")
        if settings.command is None:
            key = json.dumps([settings.calculator, dict(settings.kwargs)], sort_keys=True)
            _calculators.setdefault(key, CalculatorProcess(settings)).label(source, target, settings.timeout)
            keys = LabelKeys()
        else:
            _run_command(settings.command, source, target, settings.timeout)
            keys = LabelKeys(settings.energy_key, settings.forces_key, settings.virial_key)
        try:
            frame = read_frames(target, keys, index="-1")[0]
        except DataError as error:
            raise LabelError(f"its output cannot be used: {error}") from error
    return checked(dataclasses.replace(frame, atoms=given), settings.max_force, frame.atoms)


def _run_command(command: str, source: Path, target: Path, timeout: float) -> None:
    names = {"{input}": str(source), "{output}": str(target)}
    # Only these two: other braces belong to the command.
    words = [re.sub(r"\{input\}|\{output\}", lambda found: names[found[0]], word) for word in shlex.split(command)]
    with open(source.with_suffix(".log"), "w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            words,
            cwd=source.parent,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            kill_group(process)
            raise LabelError(f"no result within {timeout:g} s") from None
        except BaseException:
            kill_group(process)
            raise
        if code != 0:
            log.seek(0)
            tail = log.read().strip().splitlines()[-1:] or ["no output"]
            raise LabelError(f"the command ended with exit code {code}: {tail[0][:300]}")


def checked(frame: Frame, max_force: float, labelled: Atoms) -> Frame:
    """Return the frame if its labels can be trusted to be labels.

    Raises
    ------
    LabelError
        If energy or forces are missing, something is not finite, a force is too large, or atoms were changed.
    """
    if frame.energy is None or frame.forces is None:
        missing = " and ".join(n for n in ("energy", "forces") if getattr(frame, n) is None)
        raise LabelError(f"it gave no {missing}")
    same = np.array_equal(labelled.numbers, frame.atoms.numbers)
    if same:
        moved = labelled.positions - frame.atoms.positions
        if frame.atoms.pbc.any():  # wrapped into the cell, they are the same
            moved = find_mic(moved, frame.atoms.cell, frame.atoms.pbc)[0]
        same = bool(np.abs(moved).max() < 1e-3)
    if not same:
        raise LabelError("its atoms are not those it was given, or in another order or place")
    values = [np.array(frame.energy), frame.forces, *([] if frame.virial is None else [frame.virial])]
    if not all(np.isfinite(value).all() for value in values):
        raise LabelError("its labels are not finite")
    largest = float(np.linalg.norm(frame.forces, axis=1).max())
    if largest > max_force:
        raise LabelError(f"its largest force is {largest:.3g} eV/angstrom, above max_force {max_force:g}")
    return frame


def label_to_file(atoms: Atoms, settings: LabelSettings, path: Path, config_type: str) -> dict[str, Any]:
    """Label a structure and leave the result, or the failure, in a file; do nothing if it is there already.

    Parameters
    ----------
    atoms : ase.Atoms
    settings : LabelSettings
    path : pathlib.Path
        ``.extxyz``; of a failure, the same name with ``.failed.json``.
    config_type : str

    Returns
    -------
    dict
        ``ok`` and, if not, ``reason``.
    """
    failed = path.with_suffix(".failed.json")
    if path.is_file():
        return {"ok": True}
    if failed.is_file():
        return {"ok": False, **json.loads(failed.read_text(encoding="utf-8"))}
    start = time.perf_counter()
    try:
        frame = dataclasses.replace(label_structure(atoms, settings), config_type=config_type)
    except LabelError as error:
        facts = {"reason": str(error), "seconds": time.perf_counter() - start}
        with replacing(path.with_suffix(".failed.extxyz")) as temporary:
            ase.io.write(temporary, bare(atoms))
        with replacing(failed) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return {"ok": False, **facts}
    labelled = to_atoms(frame)
    labelled.info.update({key: value for key, value in atoms.info.items() if key in ("step", "sigma", "max_f")})
    with replacing(path) as temporary:
        ase.io.write(temporary, labelled, format="extxyz")
    return {"ok": True, "seconds": time.perf_counter() - start}
