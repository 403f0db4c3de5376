"""How a network is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from halberd.potentials.errors import ConfigurationError, did_you_mean
from halberd.potentials.validation import Count, Seed, conform

#: Weights of energy and forces, and the power of the number of atoms that errors of energies are divided by.
LOSSES: dict[str, dict[str, Any]] = {
    # mace-torch's "weighted" on its defaults.
    "mace": {"energy": 1.0, "forces": 100.0, "energy_power": 1.0},
    # Batatia et al., arXiv 2206.07697, tables: total energies.
    "mace-paper": {"energy": 1.0, "forces": 1000.0, "energy_power": 0.0},
    # Batatia et al., arXiv 2205.06643: 27 <dE^2 / N> + 729 <dF^2>.
    "botnet": {"energy": 27.0, "forces": 729.0, "energy_power": 0.5},
    "forces": {"energy": 0.0, "forces": 100.0},
}

#: Learning rates of new networks (arXiv 2206.07697), and of those that are trained further, which forget more of what
#: there are no frames of the higher it is: docs/training.md has numbers.
NEW_RATE, FURTHER_RATE = 0.01, 0.001


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """What is made small: weighted means of squares, over frames, force components and components of stress.

    Attributes
    ----------
    energy, forces, stress : float
        Weights, of errors in eV, eV/angstrom and eV/angstrom^3.
    energy_power : float
        Errors of energies are divided by this power of the number of atoms: 1 is per atom, 0 of the whole frame.
    kind : {'squared', 'huber'}
        Huber: errors beyond ``delta`` count linearly.
    delta : float
        In the units of each error.
    per_config_type : mapping
        Factors on the weights of frames of a config type.

    Raises
    ------
    ConfigurationError
        If a weight is negative or all are zero.
    """

    energy: float = 1.0
    forces: float = 100.0
    stress: float = 0.0
    energy_power: float = 1.0
    kind: Literal["squared", "huber"] = "squared"
    delta: float = 0.01
    per_config_type: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        conform(self)
        weights = {name: getattr(self, name) for name in ("energy", "forces", "stress")}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise ConfigurationError(f"Weights of the loss are {weights}; none may be negative, and one must not be 0.")
        if self.energy_power < 0:
            raise ConfigurationError(f"energy_power of the loss is {self.energy_power}; it must not be negative.")
        if not self.delta > 0:
            raise ConfigurationError(f"delta of the loss is {self.delta}; it must be positive.")
        negative = [name for name, weight in self.per_config_type.items() if not weight >= 0]
        if negative:
            raise ConfigurationError(f"The weight of config type '{negative[0]}' is negative.")


def named_loss(name: str, **changes: Any) -> LossSettings:
    """The loss of a paper or a program.

    Parameters
    ----------
    name : {'mace', 'mace-paper', 'botnet', 'forces'}
    **changes
        Of single values.

    Raises
    ------
    ConfigurationError
        If there is no such loss.
    """
    return LossSettings(**{**_numbers(name), **changes})


def _numbers(name: str) -> dict[str, Any]:
    if not isinstance(name, str) or name not in LOSSES:
        raise ConfigurationError(
            f"There is no loss '{name}'; there are {', '.join(LOSSES)}.{did_you_mean(str(name), LOSSES)}"
        )
    return LOSSES[name]


def named_losses(values: dict[str, Any]) -> dict[str, Any]:
    """Values with a section ``training`` in which the name of a loss stood for its numbers.

    ``loss: botnet``, or ``loss: {like: botnet}`` with some of the numbers changed.
    """
    training = values.get("training")
    if not isinstance(training, dict):
        return values
    changed = dict(training)
    if "loss" in changed:
        changed["loss"] = _loss(changed["loss"])
    second = changed.get("second_phase")
    if isinstance(second, dict) and "loss" in second:
        changed["second_phase"] = {**second, "loss": _loss(second["loss"])}
    return {**values, "training": changed}


def _loss(value: Any) -> Any:
    if isinstance(value, str):
        value = {"like": value}
    if not isinstance(value, dict) or "like" not in value:
        return value
    rest = {key: each for key, each in value.items() if key != "like"}
    return {**_numbers(value["like"]), **rest}


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate falls.

    Attributes
    ----------
    kind : {'plateau', 'exponential', 'cosine', 'constant'}
        Plateau: by ``factor`` when the validation loss has not fallen for ``patience`` epochs. Exponential: by
        ``factor`` every epoch. Cosine: towards ``factor`` of it, which would come after the last epoch.
    factor : float
    patience : int
    """

    kind: Literal["plateau", "exponential", "cosine", "constant"] = "plateau"
    factor: float = 0.8
    patience: Count = 50

    def __post_init__(self) -> None:
        conform(self)
        if not 0 < self.factor < 1:
            raise ConfigurationError(f"factor of the schedule is {self.factor}; it must be between 0 and 1.")


