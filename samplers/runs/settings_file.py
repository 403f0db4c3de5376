"""Settings as frozen dataclasses: read from YAML or keywords, strict about names and types."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from halberd.potentials.errors import ConfigurationError, DataError, did_you_mean

T = TypeVar("T")


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Raises
    ------
    DataError
        If the file is missing, not YAML, or not a mapping.
    """
    file = Path(path)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Configuration file '{file}' cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise DataError(f"'{file}' is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"'{file}' must hold 'key: value' lines.")
    return values


def from_mapping(cls: type[T], values: Mapping[str, Any], origin: str) -> T:
    """Build settings from keys and values.

    Parameters
    ----------
    cls : dataclass
    values : mapping
    origin : str
        Where they come from, for messages.

    Raises
    ------
    ConfigurationError
        If a key is unknown (suggests the closest), one is missing, or a value has the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ConfigurationError(f"Unknown key '{key}' in {origin}.{did_you_mean(str(key), fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigurationError(f"{origin} lacks '{name}'.")
    return cls(**{key: convert(key, value, str(fields[key].type)) for key, value in values.items()})


def convert(key: str, value: Any, annotation: str) -> Any:
    """Accept YAML's ints for floats and the like; refuse what cannot be meant.

    Raises
    ------
    ConfigurationError
        Names the key, the value and what it should be.
    """
    try:
        if value is None:
            if "None" not in annotation:
                raise TypeError
            return None
        if annotation.startswith("float | tuple") and isinstance(value, (list, tuple)):
            if len(value) != annotation.count("float") - 1:
                raise TypeError
            return tuple(convert(key, each, "float") for each in value)
        if annotation.startswith("float | Mapping") and isinstance(value, Mapping):
            return {str(name): convert(key, each, "float") for name, each in value.items()}
        if annotation.startswith("float"):
            if isinstance(value, (bool, str)):
                raise TypeError
            return float(value)
        if annotation.startswith("int"):
            if isinstance(value, bool) or int(value) != value:
                raise TypeError
            return int(value)
        if annotation == "bool" and not isinstance(value, bool):
            raise TypeError
        if annotation.startswith("list") and not isinstance(value, list):
            raise TypeError
        if annotation.startswith("Mapping") and not isinstance(value, Mapping):
            raise TypeError
        if annotation in ("str", "str | None") and key not in ("device_index",) and not isinstance(value, str):
            raise TypeError
    except (TypeError, ValueError):
        raise ConfigurationError(f"{key} is {value!r}, which is not a {annotation.replace(' | None', '')}.") from None
    return str(value) if key == "device_index" else value
