"""Watching a model's own uncertainty in production: warn, keep frames, or stop where it leaves what it knows."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.io.extxyz import write_xyz
from numpy.typing import NDArray
from openmm import app, unit

from halberd.plugins.forces.topology import elements_of
from halberd.plugins.reporters.committee_monitor import FRAME_COLUMNS, CommitteeMonitor, predicted_frame
from halberd.plugins.reporters.output import open_output, steps_to_next
from halberd.potentials.committees.bias import check_committee, spread_module
from halberd.potentials.committees.uncertainty import CommitteeSigma
from halberd.potentials.constants import NM_IN_ANGSTROM
from halberd.potentials.errors import ConfigurationError, RunStopped
from halberd.potentials.loading import ModelSource, load
from halberd.potentials.sites.site_model import Columns, SiteModel
from halberd.potentials.sites.structure_energy import StructureEnergy
from halberd.potentials.sites.torchscript import script, warm_up

ACTIONS = ("warn", "save", "stop")
QUANTITIES = ("max_f", "sigma_per_atom")


class UncertaintyWarning(UserWarning):
    """A run has come to where the members of its model disagree."""


class SigmaOnly:
    """Standard deviation of a committee's energy, from one forward pass.

    Parameters
    ----------
    model : SiteModel
        A committee, or a model with an exact sigma.
    atomic_numbers : sequence of int
    periodic : bool
    skin : float, angstrom
    """

    def __init__(self, model: SiteModel, atomic_numbers: Sequence[int], periodic: bool, skin: float = 0.5) -> None:
        structure = StructureEnergy(model, model.species_of(atomic_numbers), skin, torch.get_num_threads())
        self._module = script(CommitteeSigma(structure, spread_module(model, atomic_numbers))).to(model.device)
        self._periodic = torch.tensor([periodic] * 3)
        self._device = model.device

    @torch.no_grad()
    def __call__(self, positions: NDArray[np.float64], box: NDArray[np.float64]) -> float:
        """Sigma, eV, of positions (N, 3) and box (3, 3) in nm."""
        points, cell = (torch.tensor(np.asarray(x) * NM_IN_ANGSTROM, device=self._device) for x in (positions, box))
        return float(self._module(points, cell, self._periodic))


class UncertaintyGuard:
    """An OpenMM reporter that watches how far the members of a committee disagree, in runs that are not biased.

    Parameters
    ----------
    model : path, name, SiteModel, or a sequence of these
        The committee; a model with an exact sigma will do for ``sigma_per_atom``.
    reportInterval : int
        Steps between looks: what the guard costs.
    threshold : float, optional
        Above it something is done; without one, values are only logged.
    quantity : {'max_f', 'sigma_per_atom'}
        ``max_i dF_i / (|F_i| + epsilon)``, one backward pass per member, names the atom; or the standard deviation of
        the energy over the number of atoms, eV, a single forward pass.
    action : {'warn', 'save', 'stop'}
        ``warn`` gives an :class:`UncertaintyWarning` each time the threshold is crossed upwards. ``save`` writes every
        frame above it to ``frames``. ``stop`` raises :class:`halberd.potentials.errors.RunStopped`, after it has saved
        the frame.
    file : path, optional
        CSV with step, time, value and atom of every look.
    frames : path, optional
        Extended XYZ, ready to be labelled; needed for ``save``.
    epsilon : float, eV/angstrom
    append : bool
        Continue existing files.

    Attributes
    ----------
    n_above : int
        Looks that were above the threshold.
    largest : float
        Largest value so far.

    Raises
    ------
    ConfigurationError
        If the model cannot tell its uncertainty, an action or quantity does not exist, or ``save`` has no file.
    OutputError
        If a file cannot be opened.
    """

    def __init__(
        self,
        model: ModelSource | Sequence[ModelSource],
        reportInterval: int,
        threshold: float | None = None,
        *,
        quantity: str = "max_f",
        action: str = "warn",
        file: str | os.PathLike[str] | None = None,
        frames: str | os.PathLike[str] | None = None,
        epsilon: float = 0.2,
        append: bool = False,
    ) -> None:
        if action not in ACTIONS:
            raise ConfigurationError(f"action is '{action}'; it must be one of {', '.join(ACTIONS)}.")
        if quantity not in QUANTITIES:
            raise ConfigurationError(f"quantity is '{quantity}'; it must be one of {', '.join(QUANTITIES)}.")
        if threshold is not None and not threshold >= 0:
            raise ConfigurationError(f"threshold is {threshold}; it must be 0 or more.")
        if action == "save" and frames is None:
            raise ConfigurationError("action 'save' needs a file for the frames; give frames=.")
        self._model = load(model)
        if quantity == "max_f" or self._model.columns is not Columns.MEAN_AND_SIGMA:
            check_committee(self._model)
        self._interval = reportInterval
        self._append = append
        self.threshold = np.inf if threshold is None else float(threshold)
        self.quantity = quantity
        self.action = action
        self.epsilon = epsilon
        self.n_above = 0
        self.largest = 0.0
        self._above = False
        self._look: CommitteeMonitor | SigmaOnly | None = None
        self._frames_file = frames
        self._frames: Any = None
        self._out = None if file is None else open_output(file, append)
        if self._out is not None and not (append and Path(str(file)).stat().st_size):
            self._out.write(f"step,time_ps,{quantity},atom\n")

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """Tell OpenMM when the next look is due and what it needs."""
        return {"steps": steps_to_next(simulation, self._interval), "periodic": None, "include": ["positions"]}

    def report(self, simulation: app.Simulation, state: Any) -> None:
        """Look at the uncertainty, and act on it."""
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        value, atom, frame = self.observe(simulation, positions, box)
        step = int(simulation.currentStep)
        if self._out is not None:
            self._out.write(f"{step},{state.getTime().value_in_unit(unit.picosecond):.10g},{value:.8g},{atom}\n")
            self._out.flush()
        self.largest = max(self.largest, value)
        # Written so that a value that is no number counts as above.
        above = not value <= self.threshold
        entered, self._above = above and not self._above, above
        if above:
            self.n_above += 1
            self._act(step, value, atom, frame, entered)

    def observe(
        self, simulation: app.Simulation, positions: NDArray[np.float64], box: NDArray[np.float64]
    ) -> tuple[float, int, Atoms]:
        """Value, its atom (-1 for the whole structure) and a frame with labels, of a geometry in nm."""
        periodic = simulation.system.usesPeriodicBoundaryConditions()
        if self._look is None:
            self._numbers = elements_of(simulation.topology)
            kind = CommitteeMonitor if self.quantity == "max_f" else SigmaOnly
            self._look = kind(self._model, self._numbers, periodic)
        if isinstance(self._look, CommitteeMonitor):
            seen = self._look.observe(positions, box)
            uncertainty = seen.spread.relative(self.epsilon)
            frame = predicted_frame(seen, uncertainty, int(simulation.currentStep))
            return float(uncertainty.max()), int(uncertainty.argmax()), frame
        sigma = self._look(positions, box)
        cell = box * NM_IN_ANGSTROM if periodic else None
        frame = Atoms(self._numbers, positions * NM_IN_ANGSTROM, cell=cell, pbc=periodic)
        frame.info.update(step=int(simulation.currentStep), sigma=sigma)
        return sigma / len(self._numbers), -1, frame

    def _act(self, step: int, value: float, atom: int, frame: Atoms, entered: bool) -> None:
        where = f" on atom {atom} ({frame.symbols[atom]})" if atom >= 0 else ""
        text = f"{self.quantity} is {value:.3g}{where} at step {step}, above the threshold of {self.threshold:g}"
        if self.action == "warn":
            if entered:
                warnings.warn(f"The model is unsure: {text}.", UncertaintyWarning, stacklevel=2)
            return
        if self._frames_file is not None:
            if self._frames is None:
                self._frames = open_output(self._frames_file, self._append)
            columns = FRAME_COLUMNS if self.quantity == "max_f" else ["symbols", "positions"]
            write_xyz(self._frames, [frame], columns=columns)
            self._frames.flush()
        if self.action == "stop":
            raise RunStopped(f"The run was stopped because the model is unsure: {text}.")

    def warm_up(self, simulation: app.Simulation) -> None:
        """Let TorchScript settle, so that a restarted run sees what the original saw, to the last bit."""
        state = simulation.context.getState(positions=True)
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        warm_up(lambda: self.observe(simulation, positions, box))

    def close(self) -> None:
        """Close the files."""
        for handle in (self._out, self._frames):
            if handle is not None:
                handle.close()
