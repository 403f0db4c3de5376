"""Settings from keys and values, by file, flag or keyword: the same checks, and advice that helps."""

from __future__ import annotations

import importlib.metadata
import inspect
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from halberd.plugins import FitSettings, TrainSettings
from halberd.plugins.commands.options import with_options
from halberd.plugins.commands.settings_file import merged, read_yaml
from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.validation import from_mapping
from halberd.samplers import GenerationSettings, HALSettings, MDSettings
from halberd.samplers.web.settings import WebSettings

SETTINGS = {
    "md": MDSettings,
    "hal": HALSettings,
    "generate": GenerationSettings,
    "fit": FitSettings,
    "train": TrainSettings,
    "web": WebSettings,
}
NEEDED: dict[str, dict[str, Any]] = {
    "md": {"structure": "x.pdb"},
    "hal": {"initial": "x.xyz", "label": {"calculator": "emt"}},
    "generate": {},
    "fit": {"train": "x.xyz", "output": "x.pt"},
    "train": {"train": "x.xyz", "output": "x.pt"},
    "web": {},
}
#: Of options whose words are not free, a legal one that is not the default.
WORDS = {
    **{
        "ensemble": "NVE",
        "backend": "python",
        "precision": "double",
        "reporter": "xtc",
        "device": "cuda",
        "energy-unit": "hartree",
        "budget": "1h",
        "heavy-atoms": "5",
    },
    **{
        "integrator": "langevin",
        "method": "diffusion",
        "elements": "C,N",
        "degree": "12,10,8",
        "pair-cutoffs": "Cu-Cu=3.0",
        "transform": "2,3",
    },
    **{
        "pair-transform": "1,3",
        "e0": "Cu=-1.5",
        "config-weight": "liquid=1,2,3",
        "solver": "ard",
        "prior-power": "auto",
    },
}
FLAGS = [
    pytest.param(name, flag, id=f"{name} {flag.option}")
    for entry in importlib.metadata.entry_points(group="halberd.commands")
    for name in [entry.name]
    if hasattr(entry.load(), "offer")
    for flag in entry.load().offer.flags
]


@pytest.mark.parametrize(("name", "flag"), FLAGS)
def test_every_flag_reaches_its_setting(name, flag):
    command = next(e for e in importlib.metadata.entry_points(group="halberd.commands") if e.name == name).load()
    seen: dict[str, Any] = {}

    def probe(given: dict[str, Any]) -> None:
        seen.update(given)

    probe.offer = command.offer
    app = typer.Typer(add_completion=False)
    app.command()(with_options(probe))
    kinds = [
        parameter.annotation.__args__[0]
        for parameter, each in zip(
            inspect.signature(with_options(probe)).parameters.values(), command.offer.flags, strict=True
        )
        if each is flag
    ]
    kind = str(kinds[0])
    words = [] if "bool" in kind else [WORDS.get(flag.option[2:], "3" if "int" in kind or "float" in kind else "name")]
    if (name, flag.option) == ("train", "--precision"):
        words = ["single"]
    option = {
        "--unique": "--duplicates",
        "--plots": "--no-plots",
        "--calibrate": "--no-calibrate",
        "--repair": "--as-made",
    }.get(flag.option, flag.option)
    result = CliRunner().invoke(app, [option, *words])
    assert result.exit_code == 0, result.output
    section, _, field = flag.path.rpartition(".")
    leaf = seen[section][field] if section else seen[field]
    more = {"solver": "ridge"} if field == "ridge" else {"solver": "svd"} if field == "rtol" else {}
    more = {"solver": "ard"} if field == "threshold" else more
    of_diffusion = name == "generate" and (field in ("method", "repair", "start") or section == "denoising")
    if of_diffusion:
        more = {"method": "diffusion", "model": "mine.diffusion"}
    settings = from_mapping(SETTINGS[name], merged({**NEEDED[name], **more}, seen), "the command line")
    owner = getattr(settings, section) if section else settings
    found = owner[field] if isinstance(owner, dict) else getattr(owner, field)
    assert found == leaf or tuple(found) == tuple(leaf)
    if not isinstance(owner, dict):
        assert inspect.signature(type(owner)).parameters[field].default != leaf, "the value tried is the default"


