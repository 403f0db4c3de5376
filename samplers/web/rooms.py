"""Rooms: what one person draws and makes, kept on disk, told to the browsers that look at it."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from halberd.potentials.errors import ConfigurationError, DataError
from halberd.potentials.files import make_folder, replacing
from halberd.samplers.web.drawing import Drawn
from halberd.samplers.web.fragment import Fragment

_NAME = re.compile(r"[A-Za-z0-9_-]{22}")
#: Messages that a browser may be behind before it misses some.
_BEHIND = 500

#: Of a job that the server's end has ended.
STOPPED = "The server was stopped while this ran. Start it again."

#: What files that are none of ours raise when they are read.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError)

State = Literal["waiting", "running", "done", "failed", "cancelled"]


@dataclasses.dataclass
class Job:
    """What was asked for, and what became of it.

    Attributes
    ----------
    number : int
        In its room, from 1.
    kind : str
    request : dict
        Of :class:`halberd.samplers.web.settings.JobRequest`.
    state : {'waiting', 'running', 'done', 'failed', 'cancelled'}
    message : str
        For people.
    done : float
        Part of it, 0 to 1.
    molecules : list of dict
        ``smiles``, ``energy`` in eV, ``filters`` that it passes.
    trace : list of (float, float)
        Noise level in angstrom and similarity; of dynamics time in ps and potential energy in eV.
    seconds : float
        That it ran.
    """

    number: int
    kind: str
    request: dict[str, Any]
    state: State = "waiting"
    message: str = ""
    done: float = 0.0
    molecules: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    trace: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("done", "failed", "cancelled")


class Mailbox:
    """Messages to one browser; of one that is far behind, frames are left out."""

    def __init__(self) -> None:
        self._events: collections.deque[dict[str, Any]] = collections.deque()
        self._came = asyncio.Event()
        self._lost = False

    def put(self, event: dict[str, Any]) -> None:
        """Add a message; in the loop's thread."""
        if len(self._events) >= _BEHIND:
            if event["type"] == "frame":
                return
            frame = next((k for k, each in enumerate(self._events) if each["type"] == "frame"), None)
            if frame is None:
                self._lost = True
                self._events.clear()
            else:
                del self._events[frame]
        self._events.append(event)
        self._came.set()

    async def get(self, seconds: float) -> dict[str, Any] | None:
        """The next message, ``None`` if none came in time.

        Raises
        ------
        EOFError
            If messages were lost: the browser is to connect again, for the whole state.
        """
        if not self._events:
            self._came.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._came.wait(), seconds)
        if self._lost:
            raise EOFError
        return self._events.popleft() if self._events else None


