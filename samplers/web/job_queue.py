"""The queue of jobs: every worker is a process that can be ended without harm to the others."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import threading
import time
from typing import Any

from halberd.potentials.errors import ConfigurationError
from halberd.samplers.web.rooms import STOPPED, Room, State
from halberd.samplers.web.settings import WebSettings
from halberd.samplers.web.worker import serve

#: Seconds that a process may take to load the model, and between looks at what happens.
_STARTUP, _LOOK = 300.0, 0.1
#: Seconds between progress that is told.
_NOTE = 0.5

DIED = "The process that computed this ended unexpectedly (out of memory, or killed). Other jobs are not affected."
CANCELLED = "Cancelled."


@dataclasses.dataclass
class Ticket:
    """A job in the queue."""

    room: Room
    number: int
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)


class JobQueue:
    """Runs jobs of all rooms, by turns.

    Parameters
    ----------
    settings : WebSettings
    """

    def __init__(self, settings: WebSettings) -> None:
        self.settings = settings
        self._waiting: list[Ticket] = []
        self._running: list[Ticket] = []
        self._served: dict[str, float] = {}
        self._changed = threading.Condition()
        self._closed = False
        self.slots = [_Slot(self, settings) for _ in range(settings.workers)]

    def submit(self, room: Room, number: int) -> None:
        """Add a job."""
        with self._changed:
            self._waiting.append(Ticket(room, number))
            self._changed.notify_all()
        self._tell_places()

    def check(self, room: Room) -> None:
        """Refuse another job of a room that has too many.

        Raises
        ------
        ConfigurationError
        """
        with self._changed:
            count = sum(ticket.room is room for ticket in self._waiting)
        if count >= self.settings.most_waiting:
            raise ConfigurationError(f"{count} jobs of this room wait already; let some end, or cancel them.")

    def cancel(self, room: Room, number: int) -> None:
        """End a job, or take it out of the queue; one that is over stays as it is."""
        with self._changed:
            mine = [each for each in self._waiting + self._running if each.room is room and each.number == number]
            for ticket in mine:
                ticket.cancelled.set()
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                    room.end(number, "cancelled", CANCELLED)
        self._tell_places()

    def next(self) -> Ticket | None:
        """The oldest job of the room that was served least recently; waits for one. ``None`` when all is closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            # The list is in order of age, and min() takes the first of equals.
            ticket = min(self._waiting, key=lambda each: self._served.get(each.room.name, 0.0))
            self._waiting.remove(ticket)
            self._running.append(ticket)
            self._served[ticket.room.name] = time.monotonic()
        self._tell_places()
        return ticket

    def finished(self, ticket: Ticket) -> None:
        """Forget a job that is over."""
        with self._changed:
            self._running.remove(ticket)

    def _tell_places(self) -> None:
        with self._changed:
            for place, ticket in enumerate(self._waiting, 1):
                with ticket.room.lock:
                    ticket.room.job(ticket.number).message = f"Place {place} in the queue."
                ticket.room.show(ticket.number)

    def close(self) -> None:
        """End all processes; what ran is told to have been stopped when the server comes back."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for slot in self.slots:
            slot.close()


class _Slot:
    """One worker's process, and the thread that feeds it."""

    def __init__(self, queue: JobQueue, settings: WebSettings) -> None:
        self.queue, self.settings = queue, settings
        self.process: Any = None
        self.connection: Any = None
        self.ready = threading.Event()
        self.closed = False
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while not self.closed:
            problem = self._prepared()
            ticket = self.queue.next()
            if ticket is None:
                break
            try:
                if problem is not None or not self.process.is_alive():
                    problem = self._prepared()  # it may have been killed while it waited
                if problem is not None:
                    ticket.room.end(ticket.number, "failed", problem)
                else:
                    self._run(ticket)
            except Exception as error:  # a full disk, say: this job ends, and the next one has a new process
                self._end()
                message = f"It could not be gone on with: {' '.join(str(error).split())}"
                ticket.room.end(ticket.number, "failed", message)
            finally:
                self.queue.finished(ticket)
        self._end()

    def _prepared(self) -> str | None:
        """Have a process that is ready; why there is none otherwise."""
        try:
            return self._started()
        except (OSError, RuntimeError) as error:
            self._end()
            return f"No process can be started: {error}."

    def _started(self) -> str | None:
        """Start a process unless there is one."""
        if self.process is not None and self.process.is_alive():
            return None
        self._end()
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, self.settings.model, self.settings.threads_each)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        begun = time.monotonic()
        while time.monotonic() - begun < _STARTUP and not self.closed:
            answer = self._answer()
            if answer is not None:
                if answer["type"] == "ready":
                    self.ready.set()
                    return None
                self._end()
                return str(answer["message"])
        self._end()
        return f"The model did not load within {_STARTUP:g} s."

    def _answer(self) -> dict[str, Any] | None:
        """What the process says, ``None`` if nothing yet; a process that has ended has failed."""
        try:
            return dict(self.connection.recv()) if self.connection.poll(_LOOK) else None
        except (EOFError, OSError):
            return {"type": "died", "message": DIED}

    def _run(self, ticket: Ticket) -> None:
        """Feed one job to the process, and pass on what it tells."""
        room, number = ticket.room, ticket.number
        job = room.job(number)
        begun = noted = time.monotonic()
        room.update(number, state="running", message="")
        self.connection.send((job.kind, job.request, str(room.job_folder(number).resolve())))
        while True:
            answer = self._answer()
            end = self._verdict(ticket, answer, time.monotonic() - begun)
            if end is not None:
                with room.lock:
                    job.seconds = time.monotonic() - begun
                    job.done = 1.0 if end[0] == "done" else job.done
                room.end(number, *end)
                return
            if answer is None:
                continue
            with room.lock:
                if answer["type"] == "frame":
                    job.trace.append(answer["point"])
                    room.tell({**answer, "number": number})
                elif answer["type"] == "molecule":
                    job.molecules.append(answer["molecule"])
                elif answer["type"] == "progress":
                    job.done, job.message = answer["done"], answer["message"]
            if answer["type"] == "molecule":
                room.update(number)
            elif answer["type"] == "progress" and time.monotonic() - noted > _NOTE:
                noted = time.monotonic()
                room.show(number)

    def _verdict(self, ticket: Ticket, answer: dict[str, Any] | None, seconds: float) -> tuple[State, str] | None:
        """How the job ended, if it did."""
        if answer is not None and answer["type"] in ("done", "failed"):
            return answer["type"], answer["message"]
        if answer is not None and answer["type"] == "died":
            self._end()
            return "failed", STOPPED if self.closed else answer["message"]
        if ticket.cancelled.is_set():
            self._end()
            return "cancelled", CANCELLED
        if seconds > self.settings.job_seconds:
            self._end()
            return "failed", f"Ended after {self.settings.job_seconds:g} s, the longest that a job may run."
        return None

    def _end(self) -> None:
        """End the process, whatever it does."""
        self.ready.clear()
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.join()
        if self.connection is not None:
            with contextlib.suppress(OSError):
                self.connection.close()

    def close(self) -> None:
        """End everything."""
        self.closed = True
        if self.process is not None:
            with contextlib.suppress(AttributeError):
                self.process.kill()
        self.thread.join(timeout=10)
