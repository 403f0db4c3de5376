"""The folder of a run: what is written there, and whether it may be."""

from __future__ import annotations

import os
from pathlib import Path

from halberd.potentials.errors import OutputError

CHECKPOINT = "restart.zip"
#: Written last.
REPORT = "report.json"
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
    try:
        if (folder.exists() and not folder.is_dir()) or (folder.is_symlink() and not folder.exists()):
            raise OutputError(f"The output folder '{folder}' is a file, or a link to nothing; choose another name.")
        existing = folder.absolute()
        while not existing.exists():
            existing = existing.parent
        usable = existing.is_dir() and os.access(existing, os.W_OK)
    except (OSError, ValueError) as error:  # a name that is too long, or holds what no name may
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"'{str(folder)[:100]}' cannot be the name of an output folder: {error.args[-1]}.") from error
    if not usable:
        raise OutputError(f"The output folder '{folder}' cannot be written: permission denied. Choose another place.")


def refuse_to_overwrite(folder: Path) -> None:
    """Raise an OutputError if a folder holds a run already."""
    for name in (*OUTPUTS.values(), CHECKPOINT):
        if (folder / name).exists():
            raise OutputError(
                f"'{folder}' holds a run already ('{name}'). Go on with it by --restart (restart=True), "
                "choose another output folder, or delete it."
            )
