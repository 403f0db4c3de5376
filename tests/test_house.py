"""The rules of the house: who may import whom, how large things may be, what the faces and the pages promise."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import re
import runpy
import subprocess
import sys
import tokenize
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("potentials", "plugins", "samplers")
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
CODE = [path for path in MODULES if path.name != "__init__.py"]

#: What everything in a room may use: single files at its root, which use only each other.
GROUND = {"potentials": ("faces", "errors", "constants", "files", "locks", "cache", "signals", "validation")}

#: Folder, or file at the root of a room -> what it may import beside GROUND.
#: A folder that is not here may not be.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "potentials/sites": (),
    "potentials/frames": ("potentials/sites",),
    "potentials/committees": ("potentials/sites",),
    "potentials/simgen": ("potentials/sites",),
    "potentials/regression": ("potentials/sites", "potentials/frames"),
    "potentials/ace": ("potentials/sites", "potentials/frames", "potentials/committees", "potentials/regression"),
    "potentials/mace": (
        *("potentials/sites", "potentials/frames", "potentials/committees", "potentials/regression"),
        "potentials/multi_ace",
    ),
    "potentials/pace": ("potentials/sites", "potentials/ace"),
    "potentials/multi_ace": ("potentials/sites", "potentials/ace"),
    "potentials/training": ("potentials/sites", "potentials/frames", "potentials/multi_ace"),
    "potentials/pretrained_models": ("potentials/sites", "potentials/mace"),
    "potentials/diffusion": ("potentials/sites", "potentials/multi_ace", "potentials/training"),
    "potentials/loading": (
        *("potentials/sites", "potentials/committees", "potentials/ace", "potentials/mace", "potentials/pace"),
        *("potentials/multi_ace", "potentials/pretrained_models"),
    ),
    "potentials/conformance": ("potentials/sites", "potentials/loading"),
    "plugins/forces": (
        *("potentials/sites", "potentials/frames", "potentials/committees", "potentials/ace", "potentials/mace"),
        *("potentials/multi_ace", "potentials/simgen", "potentials/diffusion", "potentials/loading"),
    ),
    "plugins/plumed": (),
    "plugins/molecules": ("potentials/simgen",),
    "plugins/labelling": ("potentials/frames",),
    "plugins/hosts": ("potentials/sites", "potentials/committees", "potentials/loading", "plugins/forces"),
    "plugins/reporters": (
        *("potentials/sites", "potentials/committees", "potentials/loading"),
        *("plugins/forces", "plugins/hosts"),
    ),
    "plugins/evaluation": (
        *("potentials/sites", "potentials/frames", "potentials/ace", "potentials/training", "potentials/loading"),
        "plugins/hosts",
    ),
    "plugins/commands": (
        *("potentials/sites", "potentials/frames", "potentials/regression", "potentials/ace", "potentials/loading"),
        *("potentials/committees", "potentials/multi_ace", "potentials/training", "potentials/pace"),
        *("potentials/diffusion", "plugins/forces", "plugins/plumed", "plugins/molecules", "plugins/hosts"),
        "plugins/evaluation",
    ),
    "samplers/runs": ("plugins/labelling",),
    "samplers/md": (
        *("potentials/sites", "potentials/frames", "potentials/loading"),
        *("plugins/forces", "plugins/plumed", "plugins/labelling", "plugins/hosts", "plugins/reporters"),
        *("plugins/evaluation", "plugins/commands", "samplers/runs"),
    ),
    "samplers/hal": (
        *("potentials/sites", "potentials/frames", "potentials/committees", "potentials/regression", "potentials/ace"),
        *("potentials/mace", "potentials/multi_ace", "potentials/training", "potentials/loading"),
        *("plugins/forces", "plugins/labelling", "plugins/hosts", "plugins/reporters", "plugins/evaluation"),
        *("plugins/commands", "samplers/runs"),
    ),
    "samplers/generation": (
        *("potentials/sites", "potentials/simgen", "potentials/diffusion", "potentials/mace", "potentials/loading"),
        *("plugins/forces", "plugins/molecules", "plugins/commands", "samplers/runs"),
    ),
    "samplers/web": (
        *("potentials/sites", "potentials/simgen", "potentials/loading"),
        *("plugins/forces", "plugins/molecules", "plugins/labelling", "plugins/commands"),
        *("samplers/runs", "samplers/generation"),
    ),
}
ENGINES = (
    *(
        "openmm",
        "openmmtorch",
        "openmmml",
        "openmmtools",
        "plumed",
        "lammps",
        "rdkit",
        "tblite",
        "posebusters",
        "mdtraj",
    ),
    "dask",
)


def name_of(path: Path) -> str:
    """Dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("halberd", *parts[: -1 if parts[-1] == "__init__" else None]))


def place(module: str) -> str:
    """Folder of a module of ours, or the file itself if it lies at the root of a room."""
    return "/".join(module.split(".")[1:3])


