"""Fitting a linear ACE: labelled frames in, a committee as wide as its errors on frames left out.

Frames are assembled once. What is kept is the triangular factor of their rows, so that adding frames, changing the
solver, or fitting a smaller basis never touches old frames again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.design_rows import DesignAssembler
from halberd.potentials.ace.dimers import RESTRAINT_WEIGHT, Cores, fit_cores, restraint_rows, shortest_or_default
from halberd.potentials.ace.distorted import DISTORTIONS, MOST, distortion_rows
from halberd.potentials.ace.model import ace_site_model
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.frames.training_set import check_frames, composition
from halberd.potentials.regression.bayesian_ridge import noise_of
from halberd.potentials.regression.calibration import LeftOut
from halberd.potentials.regression.linear_fit import FittedLinear, LinearFit, Progress
from halberd.potentials.regression.linear_system import LinearSystem, Posterior
from halberd.potentials.regression.solvers import solve
from halberd.potentials.regression.state import DAMAGED, read_state
from halberd.potentials.regression.weighted_rows import FitWeights, FrameDesign
from halberd.potentials.sites.site_model import SiteModel

#: Temperature of a posterior from which it is said to mean little.
HOT = 1e3
#: Smoothness priors that ``prior_power="auto"`` compares.
PRIOR_POWERS = (1.0, 2.0, 3.0, 4.0, 5.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedAce(FittedLinear):
    """A solved fit; see :class:`halberd.potentials.regression.linear_fit.FittedLinear`.

    Attributes
    ----------
    basis : AceBasis
    cores : Cores or None
        Repulsion below the closest distances of the data.
    """

    basis: AceBasis
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
        return ace_site_model(
            self.basis,
            self.coefficients,
            e0s=self.model.e0s if self.members is None else self.model.e0s[:, 0],
            core_onsets=None if self.cores is None else self.cores.onsets,
            core_strengths=None if self.cores is None else self.cores.strengths,
            sigma_factor=self.covariance_factor,
            metadata={k: v for k, v in self.model.metadata.items() if k not in ("kind", "committee_seed")},
        )


class AceFit(LinearFit):
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
        self.basis = AceBasis(settings)
        super().__init__(
            self.basis.settings.elements,
            self.basis.n_functions,
            cutoff=self.basis.settings.r_max,
            weights=weights or FitWeights(),
            e0s=e0s,
            memory_mb=memory_mb,
        )
        self._assembler = DesignAssembler(self.basis, memory_mb)

    def design(self, frame: Frame) -> FrameDesign:
        """Values of the basis functions for a frame."""
        return self._assembler.rows([frame.atoms]).of(0)

    def _add(self, frames: Sequence[Frame], progress: Progress) -> None:
        if self.e0s is None:
            self._fix_e0s(frames)
        done = 0
        for indices, block in self._assembler.blocks([frame.atoms for frame in frames]):
            for k, i in enumerate(indices):
                rows = self._weighted(frames[i], block.of(k))
                if len(rows):
                    self._rows.add(rows)
            done += len(indices)
            progress(done, len(frames))

    def add_in_parts(self, parts: Sequence[Sequence[Frame]], progress: Progress | None = None) -> list[AceFit]:
        """Add frames as :meth:`add` does, and keep what each part of them alone makes: to leave it out, say.

        Parameters
        ----------
        parts : sequence of sequence of Frame
            None of them empty.
        progress : callable, optional
            Called with (frames done, frames in all).

        Returns
        -------
        list of AceFit
            One for each part, with the self-energies of all. Those of some parts :meth:`merge` into one of them.

        Raises
        ------
        DataError, UnknownElementError, ConfigurationError
            See :meth:`add`.
        """
        frames = [frame for part in parts for frame in part]
        check_frames(frames)
        composition(frames, self.elements)
        if self.e0s is None:
            self._fix_e0s(frames)
        done, fits = 0, []

        def show(now: int, _: int) -> None:
            if progress is not None:
                progress(done + now, len(frames))

        for part in parts:
            fits.append(self.alike())
            fits[-1].add(part, show)
            self.merge(fits[-1])
            done += len(part)
        return fits

    def alike(self) -> AceFit:
        """A fit of the same functions, weights and self-energies, without frames."""
        fit = AceFit(self.basis.settings, self.weights, self._wanted_e0s, self._memory_mb)
        fit.e0s, fit.e0_source = self.e0s, self.e0_source
        return fit

    def merge(self, other: AceFit) -> None:
        """Add what was added to another fit of the same functions; none of its frames is evaluated again.

        Raises
        ------
        ConfigurationError
            If it has another basis, or other weights or self-energies.
        """
        if (self.basis.settings, self.weights) != (other.basis.settings, other.weights):
            raise ConfigurationError("Fits of another basis or other weights cannot be merged into this one.")
        if self.e0s is None:
            self.e0s, self.e0_source = other.e0s, other.e0_source
        elif other.e0s is not None and not np.array_equal(self.e0s, other.e0s):
            raise ConfigurationError("Fits with different self-energies cannot be merged; give both the same 'e0s'.")
        self._rows.merge(other._rows)
        self._kept.merge(other._kept)
        self.closest = np.minimum(self.closest, other.closest)
        self.farthest = max(self.farthest, other.farthest)
        self.n_frames += other.n_frames

    def system(self, prior_power: float = 4.0, restraint: bool = True, distortions: int = 0) -> LinearSystem:
        """The least-squares problem as it stands.

        Parameters
        ----------
        prior_power : float
            Exponent of the smoothness prior; 0 for none.
        restraint : bool
            Whether to add the rows that ask dimers to repel.
        distortions : int
            Structures made of each of up to 60 molecules among the frames, of which rows are added that say what is
            known of them without a calculation; see :mod:`halberd.potentials.ace.distorted`. What the noise of labels
            is that these are weighed against takes a fit without them.

        Raises
        ------
        DataError
            If no frame has been added.
        """
        prior = self.basis.smoothness(prior_power)
        closest = shortest_or_default(self.basis, self.closest)
        extra = np.zeros((0, self.n_functions + 1))
        if restraint and self.n_rows:
            # As strong beside labels whatever all of their weights are multiplied by.
            weight = RESTRAINT_WEIGHT * (self.weights.forces or self.weights.energy / FitWeights().energy or 1.0)
            extra = restraint_rows(self._assembler, closest, weight)
        known = self._known_of_distortions(closest, distortions)
        if len(known):
            noise = noise_of(self._system(prior, extra))
            extra = np.concatenate([extra, noise * known])
        return self._system(prior, extra)

    def _known_of_distortions(self, closest: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Rows of what is known of distorted molecules, in units of their standard deviations."""
        frames = [frame for frame in self._kept.frames if self.weights.of(frame.config_type)[0] > 0]
        most = int(MOST * self.n_rows)
        if not count or not frames or self.e0s is None or not most:
            return np.zeros((0, self.n_functions + 1))
        each = min(count, max(1, most // len(frames)))
        return distortion_rows(self._assembler, frames[:most], self.e0s, closest, each)

    def solve(
        self,
        solver: str = "blr",
        *,
        committee: int = 0,
        seed: int = 0,
        prior_power: float | str = 4.0,
        repulsion: bool = True,
        distortions: int = DISTORTIONS,
        calibrate: bool = True,
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
        distortions : int
            See :meth:`system`; 0 for none. Other solvers than ``blr`` know of none.
        calibrate : bool
            Whether the posterior is made as wide as the errors of frames that are left out, see
            :mod:`halberd.potentials.regression.calibration`; with fewer than four frames it is left as it is.
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
        power, posterior = self._posterior(
            solver, prior_power, (repulsion, distortions if solver == "blr" else 0), options
        )
        leave_one_out: dict[str, LeftOut] = {}
        if calibrate:
            posterior, leave_one_out = self._calibrated(posterior)
        members = posterior.draw(committee, seed) if committee else None
        notes = self._notes(posterior)
        cores: Cores | None = None
        if repulsion:
            every = [posterior.mean] if members is None else [posterior.mean, *members.T]
            cores, more = fit_cores(self._assembler, every, shortest_or_default(self.basis, self.closest))
            notes += more
        assert self.e0s is not None
        model = ace_site_model(
            self.basis,
            posterior.mean if members is None else members,
            e0s=self.e0s if members is None else np.tile(self.e0s[:, None], (1, committee)),
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
        return FittedAce(
            model=model,
            basis=self.basis,
            coefficients=posterior.mean,
            members=members,
            posterior=posterior,
            notes=notes,
            leave_one_out=leave_one_out,
            cores=cores,
        )

    def _notes(self, posterior: Posterior) -> list[str]:
        """What should be known of a fit."""
        notes: list[str] = []
        cutoff = float(self.basis.settings.cutoff)
        if float(posterior.details.get("temperature", 1.0)) > HOT:
            notes.append(
                "frames that were left out are over thirty times as far off as the posterior says: they are too few, "
                "or too unlike each other, for it, and sigma says little until there are more"
            )
        if self.farthest < 0.95 * cutoff:
            notes.append(
                f"no two atoms of the data are farther apart than {self.farthest:.2f} angstrom: nothing determines the "
                f"potential from there to the cutoff of {cutoff:g}; a shorter cutoff would do"
            )
        return notes

    def _posterior(
        self, solver: str, prior_power: float | str, extra: tuple[bool, int], options: Mapping[str, float]
    ) -> tuple[float, Posterior]:
        """Exponent of the smoothness prior, chosen by evidence if asked, and the posterior under it."""
        if prior_power == "auto" and solver != "blr":
            raise ConfigurationError(f"Solver '{solver}' has no evidence to choose prior_power by; give a number.")
        powers = PRIOR_POWERS if prior_power == "auto" else (float(prior_power),)
        system = self.system(powers[0], *extra)
        solutions = {}
        for power in powers:
            system = dataclasses.replace(system, prior=self.basis.smoothness(power))
            solutions[power] = solve(system, solver, **options)
        power = max(powers, key=lambda p: solutions[p].log_evidence or 0.0)
        return power, solutions[power]

    # -- files --------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything needed to go on later: the compressed rows, not the frames.

        Raises
        ------
        OutputError
            If the place cannot be written.
        """
        self._write(path, {"settings": self.basis.settings.to_dict()})

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
            fit._restore(header, arrays)
        except DataError:
            raise
        except DAMAGED as error:
            raise DataError(
                f"'{path}' is not the state of a linear ACE fit: {type(error).__name__} {error}."
            ) from error
        return fit
