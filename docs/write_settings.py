"""Write ``docs/settings.md`` from the settings themselves: ``python docs/write_settings.py``.

A test compares the page with what this would write.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from halberd.plugins.commands.options import attribute_docs
from halberd.plugins.commands.train_settings import TrainSettings
from halberd.plugins.forces.options import ForceOptions
from halberd.potentials.ace.settings import AceSettings
from halberd.potentials.multi_ace.settings import PRESETS, MultiAceSettings
from halberd.potentials.validation import section_of
from halberd.samplers.generation.settings import GenerationSettings
from halberd.samplers.hal.settings import HALSettings
from halberd.samplers.md.settings import FORCE_KEYS, MDSettings
from halberd.samplers.web.settings import WebSettings

PAGE = Path(__file__).parent / "settings.md"
FILES: dict[str, tuple[str, type]] = {
    "halberd md": ("Molecular dynamics, see [Production runs](runs.md).", MDSettings),
    "halberd train": ("Message-passing networks, see [Training a network](training.md).", TrainSettings),
    "halberd hal": ("Hyperactive learning, see [Hyperactive learning](hyperactive_learning.md).", HALSettings),
    "halberd generate": (
        "Molecules, given by `--config`; see [Generating molecules](generation.md).",
        GenerationSettings,
    ),
    "halberd web": ("The page, given by `--config`; see [Drawing shapes in the browser](web.md).", WebSettings),
}
#: Sections that are mappings in the settings, and what describes them.
MAPPINGS: dict[tuple[str, str], type] = {
    ("ModelSettings", "basis"): AceSettings,
    ("ModelSettings", "network"): MultiAceSettings,
    ("TrainSettings", "network"): MultiAceSettings,
}
#: Fields that the settings get from elsewhere, and that a file may not hold.
GIVEN = {(AceSettings, "elements"), (MultiAceSettings, "elements")}
HEAD = """# Settings of every file

All keys of the YAML files that commands read, with types, defaults and units, made of the settings themselves by
`python docs/write_settings.py`. Keys that stand in a section are written `section.key` here and as

```yaml
section: {key: value}
```

in the file. Python takes the same names: `MDSettings(structure="box.pdb", steps=1000)`.
"""


def rows(owner: type, prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Key, type, default and meaning of every field, those of sections after their own."""
    described = attribute_docs(owner)
    found: list[tuple[str, str, str, str]] = []
    for field in dataclasses.fields(owner):
        if owner is ForceOptions and field.name not in FORCE_KEYS:
            continue  # for scripts
        if (owner, field.name) in GIVEN:
            continue
        kind, text = described.get(field.name, ("", ""))
        inner = section_of(owner, field.name) or MAPPINGS.get((owner.__name__, field.name))
        kind = re.sub(r",? optional$", "", kind)
        found.append((f"{prefix}{field.name}", "section" if inner else kind, "" if inner else default(field), text))
        if inner is MultiAceSettings:
            found.append((f"{prefix}{field.name}.preset", _choice(PRESETS), "mace", "A paper's choices."))
        if inner is MultiAceSettings and owner is TrainSettings:
            found.append((f"{prefix}{field.name}.elements", "tuple of str", "", "Those of the frames if omitted."))
        if inner is not None:
            found += rows(inner, f"{prefix}{field.name}.")
    return found


def _choice(names: Iterable[str]) -> str:
    return "{" + ", ".join(repr(name) for name in names) + "}"


def default(field: dataclasses.Field[Any]) -> str:
    """The default as YAML would have it; empty if there is none."""
    if field.default is not dataclasses.MISSING:
        value: Any = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if value is None or value == {}:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}: {each}" for key, each in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def page() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for command, (sentence, owner) in FILES.items():
        parts.append(f"\n## {command}\n\n{sentence}\n\n| key | type | default | meaning |\n|---|---|---|---|\n")
        for row in rows(owner):
            key, *rest = (cell.replace("|", "\\|").replace("<", "&lt;") for cell in row)
            parts.append(f"| `{key}` | {' | '.join(rest)} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
