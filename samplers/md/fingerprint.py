"""What a continued run must share with the run that it continues."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app

from halberd.plugins.forces.topology import elements_of
from halberd.plugins.plumed.force import read_script
from halberd.plugins.plumed.restarts import digest
from halberd.potentials.sites.site_model import SiteModel
from halberd.samplers.md.settings import MDSettings


def fingerprint_of(settings: MDSettings, topology: app.Topology, model: SiteModel) -> dict[str, Any]:
    """Everything that decides which run this is, JSON-compatible.

    Parameters
    ----------
    settings : MDSettings
    topology : openmm.app.Topology
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
        "model": model.name,
        "weights": _weights_digest(model),
        "PLUMED script": None if script is None else digest(script, Path()),
        **settings.fixed_by_restart(),
    }


def _weights_digest(model: SiteModel) -> str:
    digest = hashlib.sha256(model.e0s.tobytes())
    for tensor in [*model.module.parameters(), *model.module.buffers()]:
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