def imported(source: str) -> set[str]:
    """Modules that a source imports anywhere, those under TYPE_CHECKING and in functions included."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            names.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "import_module",
            "__import__",
        ):
            names |= {each.value for each in node.args if isinstance(each, ast.Constant)}
    return names


def breaches(source: str, module: str) -> list[str]:
    """What a module imports and may not."""
    here = place(module)
    room = here.split("/")[0]
    allowed = {here, *MAY_IMPORT.get(here, ()), *(f"potentials/{name}" for name in GROUND["potentials"])}
    if here in (f"potentials/{name}" for name in GROUND["potentials"]):
        allowed = {f"potentials/{name}" for name in GROUND["potentials"]}
    found = []
    for name in sorted(imported(source)):
        if name.split(".")[0] == "halberd" and place(name) not in allowed:
            found.append(f"{here} may not import {name}")
        if room == "potentials" and name.split(".")[0] in ENGINES:
            found.append(f"potentials/ knows no engine, but {module} imports {name}")
    return found


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.parent.name not in ROOMS or path in CODE], ids=name_of
)
def test_folders_import_only_what_they_may(path):
    assert not breaches(path.read_text(encoding="utf-8"), name_of(path))


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from halberd.potentials.ace.fit import AceFit", "halberd.potentials.mace.network"),  # beside
        (
            "from halberd.potentials.mace.network import MaceSiteEnergies",
            "halberd.potentials.sites.site_model",
        ),  # above
        ("from halberd.samplers.md.run import MolecularDynamics", "halberd.plugins.forces.builder"),  # another room
        ("def f():\n    from halberd.samplers.hal.loop import run_hal", "halberd.samplers.md.run"),  # in a function
        ("from halberd.potentials import load", "halberd.samplers.md.run"),  # a face
        ("import openmm", "halberd.potentials.ace.fit"),
        ("__import__('openmm')", "halberd.potentials.ace.fit"),
        ("import importlib\nimportlib.import_module('halberd.samplers.md.run')", "halberd.plugins.forces"),
    ],
)
def test_a_breach_is_noticed(source, module):
    assert breaches(source, module)


def test_every_folder_has_its_place_in_the_table():
    ground = {f"potentials/{name}" for name in GROUND["potentials"]}
    places = {place(name_of(path)) for path in CODE}
    assert places == set(MAY_IMPORT) | ground
    for above, below in MAY_IMPORT.items():
        rooms = [ROOMS.index(each.split("/")[0]) for each in (above, *below)]
        assert max(rooms) == rooms[0], f"{above} would reach up"
    tuple(TopologicalSorter({above: set(below) for above, below in MAY_IMPORT.items()}).static_order())  # no circle


def test_modules_import_without_a_circle():
    """No module needs, before its own code has run, one that needs it."""
    graph = {}
    for path in CODE:
        graph[name_of(path)] = {
            name for name in at_once(path.read_text(encoding="utf-8")) if name.startswith("halberd.")
        }
    tuple(TopologicalSorter(graph).static_order())


def at_once(source: str) -> set[str]:
    """Modules that are imported when a module is, those in ``if`` and ``try`` included, those in functions not."""
    tree = ast.parse(source)
    inside = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    found = [node for node in ast.walk(tree) if node not in inside]
    return {alias.name for node in found if isinstance(node, ast.Import) for alias in node.names} | {
        node.module or "" for node in found if isinstance(node, ast.ImportFrom)
    }


def test_what_is_imported_at_once():
    source = "import a.b\ntry:\n    from c import d\nexcept ImportError:\n    pass\ndef f():\n    import e\n"
    assert at_once(source + "if TYPE_CHECKING:\n    import g\n") == {"a.b", "c"}


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py"], ids=name_of)
def test_every_package_says_its_rule(path):
    documentation = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert documentation
    assert len(documentation) > 40


def test_every_package_is_distributed():
    assert all((path.parent / "__init__.py").exists() for path in MODULES)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for room in ROOMS:
        for file in (ROOT / room).rglob("*"):
            if file.is_file() and file.suffix not in (".py", ".pyc"):
                folder = next(parent for parent in file.parents if (parent / "__init__.py").exists())
                package = name_of(folder / "__init__.py")
                kept = settings["package-data"].get(package, [])
                assert any(file in folder.glob(pattern) for pattern in kept), f"{file.name} would not be installed"
    listed = re.findall(
        r'"(halberd\.[\w.]+)"',
        (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("packages = [")[1].split("]")[0],
    )
    assert sorted(listed) == sorted(name_of(path) for path in MODULES if path.name == "__init__.py")


# -- sizes ------------------------------------------------------------------------------------------------------------


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code: no comment, no blank line."""
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {line for t in tokens if t.type not in layout for line in range(t.start[0], t.end[0] + 1)}


