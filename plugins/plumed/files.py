"""Files of a PLUMED script: which it reads, which it writes, and how they must be kept for a restart.

PLUMED has no call that lists its output files, and defaults differ between actions. But it opens nearly all of them
when it reads its input. So the script is read for what can be known before PLUMED starts, and the process is asked for
what it has open for writing afterwards; the answers together are what a checkpoint keeps track of.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

#: Action -> file that it appends to if its ``FILE`` does not say another (manual of PLUMED 2.11).
DEFAULT_FILES = {
    "METAD": "HILLS",
    "OPES_METAD": "KERNELS",
    "OPES_METAD_EXPLORE": "KERNELS",
    "OPES_EXPANDED": "DELTAFS",
    "MAXENT": "LAGMULT",
}
#: Actions whose FILE is read.
READING = ("EXTERNAL", "READ", "INCLUDE", "REFERENCE_GRID", "LOAD", "PLUMED")
#: Keywords of files that are read, in any action.
READ_KEYWORDS = ("STRUCTURE", "REFERENCE", "TEMPLATE", "GRID_RFILE", "STATE_RFILE", "NDX_FILE")
#: Keywords of files that hold one state, written over or one after the other.
_STATE_KEYWORDS = ("GRID_WFILE", "STATE_WFILE")
_COMMENT = re.compile(r"#.*")
_WORD = re.compile(r"[^\s={]+=\{[^}]*\}|\{[^}]*\}|\S+")


def actions(script: str, folder: Path | None = None) -> list[list[str]]:
    """Words of every action of a script: comments gone, lines in ``...`` joined, included files in their places.

    Parameters
    ----------
    script : str
    folder : path, optional
        Where names of included files start; they are not looked into without it.
    """
    found: list[list[str]] = []
    for words in map(_words, _blocks(script)):
        if "ENDPLUMED" in words[:1]:
            break
        if words:
            found.append(words)
    result: list[list[str]] = []
    for words in found:
        file = value_of(words, "FILE") if "INCLUDE" in words else None
        if file is not None and folder is not None and (folder / file).is_file():
            result += actions((folder / file).read_text(encoding="utf-8", errors="replace"), (folder / file).parent)
        else:
            result.append(words)
    return result


def _words(block: list[str]) -> list[str]:
    words = [word for line in block for word in _WORD.findall(_COMMENT.sub("", line))]
    dots = [place for place, word in enumerate(words) if word == "..."]
    # After the closing dots the label or name may be repeated.
    return words[: dots[0]] + words[dots[0] + 1 : dots[-1]] if dots else words


def value_of(words: list[str], keyword: str) -> str | None:
    """Value of ``KEYWORD=...`` in an action, braces taken off."""
    for word in words:
        if word.startswith(f"{keyword}="):
            return word.partition("=")[2].strip("{}").strip()
    return None


def deposits(script: str, folder: Path) -> bool:
    """Whether a bias of the script grows: it then skips the first step after a restart, which other engines repeat."""
    growing = re.compile(r"METAD|OPES|VES|EDS|MAXENT|DRR|LOGMFD|METAINFERENCE|CALIBER")
    return any(growing.search(word) for words in actions(script, folder) for word in words if "=" not in word)


def written_files(script: str, folder: Path) -> tuple[list[Path], list[Path]]:
    """Files that a script says it writes, whether they exist yet or not.

    Parameters
    ----------
    script : str
    folder : path
        Where relative names start.

    Returns
    -------
    growing : list of path
        They are appended to, such as COLVAR and HILLS.
    states : list of path
        Grids and states, which are written as a whole.
    """
    growing: list[str] = []
    states: list[str] = []
    for words in actions(script, folder):
        states += [name for keyword in _STATE_KEYWORDS if (name := value_of(words, keyword)) is not None]
        kind = next((word for word in words if word in DEFAULT_FILES), None)
        file = value_of(words, "FILE") or (None if kind is None else DEFAULT_FILES[kind])
        if file is None or any(word in READING for word in words):
            continue
        walker = value_of(words, "WALKERS_ID")
        if walker is not None:  # hills of this walker, beside those of the others
            file = f"{value_of(words, 'WALKERS_DIR') or '.'}/{file}.{walker}"
        growing += file.split(",")
    return _places(folder, growing), _places(folder, states)


def _places(folder: Path, names: list[str]) -> list[Path]:
    return [Path(os.path.normpath(folder / name)) for name in dict.fromkeys(names)]


def without_read_states(script: str) -> str:
    """The script without ``STATE_RFILE``: OPES then goes on from its list of kernels."""
    return re.sub(r"(?<!\S)STATE_RFILE=\S+", "", script)


def begun_anew(script: str, folder: Path) -> str:
    """The script of a restart in which OPES begins where it has not written any kernel; PLUMED refuses it otherwise.

    Its empty files are deleted, lest PLUMED keep them under other names.
    """
    lines: list[str] = []
    for block in _blocks(script):
        words = _words(block)
        kind = next((word for word in words if word.startswith("OPES_METAD")), None)
        names = [value_of(words, "FILE") or DEFAULT_FILES.get(kind or "", ""), value_of(words, "STATE_RFILE")]
        files = [folder / name for name in names if name and (folder / name).is_file()]
        if kind is not None and not any(file.stat().st_size for file in files):
            for file in files:
                file.unlink()
            block = [" ".join([*(word for word in words if not word.startswith("RESTART=")), "RESTART=NO"])]
        lines += block
    return "\n".join(lines)


def remove_empty_backups(files: list[Path]) -> None:
    """Delete what PLUMED has kept, as ``bck.N.NAME``, of a run that was killed before it wrote anything."""
    for file in files:
        remove_empty(list(file.parent.glob(f"bck.[0-9]*.{glob.escape(file.name)}")))


def remove_empty(files: list[Path]) -> None:
    """Delete files that hold no row, which a run left that was ended before its first; PLUMED would keep them."""
    for file in files:
        if file.is_file() and not file.is_symlink():
            with open(file, encoding="utf-8", errors="replace") as handle:
                empty = all(line.startswith("#!") or not line.strip() for line in handle)
            if empty:
                file.unlink()


def open_for_writing() -> set[Path]:
    """Regular files that this process has open for writing; empty where the system does not tell."""
    found: set[Path] = set()
    for number in _descriptors():
        with contextlib.suppress(OSError, ValueError):
            if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                continue
            if not stat.S_ISREG(os.fstat(number).st_mode) or os.fstat(number).st_nlink == 0:
                continue
            found.add(_path_of(number))
    return found


def _descriptors() -> Iterator[int]:
    for place in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            yield from [int(each.name) for each in Path(place).iterdir()]
            return


def _path_of(descriptor: int) -> Path:
    link = Path(f"/proc/self/fd/{descriptor}")
    if link.exists():
        return link.readlink()
    # macOS tells by F_GETPATH.
    return Path(os.fsdecode(fcntl.fcntl(descriptor, getattr(fcntl, "F_GETPATH", 50), bytes(1024)).rstrip(b"\0")))


def absolute_inputs(script: str, folder: Path) -> str:
    """Make relative names of files that a script reads (structures, references, grids) start at a folder."""

    def resolve(match: re.Match[str]) -> str:
        name = match.group(2)
        return f"{match.group(1)}={folder.absolute() / name}" if (folder / name).is_file() else match.group(0)

    reading = re.compile(rf"(?<!\w)({'|'.join(READING)})(?!\w)")
    lines: list[str] = []
    for block in _blocks(script):
        keywords = "FILE" if any(reading.search(line) for line in block) else "|".join(READ_KEYWORDS)
        lines += [re.sub(rf"(?<![\w-])({keywords})=([^\s,}}/][^\s,}}]*)", resolve, line) for line in block]
    return "\n".join(lines)


def _blocks(script: str) -> Iterator[list[str]]:
    """Lines of a script, those of one action together."""
    block: list[str] = []
    inside = False
    for line in script.splitlines():
        block.append(line)
        words = _COMMENT.sub("", line).split()
        if words and (words[0] == "..." or words[-1] == "..."):
            inside = not inside
        if not inside:
            yield block
            block = []
    if block:
        yield block
