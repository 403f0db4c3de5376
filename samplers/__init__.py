"""Algorithms that move atoms: production runs, hyperactive learning, generation of molecules.

What users type is importable from here, and from nowhere else: files inside may move. Names are imported on first use,
so that a run does not need what generation needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from halberd.potentials.faces import lazy_face

if TYPE_CHECKING:
    from halberd.samplers.generation.annealing import SamplerOptions
    from halberd.samplers.generation.diffusion import DenoisingOptions, DenoisingSampler
    from halberd.samplers.generation.finishing import FinishOptions
    from halberd.samplers.generation.generator import generate
    from halberd.samplers.generation.integrators import AnnealedLangevinIntegrator, StochasticHeunIntegrator
    from halberd.samplers.generation.relaxation import relax
    from halberd.samplers.generation.settings import GenerationSettings
    from halberd.samplers.hal.loop import run_hal
    from halberd.samplers.hal.model import ModelSettings, RefitSettings
    from halberd.samplers.hal.settings import HALSettings
    from halberd.samplers.hal.tau_control import TauController
    from halberd.samplers.hal.walker_settings import BiasedSettings
    from halberd.samplers.md.production import run_md
    from halberd.samplers.md.settings import MDSettings
    from halberd.samplers.md.watching import WatchSettings
    from halberd.samplers.runs.log import mean_and_error, read_log

#: Public name -> module.
_HOMES = {
    "AnnealedLangevinIntegrator": "generation.integrators",
    "BiasedSettings": "hal.walker_settings",
    "DenoisingOptions": "generation.diffusion",
    "DenoisingSampler": "generation.diffusion",
    "FinishOptions": "generation.finishing",
    "GenerationSettings": "generation.settings",
    "HALSettings": "hal.settings",
    "MDSettings": "md.settings",
    "ModelSettings": "hal.model",
    "RefitSettings": "hal.model",
    "SamplerOptions": "generation.annealing",
    "StochasticHeunIntegrator": "generation.integrators",
    "TauController": "hal.tau_control",
    "WatchSettings": "md.watching",
    "generate": "generation.generator",
    "mean_and_error": "runs.log",
    "read_log": "runs.log",
    "relax": "generation.relaxation",
    "run_hal": "hal.loop",
    "run_md": "md.production",
}

__getattr__, __dir__ = lazy_face(__name__, _HOMES)

__all__ = [
    "AnnealedLangevinIntegrator",
    "BiasedSettings",
    "DenoisingOptions",
    "DenoisingSampler",
    "FinishOptions",
    "GenerationSettings",
    "HALSettings",
    "MDSettings",
    "ModelSettings",
    "RefitSettings",
    "SamplerOptions",
    "StochasticHeunIntegrator",
    "TauController",
    "WatchSettings",
    "generate",
    "mean_and_error",
    "read_log",
    "relax",
    "run_hal",
    "run_md",
]
