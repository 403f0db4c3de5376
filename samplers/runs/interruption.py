"""Ending a long run in time: signals of queues and people, and a limit by the clock."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from types import FrameType
from typing import Any

from halberd.potentials.signals import ENDING


class Interruption:
    """Collects reasons to stop, to be looked at where a run can stop.

    The first SIGTERM, SIGINT or SIGUSR1 asks for a stop; a second SIGINT interrupts at once, as usual. Outside the main
    thread signals cannot be caught, and the clock alone counts.

    Parameters
    ----------
    max_hours : float, optional
        Hours after which to stop.

    Attributes
    ----------
    reason : str or None
        Why to stop.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self._deadline = None if max_hours is None else time.monotonic() + 3600.0 * max_hours
        self._hours = max_hours
        self._signal: str | None = None
        self._before: dict[int, Any] = {}

    @property
    def reason(self) -> str | None:
        """Why to stop, ``None`` while there is no reason."""
        if self._signal is not None:
            return f"it received {self._signal}"
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return f"max_hours, {self._hours:g}, are over"
        return None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for name in ENDING:
                number = getattr(signal, name, None)
                if number is not None:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            with contextlib.suppress(TypeError):  # handlers that were not set from Python cannot be set again
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  (Python passes it)
        if number == signal.SIGINT and self._signal is not None:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
