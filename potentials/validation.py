"""Settings as frozen dataclasses whose fields are checked against their own annotations, by pydantic.

A dataclass calls :func:`conform` first thing in ``__post_init__``: types, finite numbers and the ranges that
annotations carry (:data:`Count`, :data:`Seed`) then hold however it was made. Numbers are not made of text, nor truth
values of numbers; a whole number may be written ``1000.0``, a tuple as a list, a text as a path.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import operator
import os
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import pydantic
from annotated_types import Ge, Le
from pydantic import BeforeValidator, ConfigDict, TypeAdapter

from halberd.potentials.errors import ConfigurationError, did_you_mean

T = TypeVar("T")

#: Largest number of anything that is counted: steps of a run of a year, say.
MOST = 10**12
#: K. Velocities of much hotter atoms are no numbers any more.
HOTTEST = 1e8
#: Largest seed that all random generators take.
LARGEST_SEED = 2**31 - 1

Count = Annotated[int, Ge(1), Le(MOST)]
Seed = Annotated[int, Ge(0), Le(LARGEST_SEED)]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError("no number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("no finite number")
    return number


def _whole(value: Any) -> int:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    number = int(value) if whole else _number(value)
    if number != int(number) or abs(number) > MOST:
        raise ValueError("no whole number, or a larger one than anything can be counted to")
    return int(number)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")
    return value


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


_STRICT: dict[Any, Any] = {
    float: Annotated[float, BeforeValidator(_number)],
    int: Annotated[int, BeforeValidator(_whole)],
    bool: Annotated[bool, BeforeValidator(_truth)],
    str: Annotated[str, BeforeValidator(_text)],
}


def _strict(hint: Any) -> Any:
    """A type whose numbers, texts and truth values are taken as they are."""
    if hint in _STRICT:
        return _STRICT[hint]
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is Annotated:
        # Ranges come after the conversion.
        return Annotated[(_strict(arguments[0]), *arguments[1:])]
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        return functools.reduce(operator.or_, map(_strict, arguments))
    if origin is not None and arguments:
        return origin[tuple(each if each is Ellipsis else _strict(each) for each in arguments)]
    return hint


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


@functools.cache
def _adapter(cls: type, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_strict(_hints(cls)[name]), config=ConfigDict(arbitrary_types_allowed=True))


def section_of(cls: type, name: str) -> type | None:
    """The dataclass that a field holds, or ``None`` if it holds a plain value."""
    hint = _hints(cls)[name]
    kinds = [
        each for each in (hint, *typing.get_args(hint)) if isinstance(each, type) and dataclasses.is_dataclass(each)
    ]
    return kinds[0] if kinds else None


def changed(settings: Any, names: Iterable[str]) -> list[str]:
    """Those of some fields that hold something else than their defaults, or nothing."""
    found = []
    for field in dataclasses.fields(settings):
        if field.name in names:
            made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            if getattr(settings, field.name) not in (made, None, [], {}):
                found.append(field.name)
    return found


def conform(settings: Any) -> None:
    """Check and convert the fields of a dataclass; for ``__post_init__``.

    Raises
    ------
    ConfigurationError
        As :func:`from_mapping`.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        object.__setattr__(settings, field.name, _field_value(type(settings), field.name, value, ""))


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
        If a key is unknown (suggests the closest), one is missing, or a value has the wrong type or range.
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
    return cls(**{key: _field_value(cls, key, value, origin) for key, value in values.items()})


def _home_of(cls: type, key: str) -> str:
    """Advice for a key that belongs into a section."""
    for field in dataclasses.fields(cls):
        section = section_of(cls, field.name)
        for name in (key, key.removeprefix(f"{field.name}_")):
            if section is not None and name in {each.name for each in dataclasses.fields(section)}:
                return f" Write it as '{field.name}: {{{name}: ...}}'."
    return ""


def _field_value(cls: type, name: str, value: Any, origin: str) -> Any:
    section = section_of(cls, name)
    if section is None:
        return _checked(cls, name, value, f" (in {origin})" if origin else "")
    if isinstance(value, section) or (value is None and types.NoneType in typing.get_args(_hints(cls)[name])):
        return value
    if not isinstance(value, Mapping | None):
        where = origin or "the settings"
        raise ConfigurationError(f"'{name}' in {where} must hold keys and values of its own, not {value!r}.")
    return from_mapping(section, value or {}, f"'{name}' of {origin or 'the settings'}")


def _checked(cls: type, name: str, value: Any, where: str) -> Any:
    if name == "device_index" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # YAML has no quotes around it
    try:
        return _adapter(cls, name).validate_python(value)
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"{_sentence(cls, name, value, error)}{where}.") from None
    except (OverflowError, RecursionError) as error:
        raise ConfigurationError(f"{name} cannot be used: {type(error).__name__}{where}.") from None


def _sentence(cls: type, name: str, value: Any, error: pydantic.ValidationError) -> str:
    """What is wrong, without pydantic's words."""
    first = error.errors()[0]
    # Within a mapping the entry is named.
    place = [str(each) for each in first["loc"] if isinstance(value, Mapping) and each in value]
    shown = name + "".join(f": {each}" for each in place)
    given = value[place[0]] if place and place[0] in value else value
    text = repr(given)
    text = text if len(text) < 200 else f"{text[:200]}..."
    context = first.get("ctx", {})
    if first["type"] == "greater_than_equal":
        return f"{shown} is {text}; it must be at least {context['ge']}"
    if first["type"] == "less_than_equal":
        return f"{shown} is {text}; it must be at most {context['le']}"
    return f"{shown} is {text}, which is not a {_spoken(cls, name)}"


def _spoken(cls: type, name: str) -> str:
    field = next(each for each in dataclasses.fields(cls) if each.name == name)
    written = str(field.type).replace(" | None", "")
    return {"Count": "whole number", "Seed": "whole number"}.get(written, written)
