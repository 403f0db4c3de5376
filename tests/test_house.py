"""The rules of the house: who may import whom, what the README promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("potentials", "plugins", "samplers")
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).glob("*.py"))]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_imports_point_one_way(path):
    room = path.parent.name
    forbidden = tuple(f"halberd.{above}" for above in ROOMS[ROOMS.index(room) + 1 :])
    wrong = {name for name in imported(path) if forbidden and name.startswith(forbidden)}
    assert not wrong, f"{room} may not import {wrong}"
    if room == "potentials":
        engines = {name for name in imported(path) if name.split(".")[0] in ("openmm", "openmmtorch", "plumed")}
        assert not engines, f"potentials/ knows no engine, but imports {engines}"


def test_potentials_load_without_an_engine():
    code = """
import sys, importlib, pkgutil, halberd.potentials
for module in pkgutil.iter_modules(halberd.potentials.__path__):
    importlib.import_module(f"halberd.potentials.{module.name}")
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"openmm", "openmmtorch", "plumed", "mace", "e3nn"}, loaded
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_modules_stay_readable(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


def test_public_names_exist():
    import halberd.plugins
    import halberd.potentials

    for package in (halberd.plugins, halberd.potentials):
        for name in package.__all__:
            assert getattr(package, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        halberd.plugins.Nothing  # noqa: B018


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


def test_pages_hold_code():
    assert len(BLOCKS) == 11


@pytest.mark.parametrize("block", BLOCKS)
def test_documented_code_runs(block, tmp_path):
    """Every Python block of README and docs runs as it stands."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_changelog_knows_this_version():
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE).group(1)
    assert f"[{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
