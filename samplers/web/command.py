"""``halberd web``."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import secrets
import socket
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from halberd.plugins.commands.options import Flag, offers
from halberd.plugins.commands.output import console
from halberd.plugins.commands.settings_file import merged, read_yaml
from halberd.potentials.errors import BackendError, missing_dependency
from halberd.potentials.files import make_folder
from halberd.potentials.locks import locked
from halberd.potentials.validation import from_mapping


@offers(
    "halberd.samplers.web.settings:WebSettings",
    [
        Flag("folder", help="Where rooms and molecules are kept. Default: halberd-web."),
        Flag("host", help="Address to listen on. Default: 127.0.0.1, which only this machine reaches."),
        Flag("port", help="0 takes one that is free. Default: 8765."),
        Flag("workers", help="Jobs that run at the same time. Default: 1."),
        Flag("threads", help="Of every worker. Default: all cores, shared out."),
        Flag("model", help="MACE: pretrained name or file. Default: gfn2-chnof@1."),
        Flag("job_seconds", help="After which a job is ended. Default: 900."),
        Flag("most_molecules", help="Of one job. Default: 50."),
        Flag("most_atoms", help="Heavy atoms of a molecule. Default: 60."),
    ],
)
def web(
    given: dict[str, Any],
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; flags win over it.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Draw a shape in the browser and watch molecules grow in it."""
    try:
        import uvicorn

        from halberd.samplers.web.server import Server
    except ImportError as error:
        if error.name not in ("uvicorn", "starlette"):
            raise
        raise missing_dependency(error.name, "web", "serve the page") from None
    from halberd.plugins.molecules.bonding import import_rdkit
    from halberd.samplers.web.settings import WebSettings

    import_rdkit()
    values = merged({} if config is None else read_yaml(config), given)
    settings = from_mapping(WebSettings, values, f"'{config}'" if config else "the command line")
    folder = Path(settings.folder)
    make_folder(folder)
    if Path(settings.model).is_file():  # jobs run in folders of their own
        settings = dataclasses.replace(settings, model=str(Path(settings.model).resolve()))
    with locked(folder), _listening(settings.host, settings.port) as listener:
        token = _token(folder / "token")
        port = listener.getsockname()[1]
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{shown}:{port}/?token={token}"
        if not _is_loopback(settings.host):
            console.print(
                f"[yellow]{settings.host} is reached from other machines: whoever has the address below can compute on "
                "this one, and nothing on the way is encrypted. Prefer a tunnel, such as ssh -L.[/]"
            )
        server = Server(dataclasses.replace(settings, port=port), token)
        running = uvicorn.Server(
            uvicorn.Config(server.app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
        )
        console.print(f"halberd web: {address}", markup=False, soft_wrap=True)
        console.print("Ctrl+C ends it; what was made stays in", f"'{folder}'.", markup=False)
        if browser:
            webbrowser.open(address)
        running.run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises
    ------
    BackendError
        If it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise BackendError(
            f"Nothing can listen on {host}, port {port}: {error.strerror or error}. Give another --port (0 takes one "
            "that is free) or --host."
        ) from error
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(file: Path) -> str:
    """What opens the page; kept, so that a browser that knows it comes back after a restart."""
    if file.is_file() and (found := file.read_text(encoding="utf-8").strip()):
        return found
    token = secrets.token_urlsafe(24)
    file.unlink(missing_ok=True)
    # Readable by nobody else from the first byte on.
    with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as handle:
        handle.write(token)
    return token
