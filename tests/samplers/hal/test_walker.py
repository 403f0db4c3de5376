"""One walker: triggers, guards, ramps, and going on after a kill."""

from __future__ import annotations

import dataclasses
import json

import ase.io
import numpy as np
import pytest
from ase import Atoms

from halberd.plugins import HalberdCalculator
from halberd.potentials.committees.disagreement import softmax
from halberd.potentials.errors import ConfigurationError, GeometryError
from halberd.samplers.hal.walker import LOG, SELECTED, TRAJECTORY, BiasedDynamics, read_outcome
from halberd.samplers.hal.walker_settings import BiasedSettings
from tests.samplers.conftest import copper_gold

LONG = BiasedSettings(steps=60, temperature=500.0, tolerance=9.0, check_interval=5, tau_history=10, friction=5.0)


def walk(model, folder, settings=LONG, seed=3, atoms=None, **options):
    return BiasedDynamics(model, copper_gold(0) if atoms is None else atoms, settings, folder, seed, **options).run()


def log_of(folder):
    return np.genfromtxt(folder / LOG, delimiter=",", names=True)


def test_a_quiet_run_holds(small_fit, tmp_path):
    _, fitted = small_fit
    outcome = walk(fitted.model, tmp_path / "w")
    assert (outcome.reason, outcome.held, outcome.selected_step) == ("finished", True, None)
    log = log_of(tmp_path / "w")
    assert log["step"].tolist() == list(range(0, 61, 5))
    assert (log["tau"][:4] == 0).all()  # logged before tau is adapted: burn-in ends at 10
    assert (log["tau"][4:] > 0).all()
    assert outcome.max_f == pytest.approx(log["max_f"].max(), rel=1e-8)
    assert not (tmp_path / "w" / SELECTED).exists()
    frames = ase.io.read(tmp_path / "w" / TRAJECTORY, ":")
    assert [frame.arrays["relative_uncertainty"].max() for frame in frames] == pytest.approx(log["max_f"], rel=1e-5)


def test_tau_follows_the_controller(small_fit, tmp_path):
    """The tau of a look is what the controller says of all looks before it."""
    from halberd.samplers.hal.tau_control import TauController

    _, fitted = small_fit
    walk(fitted.model, tmp_path / "w", dataclasses.replace(LONG, tau_rel=(0.1, 0.3)))
    log = log_of(tmp_path / "w")
    controller = TauController(0.1, history=10, interval=5)
    expected = [0.0]
    for step, force, sigma in zip(log["step"], log["mean_force_eV_A"], log["mean_sigma_force_eV_A"], strict=True):
        controller.tau_rel = 0.1 + 0.2 * step / 60
        expected.append(controller.update(int(step), force, sigma))
    assert log["tau"] == pytest.approx(expected[:-1], rel=1e-6)


@pytest.mark.parametrize("criterion", ["max", "softmax"])
def test_the_uncertain_frame_is_selected(small_fit, tmp_path, criterion):
    _, fitted = small_fit
    walk(fitted.model, tmp_path / "free")
    frames = ase.io.read(tmp_path / "free" / TRAJECTORY, ":")
    f = [frame.arrays["relative_uncertainty"] for frame in frames]
    measures = [float(softmax(x).max() if criterion == "softmax" else x.max()) for x in f]
    threshold = 0.5 * (max(measures) + sorted(measures)[-2])
    first = next(k for k, m in enumerate(measures) if m > threshold)
    settings = dataclasses.replace(LONG, tolerance=threshold, criterion=criterion)
    outcome = walk(fitted.model, tmp_path / "stopped", settings)
    assert (outcome.reason, outcome.step, outcome.selected_step) == ("uncertain", 5 * first, 5 * first)
    assert not outcome.held
    selected = ase.io.read(tmp_path / "stopped" / SELECTED)
    assert np.allclose(selected.positions, frames[first].positions)
    results = HalberdCalculator(fitted.model).evaluate(selected)
    relative = results["forces_std"] / (np.linalg.norm(results["forces"], axis=1) + 0.2)
    assert selected.arrays["relative_uncertainty"] == pytest.approx(relative, rel=1e-3)
    assert outcome.atom == relative.argmax()
    # Or the run goes on with the frame kept.
    on = walk(fitted.model, tmp_path / "on", dataclasses.replace(settings, stop_at_trigger=False))
    assert (on.reason, on.step, on.selected_step, on.held) == ("finished", 60, 5 * first, False)


