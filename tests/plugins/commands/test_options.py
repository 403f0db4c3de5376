"""Options that are made of settings: names that users know, help for each, values where they belong."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import re

import pytest
import typer
from typer.testing import CliRunner

from halberd.plugins.commands.options import Flag, attribute_docs, help_text, offers, with_options
from halberd.potentials.ace.settings import AceSettings
from halberd.samplers.md.settings import MDSettings

#: Options of the commands before they were made of settings; none may get lost.
KNOWN = {
    "md": "structure model output ensemble temperature pressure steps timestep friction minimize no-minimize seed "
    "report-interval checkpoint-interval platform device-index precision backend skin threads head charge multiplicity "
    "reporter plumed max-hours restart continue json",
    "hal": "output workers max-labels max-iterations seed json",
    "generate": "n heavy-atoms shape scaffold host output seed model references elements coverage particles levels "
    "integrator strength relax-scaffold fix-scaffold sweep no-sweep unique duplicates batch max-attempts platform "
    "device threads config picture no-picture metrics no-metrics json",
    "fit": "output test order degree cutoff pair-degree pair-cutoff pair-cutoffs inner-cutoff transform pair-transform "
    "l-weight e0 energy-weight forces-weight virial-weight config-weight solver ridge rtol threshold prior-power "
    "committee seed energy-key forces-key virial-key state extend plots no-plots threads memory-mb json",
}
COMMANDS = {entry.name: entry.load() for entry in importlib.metadata.entry_points(group="halberd.commands")}


def built(name: str) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command(name)(with_options(COMMANDS[name]))
    return app


@pytest.mark.parametrize("name", KNOWN)
def test_no_option_got_lost(name):
    result = CliRunner().invoke(built(name), ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    found = set(re.findall(r"--([a-z0-9][a-z0-9-]*)", result.output))
    assert set(KNOWN[name].split()) <= found


@pytest.mark.parametrize("name", KNOWN)
def test_every_option_has_help(name):
    for parameter in inspect.signature(with_options(COMMANDS[name])).parameters.values():
        option = next(each for each in parameter.annotation.__metadata__ if hasattr(each, "help"))
        assert option.help, parameter
        assert "`" not in option.help, option.help


def test_help_comes_from_the_settings():
    assert help_text(MDSettings, "ensemble") == "NVE, NVT or NPT. Default: NVT."
    assert help_text(MDSettings, "friction") == "1/ps. Default: 1."
    assert help_text(AceSettings, "cutoff") == "Range of the many-body functions, angstrom. Default: 5.5."
    assert help_text(MDSettings, "minimize").endswith("Default: no.")
    assert help_text(MDSettings, "max_hours") == "Stop, ready to be continued, after so much time."
    assert set(attribute_docs(MDSettings)) >= {field.name for field in dataclasses.fields(MDSettings)} - {"inner_steps"}


@dataclasses.dataclass(frozen=True)
class Inner:
    """Inner.

    Attributes
    ----------
    size : float, nm
        How large.
    """

    size: float = 2.0


@dataclasses.dataclass(frozen=True)
class Outer:
    """Outer.

    Attributes
    ----------
    inner : Inner
    names : list of str
        Who.
    fast : bool
        Whether to hurry.
    count : int, optional
        How many.
    pair : tuple of float
        Two numbers.
    """

    inner: Inner = dataclasses.field(default_factory=Inner)
    names: list[str] = dataclasses.field(default_factory=list)
    fast: bool = False
    count: int | None = None
    pair: tuple[float, float] = (1.0, 2.0)


def run(*arguments: str) -> dict[str, object] | None:
    seen = {}

    @offers(
        f"{__name__}:Outer",
        [
            "inner.size",
            Flag("names", name="name", many=True),
            Flag("fast", off="slow"),
            "count",
            Flag("pair", read=lambda text, option: (option, *map(float, text.split(",")))),
        ],
    )
    def command(given: dict[str, object]) -> None:
        """Test."""
        seen.update(given=given)

    app = typer.Typer(add_completion=False)
    app.command()(with_options(command))
    result = CliRunner().invoke(app, list(arguments))
    return seen.get("given") if result.exit_code == 0 else None


def test_what_is_given_lands_where_it_belongs(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or inspect.getmodule(run))
    assert run() == {}
    assert run("--size", "3") == {"inner": {"size": 3.0}}
    assert run("--name", "a", "--name", "b", "--count", "0") == {"names": ["a", "b"], "count": 0}
    assert run("--fast") == {"fast": True}
    assert run("--slow") == {"fast": False}
    assert run("--pair", "3,4") == {"pair": ("--pair", 3.0, 4.0)}
    assert run("--size", "large") is None
    assert run("--no-fast") is None
