"""The tau controller against series written out by hand."""

from __future__ import annotations

import pytest

from halberd.potentials.errors import ConfigurationError
from halberd.samplers.hal.tau_control import TauController

FORCES = [1.0, 2.0, 4.0, 2.0]
SIGMAS = [0.5, 0.5, 1.0, 2.0]


def test_exponential_averages_start_from_the_first_value():
    controller = TauController(0.2, history=4, burn_in=0, interval=1)
    got = [controller.update(step, f, s) for step, (f, s) in enumerate(zip(FORCES, SIGMAS, strict=True))]
    # <F>: 1, 1.25, 1.9375, 1.953125; <S>: 0.5, 0.5, 0.625, 0.96875
    assert got == pytest.approx([0.0, 0.2 * 2.5, 0.2 * 3.1, 0.2 * 1.953125 / 0.96875])


def test_window_is_the_plain_mean_of_the_last_values():
    controller = TauController(0.1, history=20, burn_in=0, averaging="window", interval=10)
    got = [controller.update(10 * k, f, s) for k, (f, s) in enumerate(zip(FORCES, SIGMAS, strict=True))]
    assert got == pytest.approx([0.0, 0.1 * 3.0, 0.1 * 4.0, 0.1 * 2.0])


def test_burn_in_collects_without_biasing():
    controller = TauController(0.3, history=10, interval=5)
    assert [controller.update(step, 2.0, 1.0) for step in (0, 5, 10, 15)] == pytest.approx([0.0, 0.0, 0.0, 0.6])


def test_no_disagreement_no_bias():
    assert TauController(0.3, history=1, burn_in=0).update(7, 2.0, 0.0) == 0.0


@pytest.mark.parametrize("averaging", ["exponential", "window"])
def test_state_goes_on(averaging):
    whole = TauController(0.2, history=3, burn_in=0, averaging=averaging)
    first = TauController(0.2, history=3, burn_in=0, averaging=averaging)
    for step in (1, 2):
        whole.update(step, FORCES[step], SIGMAS[step])
        first.update(step, FORCES[step], SIGMAS[step])
    import json

    second = TauController(0.2, history=3, burn_in=0, averaging=averaging)
    second.set_state(json.loads(json.dumps(first.get_state())))
    assert second.update(3, 5.0, 0.3) == whole.update(3, 5.0, 0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau_rel": -0.1}, "tau_rel is -0.1; it is the ratio"),
        ({"tau_rel": 1.5}, "tau_rel is 1.5"),
        ({"tau_rel": float("nan")}, "tau_rel is nan"),
        ({"tau_rel": 0.2, "averaging": "median"}, "'exponential' or 'window'"),
        ({"tau_rel": 0.2, "history": 0}, "1 step or more"),
    ],
)
def test_bad_values(options, message):
    with pytest.raises(ConfigurationError, match=message):
        TauController(**options)