def test_a_kill_changes_nothing(small_fit, tmp_path):
    """With cell moves, swaps, ramps and adaptive tau: the resumed run is the uninterrupted one, to the byte."""
    _, fitted = small_fit
    settings = dataclasses.replace(
        LONG,
        temperature=(300.0, 700.0),
        cell_move="shape",
        cell_interval=5,
        swap_interval=10,
        checkpoint_interval=20,
        pressure=(1.0, 5000.0),
    )
    whole = walk(fitted.model, tmp_path / "whole", settings)
    assert whole.moves["cell"][1] == 11
    assert whole.moves["cell"][0] > 0

    class Killed(BaseException):
        pass

    dynamics = BiasedDynamics(fitted.model, copper_gold(0), settings, tmp_path / "killed", 3)
    judge, looks = dynamics._judge, []

    def deadly(*arguments):
        looks.append(1)
        if len(looks) == 10:  # at step 45, with a checkpoint of step 40
            raise Killed
        judge(*arguments)

    dynamics._judge = deadly
    with pytest.raises(Killed):
        dynamics.run()
    again = walk(fitted.model, tmp_path / "killed", settings)
    assert dataclasses.asdict(again) == dataclasses.asdict(whole)
    for name in (LOG, TRAJECTORY):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert read_outcome(tmp_path / "killed") == again


def test_close_atoms_end_the_run_with_the_frame_before(small_fit, tmp_path):
    _, fitted = small_fit
    walk(fitted.model, tmp_path / "free")
    frames = ase.io.read(tmp_path / "free" / TRAJECTORY, ":")

    def shortest(atoms):
        distances = atoms.get_all_distances(mic=True)
        return min(distances[distances > 0].min(), min(atoms.cell.lengths()))

    closest = [shortest(frame) for frame in frames]
    limit = closest[0] - 0.02
    bad = next(k for k, d in enumerate(closest) if d < limit)
    assert bad > 0
    outcome = walk(fitted.model, tmp_path / "guarded", dataclasses.replace(LONG, min_distance=limit))
    assert (outcome.reason, outcome.step, outcome.selected_step) == ("distance", 5 * bad, 5 * (bad - 1))
    assert f"closer than {limit:.2f}" in outcome.detail
    with pytest.raises(GeometryError, match="The start cannot be used: atoms"):
        walk(fitted.model, tmp_path / "never", dataclasses.replace(LONG, min_distance=closest[0] + 0.01))


def test_molecules_must_stay_together_if_they_were(small_fit):
    from halberd.samplers.hal.walker import guard_of

    _, fitted = small_fit
    near, far = Atoms("Cu2", positions=[[0, 0, 0], [2.5, 0, 0]]), Atoms("Cu2", positions=[[0, 0, 0], [9.0, 0, 0]])
    assert "come apart" in guard_of(fitted.model, near, LONG).violation(far)
    assert guard_of(fitted.model, far, LONG).violation(far) is None


def test_the_cell_is_guarded(small_fit, tmp_path):
    _, fitted = small_fit
    settings = dataclasses.replace(
        LONG, cell_move="isotropic", cell_interval=5, cell_amplitude=0.02, volume_range=(0.99, 1.01), pressure=50000.0
    )
    outcome = walk(fitted.model, tmp_path / "w", settings)
    assert outcome.reason == "cell"
    assert "times the first" in outcome.detail
    assert outcome.selected_step is not None
    assert outcome.selected_step < outcome.step


def test_an_explosion_is_an_outcome(small_fit, tmp_path):
    _, fitted = small_fit
    dynamics = BiasedDynamics(fitted.model, copper_gold(0), LONG, tmp_path / "w", 3)
    judge = dynamics._judge

    def poisoned(simulation, seen, uncertainty):
        judge(simulation, seen, uncertainty)
        if simulation.currentStep == 15:
            simulation.context.setVelocities(np.full((8, 3), np.nan))

    dynamics._judge = poisoned
    outcome = dynamics.run()
    assert (outcome.reason, outcome.selected_step, outcome.held) == ("unstable", 15, False)
    assert np.isfinite(ase.io.read(tmp_path / "w" / SELECTED).positions).all()


def test_a_labelled_start_is_not_selected_again(small_fit, tmp_path):
    _, fitted = small_fit
    strict = dataclasses.replace(LONG, tolerance=1e-6)
    assert walk(fitted.model, tmp_path / "new", strict).selected_step == 0
    assert walk(fitted.model, tmp_path / "known", strict, known_start=True).selected_step == 5


