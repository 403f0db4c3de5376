"""Settings as frozen dataclasses: read from YAML or keywords, strict about names and types."""

from __future__ import annotations

import dataclasses
import math
import os
import typing
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
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"'{file}' is no YAML file of settings: {type(error).__name__}.") from error
    except (yaml.YAMLError, ValueError) as error:  # dates that are none are a ValueError
        raise DataError(f"'{file}' is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"'{file}' must hold 'key: value' lines.")
    return values


def merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Keys and values with others laid over them; sections keep the keys that are not overridden.

    Raises
    ------
    ConfigurationError
        If a section of the overrides would hide a value that is none.
    """
    result = dict(values)
    for key, value in overrides.items():
        below = result.get(key)
        if isinstance(value, Mapping) and not isinstance(below, Mapping | None):
            raise ConfigurationError(f"'{key}' is {below!r}; it must hold keys and values of its own.")
        result[key] = merged(below or {}, value) if isinstance(value, Mapping) else value
    return result


def section_of(cls: type, name: str) -> type | None:
    """The dataclass that a field holds, or ``None`` if it holds a plain value."""
    hint = typing.get_type_hints(cls)[name]
    kinds = [each for each in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(each)]
    return typing.cast(type, kinds[0]) if kinds else None


def conform(settings: Any) -> None:
    """Check and convert fields that were given by keywords as those from files are; for ``__post_init__``.

    Raises
    ------
    ConfigurationError
        As :func:`from_mapping`.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        object.__setattr__(settings, field.name, _field_value(type(settings), field, value, "the settings"))


def from_mapping(cls: type[T], values: Mapping[str, Any], origin: str) -> T:
    """Build settings from keys and values; fields that are settings themselves take keys and values of their own.

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
            advice = _home_of(cls, str(key)) or did_you_mean(str(key), fields)
            raise ConfigurationError(f"Unknown key '{key}' in {origin}.{advice}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigurationError(f"{origin} lacks '{name}'.")
    return cls(**{key: _field_value(cls, fields[key], value, origin) for key, value in values.items()})


def _home_of(cls: type, key: str) -> str:
    """Advice for a key that belongs into a section."""
    for field in dataclasses.fields(cls):
        section = section_of(cls, field.name)
        for name in (key, key.removeprefix(f"{field.name}_")):
            if section is not None and name in {each.name for each in dataclasses.fields(section)}:
                return f" Write it as '{field.name}: {{{name}: ...}}'."
    return ""


def _field_value(cls: type, field: dataclasses.Field[Any], value: Any, origin: str) -> Any:
    section = section_of(cls, field.name)
    if section is None:
        try:
            return convert(field.name, value, str(field.type))
        except ConfigurationError as error:
            raise ConfigurationError(f"{str(error).removesuffix('.')} (in {origin}).") from None
    if isinstance(value, section) or (value is None and "None" in str(field.type)):
        return value
    if not isinstance(value, Mapping | None):
        raise ConfigurationError(f"'{field.name}' in {origin} must hold keys and values of its own, not {value!r}.")
    return from_mapping(section, value or {}, f"'{field.name}' of {origin}")


def convert(key: str, value: Any, annotation: str) -> Any:
    """Accept YAML's ints for floats and the like; refuse what cannot be meant.

    Raises
    ------
    ConfigurationError
        Names the key, the value and what it should be.
    """
    try:
        if annotation == "Any":
            return value
        if value is None:
            if "None" not in annotation:
                raise TypeError
            return None
        if isinstance(value, os.PathLike) and annotation.startswith("str"):
            return os.fspath(value)
        if annotation.startswith("float | tuple") and isinstance(value, (list, tuple)):
            if len(value) != annotation.count("float") - 1:
                raise TypeError
            return tuple(convert(key, each, "float") for each in value)
        if annotation.startswith("float | Mapping") and isinstance(value, Mapping):
            return {str(name): convert(key, each, "float") for name, each in value.items()}
        if annotation.startswith("float") and not (isinstance(value, str) and "| str" in annotation):
            if isinstance(value, (bool, str)) or not math.isfinite(value):
                raise TypeError
            return float(value)
        if annotation.startswith("int"):
            if isinstance(value, bool) or int(value) != value:
                raise TypeError
            return int(value)
        if annotation == "bool" and not isinstance(value, bool):
            raise TypeError
        if annotation.startswith("tuple"):
            if not isinstance(value, (list, tuple)):
                raise TypeError
            return tuple(value)
        if annotation.startswith("Mapping[str, float]") and isinstance(value, Mapping):
            return {str(name): convert(f"{key}: {name}", each, "float") for name, each in value.items()}
        if annotation.startswith("list") and not isinstance(value, list):
            raise TypeError
        if annotation.startswith("Mapping") and "| str" not in annotation and not isinstance(value, Mapping):
            raise TypeError
        if annotation in ("str", "str | None") and key not in ("device_index",) and not isinstance(value, str):
            raise TypeError
    except ConfigurationError:  # of a value further in, which its own message names
        raise
    except (TypeError, ValueError, OverflowError):
        raise ConfigurationError(f"{key} is {value!r}, which is not a {annotation.replace(' | None', '')}.") from None
    return str(value) if key == "device_index" else value
