"""Ways to make a good invocation bad."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from places import GOOD, Good

#: What stands where a sensible value should.
VALUES: list[Any] = [
    *(
        "",
        " ",
        "abc",
        "None",
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1.5",
        "-0.0",
        "1e308",
        "-1e308",
        "1e-320",
        "1" * 40,
        "0x10",
    ),
    *(
        "/dev/null",
        "/dev/full",
        ".",
        "a/b/c",
        "x" * 300,
        "\u00e9\u4e2d\U0001f600",
        "a\nb",
        "{input}",
        "*",
    ),
    *("H", "Xx", "-h", "--", "--json", "line:1e9", "gaussian:0,0,0", "os:system", "chgnet:x"),
    *(None, True, False, 0, -1, 1, 10**12, 2**31, 2**63, 10**30, 1.5, -0.5, 1e308, float("nan"), float("inf")),
    *([], [1], ["a"], [[1]], [None, None], {}, {"a": 1}, {"temperature": "x"}, [1, 2, 3], ["Ar", "Kr"]),
]


def flag_value(generator: np.random.Generator, folder: Path, good: Good) -> list[str]:
    """Another value for a flag or an argument."""
    command = list(good.command)
    if len(command) < 2:
        return [*command, _word(generator)]
    command[int(generator.integers(1, len(command)))] = _word(generator)
    return command


def extra_flag(generator: np.random.Generator, folder: Path, good: Good) -> list[str]:
    """A flag more: a known one with any value, or an unknown one."""
    known = [
        *("--steps", "--temperature", "--timestep", "--friction", "--pressure", "--ensemble", "--seed", "--platform"),
        *("--precision", "--backend", "--skin", "--threads", "--device-index", "--head", "--charge", "--multiplicity"),
        *("--energy-key", "--forces-key", "--virial-key", "--prior-power", "--forces-weight", "--ridge", "--degree"),
        *("--order", "--cutoff", "--e0", "--config-weight", "--transform", "--pair-cutoffs", "--solver", "--test"),
        *("--state", "--extend", "--memory-mb", "--shape", "--heavy-atoms", "--elements", "--levels", "--references"),
        *("--n", "--host", "--scaffold", "--coverage", "--max-attempts", "--report-interval", "--checkpoint-interval"),
        *("--max-hours", "--plumed", "--reporter", "--device", "--engine", "--sample", "--attempts", "--unknown"),
    ]
    name = known[int(generator.integers(len(known)))]
    return [*good.command, name] + ([_word(generator)] if generator.random() < 0.9 else [])


def missing_word(generator: np.random.Generator, folder: Path, good: Good) -> list[str]:
    """A word less."""
    at = int(generator.integers(1, len(good.command)))
    return good.command[:at] + good.command[at + 1 :]


def setting(generator: np.random.Generator, folder: Path, good: Good) -> list[str]:
    """Another value for a key of the settings, at any depth, or a key that is none."""
    if good.settings is None:
        return flag_value(generator, folder, good)
    file = folder / good.settings
    values = yaml.safe_load(file.read_text())
    for _ in range(int(generator.integers(1, 3))):
        place = values
        while True:
            key = list(place)[int(generator.integers(len(place)))]
            inner = place[key]
            if not isinstance(inner, dict) or not inner or generator.random() < 0.3:
                break
            place = inner
        value = VALUES[int(generator.integers(len(VALUES)))]
        draw = generator.random()
        if draw < 0.8:
            place[key] = value
        elif draw < 0.9:
            del place[key]
        else:
            place[f"{key}_"] = value
        if not place:
            break
    file.write_text(yaml.safe_dump(values, allow_unicode=True))
    return good.command


def damaged_file(generator: np.random.Generator, folder: Path, good: Good) -> list[str]:
    """Bytes of a file that is read are changed, cut off, doubled or gone; or it is no file."""
    if not good.files:
        return flag_value(generator, folder, good)
    file = folder / good.files[int(generator.integers(len(good.files)))]
    content = bytearray(file.read_bytes())
    kind = int(generator.integers(9))
    at = int(generator.integers(max(1, len(content))))
    if kind == 0:
        content[at : at + 1] = generator.bytes(1)
    elif kind == 1:
        content[at : at + 64] = bytes(64)
    elif kind == 2:
        del content[at:]
    elif kind == 3:
        content += content[at:]
    elif kind == 4:
        content = bytearray()
    elif kind == 5:
        content = bytearray(generator.bytes(500))
    elif kind == 6:
        lines = bytes(content).split(b"\n")
        lines[int(generator.integers(len(lines)))] = _word(generator).encode(errors="replace")
        content = bytearray(b"\n".join(lines))
    file.unlink()
    if kind == 7:
        file.mkdir()
    elif kind < 7:
        file.write_bytes(bytes(content))
    return good.command


def bad_place(generator: np.random.Generator, folder: Path, good: Good) -> list[str]:
    """Results that cannot be written where they should go."""
    if not good.outputs:
        return flag_value(generator, folder, good)
    name = good.outputs[int(generator.integers(len(good.outputs)))]
    place = folder / name
    kind = int(generator.integers(6))
    if kind == 0:
        place.mkdir(parents=True)
    elif kind == 1:
        place.write_text("somebody's")
    elif kind == 2:
        place.symlink_to(folder / "elsewhere")
    elif kind == 3:
        os.mkfifo(place)
    else:
        words = {4: f"no/such/{name}", 5: "/dev/full"}
        return [words[kind] if word == name else word for word in good.command]
    return good.command


def _word(generator: np.random.Generator) -> str:
    return str(VALUES[int(generator.integers(len(VALUES)))])


MUTATIONS = (flag_value, extra_flag, missing_word, setting, setting, setting, damaged_file, damaged_file, bad_place)


def bad_invocation(seed: int, folder: Path) -> tuple[str, str, list[str]]:
    """Make the input of a seed.

    Parameters
    ----------
    seed : int
    folder : path
        Holds the good inputs, some of which are changed.

    Returns
    -------
    name, mutation : str
    command : list of str
        Arguments of ``halberd``.
    """
    generator = np.random.default_rng(seed)
    weights = np.array([often for _, often in GOOD.values()], dtype=float)
    name = str(generator.choice(list(GOOD), p=weights / weights.sum()))
    mutate = MUTATIONS[int(generator.integers(len(MUTATIONS)))]
    command = mutate(generator, folder, GOOD[name][0])
    return name, mutate.__name__, [word.replace("\0", "") for word in command]
