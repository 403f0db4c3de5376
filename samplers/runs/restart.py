"""Restart files of a run: one file, replaced in one step, that brings everything back.

It holds OpenMM's checkpoint (bit for bit on the machine that wrote it), the portable State XML, what the run must
have in common with its continuation, and how long each output file was: rows and frames written after the
checkpoint are cut off before the run goes on, so that nothing appears twice.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openmm
from openmm import app

from halberd.potentials.errors import RestartError
from halberd.potentials.files import replacing


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Content of a restart file.

    Attributes
    ----------
    step : int
    fingerprint : dict
        What the continuation must share: elements, model, settings.
    sizes : dict
        Output file, relative to the folder -> length in bytes at the checkpoint.
    binary : bytes
        OpenMM checkpoint.
    state : str
        OpenMM State as XML.
    extra : dict
        What Python-side algorithms remember.
    """

    step: int
    fingerprint: dict[str, Any]
    sizes: dict[str, int]
    binary: bytes
    state: str
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


def write_checkpoint(
    path: Path,
    simulation: app.Simulation,
    fingerprint: dict[str, Any],
    outputs: list[Path],
    extra: dict[str, Any] | None = None,
) -> None:
    """Write a restart file; the old one stays valid until the new one is complete.

    ``extra`` is what ``get_state()`` of Python-side algorithms returned, JSON-compatible.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    state = simulation.context.getState(positions=True, velocities=True, parameters=True, integratorParameters=True)
    facts = {
        "step": simulation.currentStep,
        "fingerprint": fingerprint,
        "sizes": {os.path.relpath(each, path.parent): each.stat().st_size for each in outputs if each.exists()},
        "extra": extra or {},
    }
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        archive.writestr("facts.json", json.dumps(facts))
        archive.writestr("checkpoint.bin", simulation.context.createCheckpoint())
        archive.writestr("state.xml", openmm.XmlSerializer.serialize(state))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a restart file.

    Raises
    ------
    RestartError
        If it is missing or damaged.
    """
    if not path.is_file():
        raise RestartError(f"There is no restart file '{path}'. Start the run without --restart.")
    try:
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(archive.read("facts.json"))
            return Checkpoint(
                step=facts["step"],
                fingerprint=facts["fingerprint"],
                sizes=facts["sizes"],
                binary=archive.read("checkpoint.bin"),
                state=archive.read("state.xml").decode(),
                extra=facts.get("extra", {}),
            )
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise RestartError(f"Restart file '{path}' is damaged: {error}.") from error


def check_fingerprint(checkpoint: Checkpoint, fingerprint: dict[str, Any], path: Path) -> None:
    """Refuse to continue another run.

    Raises
    ------
    RestartError
        Names what differs, with both values.
    """
    for key in sorted(set(checkpoint.fingerprint) | set(fingerprint)):
        theirs, ours = checkpoint.fingerprint.get(key), fingerprint.get(key)
        if theirs != ours:
            shown = (f"{theirs}", f"{ours}") if len(f"{theirs}{ours}") < 80 else ("other values", "these")
            raise RestartError(
                f"Restart file '{path}' belongs to another run: its {key} is {shown[0]}, this run has {shown[1]}. "
                "Use the settings and structure it was written with, or another output folder."
            )


def restore(simulation: app.Simulation, checkpoint: Checkpoint) -> None:
    """Bring a Simulation to a checkpoint: exactly on the machine that wrote it, from the State elsewhere."""
    try:
        simulation.context.loadCheckpoint(checkpoint.binary)
    except openmm.OpenMMException:
        simulation.context.setState(openmm.XmlSerializer.deserialize(checkpoint.state))
    simulation.currentStep = checkpoint.step


def cut_outputs(folder: Path, checkpoint: Checkpoint, outputs: Sequence[Path] = ()) -> None:
    """Cut output files back to their length at the checkpoint, and delete those it knows nothing of.

    Parameters
    ----------
    folder : path
    checkpoint : Checkpoint
    outputs : sequence of paths
        Files that the run may have begun since.

    Raises
    ------
    RestartError
        If one is missing or shorter than it was.
    """
    for file in outputs:
        if file.exists() and os.path.relpath(file, folder) not in checkpoint.sizes:
            file.unlink()
    for name, size in checkpoint.sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size < size:
            raise RestartError(
                f"'{file}' is missing or shorter than when the checkpoint was written. Put it back, or start the run "
                "without --restart in another folder."
            )
        cut = file.stat().st_size > size
        os.truncate(file, size)
        if cut and file.suffix == ".dcd":
            _mend_dcd_header(file)


def _mend_dcd_header(file: Path) -> None:
    """Make the frame count in a DCD header agree with the length of the file."""
    with open(file, "r+b") as handle:
        header = handle.read(276)
        first, interval, has_box, n_atoms = (struct.unpack_from("<i", header, at)[0] for at in (12, 16, 48, 268))
        frame = (56 if has_box else 0) + 3 * (4 * n_atoms + 8)
        frames = (file.stat().st_size - len(header)) // frame
        handle.seek(8)
        handle.write(struct.pack("<i", frames))
        handle.seek(20)
        handle.write(struct.pack("<i", first + (frames - 1) * interval))
