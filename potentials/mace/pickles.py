"""Reading pickled MACE models without giving a file the run of the program.

A ``.model`` file is a pickle: a program that may call anything. It is unpickled here by a reader that knows the
classes of which MACE models are made, by name, and refuses everything else before it is imported. Two of these carry
code of their own: graph modules hold Python source, which must consist of plain tensor expressions, and e3nn's modules
hold TorchScript, which must not reach beyond the program.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any

import torch

from halberd.potentials.errors import ModelFileError
from halberd.potentials.mace.graph_source import check_graph_source
from halberd.potentials.sites.archive import TRUST, check_source

#: Module -> names that may be imported from it.
_NAMES = {
    "builtins": {
        *("set", "frozenset", "dict", "list", "tuple", "int", "float", "bool", "complex", "str", "bytes", "bytearray"),
        *("slice", "range"),
    },
    "collections": {"OrderedDict", "defaultdict"},
    "_codecs": {"encode"},
    "numpy": {"ndarray", "dtype", "float64", "float32", "int64", "int32", "bool_"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.dtypes": {"Float64DType", "Float32DType", "Int64DType", "Int32DType"},
    "torch": {"Size", "device", "tanh", "sigmoid", "abs", "relu"},
    "torch._utils": {
        *("_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_tensor", "_rebuild_tensor_v2"),
        *("_rebuild_tensor_v3", "_rebuild_device_tensor_from_numpy"),
    },
    "torch.storage": {"TypedStorage", "UntypedStorage"},
    "torch.nn.parameter": {"Parameter", "Buffer"},
    "torch.serialization": {"_get_layout"},
    "torch.fx._symbolic_trace": {"Tracer"},
    "torch.fx.graph_module": {"reduce_graph_module"},
    "mace.modules.irreps_tools": {"reshape_irreps"},
    "mace.modules.radial": {"ZBLBasis"},
}
#: Packages all of whose own classes may be imported: networks and descriptions of irreps.
_CLASSES = ("mace.modules.", "e3nn.o3.", "e3nn.nn.", "e3nn.math.", "torch.nn.modules.")


def load_pickled(path: Path, trust: bool = False) -> Any:
    """Unpickle a MACE model.

    Parameters
    ----------
    path : path
    trust : bool
        Whether the file may run anything.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ModelFileError
        If the file asks for something that is no part of a MACE model; names it. Nothing of it has been run then.
    """
    if trust:
        return torch.load(path, map_location="cpu", weights_only=False)
    if not zipfile.is_zipfile(path):
        raise ModelFileError(f"'{path}' is no torch archive.")
    with _checked_torchscript(path):
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_reader_of(path))


def _reader_of(path: Path) -> Any:
    """What torch takes for the module ``pickle``."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return _found(super().find_class, "builtins" if module == "__builtin__" else module, name, path)

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return SimpleNamespace(__name__="pickle", Unpickler=Unpickler, load=load)


def _found(find: Callable[[str, str], Any], module: str, name: str, path: Path) -> Any:
    """What a name in a pickle stands for, if it may be used."""
    refused = ModelFileError(
        f"'{path}' asks for '{module}.{name}', which is no part of a MACE model; it could run anything. {TRUST}"
    )
    if "." in name or name.startswith("__"):
        raise refused
    if module == "torch.fx.graph_module" and name == "reduce_graph_module":
        return _checked_graph_module(find(module, name), path)
    if name in _NAMES.get(module, ()):
        return find(module, name)
    found = None
    if module == "torch" and (name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)):
        found = find(module, name)
    elif module == "torch.nn.functional":
        found = find(module, name)
        if not isinstance(found, (FunctionType, BuiltinFunctionType)):
            raise refused
    elif module.startswith(_CLASSES):
        found = find(module, name)
        # Not what such a module has imported from elsewhere.
        if not isinstance(found, type) or not found.__module__.startswith(_CLASSES):
            raise refused
    if found is None:
        raise refused
    return found


def _checked_graph_module(build: Callable[..., Any], path: Path) -> Callable[..., Any]:
    def checked(body: dict[Any, Any], import_block: str) -> Any:
        source = str(body.get("_code") or body["code"])
        check_graph_source(str(import_block) + source, f"'{path}'", list(body.get("_modules") or {}))
        return build({**body, "_code": source}, str(import_block))

    return checked


@contextlib.contextmanager
def _checked_torchscript(path: Path) -> Iterator[None]:
    """Look at TorchScript inside the pickle, which e3nn loads while it is unpickled, before it runs."""
    load = torch.jit.load

    def checked(file: Any, *args: Any, **options: Any) -> Any:
        content = file.read() if hasattr(file, "read") else Path(file).read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if len({name.lower() for name in names}) != len(names):
                raise ModelFileError(f"'{path}' holds entries twice, one of which might hide. Do not use it.")
            for name in names:
                if name.endswith(".py"):
                    check_source(archive.read(name).decode("utf-8", errors="replace"), f"'{path}'")
        return load(io.BytesIO(content), *args, **options)

    torch.jit.load = checked  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.jit.load = load
