"""What a continued run must share with the run that it continues."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app, unit

from halberd.plugins.forces.topology import elements_of
from halberd.plugins.plumed.force import read_script
from halberd.plugins.plumed.restarts import digest
from halberd.potentials.sites.site_model import SiteModel
from halberd.samplers.md.settings import MDSettings


def fingerprint_of(
    settings: MDSettings, topology: app.Topology, positions: np.ndarray, model: SiteModel
) -> dict[str, Any]:
    """Everything that decides which run this is, JSON-compatible.

    Parameters
    ----------
    settings : MDSettings
    topology : openmm.app.Topology
    positions : array, shape (N, 3), nm
        Those of the structure file, from which masses and first bond lengths follow.
    model : SiteModel
        What drives the run; all its weights are read.

    Returns
    -------
    dict
        Name of a property, as people would say it -> value.
    """
    numbers = np.array(elements_of(topology), dtype=np.int64)
    script = None if settings.plumed is None else read_script(Path(settings.plumed))
    return {
        "composition": hashlib.sha256(numbers.tobytes()).hexdigest()[:16],
        "number of atoms": len(numbers),
        "periodicity": topology.getPeriodicBoxVectors() is not None,
        "structure": _structure_digest(topology, positions),
        "model": model.name,
        "weights": _weights_digest(model),
        "PLUMED script": None if script is None else digest(script, Path()),
        "variables": _variables_digest(settings) if settings.variables else None,
        "fast_model": _contents(settings.fast_model),
        "model of watch": None if settings.watch is None else _contents(settings.watch.model),
        **settings.fixed_by_restart(),
    }


def _weights_digest(model: SiteModel) -> str:
    digest = hashlib.sha256(model.e0s.tobytes())
    for tensor in [*model.module.parameters(), *model.module.buffers()]:
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _structure_digest(topology: app.Topology, positions: np.ndarray) -> str:
    """Hash of positions, box and bonds; rounded, as cells are turned by routines that differ between machines."""
    box = topology.getPeriodicBoxVectors()
    bonds = [[bond.atom1.index, bond.atom2.index] for bond in topology.bonds()]
    lengths = positions if box is None else np.vstack([positions, box.value_in_unit(unit.nanometer)])
    # Adding zero makes no difference between zero and minus zero.
    content = (np.round(lengths, 6) + 0.0).tobytes() + np.array(bonds, dtype=np.int64).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def _variables_digest(settings: MDSettings) -> str:
    """Hash of collective variables: their arguments, and the models they ask."""

    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else type(value).__name__

    known = {}
    for name, values in settings.variables.items():
        own = dict(values) if isinstance(values, Mapping) else {"kind": values}
        known[name] = {**own, **{key: _contents(own[key]) for key in ("model", "references") if key in own}}
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=plain).encode()).hexdigest()[:16]


def _contents(names: Any) -> list[str] | None:
    """Models by what is in their files, wherever these are, or by name if they are not in files."""
    if names is None:
        return None
    files = [(str(name), Path(str(name))) for name in (names if isinstance(names, list) else [names])]
    return [hashlib.sha256(f.read_bytes()).hexdigest()[:16] if f.is_file() else name for name, f in files]
