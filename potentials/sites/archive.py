"""Model archives: whether all bytes are what was written, and whether their code only computes.

A ``.pt`` file is a zip archive of TorchScript. torch does not look at its checksums, so a flipped byte may become a
wrong weight; and TorchScript can write files, even while it is loaded. Both are looked at before torch sees the file.
"""

from __future__ import annotations

import ast
import hashlib
import io
import zipfile
import zlib
from pathlib import Path

import torch

from halberd.potentials.errors import ModelFileError

#: Entry that holds the digest of all others.
DIGEST = "halberd.sha256"
#: Functions of torch that reach beyond the program, and namespaces of operators that do not.
_FORBIDDEN = {"save", "load", "from_file", "_save", "_load", "set_num_threads", "save_to_file"}
_OPERATORS = {"prim", "aten", "vesin", "halberd", "sphericart_torch", "torch_scatter", "torch_cluster", "NNPOps"}
#: The way out.
TRUST = "If you trust the file, say so once: halberd export --trust, or load(..., trust=True)."
#: What reading a damaged zip archive may raise.
DAMAGED = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, NotImplementedError, RuntimeError, KeyError)


def with_digest(content: bytes) -> bytes:
    """A TorchScript archive with a digest of everything in it."""
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/extra/{DIGEST}", _digest(archive))
    return buffer.getvalue()


def check_archive(path: Path) -> None:
    """Compare an archive with its checksums, and with the digest that halberd's own files carry.

    Raises
    ------
    ModelFileError
        If a byte is not what was written.
    """
    advice = "Copy it again from where it came, or make it again."
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            if bad is not None:
                raise ModelFileError(f"'{path}' is damaged: '{bad}' in it fails its checksum. {advice}")
            stored = [name for name in archive.namelist() if name.endswith(f"extra/{DIGEST}")]
            if stored and archive.read(stored[0]).decode() != _digest(archive):
                raise ModelFileError(f"'{path}' is damaged: its digest does not fit its content. {advice}")
    except DAMAGED as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"'{path}' is damaged: {error}. {advice}") from error


def check_torchscript(path: Path) -> None:
    """Make sure that the TorchScript in an archive does nothing but compute, before torch runs any of it.

    Raises
    ------
    ModelFileError
        Names the function that reaches beyond the program, or the operator that halberd does not know.
    """
    for name, content in records(path).items():
        if name.startswith("code/") and name.endswith(".py"):
            check_source(content.decode("utf-8", errors="replace"), f"'{path}'")


def records(path: Path) -> dict[str, bytes]:
    """Entries of an archive that hold code or pickles, by the names and with the content that torch itself sees.

    Raises
    ------
    ModelFileError
        If torch cannot read the archive, or an entry is there twice.
    """
    try:
        reader = torch._C.PyTorchFileReader(str(path))
        names = reader.get_all_records()
        if len({name.lower() for name in names}) != len(names):
            raise ModelFileError(f"'{path}' holds entries twice, one of which might hide. Do not use it.")
        return {name: reader.get_record(name) for name in names if name.endswith((".py", ".pkl"))}
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ModelFileError(f"'{path}' is damaged, or not a model: {first}. Copy or make it again.") from error


def check_source(source: str, where: str) -> None:
    """Look through TorchScript source for calls that reach beyond the program.

    Parameters
    ----------
    source : str
    where : str
        For the message.

    Raises
    ------
    ModelFileError
        As :func:`check_torchscript`.
    """
    check_calls(parse_source(source, where), where)


def parse_source(source: str, where: str) -> ast.Module:
    """Syntax tree of code in a file.

    Raises
    ------
    ModelFileError
        If it is no code.
    """
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelFileError(f"{where} holds code that cannot be read: {error}. Do not use it.") from error


def check_calls(tree: ast.Module, where: str) -> None:
    """What :func:`check_source` does, of code that has been parsed."""
    for node in ast.walk(tree):
        path = _dotted(node)
        if path is None:
            continue
        if path[0] == "ops" and len(path) > 1 and path[1] not in _OPERATORS:
            raise ModelFileError(
                f"{where} calls the operator '{'.'.join(path[1:])}', which is not on halberd's list of operators that "
                f"only compute. {TRUST}"
            )
        if path[0] in ("ops", "torch") and path[-1] in _FORBIDDEN:
            raise ModelFileError(
                f"{where} calls torch's '{path[-1]}', which reads or writes files; a potential needs no such thing. "
                f"Do not use it unless you know why it does. {TRUST}"
            )


def _dotted(node: ast.AST) -> list[str] | None:
    """``a.b.c`` as ``["a", "b", "c"]``; ``None`` for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not names or not isinstance(node, ast.Name):
        return None
    return [node.id, *reversed(names)]


def _digest(archive: zipfile.ZipFile) -> str:
    digest = hashlib.sha256()
    for name in sorted(archive.namelist()):
        if not name.endswith(f"extra/{DIGEST}"):
            content = archive.read(name)
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()
