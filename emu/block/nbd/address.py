"""Where an NBD export is, in the forms that QEMU takes.

nbd:HOST:PORT[/NAME]       nbd:HOST:PORT[:exportname=NAME]       nbd:unix:PATH[:exportname=NAME]
nbd://HOST[:PORT]/[NAME]   nbd+tcp://HOST[:PORT]/[NAME]          nbd+unix:///[NAME]?socket=PATH
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from emu.errors import ConfigError

DEFAULT_PORT = 10809
MAX_NAME = 4096  # bytes: the bound of all strings of the protocol
MAX_SOCKET_PATH = 107  # bytes: unix(7)
SCHEMES = ("nbd", "nbd+tcp", "nbd+unix")
WITH_TLS = ("nbds", "nbds+tcp", "nbds+unix")

_FORMS = "nbd:HOST:PORT/NAME, nbd:unix:PATH:exportname=NAME, nbd://HOST:PORT/NAME or nbd+unix:///NAME?socket=PATH"


@dataclass(frozen=True, slots=True)
class Address:
    """One export: of the server at `socket`, a unix socket's path, or else at `host` and `port`."""

    export: str  # may be empty: the server's default
    socket: str = ""
    host: str = ""
    port: int = DEFAULT_PORT

    @property
    def is_local(self) -> bool:
        """Whether another host would find another server there."""
        return bool(self.socket) or self.host in ("localhost", "::1") or self.host.startswith("127.")


def is_address(path: str) -> bool:
    """Whether a drive's path names an NBD export. A file of such a name can be given as ./NAME."""
    return path.partition(":")[0] in (*SCHEMES, *WITH_TLS) and ":" in path


def parse_address(text: str) -> Address:
    """Parse one of the forms above; anything else is a ConfigError."""
    scheme = text.partition(":")[0]
    if scheme in WITH_TLS:
        raise ConfigError(f"{text:.200}: NBD with TLS is not supported")
    try:
        address = _parse_uri(urlsplit(text)) if text.startswith(f"{scheme}://") else _parse_old(text.removeprefix("nbd:"))
    except ValueError as exc:
        raise ConfigError(f"{text:.200}: is not {_FORMS}: {exc}") from exc
    if len(address.export.encode()) > MAX_NAME:
        raise ConfigError(f"{text:.200}: its export's name has {len(address.export.encode())} bytes, at most {MAX_NAME} fit")
    if len(address.socket.encode()) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"{text:.200}: its socket's path has {len(address.socket.encode())} bytes, at most {MAX_SOCKET_PATH} fit"
        )
    return address


def _parse_uri(uri: SplitResult) -> Address:
    export = unquote(uri.path.removeprefix("/"))
    if uri.scheme == "nbd+unix":
        paths = parse_qs(uri.query).get("socket", [])
        if uri.netloc or len(paths) != 1:
            raise ValueError("a unix socket has no host, and one socket=PATH")
        return Address(export, socket=paths[0])
    if uri.query or not uri.hostname:
        raise ValueError("a host is wanted, and nothing behind a '?'")
    return Address(export, host=uri.hostname, port=DEFAULT_PORT if uri.port is None else uri.port)


def _parse_old(rest: str) -> Address:
    place, named, export = rest.partition(":exportname=")
    if place.startswith("unix:"):
        if place == "unix:":
            raise ValueError("the socket's path is missing")
        return Address(export, socket=place.removeprefix("unix:"))
    if not named:
        place, _slash, export = rest.partition("/")
    host, _colon, port = place.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 0xFFFF:
        raise ValueError(f"the port is {port!r:.40}, must be a number up to 65535 behind a host")
    return Address(export, host=host.removeprefix("[").removesuffix("]"), port=int(port))
