"""Modules that come out of files, and the operators that must be here before they do.

TorchScript knows operators and classes by name. Where one is missing, reading fails; and what reads is OpenMM, in the
middle of the XML of a System.
"""

from __future__ import annotations

import io

import torch

from halberd.potentials.ace.compiled_operator import ACE_OPERATOR
from halberd.potentials.errors import BackendError
from halberd.potentials.multi_ace.compiled.operators import MULTI_ACE_OPERATOR
from halberd.potentials.sites.compiled_list import LIST_OPERATOR
from halberd.potentials.sites.cuda_kernels import find_kernels
from halberd.potentials.sites.torchscript import load_operators, quiet_torchscript

#: What forces may call; the list first, which nearly all of them hold.
_OPERATORS = (LIST_OPERATOR, ACE_OPERATOR, MULTI_ACE_OPERATOR)


def load_built_operators() -> None:
    """Make available, without compiling, what Systems that are read from XML may call."""
    load_operators()
    for operator in _OPERATORS:
        if operator.load_if_built() and operator is MULTI_ACE_OPERATOR:
            find_kernels()


def read_module(stored: bytes) -> torch.jit.ScriptModule:
    """Read a scripted module, compiling the operators it may call if it cannot be read without.

    Parameters
    ----------
    stored : bytes
        Of :func:`torch.jit.save`.

    Raises
    ------
    BackendError
        If it cannot be read; says which operators are missing and why.
    """
    load_built_operators()
    module = _read(stored)
    for operator in _OPERATORS:
        if isinstance(module, str) and operator.problem() is None:
            load_built_operators()
            module = _read(stored)
    if not isinstance(module, str):
        return module
    missing = [f"{each.name} ({each.problem()})" for each in _OPERATORS if each.problem() is not None]
    switches = " ".join(f"{each.switch}=torch" for each in _OPERATORS)
    raise BackendError(
        f"The module of a PythonForce cannot be read: {module} Operators that are not here: "
        f"{', '.join(missing) or 'none'}. Where they cannot be, use a System that was made with {switches}."
    )


def _read(stored: bytes) -> torch.jit.ScriptModule | str:
    """The module, or why not."""
    try:
        with quiet_torchscript():
            module: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(stored), map_location="cpu")
    except RuntimeError as error:
        return next((line for line in str(error).splitlines() if line.strip()), "no reason is given.").strip()
    return module
