"""Signals that must not find the program just anywhere."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

#: What queues and people send when a program should end.
ENDING = ("SIGTERM", "SIGINT", "SIGUSR1")


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep handlers of signals from running until the end of the block; then they do.

    For libraries that call Python from C++ in places where no exception may pass, such as torch when it saves a module:
    a handler that raises, as those of Ctrl-C and of halberd's commands do, would end the process without cleaning up.
    Outside the main thread, where Python runs no handlers, nothing is done.
    """
    arrived: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ENDING:
            number = getattr(signal, name, None)
            if number is not None and callable(signal.getsignal(number)):
                before[number] = signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)
