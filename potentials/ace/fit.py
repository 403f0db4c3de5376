"""Fitting a linear ACE: labelled frames in, a committee with calibrated spread out.

Frames are assembled once. What is kept is the triangular factor of their rows, so that adding frames, changing the
solver, or fitting a smaller basis never touches old frames again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.design_rows import DesignAssembler
from halberd.potentials.ace.dimers import Cores, fit_cores, restraint_rows, shortest_or_default
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.training_set import check_frames, composition, distance_range, self_energies
from halberd.potentials.regression.compressed_rows import CompressedRows
from halberd.potentials.regression.solvers import LinearSystem, Posterior, solve
from halberd.potentials.regression.state import read_state, write_state
from halberd.potentials.regression.weighted_rows import FitWeights, weighted_rows
from halberd.potentials.sites.site_model import SiteModel

#: Smoothness priors that ``prior_power="auto"`` compares.
PRIOR_POWERS = (1.0, 2.0, 3.0, 4.0, 5.0)


@dataclasses.dataclass(frozen=True)
class FittedAce:
    """A solved fit.

    Attributes
    ----------
    model : SiteModel
        Ready to use; a committee if one was asked for.
    basis : AceBasis
    coefficients : array, shape (n_functions,)
        Posterior mean.
    members : array, shape (n_functions, K), or None
        Their average is ``coefficients``.
    posterior : Posterior
    notes : list of str
        What the user should know: a cutoff beyond all data, cores that reach into the data.
    """

    model: SiteModel
    basis: AceBasis
    coefficients: NDArray[np.float64]
    members: NDArray[np.float64] | None
    posterior: Posterior
    notes: list[str]
    cores: Cores | None = None

    def with_exact_sigma(self) -> SiteModel:
        """The mean with the exact standard deviation of its energy, instead of a committee that samples it.

        Costs one more pass over the products, and two products with the square root of the covariance. The model
        file holds that matrix (8 MB for 1000 functions).

        Raises
        ------
        ConfigurationError
            If the solver gave no posterior.
        """
        if self.posterior.factor is None:
            raise ConfigurationError("This solver has no posterior; use 'blr' or 'ard' for a model with sigma.")
        e0s = self.model.e0s if self.members is None else self.model.e0s[:, 0]
        return ace_site_model(
            self.basis,
            self.coefficients,
            e0s=e0s,
            core_onsets=None if self.cores is None else self.cores.onsets,
            core_strengths=None if self.cores is None else self.cores.strengths,
            sigma_factor=self.posterior.factor,
            metadata={k: v for k, v in self.model.metadata.items() if k not in ("kind", "committee_seed")},
        )


class AceFit:
    """A linear ACE fit that grows with its data.

    Parameters
    ----------
    settings : AceSettings
    weights : FitWeights, optional
    e0s : mapping, 'isolated', 'average' or None
        See :func:`halberd.potentials.frames.training_set.self_energies`; fixed by the first frames added.
    memory_mb : float
        Bound on the arrays of one block of rows, and again on the rows that wait to be compressed. Beyond that the
        fit holds a few square matrices of ``n_functions``.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.lj import LennardJones
    >>> from halberd.potentials.frames.labelled import Frame
    >>> frames = []
    >>> for seed in range(4):
    ...     atoms = bulk("Ar", cubic=True) * (2, 1, 1)
    ...     atoms.rattle(0.1, seed=seed)
    ...     atoms.calc = LennardJones(sigma=3.4, epsilon=0.01, rc=5.4, smooth=True)
    ...     frames.append(Frame(atoms, atoms.get_potential_energy(), atoms.get_forces(), None, "default"))
    >>> fit = AceFit(AceSettings(("Ar",), order=2, degree=6, cutoff=5.5))
    >>> left_out = fit.add(frames)
    >>> fit.solve(committee=4, seed=1).model
    SiteModel('linear-ace', Ar, cutoff 6.5 A, double, 4 members)
    """

    def __init__(
        self,
        settings: AceSettings,
        weights: FitWeights | None = None,
        e0s: Mapping[str | int, float] | str | None = None,
        memory_mb: float = 512.0,
    ) -> None:
        self.weights = weights or FitWeights()
        self.basis = AceBasis(settings)
        self.n_frames = 0
        self.e0s: NDArray[np.float64] | None = None
        self.e0_source = ""
        self._wanted_e0s = e0s
        self._assembler = DesignAssembler(self.basis, memory_mb)
        self._rows = CompressedRows(self.basis.n_functions + 1, memory_mb)
        n_species = len(settings.elements)
        self.closest = np.full((n_species, n_species), np.inf)
        self.farthest = 0.0

    @property
    def n_rows(self) -> int:
        """Rows seen so far."""
        return self._rows.n_rows

    def add(self, frames: Sequence[Frame], progress: Callable[[int, int], None] | None = None) -> list[int]:
        """Assemble frames and add their rows; nothing that was added before is computed again.

        Parameters
        ----------
        frames : sequence of Frame
        progress : callable, optional
            Called with (frames done, frames in all).

        Returns
        -------
        list of int
            Frames that were left out because they repeat an earlier one of the sequence.

        Raises
        ------
        DataError, UnknownElementError, ConfigurationError
            Before anything is assembled; names the frames or elements.
        """
        copies = check_frames(frames)
        elements = self.basis.settings.elements
        used = [frame for i, frame in enumerate(frames) if i not in set(copies)]
        composition(used, elements)  # refuses other elements
        closest, longest = distance_range(used, elements, self.basis.settings.r_max, self.closest)
        if not np.isfinite(closest).any():
            raise DataError(
                f"No two atoms are closer than the longest cutoff ({self.basis.settings.r_max:g} angstrom) in any "
                "frame: there is nothing to fit. Check the units of the positions, or enlarge the cutoff."
            )
        if self.e0s is None:
            self.e0s, self.e0_source = self_energies(used, elements, self._wanted_e0s)
        done = 0
        for indices, block in self._assembler.blocks([frame.atoms for frame in used]):
            for k, i in enumerate(indices):
                rows = self._weighted(used[i], block.energy[k], block.forces[k], block.virial[k])
                if len(rows):
                    self._rows.add(rows)
            done += len(indices)
            if progress is not None:
                progress(done, len(used))
        self.closest, self.farthest = closest, max(self.farthest, longest)
        self.n_frames += len(used)
        return copies

    def frame_rows(self, frame: Frame) -> NDArray[np.float64]:
        """Weighted rows that :meth:`add` would add for a frame, shape (n, n_functions + 1); targets come last.

        Parameters
        ----------
        frame : Frame
            Only its labels that are not ``None`` have rows.
        """
        block = self._assembler.rows([frame.atoms])
        return self._weighted(frame, block.energy[0], block.forces[0], block.virial[0])

    def _weighted(self, frame: Frame, energy: NDArray, forces: NDArray, virial: NDArray) -> NDArray[np.float64]:
        e0 = 0.0
        if self.e0s is not None:
            e0 = float((composition([frame], self.basis.settings.elements) @ self.e0s)[0])
        return weighted_rows(frame, self.weights, e0, energy, forces, virial)

    def system(self, prior_power: float = 4.0, restraint: bool = True) -> LinearSystem:
        """The least-squares problem as it stands.

        Parameters
        ----------
        prior_power : float
            Exponent of the smoothness prior; 0 for none.
        restraint : bool
            Whether to add the rows that ask dimers to repel.

        Raises
        ------
        DataError
            If no frame has been added.
        """
        if self.n_rows == 0:
            raise DataError("No labelled frame has been added to this fit.")
        factor, n_rows = self._rows.factor(), self.n_rows
        if restraint:
            extra = restraint_rows(self._assembler, shortest_or_default(self.basis, self.closest))
            both = CompressedRows.from_factor(factor, n_rows)
            both.add(extra)
            factor, n_rows = both.factor(), both.n_rows
        return LinearSystem(factor[:, :-1], factor[:, -1], n_rows, self.basis.smoothness(prior_power))

    def solve(
        self,
        solver: str = "blr",
        *,
        committee: int = 0,
        seed: int = 0,
        prior_power: float | str = 4.0,
        repulsion: bool = True,
        name: str = "linear-ace",
        metadata: Mapping[str, Any] | None = None,
        **options: float,
    ) -> FittedAce:
        """Solve for the coefficients and build the model.

        Parameters
        ----------
        solver : {'blr', 'ridge', 'svd', 'ard'}
            See :func:`halberd.potentials.regression.solvers.solve`, also for ``options``.
        committee : int
            Members to draw from the posterior; 0 for the mean alone. The average of the members is the mean.
        seed : int
        prior_power : float or 'auto'
            Exponent of the smoothness prior; ``'auto'`` takes that of 1, 2, 3, 4, 5 with the largest evidence, and
            needs solver ``blr``.
        repulsion : bool
            Whether dimers are made to repel below the closest distance of the data.
        name : str
        metadata : mapping, optional

        Returns
        -------
        FittedAce

        Raises
        ------
        ConfigurationError, DataError
            See :func:`halberd.potentials.regression.solvers.solve`.
        """
        if prior_power == "auto" and solver != "blr":
            raise ConfigurationError(f"Solver '{solver}' has no evidence to choose prior_power by; give a number.")
        powers = PRIOR_POWERS if prior_power == "auto" else (float(prior_power),)
        system = self.system(powers[0], repulsion)
        solutions = {}
        for power in powers:
            system = dataclasses.replace(system, prior=self.basis.smoothness(power))
            solutions[power] = solve(system, solver, **options)
        power = max(powers, key=lambda p: solutions[p].log_evidence or 0.0)
        posterior = solutions[power]
        members = posterior.draw(committee, seed) if committee else None
        columns = posterior.mean if members is None else members
        cores: Cores | None = None
        notes: list[str] = []
        cutoff = float(self.basis.settings.cutoff)
        if self.farthest < 0.95 * cutoff:
            notes.append(
                f"no two atoms of the data are farther apart than {self.farthest:.2f} angstrom: nothing determines the "
                f"potential from there to the cutoff of {cutoff:g}; a shorter cutoff would do"
            )
        if repulsion:
            every = [posterior.mean] if members is None else [posterior.mean, *members.T]
            cores, more = fit_cores(self._assembler, every, shortest_or_default(self.basis, self.closest))
            notes += more
        assert self.e0s is not None
        e0s = self.e0s if members is None else np.tile(self.e0s[:, None], (1, committee))
        model = ace_site_model(
            self.basis,
            columns,
            e0s=e0s,
            core_onsets=None if cores is None else cores.onsets,
            core_strengths=None if cores is None else cores.strengths,
            metadata={
                "name": name,
                "fitted_to": f"{self.n_frames} frames, {self.n_rows} rows",
                "n_functions": self.basis.n_functions,
                "solver": solver,
                **posterior.details,
                "prior_power": power,
                "e0_source": self.e0_source,
                **({"committee_seed": seed} if committee else {}),
                **(metadata or {}),
            },
        )
        return FittedAce(model, self.basis, posterior.mean, members, posterior, notes, cores)

    # -- files --------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything needed to go on later: the compressed rows, not the frames.

        Raises
        ------
        OutputError
            If the place cannot be written.
        """
        header = {
            "settings": self.basis.settings.to_dict(),
            "weights": dataclasses.asdict(self.weights),
            "n_rows": self.n_rows,
            "n_frames": self.n_frames,
            "e0_source": self.e0_source,
            "farthest": self.farthest,
        }
        write_state(path, header, factor=self._rows.factor(), closest=self.closest, e0s=self.e0s)

    @classmethod
    def load(cls, path: str | os.PathLike[str], memory_mb: float = 512.0) -> AceFit:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            If the file is missing, damaged, or from a newer halberd.
        """
        header, arrays = read_state(path)
        try:
            fit = cls(AceSettings(**header["settings"]), FitWeights(**header["weights"]), None, memory_mb)
            fit._rows = CompressedRows.from_factor(arrays["factor"], header["n_rows"], memory_mb)
            fit.closest, fit.n_frames, fit.e0_source = arrays["closest"], header["n_frames"], header["e0_source"]
            fit.farthest = float(header["farthest"])
            fit.e0s = arrays["e0s"] if len(arrays["e0s"]) else None
        except KeyError as error:
            raise DataError(f"'{path}' is not the state of a linear ACE fit: it has no {error}.") from error
        return fit
