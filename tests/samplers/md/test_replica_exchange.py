"""Replica exchange: ensembles of every temperature, constant pressure, round trips."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from halberd.potentials.errors import ConfigurationError, OutputError, RestartError
from halberd.samplers.md.production import run_md
from halberd.samplers.md.replica_exchange import round_trips
from halberd.samplers.runs.log import mean_and_error, read_log, sampled
from halberd.samplers.runs.restart import InexactRestartWarning
from tests.samplers.md.conftest import dimer, settings


@pytest.mark.long
@pytest.mark.physical
def test_replica_exchange_samples_each_temperature(argon, tmp_path):
    """A cold crystal is harmonic: 3/2 kT per atom of potential energy at every temperature. Neighbours exchange."""
    run = settings(
        argon, tmp_path, steps=7500, exchange_interval=50, replica_temperatures=[20.0, 24.0, 29.0, 35.0], friction=5.0,
        timestep=4.0,
    )  # fmt: skip
    result = run_md(run, progress=False)
    assert result["complete"]
    assert result["iterations"] == 150
    assert all(0.1 < ratio <= 1 for ratio in result["acceptance"])
    means = [each["mean"] for each in result["potential_kj_mol"]]
    # Anharmonicity included, as at one temperature alone. openmmtools draws the seeds, so every run is another one.
    plain, errors = [], []
    for temperature in (20.0, 35.0):
        alone = dataclasses.replace(
            run, replica_temperatures=None, temperature=temperature, output=str(tmp_path / f"alone{temperature:g}"),
            report_interval=25, reporters=["csv"],
        )  # fmt: skip
        run_md(alone, progress=False)
        series = sampled(read_log(Path(alone.output) / "log.csv"))["potential_kj_mol"][40:]
        mean, error = mean_and_error(series)
        plain.append(mean)
        errors.append(error)
    width = plain[1] - plain[0]
    assert width == pytest.approx(1.5 * 31 * 0.00831446 * 15.0, rel=0.15)
    for found, expected, error in ((means[0], plain[0], errors[0]), (means[3], plain[1], errors[1])):
        # Three errors of a difference; a temperature that is off by one replica is 0.27 of the width or more.
        tolerance = 3 * np.sqrt(2) * error
        assert tolerance < 0.25 * width
        assert abs(found - expected) < tolerance, (found, expected, error)
    out = tmp_path / "out"
    for temperature in (20, 24, 29, 35):
        frames = mdtraj.load(out / f"temperature-{temperature}.dcd", top=out / "topology.pdb")
        assert len(frames) == 150
    assert Path(result["figure"]).exists()
    further = run_md(dataclasses.replace(run, steps=8000), restart=True, progress=False)
    assert further["iterations"] == 160
    with pytest.raises(OutputError, match="holds a run already"):
        run_md(run, progress=False)
    with pytest.raises(ConfigurationError, match="not a multiple"):
        run_md(dataclasses.replace(run, steps=7510, output=str(tmp_path / "b")), progress=False)


def test_replicas_at_constant_pressure(argon, tmp_path):
    run = settings(
        argon, tmp_path, steps=120, exchange_interval=40, replica_temperatures=[40.0, 44.0], ensemble="NPT",
        pressure=50.0, minimize=True,
    )  # fmt: skip
    result = run_md(run, progress=False)
    assert result["complete"]
    out = tmp_path / "out"
    frames = mdtraj.load(out / "temperature-44.dcd", top=out / "topology.pdb")
    assert np.ptp(frames.unitcell_lengths) > 0
    with pytest.raises(ConfigurationError, match="needs barostat: isotropic"):
        dataclasses.replace(run, barostat="flexible")
    with pytest.raises(ConfigurationError, match="no periodic cell"):
        run_md(dataclasses.replace(run, output=str(tmp_path / "b"), structure=dimer(tmp_path)["structure"]))


def test_replicas_of_another_run_are_not_gone_on_with(argon, tmp_path):
    """Other temperatures would relabel trajectories, and reweight energies by the wrong kT, without a word."""
    run = settings(argon, tmp_path, steps=20, exchange_interval=10, replica_temperatures=[40.0, 44.0])
    run_md(run, progress=False)
    before = (tmp_path / "out" / "replicas.nc").read_bytes()
    changes = {
        "temperatures": {"replica_temperatures": [50.0, 60.0]},
        "weights": {"model": str(tmp_path / "softer.pt")},
        "exchange_interval": {"exchange_interval": 20},
        "friction": {"friction": 2.0},
        "composition": {"structure": dimer(tmp_path)["structure"]},
    }
    for name, change in changes.items():
        with pytest.raises(RestartError, match=f"its {name} is"):
            run_md(dataclasses.replace(run, steps=40, **change), restart=True, progress=False)
    assert (tmp_path / "out" / "replicas.nc").read_bytes() == before
    assert run_md(dataclasses.replace(run, steps=40), restart=True, progress=False)["iterations"] == 4
    (tmp_path / "out" / "replicas.json").write_text("[")
    with pytest.raises(RestartError, match="says what the replicas of this folder are, cannot be read"):
        run_md(dataclasses.replace(run, steps=60), restart=True, progress=False)


def test_a_damaged_storage_is_replaced_by_its_copy(argon, tmp_path):
    """netCDF files are written in place: a kill or a full disk may leave them unreadable."""
    run = settings(argon, tmp_path, steps=20, exchange_interval=10, replica_temperatures=[40.0, 44.0])
    run_md(run, progress=False)
    out = tmp_path / "out"
    content = (out / "replicas.nc").read_bytes()
    (out / "replicas.nc").write_bytes(content[: len(content) // 3])
    with pytest.warns(InexactRestartWarning, match="goes on from its last copy"):
        result = run_md(dataclasses.replace(run, steps=40), restart=True, progress=False)
    assert result["complete"]
    assert result["iterations"] == 4
    (out / "replicas.nc").write_bytes(b"nothing")
    (out / "replicas.zip").unlink()
    with pytest.raises(OutputError, match="cannot be written or read"):
        run_md(dataclasses.replace(run, steps=60), restart=True, progress=False)
    # Killed while the storage was made: there is nothing to lose.
    (out / "replicas.json").unlink()
    assert run_md(dataclasses.replace(run, steps=60), start_or_restart=True, progress=False)["iterations"] == 6


def test_round_trips_are_counted():
    walk = np.array([[0, 2], [1, 1], [2, 0], [1, 1], [0, 2], [1, 2], [0, 1]])
    assert round_trips(walk) == 2
