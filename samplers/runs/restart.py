"""Restart files of a run: one file, replaced in one step, that brings everything back.

It holds OpenMM's checkpoint (bit for bit on the machine that wrote it), the portable State XML, what the run must
have in common with its continuation, and how long each output file was: rows and frames written after the
checkpoint are cut off before the run goes on, so that nothing appears twice. Of files that are written as a whole, such
as the state of a bias, it holds a copy.
"""

from __future__ import annotations

import dataclasses
import json
import os
import struct
import warnings
import zipfile
import zlib
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
    copies : dict
        File, relative to the folder -> its content at the checkpoint.
    """

    step: int
    fingerprint: dict[str, Any]
    sizes: dict[str, int]
    binary: bytes
    state: str
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    copies: dict[str, bytes] = dataclasses.field(default_factory=dict)


class InexactRestartWarning(UserWarning):
    """A run goes on from positions and velocities alone: another trajectory of the same ensemble."""


#: Folder of copies inside the archive.
_COPY = "copies/"


def write_checkpoint(
    path: Path,
    simulation: app.Simulation,
    fingerprint: dict[str, Any],
    outputs: list[Path],
    extra: dict[str, Any] | None = None,
    states: Sequence[Path] = (),
) -> None:
    """Write a restart file; the old one stays valid until the new one is complete.

    Parameters
    ----------
    path : path
    simulation : openmm.app.Simulation
    fingerprint : dict
        What the continuation must share.
    outputs : list of path
        Files that grow.
    extra : dict, optional
        What ``get_state()`` of Python-side algorithms returned, JSON-compatible.
    states : sequence of path
        Files that are written as a whole; those that exist are copied.

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
        for file in states:
            if file.is_file():
                archive.write(file, _COPY + os.path.relpath(file, path.parent))


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
            checkpoint = Checkpoint(
                step=facts["step"],
                fingerprint=facts["fingerprint"],
                sizes=facts["sizes"],
                binary=archive.read("checkpoint.bin"),
                state=archive.read("state.xml").decode(),
                extra=facts.get("extra", {}),
                copies={n.removeprefix(_COPY): archive.read(n) for n in archive.namelist() if n.startswith(_COPY)},
            )
            _check_facts(checkpoint)
            return checkpoint
    # Damaged bytes come out as any of these, RuntimeError for what looks encrypted.
    except (
        *(zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, OSError, EOFError),
        *(NotImplementedError, RuntimeError, RecursionError),
    ) as error:
        raise RestartError(
            f"Restart file '{path}' is damaged: {error}. Go on from a copy of it, or start anew in another folder."
        ) from error


def _check_facts(checkpoint: Checkpoint) -> None:
    if not all(isinstance(each, dict) for each in (checkpoint.sizes, checkpoint.fingerprint, checkpoint.extra)):
        raise TypeError("facts.json holds something else than facts")
    whole = [checkpoint.step, *checkpoint.sizes.values()]
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in whole):
        raise ValueError("a step or the size of a file is no whole number")


def check_fingerprint(stored: dict[str, Any], fingerprint: dict[str, Any], path: Path) -> None:
    """Refuse to continue another run.

    Parameters
    ----------
    stored : dict
        Fingerprint of the run that is to be continued.
    fingerprint : dict
        That of this run.
    path : path
        Where the first comes from.

    Raises
    ------
    RestartError
        Names what differs, with both values.
    """
    for key in dict.fromkeys([*fingerprint, *stored]):
        theirs, ours = stored.get(key), fingerprint.get(key)
        if theirs != ours:
            shown = (f"{theirs}", f"{ours}") if len(f"{theirs}{ours}") < 80 else ("other values", "these")
            raise RestartError(
                f"Restart file '{path}' belongs to another run: its {key} is {shown[0]}, this run has {shown[1]}. "
                "Use the settings and structure it was written with, or another output folder."
            )


