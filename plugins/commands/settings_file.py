"""Files of settings, and how flags are laid over them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ruamel.yaml

from halberd.potentials.errors import ConfigurationError, DataError


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file of keys and values, by the rules of YAML 1.2: ``0100`` is a hundred, ``no`` is a word.

    Raises
    ------
    DataError
        If the file is missing, not YAML, not a mapping, or has a key twice.
    """
    file = Path(path)
    if file.is_char_device() or file.is_block_device():
        raise DataError(f"Configuration file '{file}' is a device. Give a file.")
    try:
        values = ruamel.yaml.YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Configuration file '{file}' cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"'{file}' is no YAML file of settings: {type(error).__name__}.") from error
    except (ruamel.yaml.YAMLError, ValueError) as error:  # dates that are none are a ValueError
        raise DataError(f"'{file}' is not valid YAML: {_problem(error)}.") from error
    if not isinstance(values, dict):
        raise DataError(f"'{file}' must hold 'key: value' lines.")
    return values


def _problem(error: Exception) -> str:
    """What is wrong, and where, in one line."""
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or str(error)
    line = " ".join(text.split())
    return line if mark is None else f"{line} (line {mark.line + 1}, column {mark.column + 1})"


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
