"""Runs that watch the uncertainty of their model."""

from __future__ import annotations

import dataclasses

import ase.io
import numpy as np
import pytest

from halberd.plugins.reporters.uncertainty_guard import UncertaintyWarning
from halberd.potentials.errors import ConfigurationError
from halberd.samplers.md.production import run_md
from halberd.samplers.md.settings import MDSettings
from halberd.samplers.md.watching import WatchSettings
from tests.samplers.md.conftest import settings


def test_watching_warns_saves_and_stops(unsure, tmp_path):
    common = {"steps": 60, "reporters": ["csv"]}
    quiet = settings(
        unsure, tmp_path, output=str(tmp_path / "quiet"), watch={"interval": 20, "threshold": 1e3}, **common
    )
    result = run_md(quiet, progress=False)
    assert result["uncertainty"]["n_above"] == 0
    rows = np.loadtxt(tmp_path / "quiet" / "uncertainty.csv", delimiter=",", skiprows=1)
    assert list(rows[:, 0]) == [20, 40, 60]
    assert result["uncertainty"]["largest"] == pytest.approx(rows[:, 2].max())
    level = 0.5 * rows[:, 2].min()

    def watched(action: str) -> MDSettings:
        return settings(
            unsure,
            tmp_path,
            output=str(tmp_path / action),
            watch={"interval": 20, "threshold": level, "action": action},
            **common,
        )

    with pytest.warns(UncertaintyWarning, match=r"max_f is \S+ on atom \d+ \(Ar\) at step 20") as caught:
        run_md(watched("warn"), progress=False)
    # Once, not at every look.
    assert len([each for each in caught if each.category is UncertaintyWarning]) == 1
    assert run_md(watched("save"), progress=False)["uncertainty"]["n_above"] == 3
    frames = ase.io.read(tmp_path / "save" / "uncertain.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == [20, 40, 60]
    assert frames[0].arrays["relative_uncertainty"].max() > level
    result = run_md(watched("stop"), progress=False)
    assert not result["complete"]
    assert "unsure" in result["stopped"]
    assert result["steps"] == 20
    assert len(ase.io.read(tmp_path / "stop" / "uncertain.extxyz", ":")) == 1
    # Someone looked at it and lets it go on.
    result = run_md(
        dataclasses.replace(watched("stop"), watch=WatchSettings(20, threshold=1e3, action="stop")),
        restart=True,
        progress=False,
    )
    assert result["complete"]


def test_sigma_alone_is_that_of_the_calculator(unsure, tmp_path):
    from halberd.plugins import HalberdCalculator

    run = settings(
        unsure, tmp_path, steps=20, frame_sigma=True,
        watch={"interval": 10, "quantity": "sigma_per_atom", "threshold": 0.0, "action": "save"},
    )  # fmt: skip
    run_md(run, progress=False)
    frames = ase.io.read(tmp_path / "out" / "frames.extxyz", ":")
    rows = np.loadtxt(tmp_path / "out" / "uncertainty.csv", delimiter=",", skiprows=1)
    saved = ase.io.read(tmp_path / "out" / "uncertain.extxyz", ":")
    calculator = HalberdCalculator(unsure["model"])
    # The start is reported, but not watched.
    for frame, row, other in zip(frames[1:], rows, saved, strict=True):
        bare = ase.Atoms(frame.symbols, frame.positions, cell=frame.cell, pbc=True)
        results = calculator.evaluate(bare)
        assert frame.info["sigma"] == pytest.approx(results["energy_std"], abs=1e-5)
        np.testing.assert_allclose(frame.arrays["force_std"], results["forces_std"], atol=1e-6)
        assert row[2] * len(frame) == pytest.approx(results["energy_std"], abs=1e-5)
        np.testing.assert_allclose(other.positions, frame.positions, atol=1e-6)


def test_watching_with_another_committee_changes_nothing(argon, tmp_path):
    plain = settings(argon, tmp_path, steps=40, output=str(tmp_path / "plain"), reporters=["csv"])
    run_md(plain, progress=False)
    watched = dataclasses.replace(
        plain, output=str(tmp_path / "out"),
        watch=WatchSettings(5, threshold=100.0, model=[argon["model"], str(tmp_path / "softer.pt")]),
    )  # fmt: skip
    run_md(watched, progress=False)
    assert (tmp_path / "plain" / "log.csv").read_bytes() == (tmp_path / "out" / "log.csv").read_bytes()
    with pytest.raises(ConfigurationError, match="no members to compare"):
        run_md(dataclasses.replace(watched, output=str(tmp_path / "no"), watch=WatchSettings(5)), progress=False)