class Room:
    """One person's page.

    Parameters
    ----------
    folder : path
        Of the room; what is in it is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        self.lock = threading.RLock()
        #: Held while a job is ordered, so that limits hold.
        self.ordering = threading.Lock()
        self.drawn: tuple[Drawn, ...] = ()
        self.form: dict[str, Any] = {}
        self.fragment: Fragment | None = None
        self.jobs: dict[int, Job] = {}
        self._listeners: list[tuple[asyncio.AbstractEventLoop, Mailbox]] = []
        self._read()

    def _read(self) -> None:
        """What is on disk; a file that somebody has damaged is put aside, and what it held is left out."""
        scene = self.folder / "scene.json"
        try:
            data = json.loads(scene.read_text(encoding="utf-8"))
            drawn = tuple(Drawn(**each) for each in data["drawn"])
            self.fragment = None if data["fragment"] is None else Fragment.from_json(data["fragment"])
            self.drawn, self.form = drawn, dict(data["form"])
        except FileNotFoundError:
            pass  # nothing was drawn yet
        except _DAMAGE:
            scene.replace(scene.with_suffix(".damaged"))
        for file in self.folder.glob("job-*/job.json"):
            try:
                job = Job(**json.loads(file.read_text(encoding="utf-8")))
                if not job.is_over:
                    job.state, job.message = "failed", STOPPED
                self.jobs[int(job.number)] = job
            except _DAMAGE:
                file.replace(file.with_suffix(".damaged"))

    def job_folder(self, number: int) -> Path:
        """Where a job's files are."""
        return self.folder / f"job-{number}"

    def scene(self) -> dict[str, Any]:
        """Everything that is drawn, as JSON holds it."""
        with self.lock:
            return {
                "drawn": [dataclasses.asdict(each) for each in self.drawn],
                "form": self.form,
                "fragment": None if self.fragment is None else self.fragment.to_json(),
            }

    def state(self) -> dict[str, Any]:
        """The scene and all jobs."""
        with self.lock:
            return {"scene": self.scene(), "jobs": [dataclasses.asdict(self.jobs[key]) for key in sorted(self.jobs)]}

    def change(
        self, *, drawn: Sequence[Drawn] | None = None, form: dict[str, Any] | None = None, **fragment: Fragment | None
    ) -> None:
        """Take another drawing, form or ``fragment``, keep it, and tell browsers."""
        with self.lock:
            self.drawn = self.drawn if drawn is None else tuple(drawn)
            self.form = self.form if form is None else form
            self.fragment = fragment.get("fragment", self.fragment)
            _write(self.folder / "scene.json", self.scene())
            self.tell({"type": "scene", "scene": self.scene()})

    def new_job(self, kind: str, request: dict[str, Any], prepare: Callable[[Path], None]) -> Job:
        """Add a job whose inputs are written by ``prepare`` into its folder."""
        with self.lock:
            taken = [int(each.name[4:]) for each in self.folder.glob("job-*") if each.name[4:].isdecimal()]
            number = max([*self.jobs, *taken], default=0) + 1
            folder = self.job_folder(number)
            make_folder(folder)
            prepare(folder)
            self.jobs[number] = Job(number, kind, request)
            self.update(number)
            return self.jobs[number]

    def update(self, number: int, **changes: Any) -> None:
        """Change a job, keep it, and tell browsers; of a job that was removed nothing."""
        with self.lock:
            job = self.jobs.get(number)
            if job is None:
                return
            for name, value in changes.items():
                setattr(job, name, value)
            _write(self.job_folder(number) / "job.json", dataclasses.asdict(job))
            self.tell({"type": "job", "job": dataclasses.asdict(job)})

    def show(self, number: int) -> None:
        """Tell browsers how a job stands, without keeping it."""
        with self.lock:
            if number in self.jobs:
                self.tell({"type": "job", "job": dataclasses.asdict(self.jobs[number])})

    def end(self, number: int, state: State, message: str) -> None:
        """End a job, and tell browsers, even if it cannot be written down."""
        try:
            self.update(number, state=state, message=message)
        except OSError as error:
            with self.lock:
                if number in self.jobs:
                    self.jobs[number].message = f"{message} It could not be written down: {error}".strip()
            self.show(number)

    def remove(self, number: int) -> None:
        """Forget a job that is over, and delete its files."""
        with self.lock:
            job = self.job(number)
            if not job.is_over:
                raise ConfigurationError(f"Job {number} is not over; cancel it first.")
            # First what makes it one.
            (self.job_folder(number) / "job.json").unlink(missing_ok=True)
            for file in self.job_folder(number).iterdir():
                file.unlink()
            self.job_folder(number).rmdir()
            del self.jobs[number]
            self.tell({"type": "removed", "number": number})

    def job(self, number: int) -> Job:
        """One by its number.

        Raises
        ------
        DataError
            If there is none.
        """
        if number not in self.jobs:
            raise DataError(f"There is no job {number} in this room.")
        return self.jobs[number]

    def tell(self, event: dict[str, Any]) -> None:
        """Send a message to every browser that looks; from any thread."""
        with self.lock:
            listeners = list(self._listeners)
        for loop, mailbox in listeners:
            with contextlib.suppress(RuntimeError):  # the server is being closed
                loop.call_soon_threadsafe(mailbox.put, event)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Mailbox]:
        """The messages from now on, beginning with the whole state."""
        mailbox = Mailbox()
        listener = (asyncio.get_running_loop(), mailbox)
        with self.lock:
            mailbox.put({"type": "state", **self.state()})
            self._listeners.append(listener)
        try:
            yield mailbox
        finally:
            with self.lock:
                self._listeners.remove(listener)


class Rooms:
    """All rooms of a folder.

    Parameters
    ----------
    folder : path
    most : int
        After which no more are opened.
    """

    def __init__(self, folder: Path, most: int) -> None:
        make_folder(folder)
        folder.chmod(0o700)  # what people draw is theirs
        self.folder, self.most = folder, most
        self._rooms: dict[str, Room] = {}
        self._lock = threading.Lock()

    def open(self) -> Room:
        """Make a new one, whose name nobody can guess.

        Raises
        ------
        ConfigurationError
            If there are too many.
        """
        with self._lock:
            if sum(1 for _ in self.folder.iterdir()) >= self.most:
                raise ConfigurationError(f"There are {self.most} rooms already; delete some in '{self.folder.name}'.")
            name = secrets.token_urlsafe(16)
            make_folder(self.folder / name)
            self._rooms[name] = Room(self.folder / name)
            return self._rooms[name]

    def find(self, name: str) -> Room | None:
        """One by its name."""
        with self._lock:
            if name not in self._rooms and _NAME.fullmatch(name) and (self.folder / name).is_dir():
                self._rooms[name] = Room(self.folder / name)
            return self._rooms.get(name)


def _write(file: Path, data: dict[str, Any]) -> None:
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")
