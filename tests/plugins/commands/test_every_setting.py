"""Every field of every dataclass of settings, given nonsense: one clear error, or a value that holds."""

from __future__ import annotations

import dataclasses
import math
import typing
from pathlib import Path

import numpy as np
import pytest

from halberd.plugins.commands.fit_settings import FitSettings
from halberd.plugins.forces.options import ForceOptions
from halberd.plugins.labelling.settings import LabelSettings
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.diffusion.settings import DiffusionSettings
from halberd.potentials.errors import ConfigurationError, HalberdError
from halberd.potentials.frames.labelled import LabelKeys
from halberd.potentials.regression.weighted_rows import FitWeights
from halberd.potentials.validation import Count, Seed, conform, from_mapping
from halberd.samplers.generation.annealing import SamplerOptions
from halberd.samplers.generation.diffusion import DenoisingOptions
from halberd.samplers.generation.finishing import FinishOptions
from halberd.samplers.generation.settings import GenerationSettings
from halberd.samplers.hal.model import ModelSettings, RefitSettings
from halberd.samplers.hal.settings import HALSettings
from halberd.samplers.hal.walker_settings import BiasedSettings
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.md.stability import StabilitySettings
from halberd.samplers.md.watching import WatchSettings
from halberd.samplers.web.settings import JobRequest, WebSettings

#: Class -> what it needs.
NEEDED: dict[type, dict[str, typing.Any]] = {
    AceSettings: {"elements": (6,)},
    FitSettings: {"train": "a.xyz", "output": "m.pt"},
    FitWeights: {},
    ForceOptions: {},
    LabelSettings: {"calculator": "emt"},
    LabelKeys: {},
    SamplerOptions: {},
    FinishOptions: {},
    GenerationSettings: {},
    ModelSettings: {},
    RefitSettings: {},
    HALSettings: {"initial": "a.xyz", "label": {"calculator": "emt"}},
    BiasedSettings: {},
    MDSettings: {"structure": "a.xyz"},
    StabilitySettings: {},
    WatchSettings: {"interval": 5},
    DiffusionSettings: {},
    DenoisingOptions: {},
    WebSettings: {},
    JobRequest: {"kind": "generate"},
}
NONSENSE = [
    *(None, True, "", "abc", "1", -1, 0, 1.5, -1.5, math.nan, math.inf, -math.inf, 1e308, 2**31, 2**64, 10**400),
    *([], [1, 2], ["a"], [None], [[1]], {}, {"a": 1}, {"a": None}, {1: "b"}, (), (1, "a"), b"x", {1, 2}, object()),
    *(np.float64(2.0), np.array([1.0, 2.0]), np.int64(3), Path("p"), 1 + 2j, "x" * 300),
]
FIELDS = [(cls, field.name) for cls in NEEDED for field in dataclasses.fields(cls)]


def numbers_in(value: typing.Any) -> list[float]:
    if isinstance(value, dict):
        return [n for each in value.values() for n in numbers_in(each)]
    if isinstance(value, (list, tuple)):
        return [n for each in value for n in numbers_in(each)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=lambda each: getattr(each, "__name__", each))
def test_nonsense_is_refused_or_holds(cls, name):
    refused = 0
    free = typing.get_type_hints(cls)[name] is typing.Any or "Any" in str(typing.get_type_hints(cls)[name])
    for value in NONSENSE:
        for make in (lambda value=value: cls(**{**NEEDED[cls], name: value}),
                     lambda value=value: from_mapping(cls, {**NEEDED[cls], name: value}, "the file")):  # fmt: skip
            try:
                made = make()
            except HalberdError:
                refused += 1
                continue
            if not free:
                assert all(math.isfinite(number) for number in numbers_in(getattr(made, name)))
    if not free:
        assert refused > len(NONSENSE)


def test_numbers_are_taken_as_they_are_meant():
    @dataclasses.dataclass(frozen=True)
    class Example:
        count: Count = 1
        seed: Seed = 0
        ratio: float | tuple[float, float] = 1.0
        name: str | None = None

        def __post_init__(self) -> None:
            conform(self)

    Example.__annotations__.update(count=Count, seed=Seed, ratio=float | tuple[float, float], name=str | None)
    made = Example(count=1000.0, seed=np.int64(3), ratio=[1, np.float32(0.5)], name=Path("a/b"))
    assert made == Example(1000, 3, (1.0, 0.5), "a/b")
    assert isinstance(made.count, int)
    assert isinstance(made.ratio[0], float)
    for values, message in (
        ({"count": 0}, "count is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"seed": 2**31}, "it must be at most 2147483647"),
        ({"ratio": [1, 2, 3]}, "ratio is"),
        ({"count": "1000"}, "count is '1000', which is not a"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            Example(**values)
