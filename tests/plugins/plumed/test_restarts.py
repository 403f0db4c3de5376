"""What restarts lose is known, and what decides a script is looked at."""

from __future__ import annotations

import pytest

from halberd.plugins.plumed.restarts import digest, forgotten, unwritten_grids


@pytest.mark.parametrize(
    ("script", "lost"),
    [
        ("METAD ARG=d SIGMA=0.1 HEIGHT=1 PACE=5", []),
        ("OPES_METAD ARG=d PACE=5 BARRIER=5", []),
        ("m: METAD ...\n ARG=d SIGMA=0.1\n HEIGHT=1 PACE=5 CALC_WORK\n... METAD", ["METAD (its work)"]),
        ("METAD ARG=d ACCELERATION", ["METAD (its acceleration factor)"]),
        ("METAD ARG=d ACCELERATION ACCELERATION_RFILE=COLVAR", []),
        ("e: EDS ARG=d CENTER=1 PERIOD=5", ["EDS (its coupling)"]),
        ("e: EDS ARG=d CENTER=1 PERIOD=5 IN_RESTART=r.dat", []),
        ("EXTENDED_LAGRANGIAN ARG=d KAPPA=10 TAU=0.2", ["EXTENDED_LAGRANGIAN (its fictitious particle)"]),
        ("ABMD ARG=d TO=1 KAPPA=5", ["ABMD (the lowest value that it has reached)"]),
        ("a: AVERAGE ARG=d STRIDE=1\nh: HISTOGRAM ARG=d", ["AVERAGE (its average)", "HISTOGRAM (its histogram)"]),
        ("# EDS ARG=d\nPRINT ARG=ABMD.bias FILE=EDS", []),
    ],
)
def test_what_begins_anew(script, lost, tmp_path):
    assert forgotten(script, tmp_path) == lost
    (tmp_path / "inner.dat").write_text(script)
    assert forgotten("INCLUDE FILE=inner.dat", tmp_path) == lost


def test_grids_that_nobody_would_see(tmp_path):
    assert unwritten_grids("DUMPGRID GRID=h FILE=histo.dat", tmp_path) == ["histo.dat"]
    assert unwritten_grids("DUMPGRID GRID=h FILE=histo.dat STRIDE=100", tmp_path) == []


def test_files_that_a_script_reads_belong_to_it(tmp_path):
    script = (
        "INCLUDE FILE=inner.dat\nr: RMSD REFERENCE=ref.pdb\nx: EXTERNAL ARG=d FILE=table\nMETAD ARG=d GRID_RFILE=grid"
    )
    seen = {digest(script, tmp_path)}
    for name in ("inner.dat", "ref.pdb", "table"):
        (tmp_path / name).write_text("RESTRAINT ARG=d AT=1 KAPPA=1\n")
        seen.add(digest(script, tmp_path))
        (tmp_path / name).write_text("RESTRAINT ARG=d AT=1 KAPPA=2\n")
        seen.add(digest(script, tmp_path))
    assert len(seen) == 7
    (tmp_path / "grid").write_text("a state, which changes while the run goes on")
    assert digest(script, tmp_path) in seen
