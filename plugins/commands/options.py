"""Options of a command, made of the fields of its settings: names, types, defaults and help are written there, once.

A command says which fields it offers and takes what was given as one nested mapping::

    @offers("halberd.samplers.md.settings:MDSettings", ["steps", Flag("force.precision")])
    def md(given: dict[str, Any], config: Path | None = None) -> None: ...

The settings are imported when the command is run or asked for its help, not before.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer

from halberd.potentials.validation import section_of

F = TypeVar("F", bound=Callable[..., Any])
#: Longest sentence that is too short to help, such as "K."
_TOO_SHORT = 12


@dataclasses.dataclass(frozen=True)
class Flag:
    """An option for one field.

    Attributes
    ----------
    path : str
        ``steps``, or ``force.precision`` for a field of a section.
    name : str, optional
        Of the option, without dashes; made of the field's own name if omitted.
    short : str, optional
        One-letter form, such as ``-o``.
    read : callable, optional
        Takes text and the option's name, for fields that the command line cannot hold as they are.
    many : bool
        Whether the option may be repeated; ``read`` then takes the list of texts.
    help : str, optional
        Instead of the field's own description.
    off : str, optional
        Name of the option that says no; ``no-NAME`` if omitted.
    kind : type, optional
        Of a value that no settings describe, such as an entry of a mapping.
    """

    path: str
    name: str | None = None
    short: str | None = None
    read: Callable[[Any, str], Any] | None = None
    many: bool = False
    help: str | None = None
    off: str | None = None
    kind: type | None = None

    @property
    def option(self) -> str:
        """Name with dashes."""
        return "--" + (self.name or self.path.rpartition(".")[2]).replace("_", "-")


#: Where labels are, of settings with a section ``keys``.
LABEL_FLAGS = (
    Flag("keys.energy", name="energy-key", help="Where the energy is kept. Default: REF_energy, energy."),
    Flag("keys.forces", name="forces-key", help="Where the forces are kept. Default: REF_forces, forces."),
    Flag("keys.virial", name="virial-key", help="Where the virial is kept. Default: REF_virial, virial, stress."),
    Flag("keys.unit", name="energy-unit", help="eV, kcal/mol, kJ/mol or hartree."),
)


@dataclasses.dataclass(frozen=True)
class Offer:
    """What a command takes from its settings; see :func:`offers`."""

    settings: str
    flags: tuple[Flag, ...]
    sections: Mapping[str, str]


def offers(
    settings: str, flags: Sequence[str | Flag], *, sections: Mapping[str, str] | None = None
) -> Callable[[F], F]:
    """Mark a command as one that takes options from settings, in its argument ``given``.

    Parameters
    ----------
    settings : str
        ``package.module:Class`` of a dataclass whose docstring describes its attributes.
    flags : sequence of str or Flag
        Fields to offer.
    sections : mapping, optional
        Section -> ``package.module:Class`` that describes it, for sections that are mappings in the settings.
    """
    offer = Offer(settings, tuple(Flag(f) if isinstance(f, str) else f for f in flags), sections or {})

    def mark(function: F) -> F:
        function.offer = offer  # type: ignore[attr-defined]
        return function

    return mark


def without_options(function: Callable[..., Any]) -> Callable[[], None]:
    """A command in name and documentation only, for lists of commands."""

    def named() -> None:
        raise NotImplementedError  # never called: a command that is called is built with its options

    named.__doc__, named.__name__ = function.__doc__, function.__name__
    return named


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The command as typer takes it: with one parameter per option instead of ``given``."""
    offer: Offer | None = getattr(function, "offer", None)
    if offer is None:
        return function
    chosen = {f"option_{number}": flag for number, flag in enumerate(offer.flags)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.name == "given":
            parameters += [_parameter(name, flag, offer) for name, flag in chosen.items()]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    def command(**arguments: Any) -> Any:
        given: dict[str, Any] = {}
        for name, flag in chosen.items():
            value = arguments.pop(name)
            if value is None or value == []:
                continue
            *sections, field = flag.path.split(".")
            place = given
            for section in sections:
                place = place.setdefault(section, {})
            place[field] = value if flag.read is None else flag.read(value, flag.option)
        return function(given=given, **arguments)

    command.__doc__, command.__name__ = function.__doc__, function.__name__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(name: str, flag: Flag, offer: Offer) -> inspect.Parameter:
    kind: Any = flag.kind
    text = flag.help
    if kind is None:
        owner, field = _owner(flag, offer)
        kind = _typer_type(typing.get_type_hints(owner)[field])
        text = text or help_text(owner, field)
    if flag.many:
        kind = list[str]
    elif flag.read is not None:
        kind = str
    names = [flag.option + (f"/--{flag.off or 'no-' + flag.option[2:]}" if kind is bool else "")]
    option = typer.Option(*names, *([flag.short] if flag.short else []), help=text)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _owner(flag: Flag, offer: Offer) -> tuple[type, str]:
    """The settings that describe a field, and its name in them."""
    owner = _located(offer.settings)
    *sections, field = flag.path.split(".")
    for section in sections:
        inner = _located(offer.sections[section]) if section in offer.sections else section_of(owner, section)
        assert inner is not None, f"{owner.__name__} has no section '{section}'; give the option's kind"
        owner = inner
    return owner, field


def _located(place: str) -> type:
    module, _, name = place.partition(":")
    return typing.cast(type, getattr(importlib.import_module(module), name))


def _typer_type(hint: Any) -> Any:
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    kinds = [each for each in typing.get_args(hint) if each is not type(None)] if union else [hint]
    if any(typing.get_origin(each) is list for each in kinds):
        return list[str]
    return next((each for each in kinds if each in (bool, int, float, str)), str)


def help_text(owner: type, field: str) -> str:
    """Help for a field: its choices, the first sentence of its description, its default.

    Parameters
    ----------
    owner : type
        A dataclass.
    field : str
    """
    kind, description = attribute_docs(owner).get(field, ("", ""))
    choices = re.findall(r"'([^']*)'", kind[kind.find("{") : kind.rfind("}") + 1])
    sentences = re.split(r"(?<=\.)\s+", description)
    text = " ".join(sentences[: 2 if len(sentences[0]) < _TOO_SHORT else 1])
    text = text.replace(" if None", " if omitted")
    text += "." if text and not text.endswith(".") else ""
    if choices:
        text = f"{', '.join(choices[:-1])} or {choices[-1]}. {text}".strip()
    unit = kind.rpartition(", ")[2] if ", " in kind and not choices else ""
    if unit and unit != "optional" and unit not in text:
        text = f"{text.removesuffix('.')}, {unit}.".removeprefix(", ")
    return f"{text} {_default(owner, field)}".strip()


def _default(owner: type, field: str) -> str:
    found = next((each for each in dataclasses.fields(owner) if each.name == field), None)
    if found is None or found.default in (dataclasses.MISSING, None, ""):
        return ""
    value = found.default
    if isinstance(value, bool):
        return f"Default: {'yes' if value else 'no'}."
    shown = (
        ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
    )
    return f"Default: {shown}."


def attribute_docs(owner: type) -> dict[str, tuple[str, str]]:
    """Type and description of every attribute in a NumPy-style docstring, without reStructuredText."""
    lines = inspect.cleandoc(owner.__doc__ or "").splitlines()
    if "Attributes" not in lines:
        return {}
    found: dict[str, tuple[str, str]] = {}
    names: list[str] = []
    for line in lines[lines.index("Attributes") + 2 :]:
        if line.startswith("---"):
            break
        if line and not line.startswith(" "):
            head, _, kind = line.partition(" : ")
            names = [name.strip() for name in head.split(",")]
            found.update(dict.fromkeys(names, (kind, "")))
        elif names:
            plain = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", line.strip()).replace("``", "")
            found.update({name: (found[name][0], f"{found[name][1]} {plain}".strip()) for name in names})
    return found
