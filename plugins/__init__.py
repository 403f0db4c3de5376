"""Doors to the outside: OpenMM forces, PLUMED, RDKit, reference calculators, other hosts, the command line.

What users type is importable from here, and from nowhere else: files inside may move. Names are imported on first use,
so that evaluating a model does not need OpenMM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from halberd.potentials.faces import lazy_face

if TYPE_CHECKING:
    from halberd.plugins.commands.fit_file import fit_file
    from halberd.plugins.commands.fit_settings import FitSettings
    from halberd.plugins.commands.train_file import train_file
    from halberd.plugins.commands.train_settings import TrainSettings
    from halberd.plugins.evaluation.evaluate import evaluate_file
    from halberd.plugins.evaluation.figures import new_figure, save_figure
    from halberd.plugins.evaluation.run_figure import run_plot
    from halberd.plugins.forces.diffusion import diffusion_force, element_carriers, elements_in
    from halberd.plugins.forces.learned_potential import LearnedPotential
    from halberd.plugins.forces.options import ForceOptions
    from halberd.plugins.forces.simgen import guidance_force, similarity_force
    from halberd.plugins.forces.topology import read_structure, topology_from_atoms
    from halberd.plugins.forces.variables import (
        CollectiveVariable,
        committee_sigma,
        descriptor_component,
        largest_force_uncertainty,
        similarity_log_density,
    )
    from halberd.plugins.hosts.ase_calculator import HalberdCalculator
    from halberd.plugins.hosts.gromacs_export import export_for_gromacs
    from halberd.plugins.hosts.lammps_fix import LammpsForce
    from halberd.plugins.labelling.settings import LabelSettings
    from halberd.plugins.labelling.worker import make_calculator
    from halberd.plugins.molecules.files import draw_molecules, read_molecules, write_molecules
    from halberd.plugins.molecules.likeness import likeness
    from halberd.plugins.molecules.metrics import measure
    from halberd.plugins.molecules.qm9 import draw_qm9
    from halberd.plugins.plumed.force import PlumedForce
    from halberd.plugins.reporters.disagreement import DisagreementReporter
    from halberd.plugins.reporters.extxyz import ExtXYZReporter
    from halberd.plugins.reporters.progress import ProgressReporter
    from halberd.plugins.reporters.thermo import ThermoReporter
    from halberd.plugins.reporters.uncertainty_guard import UncertaintyGuard, UncertaintyWarning

#: Public name -> module.
_HOMES = {
    "CollectiveVariable": "forces.variables",
    "DisagreementReporter": "reporters.disagreement",
    "ExtXYZReporter": "reporters.extxyz",
    "FitSettings": "commands.fit_settings",
    "ForceOptions": "forces.options",
    "HalberdCalculator": "hosts.ase_calculator",
    "LabelSettings": "labelling.settings",
    "LammpsForce": "hosts.lammps_fix",
    "LearnedPotential": "forces.learned_potential",
    "PlumedForce": "plumed.force",
    "ProgressReporter": "reporters.progress",
    "ThermoReporter": "reporters.thermo",
    "TrainSettings": "commands.train_settings",
    "UncertaintyGuard": "reporters.uncertainty_guard",
    "UncertaintyWarning": "reporters.uncertainty_guard",
    "committee_sigma": "forces.variables",
    "descriptor_component": "forces.variables",
    "diffusion_force": "forces.diffusion",
    "draw_molecules": "molecules.files",
    "draw_qm9": "molecules.qm9",
    "element_carriers": "forces.diffusion",
    "elements_in": "forces.diffusion",
    "evaluate_file": "evaluation.evaluate",
    "export_for_gromacs": "hosts.gromacs_export",
    "fit_file": "commands.fit_file",
    "guidance_force": "forces.simgen",
    "largest_force_uncertainty": "forces.variables",
    "likeness": "molecules.likeness",
    "make_calculator": "labelling.worker",
    "measure": "molecules.metrics",
    "new_figure": "evaluation.figures",
    "read_molecules": "molecules.files",
    "read_structure": "forces.topology",
    "run_plot": "evaluation.run_figure",
    "save_figure": "evaluation.figures",
    "similarity_force": "forces.simgen",
    "similarity_log_density": "forces.variables",
    "topology_from_atoms": "forces.topology",
    "train_file": "commands.train_file",
    "write_molecules": "molecules.files",
}

__getattr__, __dir__ = lazy_face(__name__, _HOMES)

__all__ = [
    "CollectiveVariable",
    "DisagreementReporter",
    "ExtXYZReporter",
    "FitSettings",
    "ForceOptions",
    "HalberdCalculator",
    "LabelSettings",
    "LammpsForce",
    "LearnedPotential",
    "PlumedForce",
    "ProgressReporter",
    "ThermoReporter",
    "TrainSettings",
    "UncertaintyGuard",
    "UncertaintyWarning",
    "committee_sigma",
    "descriptor_component",
    "diffusion_force",
    "draw_molecules",
    "draw_qm9",
    "element_carriers",
    "elements_in",
    "evaluate_file",
    "export_for_gromacs",
    "fit_file",
    "guidance_force",
    "largest_force_uncertainty",
    "likeness",
    "make_calculator",
    "measure",
    "new_figure",
    "read_molecules",
    "read_structure",
    "run_plot",
    "save_figure",
    "similarity_force",
    "similarity_log_density",
    "topology_from_atoms",
    "train_file",
    "write_molecules",
]
