"""What PLUMED does not carry over a restart, and which files beside the script decide what it does.

PLUMED keeps the hills of METAD and the kernels and states of OPES in files, and goes on from them. Much else lives in
memory only, and begins anew in a process of its own: found by comparing runs with restarted ones, action by action.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from halberd.plugins.plumed.files import READ_KEYWORDS, READING, actions, value_of

#: Action, a word that it must have (``""`` for any), a word that mends it, and what begins anew.
_FORGOTTEN = (
    ("EDS", "", "IN_RESTART", "its coupling"),
    ("EXTENDED_LAGRANGIAN", "", "", "its fictitious particle"),
    ("ABMD", "", "", "the lowest value that it has reached"),
    ("MOVINGRESTRAINT", "", "", "its work"),
    ("METAD", "CALC_WORK", "", "its work"),
    ("METAD", "ACCELERATION", "ACCELERATION_RFILE", "its acceleration factor"),
    ("AVERAGE", "", "", "its average"),
    ("HISTOGRAM", "", "", "its histogram"),
)
#: States: they change while a run goes on.
_STATES = ("GRID_RFILE", "STATE_RFILE")


def forgotten(script: str, folder: Path) -> list[str]:
    """What of a script begins anew when it is restarted.

    Parameters
    ----------
    script : str
    folder : path
        Where names of included files start.

    Returns
    -------
    list of str
        Such as "EDS (its coupling)".
    """
    found = []
    for words in actions(script, folder):
        keywords = {word.partition("=")[0] for word in words}
        for action, needs, mends, what in _FORGOTTEN:
            if action in words and (not needs or needs in keywords) and not (mends and mends in keywords):
                found.append(f"{action} ({what})")
    return list(dict.fromkeys(found))


def unwritten_grids(script: str, folder: Path) -> list[str]:
    """Names of grids that are never written: without ``STRIDE``, PLUMED waits for an end that nobody announces."""
    found = []
    for words in actions(script, folder):
        if "DUMPGRID" in words and value_of(words, "STRIDE") is None:
            found.append(value_of(words, "FILE") or "density")
    return found


def digest(script: str, folder: Path) -> str:
    """Digest of a script and of all that it reads and that stays as it is: included files, references, tables.

    Parameters
    ----------
    script : str
    folder : path
        Where relative names start.
    """
    names: list[str] = []
    for words in [*actions(script), *actions(script, folder)]:
        keywords = ("FILE",) if any(word in READING for word in words) else READ_KEYWORDS
        names += [name for keyword in keywords if keyword not in _STATES and (name := value_of(words, keyword))]
    for name in sorted(names, key=len, reverse=True):  # wherever they are
        script = script.replace(name, Path(name).name)
    content = hashlib.sha256(script.encode())
    for file in dict.fromkeys(folder / name for name in names):
        if file.is_file():
            content.update(file.read_bytes())
    return content.hexdigest()[:16]
