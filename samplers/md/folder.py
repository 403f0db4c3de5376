"""The folder of a run: what is written there, and whether it may be."""

from __future__ import annotations

import os
from pathlib import Path

from halberd.potentials.errors import OutputError

CHECKPOINT = "restart.zip"
#: Kind -> name of a file that grows during a run.
OUTPUTS = {
    "csv": "log.csv",
    "dcd": "trajectory.dcd",
    "xtc": "trajectory.xtc",
    "extxyz": "frames.extxyz",
    "uncertainty": "uncertainty.csv",
    "uncertain frames": "uncertain.extxyz",
}


def check_folder(folder: Path) -> None:
    """Raise an OutputError if files could not be created in a folder that may not exist yet."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"The output folder '{folder}' is a file; choose another name.")
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise OutputError(f"The output folder '{folder}' cannot be written: permission denied. Choose another place.")


def refuse_to_overwrite(folder: Path) -> None:
    """Raise an OutputError if a folder holds a run already."""
    for name in (*OUTPUTS.values(), CHECKPOINT):
        if (folder / name).exists():
            raise OutputError(
                f"'{folder}' holds a run already ('{name}'). Go on with it by --restart (restart=True), "
                "choose another output folder, or delete it."
            )
