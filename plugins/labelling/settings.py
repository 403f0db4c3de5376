"""Where labels come from: settings."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from collections.abc import Mapping
from typing import Any

from halberd.potentials.errors import ConfigurationError
from halberd.potentials.validation import conform


@dataclasses.dataclass(frozen=True)
class LabelSettings:
    """Where labels come from.

    Attributes
    ----------
    calculator : str, optional
        An ASE calculator: ``chgnet``, ``gfn2-xtb``, ``emt``, ``halberd``, ``package.module:callable`` or
        ``file.py:callable``.
    kwargs : mapping
        Its arguments.
    command : str, optional
        A command that reads one structure from ``{input}`` and writes it with labels to ``{output}``, both extended
        XYZ. It runs in a folder of its own.
    timeout : float, s
        A label that takes longer has failed.
    max_force : float, eV/angstrom
        A label with a larger force has failed: no potential should be fitted to it.
    energy_key, forces_key, virial_key : str, optional
        Where a command leaves its labels; the usual keys if omitted.

    Raises
    ------
    ConfigurationError
        If neither or both of calculator and command are given, the command cannot be found, or lacks a placeholder.
    """

    calculator: str | None = None
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    command: str | None = None
    timeout: float = 3600.0
    max_force: float = 100.0
    energy_key: str | None = None
    forces_key: str | None = None
    virial_key: str | None = None

    def __post_init__(self) -> None:
        conform(self)
        if (self.calculator is None) == (self.command is None):
            raise ConfigurationError("Labels come from a calculator or from a command: give one of the two.")
        for name in ("timeout", "max_force"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} of labels is {getattr(self, name)}; it must be positive.")
        if self.command is not None:
            words = shlex.split(self.command)
            if "{input}" not in self.command or "{output}" not in self.command:
                raise ConfigurationError(
                    f"The label command '{self.command}' must name its files as {{input}} and {{output}}."
                )
            if shutil.which(words[0]) is None:
                raise ConfigurationError(
                    f"The label command '{words[0]}' is not found. Give its full path, or add its folder to PATH."
                )
