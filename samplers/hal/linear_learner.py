"""Linear potentials as hyperactive learning grows them: ACE, or a MACE with a Bayesian last layer."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeAlias

from ase import Atoms

from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.fit import AceFit, FittedAce
from halberd.potentials.ace.model_selection import select_degree
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.loading import load
from halberd.potentials.mace.last_layer_fit import FittedLastLayer, LastLayerFit
from halberd.potentials.sites.site_model import SiteModel
from halberd.samplers.hal.frame_selection import select_frames
from halberd.samplers.hal.learning import Current, Learnt, Lesson
from halberd.samplers.hal.model import ModelSettings

Fit: TypeAlias = AceFit | LastLayerFit
Fitted: TypeAlias = FittedAce | FittedLastLayer


class LinearLearner:
    """Fits of linear potentials: new frames are added to the rows that are there, and the whole is solved.

    Parameters
    ----------
    settings : ModelSettings
    elements : sequence of int
        All elements that will occur.
    seed : int
        Of committees.
    """

    def __init__(self, settings: ModelSettings, elements: Sequence[int], seed: int) -> None:
        self.settings = settings
        self.elements = tuple(sorted(elements))
        self.seed = seed
        self._base: SiteModel | None = None
        #: The last fit, by the number of its iteration.
        self._known: tuple[int, Fit, Fitted] | None = None

    @property
    def base(self) -> SiteModel:
        """The MACE of a last-layer fit, cut to the elements."""
        if self._base is None:
            assert self.settings.base is not None
            self._base = load(self.settings.base, elements=self.elements)
        return self._base

    def check(self, structures: Sequence[Atoms]) -> None:
        """Check that there will be no fewer rows of data than functions.

        Raises
        ------
        ConfigurationError
        """
        if self.settings.kind == "ace":
            rows = sum(1 + 3 * len(atoms) + (6 if atoms.pbc.all() else 0) for atoms in structures)
            self._possible_degrees(rows, len(structures))

    def learn(self, lesson: Lesson, executor: Executor) -> Learnt:  # noqa: ARG002
        """Add frames and solve; see :class:`halberd.samplers.hal.learning.Learner`."""
        settings, number = self.settings, lesson.number
        select = number == 0 or (settings.select_every > 0 and number % settings.select_every == 0)
        state = lesson.folder / "fit_state.npz"
        if lesson.state is None or (select and settings.select_degrees):
            fit = self._new(lesson.frames, select)
        else:
            # By way of the file, so that a resumed run computes the same bits.
            fit = self._load(lesson.state)
            fit.add(lesson.new)
        fit.save(state)
        fit = self._load(state)
        fitted = self._solve(fit, number)
        model = drive = lesson.folder / "model.pt"
        fitted.model.save(model)
        if settings.sigma == "exact":
            drive = lesson.folder / "drive.pt"
            fitted.with_exact_sigma().save(drive)
        self._known = (number, fit, fitted)
        return Learnt(
            model=model,
            drive=drive,
            state=state,
            n_functions=len(fitted.coefficients),
            n_rows=fit.n_rows,
            closest=fit.closest,
            details={**fitted.posterior.details, "notes": fitted.notes},
        )

    def choose(self, candidates: Sequence[Atoms], current: Current, tolerance: float, epsilon: float) -> list[int]:
        """Frames that are uncertain still once those before them are known: the posterior says so without labels."""
        if len(candidates) < 2:
            return list(range(len(candidates)))
        if self._known is None or self._known[0] != current.made:  # after a restart
            assert current.state is not None
            fit = self._load(current.state)
            self._known = (current.made, fit, self._solve(fit, current.made))
        _, fit, fitted = self._known
        weight = fit.weights.forces
        if fitted.posterior.factor is None or not weight > 0 or not fitted.posterior.noise > 0:
            return list(range(len(candidates)))
        return select_frames(
            candidates,
            fit.frame_rows,
            force_weight=weight,
            posterior=fitted.posterior,
            tolerance=tolerance,
            epsilon=epsilon,
        )

    def finish(self, lesson: Lesson, executor: Executor) -> None:
        """Nothing: every fit is a whole one."""

    # -- fits ---------------------------------------------------------------------------------------------------

    def _possible_degrees(self, rows: int, n_frames: int) -> list[float | None]:
        """Degrees to choose from that have no more functions than there are rows; ``None`` is the one of the basis."""
        degrees: list[float | None] = [None]
        if self.settings.select_degrees:
            degrees = [float(d) for d in sorted(self.settings.select_degrees)]
        sizes = [AceBasis(self.settings.ace_settings(self.elements, degree)).n_functions for degree in degrees]
        possible = [degree for degree, size in zip(degrees, sizes, strict=True) if size <= rows]
        if not possible:
            advice = "smaller select_degrees" if self.settings.select_degrees else "or give select_degrees"
            raise ConfigurationError(
                f"{n_frames} initial frames give {rows} rows of data, too few for a basis of {sizes[0]} functions. "
                f"Add frames, lower order or degree in basis, {advice}."
            )
        return possible

    def _new(self, frames: Sequence[Frame], select: bool) -> Fit:
        """Fit frames from the beginning, with the degree of the lowest BIC if there are degrees to choose from."""
        settings = self.settings
        fit: Fit
        if settings.kind == "last_layer":
            fit = LastLayerFit(self.base, settings.fit_weights(), settings.e0s)
            fit.add(frames)
            return fit
        rows = sum(1 + 3 * len(f.atoms) + (6 if f.virial is not None else 0) for f in frames)
        possible = self._possible_degrees(rows, len(frames))
        fit = AceFit(settings.ace_settings(self.elements, possible[-1]), settings.fit_weights(), settings.e0s)
        fit.add(frames)
        if select and len(possible) > 1:
            degree = select_degree(fit, [d for d in possible if d is not None])[0].degree
            if degree != possible[-1]:
                fit = AceFit(settings.ace_settings(self.elements, degree), settings.fit_weights(), settings.e0s)
                fit.add(frames)
        return fit

    def _load(self, path: Path) -> Fit:
        if self.settings.kind == "last_layer":
            return LastLayerFit.load(path, self.base)
        return AceFit.load(path)

    def _solve(self, fit: Fit, number: int) -> Fitted:
        options = dict(self.settings.solver_options)
        common: dict[str, Any] = {
            "committee": self.settings.members,
            "seed": self.seed + number,
            "name": f"hal-{number:04d}",
        }
        if isinstance(fit, LastLayerFit):
            return fit.solve(self.settings.solver, correction=self.settings.correction, **common, **options)
        return fit.solve(self.settings.solver, **common, **options)