def test_a_run_may_begin_at_a_later_step(small_fit, tmp_path):
    """Ramps go on from there, and so does the bias: a trajectory that is relayed has had its burn-in."""
    _, fitted = small_fit
    settings = dataclasses.replace(LONG, temperature=(100.0, 700.0))
    outcome = walk(fitted.model, tmp_path / "w", settings, first_step=40)
    log = log_of(tmp_path / "w")
    assert (outcome.step, outcome.held) == (60, True)
    assert log["step"].tolist() == [40, 45, 50, 55, 60]
    assert log["tau"][0] == 0  # logged before tau is adapted
    assert (log["tau"][1:] > 0).all()
    assert log["temperature_K"][0] > 250  # velocities were drawn at 500 K, not at 100 K


def test_last_frame_may_be_kept(small_fit, tmp_path):
    _, fitted = small_fit
    outcome = walk(fitted.model, tmp_path / "w", dataclasses.replace(LONG, keep_last=True))
    assert (outcome.held, outcome.selected_step) == (True, 60)


def test_seeds_decide(small_fit, tmp_path):
    _, fitted = small_fit
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        walk(fitted.model, tmp_path / name, seed=seed)
    texts = {name: (tmp_path / name / LOG).read_bytes() for name in "abc"}
    assert texts["a"] == texts["b"] != texts["c"]


@pytest.mark.parametrize("integrator", ["langevin", "nose_hoover", "brownian"])
def test_other_integrators(small_fit, tmp_path, integrator):
    _, fitted = small_fit
    settings = dataclasses.replace(LONG, integrator=integrator, steps=10, friction=50.0)
    assert walk(fitted.model, tmp_path / "w", settings).step == 10


def test_exact_sigma_drives_and_members_judge(small_fit, tmp_path):
    _, fitted = small_fit
    outcome = walk(fitted.model, tmp_path / "w", drive=fitted.with_exact_sigma())
    assert outcome.held
    assert (log_of(tmp_path / "w")["tau"][4:] > 0).all()


@pytest.mark.parametrize("bias", [{}, {"bias": "exponential"}, {"bias": "exponential", "bias_width": 1.0}])
def test_tau_keeps_the_ratio(small_fit, tmp_path, bias):
    """After burn-in the bias force is tau_rel of the force on average, whatever the form of the bias and its width."""
    _, fitted = small_fit
    steady = dataclasses.replace(LONG, steps=1500, temperature=100.0, tau_rel=0.1, tau_history=50, **bias)
    walk(fitted.model, tmp_path / "w", steady)
    log = log_of(tmp_path / "w")[60:]
    sigma = log["sigma_eV"]
    slope = np.ones_like(sigma)
    if bias:
        scale = len(copper_gold(0)) * bias.get("bias_width", 0.1) ** 2
        slope = sigma / scale * np.exp(-(sigma**2) / (2 * scale))
    ratio = (log["tau"] * slope * log["mean_sigma_force_eV_A"]).mean() / log["mean_force_eV_A"].mean()
    assert ratio == pytest.approx(0.1, rel=0.2)


def test_outcome_is_json(small_fit, tmp_path):
    _, fitted = small_fit
    outcome = walk(fitted.model, tmp_path / "w", dataclasses.replace(LONG, steps=5))
    stored = json.loads((tmp_path / "w" / "outcome.json").read_text())
    assert stored == json.loads(json.dumps(dataclasses.asdict(outcome)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau_rel": 1.4}, "tau_rel is 1.4"),
        ({"tau_rel": (0.1, -0.3)}, "tau_rel is -0.3"),
        ({"tolerance": 0.0}, "tolerance is 0.0; with criterion 'max' it must lie between 0 and 10"),
        ({"tolerance": 1.2, "criterion": "softmax"}, "between 0 and 1"),
        ({"criterion": "mean"}, "criterion is 'mean'; it must be one of max, softmax"),
        ({"temperature": (300.0, 0.0)}, "must be positive"),
        ({"volume_range": (1.1, 2.0)}, "two numbers around 1"),
        ({"steps": 0}, "steps is 0"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"cell_move": "cubic"}, "none, isotropic, shape"),
        ({"swap_interval": -1}, "must not be negative"),
        ({"bias": "variance"}, "bias is 'variance'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ConfigurationError, match=message):
        BiasedSettings(**options)