def test_a_flag_does_not_hide_a_section_that_is_none():
    assert merged({"force": {"skin": 1.0}}, {"force": {"precision": "single"}})["force"] == {
        "skin": 1.0,
        "precision": "single",
    }
    assert merged({"force": None}, {"force": {"skin": 1.0}}) == {"force": {"skin": 1.0}}
    with pytest.raises(ConfigurationError, match="'force' is 3; it must hold keys and values"):
        merged({"force": 3}, {"force": {"precision": "single"}})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MDSettings(structure="x", timestep="1"), "timestep is '1', which is not a float"),
        (lambda: MDSettings(structure="x", force={"precison": "single"}), "Did you mean 'precision'"),
        (lambda: MDSettings(structure="x", pressure=[1, 2, 3]), "need barostat: anisotropic"),
        (lambda: MDSettings.from_mapping({"structure": "x", "skin": 1.0}), r"force: \{skin: ...\}"),
        (lambda: MDSettings.from_mapping({"structure": "x", "watch_threshold": 1.0}), r"watch: \{threshold: ...\}"),
        (lambda: GenerationSettings(seed=-1), "seed is -1"),
        (lambda: GenerationSettings(widths={"C": "x"}), "widths: C is 'x'"),
        (lambda: GenerationSettings(sampler={"elements": 3}), "elements is 3"),
        (lambda: GenerationSettings(sampler=3), "keys and values of its own"),
        (lambda: GenerationSettings.from_mapping({"n_levels": 3}), r"sampler: \{n_levels: ...\}"),
        (lambda: HALSettings(initial="x", label=None), "calculator or from a command"),
        (lambda: FitSettings("x", "y", threads=0), "^threads is 0; it must"),
        (lambda: FitSettings("x", "y", committee=10**12), "10000 members are the most"),
        (lambda: FitSettings("x", "y", distortions=-1), "distortions is -1; it must be 0"),
        (lambda: FitSettings("x", "y", basis=None), "basis is None"),
        (lambda: FitSettings("x", "y", prior_power="big"), "a number of 0 or more, or auto"),
    ],
)
def test_mistakes_get_one_clear_error(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_sections_left_blank_are_the_defaults():
    blank = MDSettings.from_mapping({"structure": "x", "force": None, "watch": None})
    assert blank == MDSettings(structure="x")
    assert GenerationSettings(sampler=None) == GenerationSettings()
    assert MDSettings(structure=Path("x")).structure == "x"


def test_settings_survive_a_round_trip():
    learning = HALSettings(initial="x", label={"calculator": "emt"})
    assert HALSettings.from_mapping(learning.to_dict()) == learning


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("23:30", "23:30"),  # 1,410 in YAML 1.1
        ("0100", 100),  # 64
        ("0o100", 64),
        ("1e0", 1.0),  # text
        ("1e-3", 1e-3),
        ("NO", "NO"),  # false
        ("true", True),
        ("1_000", 1000),
        ("[1, .5]", [1, 0.5]),
    ],
)
def test_yaml_is_read_as_people_read_it(text, value, tmp_path):
    (tmp_path / "a.yaml").write_text(f"key: {text}\n")
    found = read_yaml(tmp_path / "a.yaml")["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 10\nmodel: a\nsteps: 20\n", r'not valid YAML: found duplicate key "steps".*\(line 3, column 1\)\.$'),
        ("force: {skin: 1, skin: 2}\n", r'duplicate key "skin"'),
        ("steps: [1, 2\n", r"not valid YAML: .*\(line 2, column 1\)\.$"),
        ("a: 2001-99-99\n", "month must be in"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("- 1\n- 2\n", "must hold 'key: value' lines"),
        ("", "must hold 'key: value' lines"),
        ("a: 1\n---\nb: 2\n", "found another document"),
    ],
)
def test_bad_yaml_gets_one_line_that_says_where(text, message, tmp_path):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)
