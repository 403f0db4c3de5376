"""TorchScript, which OpenMM's TorchForce rests on: scripting without its notes, and evaluations that settle."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from halberd.potentials.errors import ConfigurationError

T = TypeVar("T")
#: Evaluations after which the profiling executor of TorchScript runs the program that it keeps.
SETTLING = 3
MOST_THREADS = 1024


class quiet_torchscript(warnings.catch_warnings):
    """Silence torch's notes about TorchScript itself; everything else still shows."""

    def __enter__(self) -> None:
        super().__enter__()
        # mace-torch annotates empty lists in constructors; harmless, and not ours to change.
        warnings.filterwarnings("ignore", message="The TorchScript type system doesn't support instance-level")
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is (deprecated|not supported)", append=False)
        warnings.filterwarnings("ignore", message=r".*TorchScript.* is deprecated", append=False)


class default_dtype:
    """Context in which torch makes tensors of a floating-point type.

    Parameters
    ----------
    dtype : torch.dtype
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        self.previous = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(self.previous)


def load_operators() -> None:
    """Load the operators and classes of other packages that TorchScript of ours may hold."""
    import vesin_torch  # noqa: F401


def script(module: torch.nn.Module) -> torch.jit.ScriptModule:
    """A module as TorchScript, in evaluation mode."""
    with quiet_torchscript():
        scripted: torch.jit.ScriptModule = torch.jit.script(module.eval())
    return scripted


def inline(module: torch.jit.ScriptModule) -> None:
    """Write everything that ``forward`` calls into it; wanted before a module is frozen.

    Freezing throws functions away to which the text of errors still points: without this, a process that meets an error
    within one ends, instead of saying what is wrong.
    """
    torch._C._jit_pass_inline(module.graph)


def set_threads(threads: int | None) -> None:
    """Set the CPU threads of torch in this process; ``None`` leaves them.

    Raises
    ------
    ConfigurationError
        If there is none, or there are more than machines have cores: torch crashes on some such numbers.
    """
    if threads is None:
        return
    if not 1 <= threads <= MOST_THREADS:
        raise ConfigurationError(f"threads is {threads}; it must be from 1 to {MOST_THREADS}.")
    torch.set_num_threads(threads)


def warm_up(evaluate: Callable[[], T]) -> T:
    """Evaluate until TorchScript has settled; returns the last result.

    The first evaluations of a scripted module run another, unoptimised program, which rounds differently. A restarted
    run would leave the original's trajectory if it made them where the original was past them.
    """
    for _ in range(SETTLING - 1):
        evaluate()
    return evaluate()
