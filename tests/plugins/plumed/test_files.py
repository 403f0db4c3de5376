"""Files of PLUMED scripts: what is read, what is written, and what PLUMED itself has open."""

from __future__ import annotations

from pathlib import Path

import pytest

from halberd.plugins import PlumedForce
from halberd.plugins.plumed.files import (
    absolute_inputs,
    actions,
    open_for_writing,
    remove_empty,
    remove_empty_backups,
    written_files,
)
from tests.plugins.plumed.test_force import chain, context_of

SCRIPT = """
# METAD ARG=d FILE=not_this
d: DISTANCE ATOMS=1,4
METAD ...
  ARG=d SIGMA=0.1 HEIGHT=1 # FILE=nor_this
  FILE=bias
  PACE=10 WALKERS_ID=3
  WALKERS_DIR=../shared
  GRID_WFILE=grid
... METAD
o: OPES_METAD ARG=d PACE=10 BARRIER=5 STATE_WFILE=state STATE_WSTRIDE=10
EXTERNAL ...
ARG=d FILE=field.dat
...
PRINT ARG=d FILE={with braces}
PRINT ARG=d
ENDPLUMED
PRINT ARG=d FILE=after_the_end
"""


def test_writers_are_found_on_whatever_line_they_stand():
    growing, states = written_files(SCRIPT, Path("/run/out"))
    names = [str(file) for file in growing]
    assert names == ["/run/shared/bias.3", "/run/out/KERNELS", "/run/out/with braces"]
    assert [str(file) for file in states] == ["/run/out/grid", "/run/out/state"]


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("METAD ARG=d SIGMA=1 HEIGHT=1 PACE=1", "HILLS"),
        ("m: METAD ARG=d SIGMA=1 HEIGHT=1 PACE=1 FILE=own", "own"),
        ("OPES_METAD_EXPLORE ARG=d PACE=1 BARRIER=1", "KERNELS"),
        ("OPES_EXPANDED ARG=d PACE=1", "DELTAFS"),
    ],
)
def test_defaults_of_the_manual(line, file):
    assert written_files(line, Path("/x"))[0] == [Path("/x") / file]


def test_included_files_are_read(tmp_path):
    (tmp_path / "more.dat").write_text("METAD ARG=d SIGMA=1 HEIGHT=1 PACE=1\n")
    script = "d: DISTANCE ATOMS=1,2\nINCLUDE FILE=more.dat"
    assert [words[0] for words in actions(script, tmp_path)] == ["d:", "METAD"]
    assert written_files(script, tmp_path)[0] == [tmp_path / "HILLS"]


def test_inputs_of_actions_on_several_lines_start_beside_the_script(tmp_path):
    (tmp_path / "field.dat").write_text("")
    text = absolute_inputs(SCRIPT, tmp_path)
    assert f"FILE={tmp_path / 'field.dat'}" in text
    assert "FILE=bias" in text


def test_files_that_no_keyword_names_are_found_because_plumed_has_them_open(tmp_path):
    """PBMETAD makes one file per argument, named after them."""
    script = """
d: DISTANCE ATOMS=1,4
t: TORSION ATOMS=1,2,3,4
PBMETAD ARG=d,t SIGMA=0.05,0.3 HEIGHT=1.2 PACE=5 BIASFACTOR=6 TEMP=300
"""
    assert written_files(script, tmp_path)[0] == []
    system = chain()
    force = PlumedForce(script, system, timestep=0.002, folder=tmp_path)
    system.addForce(force)
    context = context_of(system)
    context.getIntegrator().step(6)
    assert {file.name for file in force.files} == {"HILLS.d", "HILLS.t"}
    assert {file.name for file in open_for_writing() if file.parent == tmp_path} >= {"HILLS.d", "HILLS.t"}
    force.close(6)


def test_files_without_a_row_go(tmp_path):
    """What a run leaves that is killed before its first row; rows of somebody's stay, whatever they are."""
    contents = {
        "empty": "",
        "header": "#! FIELDS time d\n#! SET x 1\n",
        "rows": "#! FIELDS time d\n0.1 2\n",
        "text": "a",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    remove_empty([tmp_path / name for name in (*contents, "missing")])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rows", "text"]


def test_backups_without_a_row_go(tmp_path):
    """Those of the files that the script names, and no others."""
    for name in ("bck.0.HILLS", "bck.1.HILLS", "bck.0.OTHERS", "bck.last.HILLS", "HILLS"):
        (tmp_path / name).write_text("0.1 2\n" if name == "bck.1.HILLS" else "")
    remove_empty_backups([tmp_path / "HILLS"])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "HILLS",
        "bck.0.OTHERS",
        "bck.1.HILLS",
        "bck.last.HILLS",
    ]
