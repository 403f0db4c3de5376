"""The potential that hyperactive learning grows: linear ACE, a MACE with a Bayesian last layer, or networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.errors import ConfigurationError, did_you_mean
from halberd.potentials.loading import check_source
from halberd.potentials.multi_ace.settings import preset
from halberd.potentials.regression.solvers import check_solver
from halberd.potentials.regression.weighted_rows import FitWeights
from halberd.potentials.training.settings import TrainingSettings, check_start
from halberd.potentials.validation import Count, changed, conform, from_mapping

KINDS = ("ace", "last_layer", "multi_ace")
#: Keys that belong to some kinds alone.
_OWN = {
    "basis": ("ace",),
    "select_degrees": ("ace",),
    "base": ("last_layer",),
    "solver_options": ("ace", "last_layer"),
    "weights": ("ace", "last_layer"),
    "network": ("multi_ace",),
    "start_from": ("multi_ace",),
    "training": ("multi_ace",),
    "refit": ("multi_ace",),
}


@dataclasses.dataclass(frozen=True)
class RefitSettings:
    """How networks go on learning as frames come: from their last weights, the learning rate falling along a cosine.

    Attributes
    ----------
    epochs : int
        Of every iteration.
    learning_rate : float, optional
        0.002 for networks that began with this run, 0.001 for those of ``start_from``, if omitted.
    final_epochs : int
        Once no more frames come; 0 for none.
    perturbation : float
        Of members that start from one and the same network: noise on every weight before the first training, as a part
        of the root of the mean square of its tensor. Members that start alike would agree where they know nothing.

    Raises
    ------
    ConfigurationError
        Names the value that makes no sense.
    """

    epochs: Count = 20
    learning_rate: float | None = None
    final_epochs: int = 100
    perturbation: float = 0.05

    def __post_init__(self) -> None:
        conform(self)
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ConfigurationError(f"learning_rate of refit is {self.learning_rate}; it must be positive.")
        for name in ("final_epochs", "perturbation"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} of refit is {getattr(self, name)}; it must not be negative.")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """What is fitted, and how.

    Attributes
    ----------
    kind : {'ace', 'last_layer', 'multi_ace'}
    basis : mapping
        Of :class:`halberd.potentials.AceSettings`, elements excluded; ``ace`` only.
    base : str, optional
        The MACE; ``last_layer`` only.
    correction : bool
        Whether the labels correct the MACE or only tell how sure it is; ``last_layer`` only.
    network : mapping
        ``preset``, and choices of :class:`halberd.potentials.multi_ace.settings.MultiAceSettings`, elements excluded;
        ``multi_ace`` only.
    start_from : str, optional
        A network that all members are trained further from, or a committee of as many, in place of new ones;
        ``multi_ace`` only.
    training : TrainingSettings
        Of the initial frames; ``multi_ace`` only. Seeds and schedules of later trainings are those of the run.
    refit : RefitSettings
        Of later trainings; ``multi_ace`` only.
    committee : int, optional
        Members that judge and, unless ``sigma`` is ``exact``, drive. 8 if omitted, 4 networks.
    sigma : {'committee', 'exact'}
        Whether the bias uses the members' standard deviation or the posterior's own.
    solver : str
        Of linear potentials, as what follows.
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
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    start_from: str | None = None
    training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)
    refit: RefitSettings = dataclasses.field(default_factory=RefitSettings)
    committee: Count | None = None
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
        if self.members < 2:
            raise ConfigurationError(f"committee is {self.committee}; hyperactive learning needs 2 members or more.")
        self._check_kind()
        if self.kind == "multi_ace":
            self._check_network()
            return
        check_solver(self.solver, self.solver_options, self.members)
        if self.base is not None:
            check_source(self.base)
        known = [field.name for field in dataclasses.fields(AceSettings) if field.name != "elements"]
        for key in self.basis:
            if key not in known:
                raise ConfigurationError(f"Unknown key '{key}' in basis.{did_you_mean(str(key), known)}")
        self.fit_weights()

    def _check_kind(self) -> None:
        for name in changed(self, [name for name, kinds in _OWN.items() if self.kind not in kinds]):
            raise ConfigurationError(
                f"{name} belongs to kind {' or '.join(repr(k) for k in _OWN[name])}, and kind is '{self.kind}': "
                "leave it out, or change kind."
            )
        if self.kind == "last_layer" and self.base is None:
            raise ConfigurationError("A model of kind 'last_layer' needs the MACE to start from: give base.")

    def _check_network(self) -> None:
        if self.sigma == "exact":
            raise ConfigurationError("Networks have no exact sigma: leave sigma out, or take another kind.")
        check_start(self.start_from, self.network, self.training)
        if self.start_from is not None:
            check_source(self.start_from)
        if "elements" in self.network:
            raise ConfigurationError("The elements of the network are those of the frames: leave them out.")
        choices = dict(self.network)
        preset(str(choices.pop("preset", "mace")), ("H",), **choices)

    @property
    def members(self) -> int:
        """Of the committee."""
        return self.committee or (4 if self.kind == "multi_ace" else 8)

    def fit_weights(self) -> FitWeights | None:
        """Weights of the rows."""
        if self.weights is None:
            return None
        return from_mapping(FitWeights, self.weights, "weights")

    def ace_settings(self, elements: Sequence[int], degree: float | None = None) -> AceSettings:
        """Basis for some elements."""
        chosen = {**self.basis, **({} if degree is None else {"degree": degree})}
        return from_mapping(AceSettings, {**chosen, "elements": tuple(elements)}, "basis")
