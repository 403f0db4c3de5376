"""Settings of a molecular-dynamics run, from keywords, a YAML file or the command line."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halberd.plugins.commands.settings_file import merged, read_yaml
from halberd.plugins.forces.options import ForceOptions
from halberd.potentials.errors import ConfigurationError, did_you_mean
from halberd.potentials.validation import HOTTEST, Seed, conform, from_mapping
from halberd.samplers.md.stability import StabilitySettings
from halberd.samplers.md.watching import WatchSettings

ENSEMBLES = ("NVE", "NVT", "NPT")
BAROSTATS = ("isotropic", "anisotropic", "flexible")
REPORTERS = ("csv", "dcd", "xtc", "extxyz")
#: Options of the force that a run may have.
FORCE_KEYS = ("precision", "backend", "skin", "threads", "head", "charge", "multiplicity")
#: Arguments of variables that may be files.
_FILES = ("model", "references")
#: What a stage of equilibration may have of its own.
STAGE_KEYS = ("ensemble", "steps", "temperature", "temperature_end", "pressure", "barostat", "timestep", "friction")


@dataclasses.dataclass(frozen=True)
class MDSettings:
    """Everything that defines a run.

    Attributes
    ----------
    structure : str
        Structure file.
    model : str or list of str
        Model file or pretrained name; a list is a committee, driven by its mean.
    output : str
        Folder for everything that is written.
    ensemble : {'NVE', 'NVT', 'NPT'}
    temperature : float
        K. Velocities are drawn at it; NVT and NPT keep it with a Langevin middle integrator.
    temperature_end : float, optional
        K. The temperature changes linearly to this one until the last step.
    pressure : float or three floats
        bar, NPT only; three for the axes of an anisotropic barostat.
    barostat : {'isotropic', 'anisotropic', 'flexible'}
        Monte Carlo moves of the volume, of one axis at a time, or of the whole cell.
    steps : int
        Total number of steps, those before a restart included.
    timestep : float
        fs; with ``fast_model`` that of the slow forces.
    friction : float
        1/ps.
    minimize : bool
        Relax the structure first.
    equilibration : list of mappings
        Stages before the run, each with ``steps`` and what differs in it: ``ensemble``, ``temperature``,
        ``temperature_end``, ``pressure``, ``barostat``, ``timestep``, ``friction``. They are unbiased and land in
        subfolders.
    hydrogen_mass : float, optional
        Dalton. Hydrogens get it at the cost of their heavy neighbours, which allows longer steps.
    fast_model : str, optional
        A cheap model that is evaluated ``inner_steps`` times per step, while ``model`` is evaluated once and corrects
        it (multiple time steps): the dynamics are those of ``model``.
    inner_steps : int
    seed : int
        Of velocities, thermostat and barostat.
    report_interval : int
        Steps between rows and frames, the first of which are those of step 0.
    checkpoint_interval : int
        Steps between checkpoints.
    checkpoint_minutes : float, optional
        A checkpoint at least this often by the clock, too.
    max_hours : float, optional
        Stop, ready to be continued, after so much time.
    barostat_interval : int
        Steps between volume moves.
    reporters : list of {'csv', 'dcd', 'xtc', 'extxyz'}
    frame_sigma : bool
        Write a committee's uncertainty into extended XYZ frames.
    plumed : str, optional
        PLUMED script.
    variables : mapping
        Name -> ``{kind: ..., arguments}``: collective variables from models, for ``EXTRACV NAME=...`` in the script.
        Kinds are the functions of :mod:`halberd.plugins.forces.variables`.
    watch : WatchSettings, optional
        Looks at the model's uncertainty.
    stability : StabilitySettings, optional
        When the run counts as blown up: temperatures are looked at every 50 steps and with every row, everything before
        a checkpoint and at the end; nothing if ``None``.
    replica_temperatures : list of float, optional
        K. Replica exchange between copies at these temperatures.
    exchange_interval : int
        Steps between exchanges.
    walkers : int
        Runs that share one metadynamics bias, each in a process and subfolder of its own.
    platform : str, optional
        OpenMM platform; OpenMM chooses if ``None``.
    device_index : str, optional
        ``DeviceIndex`` of a GPU platform.
    force : ForceOptions
        Precision, backend and more of the learned force.
    """

    structure: str
    model: str | list[str] = "gfn2-chnof"
    output: str = "md_out"
    ensemble: str = "NVT"
    temperature: float = 300.0
    temperature_end: float | None = None
    pressure: float | tuple[float, float, float] = 1.0
    barostat: str = "isotropic"
    steps: int = 1000
    timestep: float = 0.5
    friction: float = 1.0
    minimize: bool = False
    equilibration: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
    hydrogen_mass: float | None = None
    fast_model: str | None = None
    inner_steps: int = 4
    seed: Seed = 1
    report_interval: int = 100
    checkpoint_interval: int = 500
    checkpoint_minutes: float | None = None
    max_hours: float | None = None
    barostat_interval: int = 25
    reporters: list[str] = dataclasses.field(default_factory=lambda: ["csv", "dcd", "extxyz"])
    frame_sigma: bool = False
    plumed: str | None = None
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    watch: WatchSettings | None = None
    stability: StabilitySettings | None = dataclasses.field(default_factory=StabilitySettings)
    replica_temperatures: list[float] | None = None
    exchange_interval: int = 500
    walkers: int = 1
    platform: str | None = None
    device_index: str | None = None
    force: ForceOptions = dataclasses.field(default_factory=ForceOptions)

    def __post_init__(self) -> None:
        conform(self)
        object.__setattr__(self, "ensemble", str(self.ensemble).upper())
        self._check_choices()
        for name in ("timestep", "friction", "hydrogen_mass", "checkpoint_minutes", "max_hours"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name} is {value}; it must be positive.")
        for name in ("temperature", "temperature_end"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= HOTTEST:
                raise ConfigurationError(f"{name} is {value:g} K; it must be between 0 and {HOTTEST:g}.")
        counts = ("steps", "report_interval", "checkpoint_interval", "barostat_interval", "inner_steps", "walkers")
        for name in (*counts, "exchange_interval"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name} is {value!r}; it must be a whole number of at least 1.")
        self._check_combinations()
        for number, stage in enumerate(self.equilibration, start=1):
            self.stage(number, stage)

    def _check_choices(self) -> None:
        for name, allowed in {"ensemble": ENSEMBLES, "barostat": BAROSTATS}.items():
            if getattr(self, name) not in allowed:
                raise ConfigurationError(f"{name} is '{getattr(self, name)}'; it must be one of {', '.join(allowed)}.")
        unknown = [name for name in self.reporters if name not in REPORTERS]
        if unknown:
            raise ConfigurationError(f"There is no reporter '{unknown[0]}'; there are {', '.join(REPORTERS)}.")

    def _check_combinations(self) -> None:
        if isinstance(self.pressure, tuple) and self.barostat != "anisotropic":
            raise ConfigurationError(f"Three pressures need barostat: anisotropic, not {self.barostat}.")
        if self.temperature_end is not None and self.ensemble == "NVE":
            raise ConfigurationError("temperature_end needs a thermostat; NVE has none.")
        for field in dataclasses.fields(self.force):
            value = getattr(self.force, field.name)
            if field.name not in FORCE_KEYS and value != field.default:
                raise ConfigurationError(
                    f"force: {{{field.name}: {value}}} is for scripts; a run has {', '.join(FORCE_KEYS)}."
                )
        if self.variables and self.plumed is None:
            raise ConfigurationError("variables are for a PLUMED script; give plumed, too.")
        if self.walkers > 1 and self.plumed is None:
            raise ConfigurationError("walkers share a PLUMED bias; give plumed, or walkers: 1.")
        if self.replica_temperatures is not None:
            if len(self.replica_temperatures) < 2 or not all(0 < t <= HOTTEST for t in self.replica_temperatures):
                raise ConfigurationError("replica_temperatures needs two positive temperatures in K at least.")
            if self.walkers > 1 or self.plumed is not None or self.ensemble == "NVE" or self.fast_model is not None:
                raise ConfigurationError(
                    "Replica exchange runs in NVT or NPT, without plumed, walkers or fast_model; leave these out."
                )
            if self.ensemble == "NPT" and self.barostat != "isotropic":
                raise ConfigurationError("Replica exchange at constant pressure needs barostat: isotropic.")

    def stage(self, number: int, values: Mapping[str, Any]) -> MDSettings:
        """Settings of a stage of equilibration.

        Raises
        ------
        ConfigurationError
            If a key is not one a stage has, or a value is wrong.
        """
        origin = f"stage {number} of equilibration"
        if not isinstance(values, Mapping):
            raise ConfigurationError(f"{origin} is {values!r}; it must be 'key: value' lines.")
        for key in values:
            if key not in STAGE_KEYS:
                known = f"There are {', '.join(STAGE_KEYS)}."
                raise ConfigurationError(
                    f"Unknown key '{key}' in {origin}.{did_you_mean(str(key), STAGE_KEYS)} {known}"
                )
        if "steps" not in values:
            raise ConfigurationError(f"{origin} has no steps.")
        own: dict[str, Any] = {
            "temperature_end": None,
            "equilibration": [],
            "plumed": None,
            "variables": {},
            "watch": None,
            "replica_temperatures": None,
            "walkers": 1,
            "minimize": self.minimize and number == 1,
            "seed": (self.seed + 1000 * number) % 2**31,
            "reporters": ["csv", "dcd"],
            "output": str(Path(self.output) / f"equilibration-{number}"),
        }
        everything = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return from_mapping(MDSettings, {**everything, **own, **values}, origin)

    @classmethod
    def from_mapping(cls, values: dict[str, Any], origin: str = "the settings") -> MDSettings:
        """Build settings from keys and values.

        Raises
        ------
        ConfigurationError
            If a key is unknown (suggests the closest), one is missing, or a value has the wrong type or range.
        """
        if "structure" not in values:
            raise ConfigurationError(f"{origin} names no structure; give a structure file.")
        return from_mapping(cls, values, origin)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], overrides: dict[str, Any] | None = None) -> MDSettings:
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
        for key in ("structure", "output", "plumed"):
            if isinstance(values.get(key), str):
                values[key] = str(file.parent / values[key])
        for holder, key in ((values, "model"), (values, "fast_model"), (values.get("watch"), "model")):
            if isinstance(holder, dict) and holder.get(key) is not None:
                holder[key] = beside(file.parent, holder[key])
        if isinstance(values.get("variables"), Mapping):
            values["variables"] = {
                name: {**each, **{key: beside(file.parent, each[key]) for key in _FILES if each.get(key) is not None}}
                if isinstance(each, Mapping)
                else each
                for name, each in values["variables"].items()
            }
        return cls.from_mapping(merged(values, overrides or {}), f"'{file}'")

    def fixed_by_restart(self) -> dict[str, Any]:
        """What a restarted run must have in common with the first."""
        names = (
            *("ensemble", "temperature", "temperature_end", "pressure", "barostat", "timestep", "friction", "seed"),
            *("reporters", "hydrogen_mass", "inner_steps", "report_interval", "frame_sigma", "barostat_interval"),
        )
        values = {name: getattr(self, name) for name in names}
        stages = [self.stage(number, each) for number, each in enumerate(self.equilibration, start=1)]
        values["equilibration"] = [{key: getattr(stage, key) for key in STAGE_KEYS} for stage in stages]
        values["quantity of watch"] = None if self.watch is None else self.watch.quantity
        values["precision"] = self.force.precision
        if self.temperature_end is not None:
            values["steps"] = self.steps  # the ramp would become another one
        for each in (values, *values["equilibration"]):
            if isinstance(each["pressure"], tuple):
                each["pressure"] = list(each["pressure"])  # as JSON gives it back
        return values


def beside(folder: Path, names: Any) -> Any:
    """Model names as they are, or as files beside a configuration file where there are such."""
    if isinstance(names, list):
        return [beside(folder, name) for name in names]
    return str(folder / names) if isinstance(names, str) and (folder / names).is_file() else names
