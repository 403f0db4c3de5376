"""Standard deviations against errors: what is expected of good ones, of one for all, and of useless ones."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from halberd.potentials.frames.coverage import coverage, curve
from halberd.potentials.frames.error_table import Prediction, error_report
from halberd.potentials.frames.labelled import Frame


def test_good_deviations_one_for_all_and_useless_ones():
    generator = np.random.default_rng(0)
    deviations = np.exp(generator.normal(size=40_000))
    errors = deviations * generator.standard_normal(40_000)
    good = coverage(errors, deviations)
    assert good["within_one"] == pytest.approx(0.683, abs=0.01)
    assert good["within_two"] == pytest.approx(0.954, abs=0.01)
    # exp(normal): root mean square e, mean sqrt(e), mean of the logarithm 0.
    assert good["ratio"] == pytest.approx(np.exp(0.5), rel=0.1)
    assert good["gain"] == pytest.approx(1.0, abs=0.1)
    assert 0.4 < good["rank"] < 0.7
    small = coverage(errors, 0.1 * deviations)
    assert small["within_one"] < 0.1
    assert (small["rank"], small["gain"]) == pytest.approx((good["rank"], good["gain"]))
    one = coverage(errors, np.full(40_000, errors.std()))
    assert one["gain"] == pytest.approx(0.0, abs=1e-9)
    assert one["rank"] is None
    useless = coverage(errors, generator.permutation(deviations))
    assert abs(useless["rank"]) < 0.02
    assert useless["gain"] < 0


def test_no_spread_and_no_error():
    nothing = coverage(np.array([0.1, -0.2, 0.3]), np.zeros(3))
    assert nothing["within_one"] == 0.0
    assert nothing["ratio"] is None
    assert nothing["gain"] is None
    exact = coverage(np.zeros(3), np.array([0.1, 0.2, 0.3]))
    assert exact["within_one"] == 1.0
    assert exact["ratio"] == 0.0
    assert exact["gain"] is None


def test_the_curve_counts():
    errors, deviations = np.array([0.5, -1.5, 2.5, -3.5]), np.ones(4)
    assert curve(errors, deviations, np.array([0.0, 1.0, 2.0, 3.0, 4.0])).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_reports_tell_of_what_has_deviations():
    """Energies per atom, force components; nothing of models without, and per config type."""
    generator = np.random.default_rng(1)
    frames, predictions = [], []
    for number in range(10):
        forces = generator.normal(size=(4, 3))
        frames.append(Frame(Atoms("H4", np.zeros((4, 3))), 4.0, forces, None, "ab"[number % 2]))
        spread = np.full((4, 3), 0.051 * (1 + number))
        predictions.append(Prediction(4.0 + 0.4 * number, forces + 0.1, energy_std=2.0, forces_std=spread))
    report = error_report(frames, predictions)
    assert report["sigma"]["energy"]["within_one"] == 0.6  # of 0, 0.4, ... 3.6 eV
    assert report["sigma"]["energy"]["ratio"] == pytest.approx(np.sqrt(np.mean((0.4 * np.arange(10)) ** 2)) / 2)
    assert report["sigma"]["forces"]["within_one"] == 0.9
    assert report["per_config_type"]["a"]["sigma"]["forces"]["within_one"] == 0.8
    assert "sigma" not in error_report(frames, [Prediction(p.energy, p.forces) for p in predictions])
    energies_alone = [Prediction(p.energy, p.forces, energy_std=p.energy_std) for p in predictions]
    assert set(error_report(frames, energies_alone)["sigma"]) == {"energy"}


def test_forces_that_symmetry_makes_zero_do_not_count():
    rng = np.random.default_rng(4)
    deviations = np.exp(rng.normal(size=2000))
    errors = deviations * rng.normal(size=2000)
    alone = coverage(errors, deviations)
    together = coverage(np.append(errors, np.full(100, 1e-8)), np.append(deviations, np.full(100, 1e-15)))
    assert together["gain"] == pytest.approx(alone["gain"])
