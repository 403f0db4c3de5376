"""Doors to the outside: OpenMM forces, the ASE calculator, reporters, plots, the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halberd.plugins.ase_calculator import HalberdCalculator
    from halberd.plugins.disagreement_reporter import DisagreementReporter
    from halberd.plugins.learned_potential import LearnedPotential
    from halberd.plugins.plumed_force import PlumedForce
    from halberd.plugins.reporters import ExtXYZReporter, ProgressReporter
    from halberd.plugins.uncertainty_guard import UncertaintyGuard

_HOMES = {
    "DisagreementReporter": "halberd.plugins.disagreement_reporter",
    "HalberdCalculator": "halberd.plugins.ase_calculator",
    "LearnedPotential": "halberd.plugins.learned_potential",
    "ExtXYZReporter": "halberd.plugins.reporters",
    "PlumedForce": "halberd.plugins.plumed_force",
    "ProgressReporter": "halberd.plugins.reporters",
    "UncertaintyGuard": "halberd.plugins.uncertainty_guard",
}

__all__ = [
    "DisagreementReporter",
    "ExtXYZReporter",
    "HalberdCalculator",
    "LearnedPotential",
    "PlumedForce",
    "ProgressReporter",
    "UncertaintyGuard",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that evaluating a model does not need OpenMM."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
