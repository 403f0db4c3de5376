"""The Python source that graph modules of torch.fx carry: tensor algebra, or it is not run.

e3nn writes it, and torch runs it while such a module is unpickled, on real weights. So every name in it must be known,
and everything that is called must be an operator: nothing may stand for anything else.
"""

from __future__ import annotations

import ast
from collections.abc import Collection
from typing import Any

import torch

from halberd.potentials.errors import ModelFileError
from halberd.potentials.sites.archive import FORBIDDEN, TRUST, dotted, parse_source, uses

#: What it may consist of.
_SYNTAX = (
    *(ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign, ast.Expr, ast.Call, ast.keyword),
    *(ast.Attribute, ast.Name, ast.Constant, ast.Tuple, ast.List, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Subscript),
    *(ast.Slice, ast.Starred, ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.Import, ast.ImportFrom),
    *(ast.alias, ast.AnnAssign),
)
#: Imports that torch.fx writes above the function.
_IMPORTS = {
    *("import torch", "import math", "from math import inf", "from math import nan", "from torch import device"),
    *("import torch.fx._pytree as fx_pytree", "import torch.utils._pytree as pytree"),
}
_PACKAGES = {"torch", "math", "fx_pytree", "pytree"}
_IMPORTED = {*_PACKAGES, "inf", "nan", "device"}
_CALLED_NAMES = {"slice", "len", "int", "float", "tuple", "list", "device", "type"}
#: Places in torch that hold operators and nothing else.
_PLACES = {(), ("nn", "functional"), ("functional",), ("_C", "_nn"), ("linalg",), ("special",)}


def check_graph_source(source: str, where: str, modules: Collection[str] = ()) -> None:
    """Make sure that the source of a graph module is a function of tensor expressions.

    Parameters
    ----------
    source : str
    where : str
        For the message.
    modules : collection of str
        Names of the modules that it may call as ``self.NAME``.

    Raises
    ------
    ModelFileError
        Names what else it holds.
    """
    tree = parse_source(source, where)
    # Packages that are called are among the calls.
    values = {id(name): path for name, path, called in uses(tree, _PACKAGES) if not called}
    for node in ast.walk(tree):
        problem = _unexpected(node, set(modules))
        if problem is None and id(node) in values:
            problem = _unexpected_value(values[id(node)])
        if problem is not None:
            raise ModelFileError(f"{where} holds code with {problem}, which no MACE model needs. {TRUST}")


def _unexpected(node: ast.AST, modules: set[str]) -> str | None:
    problem: str | None = None
    if not isinstance(node, _SYNTAX):
        problem = f"'{type(node).__name__}'"
    elif isinstance(node, (ast.Import, ast.ImportFrom)) and ast.unparse(node) not in _IMPORTS:
        problem = f"'{ast.unparse(node)}'"
    elif isinstance(node, ast.Name) and node.id in _IMPORTED | _CALLED_NAMES and not isinstance(node.ctx, ast.Load):
        problem = f"another '{node.id}'"
    elif isinstance(node, ast.arg) and node.arg in _IMPORTED:
        problem = f"an argument '{node.arg}'"
    elif isinstance(node, ast.Attribute) and (node.attr.startswith("__") or not isinstance(node.ctx, ast.Load)):
        problem = f"'.{node.attr}'"
    elif isinstance(node, ast.FunctionDef) and (node.name != "forward" or node.decorator_list):
        problem = f"'def {node.name}'"
    elif isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Name) and called.id not in _CALLED_NAMES:
            problem = f"a call of '{called.id}'"
        elif isinstance(called, ast.Attribute):
            problem = _unexpected_call(called, modules)
        elif not isinstance(called, ast.Name):
            problem = "a call of an expression"
    return problem


def _unexpected_value(path: list[str]) -> str | None:
    """A package is not given away, nor anything in it but constants."""
    constant = _find(path[1:]) if path[0] == "torch" and len(path) > 1 else None
    if isinstance(constant, (torch.dtype, torch.layout, torch.memory_format)) or constant is torch.Tensor:
        return None
    return f"'{'.'.join(path)}' that is not called"


def _unexpected_call(called: ast.Attribute, modules: set[str]) -> str | None:
    """Methods of tensors, functions of torch and modules may be called, nothing else."""
    path = dotted(called)
    if path is not None and path[0] == "torch":
        found = _find(path[1:])
        known = tuple(path[1:-1]) in _PLACES and found is not None and not isinstance(found, type)
        return None if known and _is_operator(path[-1]) else f"a call of '{'.'.join(path)}'"
    if path is not None and path[0] == "self" and len(path) == 2 and path[1] in modules:
        return None
    if path is not None and path[0] in _IMPORTED:
        return f"a call of '{'.'.join(path)}'"
    return None if _is_operator(called.attr) and hasattr(torch.Tensor, called.attr) else f"a call of '.{called.attr}'"


def _is_operator(name: str) -> bool:
    named = hasattr(torch.ops.aten, name) or name in torch.functional.__all__ or hasattr(torch.nn.functional, name)
    return named and name not in FORBIDDEN and not name.startswith("_")


def _find(names: list[str]) -> Any:
    place: Any = torch
    for name in names:
        place = getattr(place, name, None)
    return place
