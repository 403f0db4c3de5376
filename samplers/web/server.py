"""The server of the page: who may come in, and what can be asked."""

from __future__ import annotations

import contextlib
import hashlib
import http
import io
import json
import secrets
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from halberd.plugins.molecules.files import read_bonded_all, write_molecules
from halberd.potentials.errors import ConfigurationError, DataError, HalberdError
from halberd.potentials.validation import from_mapping
from halberd.samplers.web.drawing import Drawn
from halberd.samplers.web.fragment import Fragment
from halberd.samplers.web.job_queue import JobQueue
from halberd.samplers.web.orders import order
from halberd.samplers.web.rooms import Room, Rooms
from halberd.samplers.web.settings import MOST_BYTES, MOST_DRAWN, JobRequest, WebSettings
from halberd.samplers.web.tasks import RESULT, SCAFFOLD, SETTINGS, SHAPE, TRAJECTORY

_PAGE = Path(__file__).parent / "page"
#: Bytes of a request that is no upload, seconds between signs of life.
_MOST_BODY, _ALIVE = 2_000_000, 10.0
#: Of what is typed into the form.
_MOST_TYPED, _MOST_NUMBER = 50, 1e12
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; object-src 'none'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

Answer = Callable[[Request, Room], Awaitable[Response]]


class Guard:
    """Lets in who has the token: once in the address, then in a cookie; adds headers that keep a page to itself.

    Parameters
    ----------
    app : ASGI application
    token : str
    cookie : str
        Its name.
    """

    def __init__(self, app: ASGIApp, token: str, cookie: str) -> None:
        self.app, self.token, self.cookie = app, token, cookie
        # Browsers send it to other servers of this machine too, so it does not tell the token.
        self.known = hashlib.sha256(token.encode()).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in present]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self._answer(Request(scope))(scope, receive, with_headers)

    def _answer(self, request: Request) -> ASGIApp:
        given = request.query_params.get("token")
        if given is not None and request.url.path == "/" and _same(given, self.token):
            response: Response = RedirectResponse("/", status_code=303)
            response.set_cookie(self.cookie, self.known, httponly=True, samesite="strict", max_age=30 * 86400)
            return response
        origin = request.headers.get("origin")
        if origin is not None and origin != f"{request.url.scheme}://{request.headers.get('host')}":
            return PlainTextResponse("Pages of other servers may not ask this one.", status_code=403)
        if _same(request.cookies.get(self.cookie, ""), self.known):
            return self.app
        text = "This page needs its token: open the address that halberd web printed when it was started."
        return PlainTextResponse(text, status_code=403)


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())


