"""Looking at a committee beside a running simulation: the per-atom disagreement that no force can hand out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from halberd.plugins.hosts.ase_calculator import HalberdCalculator, virial_trace
from halberd.potentials.committees.bias import check_committee
from halberd.potentials.committees.disagreement import Disagreement, disagreement
from halberd.potentials.constants import NM_IN_ANGSTROM
from halberd.potentials.sites.site_model import SiteModel
from halberd.potentials.sites.torchscript import warm_up


@dataclasses.dataclass(frozen=True)
class Observation:
    """One look at a structure.

    Attributes
    ----------
    atoms : ase.Atoms
    energy : float, eV
        Of the mean, self-energies included.
    spread : Disagreement
    virial_trace : float, kJ/mol
        Of the mean; 0 without periodic boundaries.
    """

    atoms: Atoms
    energy: float
    spread: Disagreement
    virial_trace: float


class CommitteeMonitor:
    """Evaluates all members of a committee for fixed atoms.

    Parameters
    ----------
    model : SiteModel
        With members; a single model has no disagreement.
    atomic_numbers : sequence of int, shape (N,)
    periodic : bool
    form : {'rms', 'mean'}
        See :func:`halberd.potentials.committees.disagreement.disagreement`.
    skin : float, angstrom

    Raises
    ------
    ConfigurationError
        If the model is no committee.
    """

    def __init__(
        self,
        model: SiteModel,
        atomic_numbers: Sequence[int],
        periodic: bool,
        form: str = "rms",
        skin: float = 0.5,
    ) -> None:
        check_committee(model)
        self.calculator = HalberdCalculator(model, skin=skin)
        self.atoms = Atoms(numbers=list(atomic_numbers), pbc=periodic)
        self.form = form

    def observe(self, positions: NDArray[np.float64], box: NDArray[np.float64] | None = None) -> Observation:
        """Evaluate a geometry.

        Parameters
        ----------
        positions : array, shape (N, 3), nm
        box : array, shape (3, 3), nm, optional
        """
        self.atoms.set_positions(np.asarray(positions) * NM_IN_ANGSTROM)
        if box is not None and self.atoms.pbc.all():
            self.atoms.set_cell(np.asarray(box) * NM_IN_ANGSTROM)
        results = self.calculator.evaluate(self.atoms)
        spread = disagreement(results["energies_committee"], results["forces_committee"], self.form)
        trace = virial_trace(results, self.atoms) if "stress" in results else 0.0
        return Observation(self.atoms.copy(), float(results["energy"]), spread, trace)

    def warm_up(self, positions: NDArray[np.float64], box: NDArray[np.float64] | None = None) -> None:
        """Let TorchScript settle, so that later evaluations do not depend on how many came before."""
        warm_up(lambda: self.observe(positions, box))


FRAME_COLUMNS = ["symbols", "positions", "forces", "force_std", "relative_uncertainty"]


def predicted_frame(seen: Observation, uncertainty: np.ndarray, step: int) -> Any:
    """The frame of an observation, with what the committee says about it."""
    atoms = seen.atoms.copy()
    atoms.info.update(step=step, energy=seen.energy, sigma=seen.spread.sigma)
    atoms.arrays["forces"] = seen.spread.forces
    atoms.arrays["force_std"] = seen.spread.deviation
    atoms.arrays["relative_uncertainty"] = uncertainty
    return atoms
