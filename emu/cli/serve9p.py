"""`emu serve-9p DIR`: the server behind `--share`, for other 9P2000.L clients of this host, on a unix socket."""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from devices.p9 import stream
from devices.p9.hostfs import HostFs
from devices.p9.server import Server
from devices.p9.session import Session
from emu.cli.options import EndpointKind, parse_endpoint
from emu.cli.report import configure_logging, report
from emu.config import SECURITY
from emu.errors import ConfigError
from emu.unixsocket import UnixListener

if TYPE_CHECKING:
    from migration.protocols import StepHook


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="the directory to share, as `emu run --share` does")
    parser.add_argument("--listen", metavar="unix:PATH", required=True, help="where clients connect; for this user alone")
    parser.add_argument("--readonly", action="store_true", help="clients may only read")
    parser.add_argument("--security", choices=sorted(SECURITY), default="none", help="as in `emu run --share`")


def execute(arguments: argparse.Namespace, _hook: StepHook | None) -> int:
    """Serve until Ctrl-C."""
    configure_logging(None)
    endpoint = parse_endpoint(arguments.listen, "--listen", (EndpointKind.UNIX,))

    def new_session() -> Session:
        return Session(HostFs(arguments.folder, readonly=arguments.readonly, mapped=arguments.security == "mapped"), None)

    new_session().close()  # a directory that cannot be shared is told now
    try:
        listener = UnixListener(endpoint.path)
    except OSError as exc:
        raise ConfigError(f"--listen {arguments.listen}: {exc.strerror}") from exc
    with contextlib.closing(listener):
        listener.socket.setblocking(True)
        report(f"serving {arguments.folder} at {arguments.listen}")
        while True:
            connection, _name = listener.socket.accept()
            threading.Thread(target=_serve, args=(connection, new_session()), name="9p", daemon=True).start()


def _serve(connection: socket.socket, session: Session) -> None:
    with connection, contextlib.closing(session), contextlib.suppress(OSError):  # a client may be gone before its answer
        stream.serve(connection, Server(session))
