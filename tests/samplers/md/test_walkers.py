"""Biased runs: restarts of metadynamics, ends that PLUMED asks for, variables from models, walkers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml

from halberd.potentials.errors import ConfigurationError, HalberdError, RestartError
from halberd.samplers.md.production import run_md
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.runs.restart import InexactRestartWarning
from tests.samplers.md.conftest import METAD, dimer, rows_of, settings


def test_metadynamics_restarts_in_the_run_folder(argon, tmp_path):
    (tmp_path / "plumed.dat").write_text(METAD)
    run = settings(
        {**argon, **dimer(tmp_path)}, tmp_path, steps=100, plumed=str(tmp_path / "plumed.dat"), reporters=["csv"],
        output=str(tmp_path / "whole"), checkpoint_interval=50,
    )  # fmt: skip
    run_md(run, progress=False)
    pieces = dataclasses.replace(run, output=str(tmp_path / "out"))
    run_md(dataclasses.replace(pieces, steps=50), progress=False)
    run_md(pieces, restart=True, progress=False)
    for file in ("COLVAR", "HILLS"):
        whole, resumed = rows_of(tmp_path / "whole" / file), rows_of(tmp_path / "out" / file)
        np.testing.assert_allclose(whole, resumed, atol=1e-6)
        assert len(whole) > 8
    (tmp_path / "plumed.dat").write_text(METAD.replace("HEIGHT=0.1", "HEIGHT=0.2"))
    with pytest.raises(RestartError, match="PLUMED script"):
        run_md(dataclasses.replace(pieces, steps=150), restart=True, progress=False)


def test_plumed_ends_a_run_cleanly(argon, tmp_path):
    (tmp_path / "plumed.dat").write_text(
        "d: DISTANCE ATOMS=1,2\nCOMMITTOR ARG=d STRIDE=1 BASIN_LL1=0.0 BASIN_UL1=9.0\nPRINT ARG=d FILE=COLVAR STRIDE=1"
    )
    run = settings(
        {**argon, **dimer(tmp_path)}, tmp_path, steps=400, plumed=str(tmp_path / "plumed.dat"), report_interval=1
    )
    result = run_md(run, progress=False)
    assert not result["complete"]
    assert result["stopped"] == "PLUMED asked for it"
    assert result["steps"] < 5
    assert (tmp_path / "out" / "restart.zip").exists()


def test_a_model_variable_from_the_configuration(unsure, tmp_path):
    (tmp_path / "plumed.dat").write_text(
        "s: EXTRACV NAME=sigma\nPRINT ARG=s FILE=COLVAR STRIDE=10\nRESTRAINT ARG=s AT=0 KAPPA=0 SLOPE=-0.1"
    )
    values = {
        **unsure, **dimer(tmp_path), "timestep": 2.0, "output": str(tmp_path / "out"), "steps": 21, "frame_sigma": True,
        "plumed": "plumed.dat", "variables": {"sigma": {"kind": "committee_sigma"}}, "report_interval": 10,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    run = MDSettings.from_file(tmp_path / "run.yaml")
    run_md(run, progress=False)
    frames = ase.io.read(tmp_path / "out" / "frames.extxyz", ":")
    sigma = rows_of(tmp_path / "out" / "COLVAR")[:, 1] / 96.48533212
    assert sigma == pytest.approx([frame.info["sigma"] for frame in frames], abs=1e-6)
    with pytest.raises(ConfigurationError, match="Did you mean 'committee_sigma'"):
        run_md(dataclasses.replace(run, output=str(tmp_path / "a"), variables={"sigma": {"kind": "comittee_sigma"}}))
    bad = {"sigma": {"kind": "committee_sigma", "colour": 3}}
    with pytest.raises(ConfigurationError, match="variable 'sigma'"):
        run_md(dataclasses.replace(run, output=str(tmp_path / "b"), variables=bad))


def test_included_files_belong_to_the_run_and_restarts_say_what_they_lose(tmp_path, argon):
    (tmp_path / "inner.dat").write_text("d: DISTANCE ATOMS=1,2\na: ABMD ARG=d TO=0.6 KAPPA=5\n")
    (tmp_path / "plumed.dat").write_text("INCLUDE FILE=inner.dat\nPRINT ARG=d,a.* STRIDE=5 FILE=COLVAR\n")
    values = {**argon, **dimer(tmp_path), "output": str(tmp_path / "out"), "plumed": str(tmp_path / "plumed.dat")}
    run = MDSettings.from_mapping({**values, "steps": 20, "report_interval": 10})
    run_md(run, progress=False)
    further = dataclasses.replace(run, steps=40)
    with pytest.warns(InexactRestartWarning, match="begins anew: ABMD"):
        run_md(further, restart=True, progress=False)
    (tmp_path / "inner.dat").write_text("d: DISTANCE ATOMS=1,2\na: ABMD ARG=d TO=0.9 KAPPA=5\n")
    with pytest.raises(RestartError, match="PLUMED script"):
        run_md(dataclasses.replace(run, steps=60), restart=True, progress=False)


@pytest.mark.physical
def test_walkers_share_their_hills(argon, tmp_path):
    """In a folder that is not there yet, where PLUMED itself crashes."""
    script = METAD.replace(
        "FILE=HILLS", "FILE=HILLS WALKERS_N={walkers} WALKERS_ID={walker} WALKERS_DIR=../shared WALKERS_RSTRIDE=10"
    )
    script = script.replace("AT=0.6 KAPPA=500", "AT=0.42 KAPPA=5000")  # close enough to meet each other's hills
    (tmp_path / "plumed.dat").write_text(script)
    run = settings(
        {**argon, **dimer(tmp_path)}, tmp_path, steps=1000, plumed=str(tmp_path / "plumed.dat"), walkers=2,
        reporters=["csv"], checkpoint_interval=500,
    )  # fmt: skip
    result = run_md(run, progress=False)
    assert result["complete"]
    assert [walker["steps"] for walker in result["walkers"]] == [1000, 1000]
    out = tmp_path / "out"
    first, second = (rows_of(out / "shared" / f"HILLS.{k}") for k in range(2))
    assert len(first) == len(second) == 99
    assert not np.allclose(first[:, 1], second[:, 1])  # seeds of their own
    assert Path(result["figure"]).exists()
    assert run_md(dataclasses.replace(run, steps=1100), restart=True, progress=False)["steps"] == 1100
    assert len(rows_of(out / "shared" / "HILLS.0")) == 109
    # A walker's bias holds the hills of both: those of the other's first run, whenever each process ran.
    late = rows_of(out / "walker-0" / "COLVAR")[-1]
    own, others = (
        0.1 * np.exp(-0.5 * ((late[1] - hills[:, 1]) / 0.02) ** 2).sum()
        for hills in (rows_of(out / "shared" / "HILLS.0")[:-1], second)
    )
    assert others > 0.2
    assert late[2] > own + 0.9 * others
    (tmp_path / "plumed.dat").write_text(METAD)
    with pytest.raises(ConfigurationError, match="does not hold"):
        run_md(run, progress=False)
    bad = dataclasses.replace(run, model="nowhere.pt", output=str(tmp_path / "bad"))
    (tmp_path / "plumed.dat").write_text(script)
    with pytest.raises(HalberdError, match=r"Walker in .*nowhere\.pt"):
        run_md(bad, progress=False)