@dataclasses.dataclass(frozen=True)
class SecondPhase:
    """Other weights towards the end, mostly of energies.

    Attributes
    ----------
    start : int
        Epoch that it begins with.
    loss : LossSettings
    learning_rate : float, optional
        Constant from there on; a tenth of the first one if omitted.

    Raises
    ------
    ConfigurationError
        If it is not positive.
    """

    start: Count
    loss: LossSettings = dataclasses.field(default_factory=lambda: LossSettings(energy=1000.0))
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        conform(self)
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ConfigurationError(f"learning_rate of second_phase is {self.learning_rate}; it must be positive.")


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained.

    Attributes
    ----------
    loss : LossSettings
    epochs : int
    batch_size : int
        Frames of a step.
    max_edges : int, optional
        Edges of a step: batches end before they have more, if a frame alone does not.
    optimiser : {'amsgrad', 'adam', 'adamw'}
    learning_rate : float, optional
        0.01 for a new network and 0.001 for one that is trained further if omitted; what higher rates cost where there
        are no frames, see docs/training.md.
    weight_decay : float
        Of the weights of messages and products; none of radial networks, embeddings and read-outs.
    clip : float, optional
        Largest norm of the gradient of all weights.
    schedule : ScheduleSettings
    average : float, optional
        Decay of the exponential moving average of weights, which is what is validated and kept; ``None`` for none.
    second_phase : SecondPhase, optional
    early_stop : int, optional
        Epochs without a smaller validation loss after which to stop; not before a second phase, if there is one.
    validation : float
        Share of the frames that are kept aside to tell when a network is best, unless frames for that are given.
    replay : float
        Frames of an epoch that are replayed, as a part of those that are trained on, if there are frames to replay.
    precision : {'single', 'double', 'mixed'}
        Mixed: the network is computed in single; energies are summed, losses taken and weights stepped in double.
    frozen : tuple of str
        Parts that stay as they are: the beginnings of their names, such as ``embedding`` or ``layers.0``.
    lora_rank : int, optional
        Matrices of weights change by products of this rank only, see
        :class:`halberd.potentials.training.precision.LowRank`; what has hardly more numbers than that is trained whole.
        Weight decay then acts on the factors, and so towards the network as it was.
    seed : int
        Of weights, of what is kept aside, and of the order of frames.

    Raises
    ------
    ConfigurationError
        Names the value that makes no sense.
    """

    loss: LossSettings = dataclasses.field(default_factory=LossSettings)
    epochs: Count = 500
    batch_size: Count = 5
    max_edges: Count | None = None
    optimiser: Literal["amsgrad", "adam", "adamw"] = "amsgrad"
    learning_rate: float | None = None
    weight_decay: float = 5e-7
    clip: float | None = 10.0
    schedule: ScheduleSettings = dataclasses.field(default_factory=ScheduleSettings)
    average: float | None = 0.99
    second_phase: SecondPhase | None = None
    early_stop: Count | None = None
    validation: float = 0.1
    replay: float = 1.0
    precision: Literal["single", "double", "mixed"] = "double"
    frozen: tuple[str, ...] = ()
    lora_rank: Count | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        conform(self)
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name} is {value}; it must be positive.")
        if self.weight_decay < 0:
            raise ConfigurationError(f"weight_decay is {self.weight_decay}; it must not be negative.")
        if self.average is not None and not 0 < self.average < 1:
            raise ConfigurationError(f"average is {self.average}; it must be between 0 and 1, or none.")
        if not self.replay > 0:
            raise ConfigurationError(f"replay is {self.replay}; it must be positive.")
        if not 0 < self.validation < 1:
            raise ConfigurationError(f"validation is {self.validation}; it must be a share between 0 and 1.")
        if self.second_phase is not None and self.second_phase.loss.per_config_type:
            raise ConfigurationError(
                "Weights of config types are those of the first phase in the second one, too: leave them away there."
            )
        if self.second_phase is not None and self.second_phase.start > self.epochs:
            raise ConfigurationError(
                f"The second phase starts with epoch {self.second_phase.start}, of {self.epochs}: it would not come."
            )

    def rate(self, *, further: bool = False) -> float:
        """The learning rate: what was given, or what belongs to the network.

        Parameters
        ----------
        further : bool
            Whether it has been trained before.
        """
        return self.learning_rate or (FURTHER_RATE if further else NEW_RATE)


def check_start(start_from: str | None, network: Mapping[str, Any], training: TrainingSettings) -> None:
    """Check that a network that is there is not given choices of a new one, nor a new one what needs an older.

    Raises
    ------
    ConfigurationError
    """
    if start_from is not None and network:
        raise ConfigurationError("start_from brings its own network: leave network away, or start_from.")
    if start_from is None and training.lora_rank is not None:
        raise ConfigurationError("lora_rank is for a network that is trained further: give start_from, too.")
