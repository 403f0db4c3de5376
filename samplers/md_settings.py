"""Settings of a molecular-dynamics run, from keywords, a YAML file or the command line."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from halberd.plugins.force_builder import ForceOptions
from halberd.potentials.errors import ConfigurationError
from halberd.samplers.settings import from_mapping, read_yaml

ENSEMBLES = ("NVE", "NVT", "NPT")


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
    pressure : float
        bar, NPT only: isotropic Monte Carlo barostat.
    steps : int
        Total number of steps, those before a restart included.
    timestep : float
        fs.
    friction : float
        1/ps.
    minimize : bool
        Relax the structure first.
    seed : int
        Of velocities, thermostat and barostat.
    report_interval : int
        Steps between rows and frames.
    checkpoint_interval : int
        Steps between checkpoints.
    barostat_interval : int
        Steps between volume moves.
    reporters : list of {'csv', 'dcd', 'extxyz'}
    platform : str, optional
        OpenMM platform; OpenMM chooses if ``None``.
    device_index : str, optional
        ``DeviceIndex`` of a GPU platform.
    precision, backend, skin, threads, head, charge, multiplicity
        See :class:`halberd.plugins.force_builder.ForceOptions`.
    """

    structure: str
    model: str | list[str] = "gfn2-chnof"
    output: str = "md_out"
    ensemble: str = "NVT"
    temperature: float = 300.0
    pressure: float = 1.0
    steps: int = 1000
    timestep: float = 0.5
    friction: float = 1.0
    minimize: bool = False
    seed: int = 1
    report_interval: int = 10
    checkpoint_interval: int = 500
    barostat_interval: int = 25
    reporters: list[str] = dataclasses.field(default_factory=lambda: ["csv", "dcd", "extxyz"])
    platform: str | None = None
    device_index: str | None = None
    precision: str | None = None
    backend: str = "torchforce"
    skin: float = 0.5
    threads: int | None = None
    head: str | None = None
    charge: float | None = None
    multiplicity: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ensemble", str(self.ensemble).upper())
        if self.ensemble not in ENSEMBLES:
            raise ConfigurationError(f"ensemble is '{self.ensemble}'; it must be one of {', '.join(ENSEMBLES)}.")
        for name in ("timestep", "friction"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be positive.")
        if not self.temperature >= 0:
            raise ConfigurationError(f"temperature is {self.temperature} K; it must not be negative.")
        for name in ("steps", "report_interval", "checkpoint_interval", "barostat_interval"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name} is {value!r}; it must be a whole number of at least 1.")
        unknown = [name for name in self.reporters if name not in ("csv", "dcd", "extxyz")]
        if unknown:
            raise ConfigurationError(f"There is no reporter '{unknown[0]}'; there are csv, dcd and extxyz.")
        self.force_options()

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
        for key in ("structure", "output"):
            if isinstance(values.get(key), str):
                values[key] = str(file.parent / values[key])
        if "model" in values:
            names = values["model"] if isinstance(values["model"], list) else [values["model"]]
            found = [str(file.parent / n) if (file.parent / str(n)).is_file() else n for n in names]
            values["model"] = found if isinstance(values["model"], list) else found[0]
        return cls.from_mapping({**values, **(overrides or {})}, f"'{file}'")

    def force_options(self) -> ForceOptions:
        """The part that concerns the force."""
        names = ("precision", "backend", "skin", "threads", "head", "charge", "multiplicity")
        return ForceOptions().updated({name: getattr(self, name) for name in names})

    def fixed_by_restart(self) -> dict[str, Any]:
        """What a restarted run must have in common with the first."""
        names = ("ensemble", "temperature", "pressure", "timestep", "friction", "precision", "seed", "reporters")
        return {name: getattr(self, name) for name in (*names, "report_interval")}