class Server:
    """Rooms, their jobs, and the answers to browsers.

    Parameters
    ----------
    settings : WebSettings
    token : str

    Attributes
    ----------
    app : Starlette
    """

    def __init__(self, settings: WebSettings, token: str) -> None:
        self.settings, self.token = settings, token
        self.rooms = Rooms(Path(settings.folder) / "rooms", settings.most_rooms)
        self.queue = JobQueue(settings)
        self.app = Starlette(
            routes=self._routes(),
            middleware=[Middleware(Guard, token=token, cookie=f"halberd-{settings.port}")],
            exception_handlers={HalberdError: _refuse, HTTPException: _plainly},
            lifespan=self._life,
        )
        self.app.router.redirect_slashes = False

    @contextlib.asynccontextmanager
    async def _life(self, _app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await run_in_threadpool(self.queue.close)

    def _routes(self) -> list[Route | Mount]:
        def of_room(path: str, answer: Answer, method: str) -> Route:
            async def found(request: Request) -> Response:
                room = self.rooms.find(request.path_params["room"])
                if room is None:
                    raise HTTPException(404, "There is no such room. Reload the page for a new one.")
                return await answer(request, room)

            return Route(f"/rooms/{{room}}{path}", found, methods=[method])

        return [
            Route("/", _page),
            Mount("/page", StaticFiles(directory=_PAGE)),
            Route("/limits", self._limits),
            Route("/rooms", self._open, methods=["POST"]),
            of_room("", _state, "GET"),
            of_room("/events", _events, "GET"),
            of_room("/scene", _draw, "PUT"),
            of_room("/fragment", _upload, "POST"),
            of_room("/fragment", _discard, "DELETE"),
            of_room("/jobs", self._submit, "POST"),
            of_room("/jobs/{job:int}/cancel", self._cancel, "POST"),
            of_room("/jobs/{job:int}", _remove, "DELETE"),
            of_room("/jobs/{job:int}/molecules/{index:int}.svg", _formula, "GET"),
            of_room("/jobs/{job:int}/molecules/{index:int}", _molecule, "GET"),
            of_room("/jobs/{job:int}/molecules/{index:int}/edit", _edit, "POST"),
            of_room("/jobs/{job:int}/files/{what}", _download, "GET"),
        ]

    async def _limits(self, _request: Request) -> Response:
        ready = any(slot.ready.is_set() for slot in self.queue.slots)
        most = {"molecules": self.settings.most_molecules, "atoms": self.settings.most_atoms, "bytes": MOST_BYTES}
        return JSONResponse({"ready": ready, "model": self.settings.model, "most": most})

    async def _open(self, _request: Request) -> Response:
        return JSONResponse({"room": (await run_in_threadpool(self.rooms.open)).name}, status_code=201)

    async def _submit(self, request: Request, room: Room) -> Response:
        values = await _json(request)

        def submit() -> int:
            wanted = from_mapping(JobRequest, values, "the request")
            with room.ordering:
                self.queue.check(room)
                job = order(room, wanted, self.settings)
                self.queue.submit(room, job.number)
            return job.number

        return JSONResponse({"number": await run_in_threadpool(submit)}, status_code=201)

    async def _cancel(self, request: Request, room: Room) -> Response:
        number = request.path_params["job"]
        room.job(number)
        await run_in_threadpool(self.queue.cancel, room, number)
        return Response(status_code=204)


async def _refuse(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": " ".join(str(error).split())}, status_code=400)


async def _plainly(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


async def _page(_request: Request) -> Response:
    return FileResponse(_PAGE / "index.html")


async def _body(request: Request, most: int) -> bytes:
    """What was sent, read no further than allowed."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > most:
            raise HTTPException(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"More than {most // 1000} kB were sent.")
    return bytes(data)


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


async def _json(request: Request) -> dict[str, Any]:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise HTTPException(415, "Send JSON.")
    try:
        values = json.loads(await _body(request, _MOST_BODY), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"This is no JSON: {error}.") from error
    if not isinstance(values, dict):
        raise HTTPException(400, "Send a JSON object.")
    return values


async def _state(_request: Request, room: Room) -> Response:
    return JSONResponse(room.state())


async def _events(request: Request, room: Room) -> Response:
    async def messages() -> AsyncIterator[str]:
        with room.listening() as mailbox, contextlib.suppress(EOFError):
            while not await request.is_disconnected():
                event = await mailbox.get(_ALIVE)
                yield ": still here\n\n" if event is None else f"data: {json.dumps(event)}\n\n"

    return StreamingResponse(messages(), media_type="text/event-stream")


async def _draw(request: Request, room: Room) -> Response:
    values = await _json(request)
    given = values.get("drawn", [])
    form = values.get("form", {})
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given) or not _is_form(form):
        raise ConfigurationError("A scene has a list of what is drawn and a small form.")
    drawn = [from_mapping(Drawn, each, f"drawing {k}") for k, each in enumerate(given, 1)]
    if len(drawn) > MOST_DRAWN:
        raise ConfigurationError(f"{len(drawn)} things are drawn; {MOST_DRAWN} are the most.")
    changes: dict[str, Fragment | None] = {}
    if room.fragment is not None and "kept" in values:
        changes["fragment"] = room.fragment.chosen(_indices(values, "kept"), _indices(values, "anchors"))
    await run_in_threadpool(lambda: room.change(drawn=drawn, form=form, **changes))
    return JSONResponse(room.scene())


def _is_form(form: Any) -> bool:
    """Whether something can be what is typed into the form, finished or not."""
    if not isinstance(form, dict) or not set(form) <= {"n", "heavy_atoms", "seed", "elements"}:
        return False
    elements = form.get("elements", [])
    texts = [form.get("heavy_atoms", ""), *(elements if isinstance(elements, list) else [None])]
    numbers = [form.get("n", 0), form.get("seed", 0)]
    return all(isinstance(each, str) and each.isascii() and len(each) < _MOST_TYPED for each in texts) and all(
        isinstance(each, (int, float)) and abs(each) < _MOST_NUMBER for each in numbers
    )


def _indices(values: dict[str, Any], name: str) -> list[int]:
    given = values.get(name, [])
    if not isinstance(given, list) or not all(type(each) is int for each in given):
        raise ConfigurationError(f"{name} is no list of indices.")
    return given


async def _upload(request: Request, room: Room) -> Response:
    data = await _body(request, 2 * MOST_BYTES)
    name = request.query_params.get("name", "")
    fragment = await run_in_threadpool(Fragment.from_upload, name, data)
    await run_in_threadpool(lambda: room.change(fragment=fragment))
    return JSONResponse(room.scene())


async def _discard(_request: Request, room: Room) -> Response:
    await run_in_threadpool(lambda: room.change(fragment=None))
    return JSONResponse(room.scene())


async def _remove(request: Request, room: Room) -> Response:
    await run_in_threadpool(room.remove, request.path_params["job"])
    return Response(status_code=204)


def _file(room: Room, number: int, name: str) -> Path:
    file = room.job_folder(room.job(number).number) / name
    if not file.is_file():
        raise DataError(f"Job {number} has made no {name} yet.")
    return file


async def _formula(request: Request, room: Room) -> Response:
    file = _file(room, request.path_params["job"], f"formula-{request.path_params['index']}.svg")
    return FileResponse(file, media_type="image/svg+xml")


def _made(request: Request, room: Room) -> Any:
    molecules = read_bonded_all(_file(room, request.path_params["job"], RESULT))
    index = request.path_params["index"]
    if index >= len(molecules):
        raise DataError(f"Job {request.path_params['job']} has made {len(molecules)} molecules.")
    return molecules[index]


async def _molecule(request: Request, room: Room) -> Response:
    mol = await run_in_threadpool(_made, request, room)
    return JSONResponse(Fragment.from_molecule(mol, "").to_json())


async def _edit(request: Request, room: Room) -> Response:
    mol = await run_in_threadpool(_made, request, room)
    number, index = request.path_params["job"], request.path_params["index"]
    fragment = Fragment.from_molecule(mol, f"job {number}, molecule {index + 1}")
    before = room.fragment
    if before is not None and room.job(number).kind in ("hydrogenate", "relax", "md"):
        fragment = fragment.chosen_as(before)
    await run_in_threadpool(lambda: room.change(fragment=fragment))
    return JSONResponse(room.scene())


async def _download(request: Request, room: Room) -> Response:
    number, what = request.path_params["job"], request.path_params["what"]
    if what == "sdf":
        return FileResponse(_file(room, number, RESULT), filename=f"halberd-{number}.sdf")
    if what == "trajectory":
        return FileResponse(_file(room, number, TRAJECTORY), filename=f"halberd-{number}-trajectory.extxyz")
    if what == "extxyz":
        file = _file(room, number, RESULT)
        target = file.with_suffix(".extxyz")
        if not target.is_file():
            await run_in_threadpool(lambda: write_molecules(target, read_bonded_all(file)))
        return FileResponse(target, filename=f"halberd-{number}.extxyz")
    if what == "settings":
        _file(room, number, SETTINGS)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name in (SETTINGS, SHAPE, SCAFFOLD):
                with contextlib.suppress(DataError):
                    archive.write(_file(room, number, name), name)
        headers = {"content-disposition": f'attachment; filename="halberd-{number}.zip"'}
        return Response(packed.getvalue(), media_type="application/zip", headers=headers)
    raise HTTPException(404, "There are sdf, extxyz, settings and trajectory.")
