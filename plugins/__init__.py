"""Doors to the outside: OpenMM forces, the ASE calculator, reporters, plots, the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halberd.plugins.forces.learned_potential import LearnedPotential
    from halberd.plugins.hosts.ase_calculator import HalberdCalculator
    from halberd.plugins.plumed.force import PlumedForce
    from halberd.plugins.reporters.disagreement import DisagreementReporter
    from halberd.plugins.reporters.extxyz import ExtXYZReporter
    from halberd.plugins.reporters.progress import ProgressReporter
    from halberd.plugins.reporters.uncertainty_guard import UncertaintyGuard

_HOMES = {
    "DisagreementReporter": "halberd.plugins.reporters.disagreement",
    "HalberdCalculator": "halberd.plugins.hosts.ase_calculator",
    "LearnedPotential": "halberd.plugins.forces.learned_potential",
    "ExtXYZReporter": "halberd.plugins.reporters.extxyz",
    "PlumedForce": "halberd.plugins.plumed.force",
    "ProgressReporter": "halberd.plugins.reporters.extxyz",
    "UncertaintyGuard": "halberd.plugins.reporters.uncertainty_guard",
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
