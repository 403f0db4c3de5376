"""Settings of a fit from files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from halberd.potentials.ace.distorted import DISTORTIONS
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError, did_you_mean
from halberd.potentials.frames.labelled import LabelKeys
from halberd.potentials.regression.solvers import check_solver
from halberd.potentials.regression.weighted_rows import FitWeights
from halberd.potentials.validation import Seed, conform


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """What is fitted, to what, and what is written.

    Attributes
    ----------
    train : str
        Labelled structures, usually extended XYZ.
    output : str
        The .pt file to write; ``NAME.json``, ``NAME.parity.png`` and ``NAME.dimers.png`` are written beside it.
    test : str, optional
        Labelled structures to test on; they are not fitted.
    basis : mapping
        Of :class:`halberd.potentials.AceSettings`; ``elements`` are those of the training frames if left out, and
        ``degree`` as large as the frames and the budget are good for. ``degree: auto`` compares sizes by frames that
        are left out, and takes the smallest that is as good as the best.
    budget : float, s
        How long the fit may take, if ``degree`` is left out.
    keys : LabelKeys
    weights : FitWeights, optional
    e0s : mapping or str, optional
        Self-energies: ``isolated``, ``average``, or energies of the elements in eV.
    solver : {'blr', 'ridge', 'svd', 'ard'}
    solver_options : mapping
        See :func:`halberd.potentials.regression.solvers.solve`.
    prior_power : float or 'auto'
        Exponent of the smoothness prior, 0 for none; ``auto`` picks it by the evidence.
    committee : int
        Committee members; 0 for the mean alone.
    calibrate : bool
        Whether the spread is made as wide as the errors of frames that are left out.
    distortions : int
        Structures made of each of up to 60 molecules, turned about bonds and stretched, of which rough energies are
        known without a calculation; 0 for none. Solver ``blr`` alone knows it. See
        :mod:`halberd.potentials.ace.distorted`.
    folds : int
        Of a cross-validation, 5 is usual; 0 for none.
    seed : int
        Of the committee.
    state : str, optional
        Keep the fit here, to add frames later.
    extend : str, optional
        Add the frames to the fit kept here; its basis, weights and self-energies apply.
    plots : bool
        Draw parity and dimers.
    threads : int, optional
        CPU threads.
    memory_mb : float
        Bound on the arrays of one block of rows, MB.

    Raises
    ------
    ConfigurationError
        Names the value that makes no sense.
    """

    train: str
    output: str
    test: str | None = None
    basis: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    budget: float = 300.0
    keys: LabelKeys = dataclasses.field(default_factory=LabelKeys)
    weights: FitWeights | None = None
    e0s: Mapping[str | int, float] | str | None = None
    solver: str = "blr"
    solver_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prior_power: float | str = 4.0
    committee: int = 8
    calibrate: bool = True
    distortions: int = DISTORTIONS
    folds: int = 0
    seed: Seed = 0
    state: str | None = None
    extend: str | None = None
    plots: bool = True
    threads: int | None = None
    memory_mb: float = 512.0

    def __post_init__(self) -> None:
        conform(self)
        check_solver(self.solver, self.solver_options, self.committee)
        known = [field.name for field in dataclasses.fields(AceSettings)]
        for key in self.basis:
            if key not in known:
                raise ConfigurationError(f"Unknown key '{key}' in basis.{did_you_mean(str(key), known)}")
        if not (self.prior_power == "auto" or (not isinstance(self.prior_power, str) and self.prior_power >= 0)):
            raise ConfigurationError(f"prior_power is '{self.prior_power}'; it must be a number of 0 or more, or auto.")
        for name in ("memory_mb", "threads", "budget"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} is {value:g}; it must be at least 1.")
        if self.distortions < 0:
            raise ConfigurationError(f"distortions is {self.distortions}; it must be 0 (none) or more, 5 is usual.")
        if self.folds < 0 or self.folds == 1:
            raise ConfigurationError(f"folds is {self.folds}; it must be 2 or more, 5 is usual, or 0 for none.")
        if self.extend is not None and self.folds:
            raise ConfigurationError(
                f"The fit in '{self.extend}' holds no frames to leave out. Fit all frames anew to cross-validate."
            )
        if self.extend is not None:
            fixed = {"basis": self.basis, "weights": self.weights, "e0s": self.e0s}
            given = [name for name, value in fixed.items() if value]
            if given:
                raise ConfigurationError(
                    f"{', '.join(given)} were fixed by the fit in '{self.extend}' and cannot be changed when frames "
                    "are added."
                )