def restore(simulation: app.Simulation, checkpoint: Checkpoint) -> None:
    """Bring a Simulation to a checkpoint: exactly on the machine that wrote it, from the State elsewhere.

    Warns
    -----
    InexactRestartWarning
        If it is the State: random numbers start anew, so the trajectory is another one than without the restart.

    Raises
    ------
    RestartError
        If neither can be loaded.
    """
    try:
        simulation.context.loadCheckpoint(checkpoint.binary)
    except openmm.OpenMMException as error:
        try:
            simulation.context.setState(openmm.XmlSerializer.deserialize(checkpoint.state))
        except (openmm.OpenMMException, ValueError, TypeError) as second:
            raise RestartError(f"The restart file fits neither this machine nor this system: {second}.") from error
        warnings.warn(
            f"The exact checkpoint cannot be loaded here ({error}); positions, velocities and box are taken instead, "
            "and random numbers start anew. The run is a valid continuation, but not the one it would have been.",
            InexactRestartWarning,
            stacklevel=2,
        )
    simulation.currentStep = checkpoint.step


def cut_outputs(
    folder: Path, checkpoint: Checkpoint, outputs: Sequence[Path] = (), elsewhere: Sequence[Path] = ()
) -> None:
    """Bring output files back to what they were at the checkpoint, and delete those it knows nothing of.

    Parameters
    ----------
    folder : path
    checkpoint : Checkpoint
    outputs : sequence of paths
        Files that the run may have begun since.
    elsewhere : sequence of paths
        Files of the run that may lie outside of its folder.

    Raises
    ------
    RestartError
        If one is missing or shorter than it was, is no regular file, or lies where no file of this run can be.
    """
    mine = [*outputs, *elsewhere]
    places = {name: _place_of(name, folder, mine) for name in (*checkpoint.sizes, *checkpoint.copies)}
    for name, size in checkpoint.sizes.items():
        if not places[name].is_file() or places[name].stat().st_size < size:
            raise RestartError(
                f"'{places[name]}' is missing or shorter than when the checkpoint was written. Put it back, or start "
                "the run without --restart in another folder."
            )
    for file in outputs:
        if file.exists() and os.path.relpath(file, folder) not in places:
            file.unlink()
    for name, size in checkpoint.sizes.items():
        cut = places[name].stat().st_size > size
        os.truncate(places[name], size)
        if cut and places[name].suffix == ".dcd":
            _mend_dcd_header(places[name])
    for name, content in checkpoint.copies.items():
        with replacing(places[name]) as temporary:
            temporary.write_bytes(content)


def _place_of(name: str, folder: Path, mine: Sequence[Path]) -> Path:
    """Where a file of a checkpoint is, if a run may touch it."""
    place = folder / name
    known = {each.resolve() for each in mine}
    if place.resolve() not in known and folder.resolve() not in place.resolve().parents:
        raise RestartError(
            f"The restart file in '{folder}' names '{name}', which is no file of this run; nothing was changed. Do not "
            "go on from restart files of unknown origin."
        )
    if place.is_symlink() or (place.exists() and not place.is_file()):
        raise RestartError(
            f"'{place}' is no regular file any more, so the run that wrote it cannot go on. Put it back."
        )
    return place


def _mend_dcd_header(file: Path) -> None:
    """Make the frame count in a DCD header agree with the length of the file."""
    with open(file, "r+b") as handle:
        header = handle.read(276)
        if len(header) < 276 or header[4:8] != b"CORD":
            raise RestartError(
                f"'{file}' is damaged: it does not begin as a DCD file. Move it away, with its checkpoint."
            )
        first, interval, has_box, n_atoms = (struct.unpack_from("<i", header, at)[0] for at in (12, 16, 48, 268))
        frame = (56 if has_box else 0) + 3 * (4 * n_atoms + 8)
        frames = (file.stat().st_size - len(header)) // frame
        handle.seek(8)
        handle.write(struct.pack("<i", frames))
        handle.seek(20)
        handle.write(struct.pack("<i", first + (frames - 1) * interval))
