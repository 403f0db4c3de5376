"""The potential that hyperactive learning grows: a linear ACE, or a single MACE with a Bayesian last layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ase import Atoms

from halberd.potentials.ace.basis import AceBasis
from halberd.potentials.ace.fit import AceFit, FittedAce
from halberd.potentials.ace.model_selection import select_degree
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError, did_you_mean
from halberd.potentials.frames.labelled import Frame
from halberd.potentials.loading import check_source, load
from halberd.potentials.mace.last_layer_fit import FittedLastLayer, LastLayerFit
from halberd.potentials.regression.solvers import check_solver
from halberd.potentials.regression.weighted_rows import FitWeights
from halberd.potentials.sites.site_model import SiteModel
from halberd.potentials.validation import conform, from_mapping

Fit: TypeAlias = AceFit | LastLayerFit
Fitted: TypeAlias = FittedAce | FittedLastLayer

KINDS = ("ace", "last_layer")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """What is fitted, and how.

    Attributes
    ----------
    kind : {'ace', 'last_layer'}
    basis : mapping
        Of :class:`halberd.potentials.AceSettings`, elements excluded; ``ace`` only.
    base : str, optional
        The MACE; ``last_layer`` only.
    correction : bool
        Whether the labels correct the MACE or only tell how sure it is; ``last_layer`` only.
    committee : int
        Members that judge and, unless ``sigma`` is ``exact``, drive.
    sigma : {'committee', 'exact'}
        Whether the bias uses the members' standard deviation or the posterior's own.
    solver : str
    solver_options : mapping
        See :func:`halberd.potentials.regression.solvers.solve`.
    weights : mapping, optional
        ``energy``, ``forces``, ``virial``; see :class:`halberd.potentials.FitWeights`.
    e0s : mapping or str, optional
        Self-energies by element, ``isolated`` or ``average``.
    select_degrees : list of float, optional
        Degrees of which the one with the lowest BIC is used; ``ace`` only.
    select_every : int
        Iterations between selections; 0 selects once, from the initial frames.

    Raises
    ------
    ConfigurationError
        Names the value that makes no sense.
    """

    kind: str = "ace"
    basis: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    base: str | None = None
    correction: bool = True
    committee: int = 8
    sigma: str = "committee"
    solver: str = "blr"
    solver_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, Any] | None = None
    e0s: Any = None
    select_degrees: list[float] | None = None
    select_every: int = 0

    def __post_init__(self) -> None:
        conform(self)
        if self.kind not in KINDS:
            raise ConfigurationError(f"kind of model is '{self.kind}'; it must be one of {', '.join(KINDS)}.")
        if self.sigma not in ("committee", "exact"):
            raise ConfigurationError(f"sigma is '{self.sigma}'; it must be 'committee' or 'exact'.")
        if self.committee < 2:
            raise ConfigurationError(f"committee is {self.committee}; hyperactive learning needs 2 members or more.")
        check_solver(self.solver, self.solver_options, self.committee)
        if self.kind == "last_layer":
            if self.base is None:
                raise ConfigurationError("A model of kind 'last_layer' needs the MACE to start from: give base.")
            if self.basis or self.select_degrees:
                raise ConfigurationError("basis and select_degrees belong to kind 'ace'; leave them out.")
            check_source(self.base)
        elif self.base is not None:
            raise ConfigurationError("base belongs to kind 'last_layer'; leave it out, or set kind: last_layer.")
        known = [field.name for field in dataclasses.fields(AceSettings) if field.name != "elements"]
        for key in self.basis:
            if key not in known:
                raise ConfigurationError(f"Unknown key '{key}' in basis.{did_you_mean(str(key), known)}")
        self.fit_weights()

    def fit_weights(self) -> FitWeights | None:
        """Weights of the rows."""
        if self.weights is None:
            return None
        return from_mapping(FitWeights, self.weights, "weights")

    def ace_settings(self, elements: Sequence[int], degree: float | None = None) -> AceSettings:
        """Basis for some elements."""
        chosen = {**self.basis, **({} if degree is None else {"degree": degree})}
        return from_mapping(AceSettings, {**chosen, "elements": tuple(elements)}, "basis")


class ModelFitter:
    """Makes, stores and solves fits of one kind.

    Parameters
    ----------
    settings : ModelSettings
    elements : sequence of int
        All elements that will occur.
    """

    def __init__(self, settings: ModelSettings, elements: Sequence[int]) -> None:
        self.settings = settings
        self.elements = tuple(sorted(elements))
        self._base: SiteModel | None = None

    @property
    def base(self) -> SiteModel:
        """The MACE of a last-layer fit, cut to the elements."""
        if self._base is None:
            assert self.settings.base is not None
            self._base = load(self.settings.base, elements=self.elements)
        return self._base

    def check(self, structures: Sequence[Atoms]) -> None:
        """Check, before anything is labelled, that there will be enough data to begin with.

        Raises
        ------
        ConfigurationError
            If there are fewer rows of data than functions.
        """
        if self.settings.kind == "ace":
            rows = sum(1 + 3 * len(atoms) + (6 if atoms.pbc.all() else 0) for atoms in structures)
            self._possible_degrees(rows, len(structures))

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

    def new(self, frames: Sequence[Frame], select: bool = False) -> Fit:
        """Fit frames from the beginning.

        Parameters
        ----------
        frames : sequence of Frame
        select : bool
            Choose the degree with the lowest BIC, if there are degrees to choose from.

        Raises
        ------
        ConfigurationError
            If there are fewer rows of data than functions.
        """
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

    def load(self, path: Path) -> Fit:
        """Read the state of a fit."""
        if self.settings.kind == "last_layer":
            return LastLayerFit.load(path, self.base)
        return AceFit.load(path)

    def solve(self, fit: Fit, seed: int, name: str) -> Fitted:
        """Solve a fit for its committee."""
        options = dict(self.settings.solver_options)
        common: dict[str, Any] = {"committee": self.settings.committee, "seed": seed, "name": name}
        if isinstance(fit, LastLayerFit):
            return fit.solve(self.settings.solver, correction=self.settings.correction, **common, **options)
        return fit.solve(self.settings.solver, **common, **options)
