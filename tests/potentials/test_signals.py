"""Signals wait where they would do harm, and are not lost."""

from __future__ import annotations

import signal
import threading

import pytest

from halberd.potentials.signals import ENDING, undisturbed


@pytest.fixture(autouse=True)
def _handlers():
    before = {name: signal.getsignal(getattr(signal, name)) for name in ENDING}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


def end(number, _):
    """Handle a signal as commands do."""
    raise SystemExit(128 + number)


@pytest.mark.parametrize("name", ENDING)
def test_a_handler_that_raises_does_so_after_the_block(name):
    number = getattr(signal, name)
    signal.signal(number, end)
    done = []

    def work():
        with undisturbed():
            signal.raise_signal(number)
            done.append("all of it")

    with pytest.raises(SystemExit) as caught:
        work()
    assert caught.value.code == 128 + number
    assert done
    assert signal.getsignal(number) is end


def test_control_c_still_interrupts():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), undisturbed():
        signal.raise_signal(signal.SIGINT)


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with undisturbed():
        signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


def test_errors_pass_and_handlers_come_back():
    signal.signal(signal.SIGTERM, end)
    with pytest.raises(ValueError, match="inside"), undisturbed():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGTERM) is end


def test_other_threads_may_use_it():
    seen = []

    def work():
        with undisturbed():
            seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen
