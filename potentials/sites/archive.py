"""Model archives: whether all bytes are what was written, and whether their code only computes.

A ``.pt`` file is a zip archive of TorchScript. torch does not look at its checksums, so a flipped byte may become a
wrong weight; and TorchScript can write files, even while it is loaded. Both are looked at before torch sees the file.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import pickle
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from halberd.potentials.errors import ModelFileError
from halberd.potentials.files import replacing
from halberd.potentials.signals import undisturbed

#: Entry that holds the digest of all others.
DIGEST = "halberd.sha256"
#: Functions of torch that reach beyond the program, and libraries whose operators and classes do not.
FORBIDDEN = {"save", "load", "from_file", "_save", "_load", "set_num_threads", "save_to_file"}
_LIBRARIES = {"vesin", "halberd", "sphericart_torch", "torch_scatter", "torch_cluster", "NNPOps"}
_ROOTS = ("torch", "ops", "__torch__")
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


def write_state(content: object, path: str | os.PathLike[str]) -> None:
    """Write tensors and plain values with a digest, under a temporary name that is then renamed."""
    buffer = io.BytesIO()
    with undisturbed():
        torch.save(content, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(with_digest(buffer.getvalue()))


def read_state(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read what :func:`write_state` wrote.

    Raises
    ------
    ModelFileError
        If it cannot be read, or a byte is not what was written.
    """
    check_archive(path)
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (*DAMAGED, pickle.UnpicklingError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelFileError(f"'{path}' is damaged: {first}.") from error


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
    tree = parse_source(source, where)
    for node in ast.walk(tree):
        # TorchScript takes operators for methods, too, of text as well, and getattr() takes their names.
        name = node.attr if isinstance(node, ast.Attribute) else node.value if isinstance(node, ast.Constant) else None
        if isinstance(name, str) and name in FORBIDDEN:
            raise ModelFileError(
                f"{where} uses torch's '{name}', which reads or writes files; a potential needs no such thing. "
                f"Do not use it unless you know why it does. {TRUST}"
            )
    for _, path, called in uses(tree, _ROOTS):
        _check_use(path, called, where)


def uses(tree: ast.Module, roots: Collection[str]) -> Iterator[tuple[ast.Name, list[str], bool]]:
    """Every use of some names: with the attributes behind it, see :func:`dotted`, and whether that is called."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    behind = {id(node.value): node for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in roots:
            whole: ast.AST = node
            while id(whole) in behind:
                whole = behind[id(whole)]
            yield node, dotted(whole) or [node.id], id(whole) in called


def _check_use(path: list[str], called: bool, where: str) -> None:
    """Operators are called where they are named, so that nothing else can stand for them."""
    name = ".".join(path)
    if path[0] == "__torch__":
        # Classes: those of the archive itself (of a script's __main__ by their bare names), and those of libraries.
        known = path[3:4] and path[3] in _LIBRARIES if path[2:3] == ["classes"] else len(path) > 3
        if len(path) < 2 or (path[1] == "torch" and not known):
            raise ModelFileError(f"{where} uses '{name}', a class that halberd does not know. {TRUST}")
        return
    if path[0] == "ops" and len(path) > 1 and path[1] not in _LIBRARIES | {"prim", "aten"}:
        raise ModelFileError(
            f"{where} calls the operator '{'.'.join(path[1:])}', which is not on halberd's list of operators that "
            f"only compute. {TRUST}"
        )
    length = 3 if path[0] == "ops" or path[1:2] == ["autograd"] else 2
    if not called or len(path) != length:
        raise ModelFileError(f"{where} uses '{name}' otherwise than by calling an operator. {TRUST}")


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


def dotted(node: ast.AST) -> list[str] | None:
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
