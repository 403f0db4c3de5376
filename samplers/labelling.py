"""Reference labels from any ASE calculator or any command, under a time limit, checked before they count."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from halberd.potentials.errors import ConfigurationError, DataError, LabelError
from halberd.potentials.files import replacing
from halberd.potentials.labels import Frame, LabelKeys, read_frames
from halberd.samplers.processes import die_with_parent

#: Seconds a calculator may take to be made (imports, weights).
STARTUP = 600.0


@dataclasses.dataclass(frozen=True)
class LabelSettings:
    """Where labels come from.

    Attributes
    ----------
    calculator : str, optional
        An ASE calculator: ``chgnet``, ``gfn2-xtb``, ``emt``, ``halberd``, ``package.module:callable`` or
        ``file.py:callable``.
    kwargs : mapping
        Its arguments.
    command : str, optional
        A command that reads one structure from ``{input}`` and writes it with labels to ``{output}``, both extended
        XYZ. It runs in a folder of its own.
    timeout : float, s
        A label that takes longer has failed.
    max_force : float, eV/angstrom
        A label with a larger force has failed: no potential should be fitted to it.
    energy_key, forces_key, virial_key : str, optional
        Where a command leaves its labels; the usual keys if omitted.

    Raises
    ------
    ConfigurationError
        If neither or both of calculator and command are given, the command cannot be found, or lacks a placeholder.
    """

    calculator: str | None = None
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    command: str | None = None
    timeout: float = 3600.0
    max_force: float = 100.0
    energy_key: str | None = None
    forces_key: str | None = None
    virial_key: str | None = None

    def __post_init__(self) -> None:
        if (self.calculator is None) == (self.command is None):
            raise ConfigurationError("Labels come from a calculator or from a command: give one of the two.")
        for name in ("timeout", "max_force"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} of labels is {getattr(self, name)}; it must be positive.")
        if self.command is not None:
            words = shlex.split(self.command)
            if "{input}" not in self.command or "{output}" not in self.command:
                raise ConfigurationError(
                    f"The label command '{self.command}' must name its files as {{input}} and {{output}}."
                )
            if shutil.which(words[0]) is None:
                raise ConfigurationError(
                    f"The label command '{words[0]}' is not found. Give its full path, or add its folder to PATH."
                )


class CalculatorProcess:
    """Keeps an ASE calculator in a process of its own, which is killed and replaced when a label takes too long."""

    def __init__(self, settings: LabelSettings) -> None:
        self._spec = json.dumps({"calculator": settings.calculator, "kwargs": dict(settings.kwargs)})
        self._process: subprocess.Popen[str] | None = None

    def label(self, source: Path, target: Path, timeout: float) -> None:
        """Label a file.

        Raises
        ------
        LabelError
            If the calculator fails, dies, or takes too long.
        ConfigurationError
            If it cannot be made at all.
        """
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(f"{source}\t{target}\n")
            process.stdin.flush()
        except BrokenPipeError:
            self.close()
            raise LabelError("the calculator's process has ended") from None
        answer = self._answer(process, timeout)
        if answer is None:
            self.close()
            raise LabelError(f"no result within {timeout:g} s")
        if answer == "":
            self.close()
            raise LabelError("the calculator's process died")
        if answer != "done":
            raise LabelError(answer.removeprefix("failed: "))

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "halberd.samplers.label_process", self._spec],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                bufsize=1,
                start_new_session=True,
            )
            answer = self._answer(self._process, STARTUP)
            if answer != "ready":
                self.close()
                reason = (answer or "it gave no answer").removeprefix("failed: ")
                raise ConfigurationError(reason if answer else f"The calculator cannot be made: {reason}.")
        return self._process

    @staticmethod
    def _answer(process: subprocess.Popen[str], timeout: float) -> str | None:
        """One line; empty if the process has ended, ``None`` if it took too long."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], timeout)
        return process.stdout.readline().rstrip("\n") if ready else None

    def close(self) -> None:
        """End the process and whatever it started."""
        if self._process is not None:
            _kill(self._process)
            self._process = None


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
        Labels it may carry are not looked at.
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
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    with tempfile.TemporaryDirectory(prefix="halberd-label-") as folder:
        source, target = Path(folder) / "input.extxyz", Path(folder) / "output.extxyz"
        ase.io.write(source, bare, format="extxyz")
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
    return checked(dataclasses.replace(frame, atoms=bare), settings.max_force, frame.atoms)


def _run_command(command: str, source: Path, target: Path, timeout: float) -> None:
    words = [word.format(input=source, output=target) for word in shlex.split(command)]
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
            _kill(process)
            raise LabelError(f"no result within {timeout:g} s") from None
        except BaseException:
            _kill(process)
            raise
        if code != 0:
            log.seek(0)
            tail = log.read().strip().splitlines()[-1:] or ["no output"]
            raise LabelError(f"the command ended with exit code {code}: {tail[0][:300]}")


def _kill(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


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


def to_atoms(frame: Frame) -> Atoms:
    """A structure that carries the labels under the keys that ``read_frames`` looks for first."""
    atoms = frame.atoms.copy()
    atoms.info["config_type"] = frame.config_type
    if frame.energy is not None:
        atoms.info["REF_energy"] = frame.energy
    if frame.forces is not None:
        atoms.arrays["REF_forces"] = frame.forces
    if frame.virial is not None:
        atoms.info["REF_virial"] = frame.virial
    return atoms


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
            ase.io.write(temporary, Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))
        with replacing(failed) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return {"ok": False, **facts}
    labelled = to_atoms(frame)
    labelled.info.update({key: value for key, value in atoms.info.items() if key in ("step", "sigma", "max_f")})
    with replacing(path) as temporary:
        ase.io.write(temporary, labelled, format="extxyz")
    return {"ok": True, "seconds": time.perf_counter() - start}
