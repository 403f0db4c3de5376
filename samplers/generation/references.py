"""Reference molecules of a run, by name, file, or size of what is to come."""

from __future__ import annotations

from pathlib import Path

from halberd.plugins.molecules.files import read_molecules
from halberd.potentials.simgen.reference_set import ReferenceSet, shipped_references


def load_references(source: str, largest: int) -> ReferenceSet:
    """Read a shipped reference set or a file of molecules; ``auto`` chooses by the largest molecule's heavy atoms.

    Raises
    ------
    DataError
        If there is no such set, or the file cannot be read.
    """
    if source == "auto":
        source = "qm9" if largest <= 9 else "joined"
    if source in shipped_references() or Path(source).suffix == ".npz" or not Path(source).exists():
        return ReferenceSet.load(source)
    return ReferenceSet.from_atoms(read_molecules(source), Path(source).stem)