def too_large(source: str) -> list[str]:
    """Functions of more than 60 lines of code and calls with more than five positional arguments."""
    lines, found = code_lines(source), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            own = {line for line in lines if node.lineno <= line <= node.end_lineno}
            if ast.get_docstring(node):
                own -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
            if len(own) > 60:
                found.append(f"{node.name} has {len(own)} lines of code")
        elif isinstance(node, ast.Call) and len(node.args) > 5:
            found.append(f"line {node.lineno}: {len(node.args)} positional arguments")
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_readable(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 450
    assert not too_large(source)


def test_what_is_too_large_is_noticed():
    assert too_large("f(1, 2, 3, 4, 5, 6)")
    assert too_large("def f():\n" + "    x = 1\n" * 61)
    assert too_large("async def f():\n" + "    x = 1\n" * 61)
    assert not too_large("def f():\n" + "    x = 1\n    # why\n\n" * 59)


# -- faces and documentation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_faces_keep_their_promises(room):
    face = importlib.import_module(f"halberd.{room}")
    told = ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))
    types = {
        alias.name: node.module
        for block in told.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: f"halberd.{room}.{module}" for name, module in face._HOMES.items()}
    assert types == homes, "the names for type checkers and those for users differ"
    assert list(face.__all__) == sorted(homes)
    assert dir(face) == sorted(homes)
    for name in face.__all__:
        value = getattr(face, name)
        assert value.__doc__, f"{name} has no docstring"
        assert getattr(value, "__module__", homes[name]) == homes[name], f"{name} is defined elsewhere"
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        face.Nothing  # noqa: B018


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    inner_blocks = [inner for node in tree.body if isinstance(node, (ast.If, ast.Try)) for inner in node.body]
    for node in [*tree.body, *inner_blocks]:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    assert ast.get_docstring(inner), f"{node.name}.{inner.name}"


#: Import -> packages that must not come with it.
LIGHT = {
    "halberd.potentials": ("torch", "openmm", "mace", "e3nn", "rdkit", "ase"),
    "halberd.plugins": ("torch", "openmm", "mace", "e3nn", "rdkit", "ase"),
    "halberd.samplers": ("torch", "openmm", "mace", "e3nn", "rdkit", "ase"),
    "halberd.plugins.commands.app": ("torch", "openmm", "mace", "e3nn", "rdkit"),
}


@pytest.mark.parametrize("module", LIGHT)
def test_faces_bring_no_engine(module):
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    output = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    assert not set(output.stdout.split()) & set(LIGHT[module])


def test_potentials_load_without_an_engine():
    names = [name_of(path) for path in CODE if path.is_relative_to(ROOT / "potentials")]
    code = f"""
import importlib, sys
import halberd.potentials
for name in {names!r}:
    importlib.import_module(name)
for name in halberd.potentials.__all__:
    getattr(halberd.potentials, name)
print(*{{name.split(".")[0] for name in sys.modules}})
"""
    output = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    assert not set(output.stdout.split()) & {*ENGINES, "mace", "e3nn"}


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
]


def test_pages_hold_code():
    assert len(BLOCKS) >= 14


@pytest.mark.parametrize("block", BLOCKS)
def test_documented_code_runs(block, tmp_path):
    """Every Python block of README and docs runs as it stands, from a file, as TorchScript asks for."""
    (tmp_path / "page.py").write_text(block, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "page.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


@pytest.mark.parametrize(
    "source", [*BLOCKS, *(pytest.param(p.read_text(encoding="utf-8"), id=p.stem) for p in EXAMPLES)]
)
def test_pages_and_examples_use_the_faces_only(source):
    faces = {f"halberd.{room}" for room in ROOMS}
    ours = {name for name in imported(source) if name.split(".")[0] == "halberd"}
    assert ours <= faces, ours - faces


def test_readme_is_short_enough_to_read():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_pages_name_files_that_exist():
    """Links between pages, and names of modules of ours in backquotes."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
        for name in re.findall(r"`(halberd\.(?:potentials|plugins|samplers)[\w.]*)`", text):
            module, _, attribute = name.rpartition(".")
            try:
                importlib.import_module(name)
            except ImportError:
                assert hasattr(importlib.import_module(module), attribute), f"{page.name} names {name}"


def test_every_module_is_on_an_api_page():
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    shown = [
        name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert sorted(shown) == sorted(name_of(path) for path in CODE)
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f"api/{page.name}" in navigation for page in pages)


def test_the_drawing_is_of_the_table():
    drawing = (ROOT / "docs" / "figures" / "rooms.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {name.partition('/')[2]} -->" in drawing for name in MAY_IMPORT)


def test_the_page_of_settings_is_that_of_the_settings():
    """If not: ``python docs/write_settings.py``."""
    written = runpy.run_path(str(ROOT / "docs" / "write_settings.py"))["page"]()
    assert written == (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for key in ("force.precision", "stability.temperature", "model.basis.cutoff", "sampler.elements"):
        assert f"| `{key}` |" in written


def test_signatures_of_the_faces_are_annotated():
    for room in ROOMS:
        face = importlib.import_module(f"halberd.{room}")
        for name in face.__all__:
            value = getattr(face, name)
            if inspect.isfunction(value):
                signature = inspect.signature(value)
                assert signature.return_annotation is not inspect.Signature.empty, name


def test_changelog_knows_this_version():
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE).group(1)
    assert f"[{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
