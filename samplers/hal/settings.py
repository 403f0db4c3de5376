"""Settings of a hyperactive-learning run, from keywords or a YAML file."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halberd.plugins.commands.settings_file import merged, read_yaml
from halberd.plugins.labelling.settings import LabelSettings
from halberd.potentials.errors import ConfigurationError
from halberd.potentials.training.settings import named_losses
from halberd.potentials.validation import Seed, conform, from_mapping
from halberd.samplers.hal.model import ModelSettings
from halberd.samplers.hal.walker_settings import BiasedSettings

#: What may change when a run is continued.
FREE = ("max_iterations", "max_labels", "workers", "threads", "converged_after", "output")
#: What a trajectory that holds does to a tolerance above the final one.
LOWERING = 0.8


@dataclasses.dataclass(frozen=True)
class HALSettings:
    """Everything that defines a run of hyperactive learning.

    Attributes
    ----------
    initial : str
        Frames to begin with, labelled or not (extended XYZ); unlabelled ones are labelled first.
    label : LabelSettings
    model : ModelSettings
    md : BiasedSettings
    starts : str, optional
        Structures the walkers begin at, in turn; the initial frames if omitted.
    output : str
        Folder of the run.
    seed : int
        Of committees, walkers, and the choice of test frames.
    walkers : int
        Trajectories per iteration; they share one committee.
    relay : bool
        Whether a trajectory that was stopped goes on, once its frame is labelled, from that frame with the new
        potential and the rest of its steps and ramps. Otherwise every iteration begins at a start.
    workers : int
        Processes for walkers and labels; 0 runs them one after another in this one.
    threads : int
        CPU threads of the fit.
    first_tolerance : float, optional
        Tolerance to begin with. Every trajectory that holds lowers it by a fifth, until ``md.tolerance`` is reached:
        coarse gaps are filled first, with frames further apart. Three times ``md.tolerance`` if omitted (with
        criterion ``softmax``, ``md.tolerance`` itself); give ``md.tolerance`` to switch it off.
    max_iterations : int
    max_labels : int
        Frames in the database, initial ones included, at which the run ends.
    converged_after : int
        Trajectories in a row, from a start to the last step without a trigger, after which the potential counts as
        finished.
    test_fraction : float
        Probability with which a labelled frame goes to the test set instead of the fit.

    Raises
    ------
    ConfigurationError
        Names the value that makes no sense.
    """

    initial: str
    label: LabelSettings
    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    md: BiasedSettings = dataclasses.field(default_factory=BiasedSettings)
    starts: str | None = None
    output: str = "hal_out"
    seed: Seed = 0
    walkers: int = 2
    relay: bool = True
    workers: int = 2
    threads: int = 1
    first_tolerance: float | None = None
    max_iterations: int = 100
    max_labels: int = 100
    converged_after: int = 4
    test_fraction: float = 0.1

    def __post_init__(self) -> None:
        conform(self)
        for name in ("walkers", "threads", "max_iterations", "max_labels", "converged_after"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if self.workers < 0 or self.seed < 0:
            raise ConfigurationError("workers and seed must not be negative.")
        if self.first_tolerance is not None and not self.first_tolerance >= self.md.tolerance:
            raise ConfigurationError(
                f"first_tolerance is {self.first_tolerance}; it must not be below md.tolerance {self.md.tolerance}."
            )
        if not 0 <= self.test_fraction < 1:
            raise ConfigurationError(f"test_fraction is {self.test_fraction}; it must be 0 or more and below 1.")

    def tolerance_after(self, held: int) -> float:
        """Tolerance once so many trajectories have held."""
        first = self.first_tolerance
        if first is None:
            first = min(3.0 * self.md.tolerance, 9.9) if self.md.criterion == "max" else self.md.tolerance
        return max(self.md.tolerance, first * LOWERING**held)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], origin: str = "the settings") -> HALSettings:
        """Build settings from nested keys and values.

        Raises
        ------
        ConfigurationError
            If a key is unknown (suggests the closest) or missing, or a value makes no sense.
        """
        return from_mapping(cls, values, origin)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> HALSettings:
        """Read a YAML file; paths in it are relative to it, ``overrides`` win.

        Raises
        ------
        DataError
            If the file is missing or not YAML.
        ConfigurationError
            As :meth:`from_mapping`.
        """
        file = Path(path)
        values = read_yaml(file)
        for key in ("initial", "starts", "output"):
            if isinstance(values.get(key), str):
                values[key] = str(file.parent / values[key])
        label, model = values.get("label"), values.get("model")
        if isinstance(label, dict):
            calculator = label.get("calculator")
            if isinstance(calculator, str) and calculator.rpartition(":")[0].endswith(".py"):
                label["calculator"] = str((file.parent / calculator).absolute())
            if isinstance(label.get("command"), str):
                words = shlex.split(label["command"])
                found = [str((file.parent / w).absolute()) if (file.parent / w).is_file() else w for w in words]
                label["command"] = shlex.join(found).replace("'{input}'", "{input}").replace("'{output}'", "{output}")
        for key in ("base", "start_from"):
            if isinstance(model, dict) and (file.parent / str(model.get(key))).is_file():
                model[key] = str(file.parent / model[key])
        if isinstance(model, dict):
            values["model"] = named_losses(model)
        return cls.from_mapping(merged(values, overrides or {}), f"'{file}'")

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible form."""
        return dataclasses.asdict(self)
