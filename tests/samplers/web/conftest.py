"""A server in a thread, people's browsers, and files that they upload."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time

import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from halberd.samplers.web.settings import WebSettings

TOKEN = "a-token-of-tests"
OVER = ("done", "failed", "cancelled")


def sdf_of(smiles: str, hydrogens: bool = True, seed: int = 1) -> str:
    """A molecule in three dimensions as an SDF file."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    return Chem.MolToMolBlock(mol if hydrogens else Chem.RemoveHs(mol)) + "$$$$\n"


class Person:
    """Somebody who talks to the server, without a browser."""

    def __init__(self, port: int, cookie: str | None = None) -> None:
        self.port, self.cookie, self.room = port, cookie, ""

    def ask(self, method: str, path: str, body: bytes | dict | list | None = None, **headers: str):
        """Status, headers and what came back, from JSON if it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        if self.cookie:
            sent["cookie"] = self.cookie
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            data = answer.read()
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return answer.status, dict(answer.headers), json.loads(data) if is_json else data

    def enter(self) -> Person:
        """Show the token, and open a room."""
        status, headers, _ = self.ask("GET", f"/?token={TOKEN}")
        assert status == 303
        self.cookie = headers["set-cookie"].split(";")[0]
        status, _, made = self.ask("POST", "/rooms")
        assert status == 201
        self.room = f"/rooms/{made['room']}"
        return self

    def job(self, number: int) -> dict:
        """As the room tells it."""
        jobs = self.ask("GET", self.room)[2]["jobs"]
        return next(each for each in jobs if each["number"] == number)

    def wait(
        self, number: int, states: tuple[str, ...] = ("done", "failed", "cancelled"), seconds: float = 120
    ) -> dict:
        """Until a job is in one of some states."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.job(number)
            if found["state"] in states:
                return found
            time.sleep(0.05)
        raise AssertionError(f"job {number} is still {self.job(number)['state']}")


@contextlib.contextmanager
def running(settings: WebSettings):
    """A server in a thread: its port, and itself."""
    import uvicorn

    from halberd.samplers.web.server import Server

    server = Server(settings, TOKEN)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    serving = uvicorn.Server(uvicorn.Config(server.app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1], server
    finally:
        serving.should_exit = True
        thread.join(timeout=30)
        listener.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Port of a server with one worker, and the server."""
    folder = tmp_path_factory.mktemp("web")
    with running(WebSettings(folder=str(folder), threads=1, most_waiting=3, job_seconds=60.0)) as found:
        yield found


@pytest.fixture
def person(served):
    """Somebody in a room of their own."""
    return Person(served[0]).enter()
