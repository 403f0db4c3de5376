"""A process that holds an ASE calculator and labels structures; what hangs or crashes in it can be killed.

``python -m halberd.plugins.labelling.worker SPEC``: SPEC is JSON with ``calculator`` and ``kwargs``. Lines on standard
input are ``INPUT<tab>OUTPUT``, two extended XYZ files; every answer is one line: ``ready``, ``done`` or
``failed: why``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from halberd.plugins.labelling.child_processes import die_with_parent
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.frames.electrons import bare

#: Short names of calculators that install from pip.
KNOWN = {
    "chgnet": "chgnet.model.dynamics:CHGNetCalculator",
    "gfn2-xtb": "tblite.ase:TBLite",
    "emt": "ase.calculators.emt:EMT",
    "halberd": "halberd.plugins.hosts.ase_calculator:HalberdCalculator",
}


def make_calculator(name: str, kwargs: Mapping[str, Any] | None = None) -> Any:
    """Make an ASE calculator from its name.

    Parameters
    ----------
    name : str
        A short name; or ``package.module:callable``; or ``file.py:callable``. Calling it returns the calculator.
    kwargs : mapping, optional
        Arguments of the call.

    Raises
    ------
    ConfigurationError
        If it cannot be found or made; carries the reason.
    """
    module_name, _, attribute = KNOWN.get(name, name).rpartition(":")
    if not module_name:
        raise ConfigurationError(
            f"calculator is '{name}'; write 'package.module:callable', 'file.py:callable', or one of "
            f"{', '.join(KNOWN)}."
        )
    try:
        if module_name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
            assert spec is not None and spec.loader is not None  # noqa: PT018
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
        return getattr(module, attribute)(**dict(kwargs or {}))
    except Exception as error:
        raise ConfigurationError(
            f"The calculator '{name}' cannot be made: {type(error).__name__}: {error}. Install what it needs, or "
            "correct its name and arguments."
        ) from error


def label(atoms: Atoms, calculator: Any) -> Atoms:
    """Return a copy with the labels ``REF_energy``, ``REF_forces`` and, for periodic cells, ``REF_virial``.

    The energy is the one that forces are derivatives of, if the calculator offers it.
    """
    work = bare(atoms)
    work.calc = calculator
    labelled = work.copy()
    labelled.info.update(atoms.info)
    try:
        energy = work.get_potential_energy(force_consistent=True)
    except (PropertyNotImplementedError, NotImplementedError, KeyError):
        energy = work.get_potential_energy()
    labelled.info["REF_energy"] = float(energy)
    labelled.arrays["REF_forces"] = np.asarray(work.get_forces(), dtype=float)
    if work.pbc.all():
        with contextlib.suppress(PropertyNotImplementedError, NotImplementedError):
            labelled.info["REF_virial"] = -work.get_volume() * work.get_stress(voigt=False)
    return labelled


def main() -> None:
    """Serve until standard input ends."""
    die_with_parent()
    warnings.simplefilter("ignore")
    # Calculators print what they like; answers go where only the parent reads.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    try:
        calculator = make_calculator(spec["calculator"], spec["kwargs"])
    except ConfigurationError as error:
        answers.write("failed: " + " ".join(str(error).split()) + "\n")
        return
    answers.write("ready\n")
    for line in sys.stdin:
        source, target = line.rstrip("\n").split("\t")
        try:
            atoms = ase.io.read(source, format="extxyz")
            assert isinstance(atoms, Atoms)
            ase.io.write(target, label(atoms, calculator), format="extxyz")
            answers.write("done\n")
        except Exception as error:
            answers.write("failed: " + f"{type(error).__name__}: {error}".replace("\n", " ")[:500] + "\n")


if __name__ == "__main__":
    main()
