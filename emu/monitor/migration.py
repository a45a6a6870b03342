"""The migrate family of commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from typing import cast

from emu.monitor.command import CommandError, Context
from emu.runstate import RunState
from migration.settings import LIMITS, DiskMode, as_dict, names, set_capability, set_parameter
from migration.vmstate import Wire

# A number as people write it for max-bandwidth: digits, perhaps a fraction, and a unit.
_SIZE = re.compile(r"([0-9]{1,18})(\.[0-9]{1,9})?([BKMGTPEbkmgtpe]?)")
_UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50, "E": 1 << 60}
IN_BYTES_PER_SECOND = ("max-bandwidth", "avail-switchover-bandwidth")  # HMP takes these as sizes, MiB without a unit


def migrate(
    ctx: Context,
    *,
    uri: str | None = None,
    channels: list[object] | None = None,
    blk: bool = False,
    inc: bool = False,
    detach: bool = False,  # noqa: ARG001 - clients send it; in QMP it never had a meaning
    resume: bool = False,
) -> Wire:
    """Start to move the guest away; returns at once, whatever `detach` says.

    With `blk` the content of its disks goes along, with `inc` what differs from their backing files, as in QEMU before 9.1.
    """
    if resume:
        raise CommandError("there is nothing to resume: postcopy migration, which can be recovered, is not in this build")
    disks = DiskMode.INCREMENTAL if inc else DiskMode.FULL if blk else DiskMode.SHARED
    ctx.machine.migrations.migrate(_uri(uri, channels), disks)
    return {}


def migrate_incoming(
    ctx: Context, *, uri: str | None = None, channels: list[object] | None = None, exit_on_error: bool = False
) -> Wire:
    """Wait for a guest to come in, on a machine that was started to receive one; query-migrate tells the address."""
    if exit_on_error:
        raise CommandError("exit-on-error must be false: after a failed migration this process goes on and can be asked why")
    where = _uri(uri, channels)
    if ctx.machine.state is not RunState.INMIGRATE:
        raise CommandError(f"'--incoming' was not specified on the command line: the machine is {ctx.machine.state}")
    ctx.machine.migrations.incoming(where)
    return {}


def migrate_cancel(ctx: Context) -> Wire:
    """Undo the migration that is under way; succeeds without one."""
    ctx.machine.migrations.cancel()
    return {}


def migrate_continue(ctx: Context, *, state: str) -> Wire:
    """Go on from `state`, in which the migration must be."""
    ctx.machine.migrations.proceed(state)
    return {}


def query_migrate(ctx: Context) -> Wire:
    """The latest migration, QMP's MigrationInfo."""
    answer = ctx.machine.migrations.query()
    where = answer.pop("socket-address", None)
    addresses = [address for uri in cast("list[str]", where or []) if (address := _socket_address(uri))]
    return answer | {"socket-address": cast("list[Wire]", addresses)} if addresses else answer


def query_migrate_capabilities(ctx: Context) -> Wire:
    """The capabilities there are and whether each is on."""
    return [{"capability": name, "state": bool(value)} for name, value in as_dict(ctx.machine.migrations.capabilities).items()]


def migrate_set_capabilities(ctx: Context, *, capabilities: list[object]) -> Wire:
    """Switch capabilities, all or none of those given."""
    migrations = ctx.machine.migrations
    if migrations.under_way:
        raise CommandError("There's a migration process in progress")
    wanted = [_capability(item) for item in capabilities]
    trial = replace(migrations.capabilities)
    for settings in (trial, migrations.capabilities):
        for name, state in wanted:
            set_capability(settings, name, state)
    return {}


def set_one_capability(ctx: Context, *, capability: str, state: bool) -> Wire:
    """Switch one capability."""
    return migrate_set_capabilities(ctx, capabilities=[{"capability": capability, "state": state}])


def _capability(item: object) -> tuple[str, bool]:
    match item:
        case {"capability": str(name), "state": bool(state), **rest} if not rest:
            return name, state
    raise CommandError("Invalid parameter type for 'capabilities', expected: array of {capability: string, state: boolean}")


def query_migrate_parameters(ctx: Context) -> Wire:
    """The parameters there are and their values, in bytes per second or milliseconds."""
    return {**as_dict(ctx.machine.migrations.parameters)}


def migrate_set_parameters(ctx: Context, **values: int) -> Wire:
    """Set parameters, all or none of those given."""
    trial = replace(ctx.machine.migrations.parameters)
    for settings in (trial, ctx.machine.migrations.parameters):
        for argument, value in values.items():
            set_parameter(settings, argument.replace("_", "-"), value)
    return {}


def set_one_parameter(ctx: Context, *, parameter: str, value: str) -> Wire:
    """Set one parameter from a word."""
    number = parse_size(value, unit="M") if parameter in IN_BYTES_PER_SECOND else _integer(parameter, value)
    set_parameter(ctx.machine.migrations.parameters, parameter, number)
    return {}


def parse_size(text: str, *, unit: str) -> int:
    """Bytes from `1.5G`; without a unit of its own the number counts in `unit`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise CommandError(f"Invalid size {text:.60}, must be a number with a unit B, K, M, G, T, P or E behind it if you like")
    factor = _UNITS[match[3].upper() or unit]
    return int(Fraction(f"{match[1]}{match[2] or ''}") * factor)


def _integer(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise CommandError(f"parameter {name:.60} is {text!r:.60}, must be a whole number")
    return int(text)


def capability_names(ctx: Context) -> Iterable[str]:
    """For completion."""
    return names(ctx.machine.migrations.capabilities)


def parameter_names(_ctx: Context) -> Iterable[str]:
    """For completion."""
    return LIMITS


def _uri(uri: str | None, channels: list[object] | None) -> str:
    if (uri is None) == (channels is None):
        raise CommandError("exactly one of 'uri' and 'channels' must be given")
    return uri if channels is None else _channels_uri(channels)  # type: ignore[return-value]  # one of them is there


def _channels_uri(channels: list[object]) -> str:
    """The URI of QMP's MigrationChannel list."""
    match channels:
        case [{"channel-type": "main", "addr": {"transport": str(transport), **address}, **rest}] if not rest:
            if transport in _TRANSPORTS:
                return _TRANSPORTS[transport](cast("dict[str, object]", address))
            raise CommandError(f"transport '{transport:.60}' is none of {', '.join(_TRANSPORTS)}")
    raise CommandError("'channels' must hold one channel, {channel-type: main, addr: {transport: …}}")


def _socket_uri(address: dict[str, object]) -> str:
    match address:
        case {"type": "inet", "host": str(host), "port": str(port), **rest} if not rest:
            return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"
        case {"type": "unix", "path": str(path), **rest} if not rest:
            return f"unix:{path}"
        case {"type": "fd", "str": str(fd), **rest} if not rest:
            return f"fd:{fd}"
    raise CommandError("a socket's address must be {type: inet, host, port}, {type: unix, path} or {type: fd, str}")


def _exec_uri(address: dict[str, object]) -> str:
    match address:
        case {"args": ["/bin/sh", "-c", str(command)], **rest} if not rest:
            return f"exec:{command}"
        case {"args": [*words], **rest} if words and not rest and all(isinstance(word, str) for word in words):
            return f"exec:{shlex.join(map(str, words))}"
    raise CommandError("an exec address must be {args: [program, argument, …]}")


def _file_uri(address: dict[str, object]) -> str:
    match address:
        case {"filename": str(name), "offset": int(offset), **rest} if not rest and offset >= 0 and ",offset=" not in name:
            return f"file:{name},offset={offset}"
        case {"filename": str(name), **rest} if not rest and ",offset=" not in name:
            return f"file:{name}"
    raise CommandError("a file's address must be {filename, offset}, offset in bytes and no ',offset=' in the name")


_TRANSPORTS: dict[str, Callable[[dict[str, object]], str]] = {"socket": _socket_uri, "exec": _exec_uri, "file": _file_uri}


def _socket_address(uri: str) -> dict[str, Wire] | None:
    """QMP's SocketAddress for a URI that has one."""
    scheme, _colon, rest = uri.partition(":")
    match scheme:
        case "tcp":
            host, _colon, port = rest.rpartition(":")
            return {"type": "inet", "host": host.strip("[]"), "port": port}
        case "unix":
            return {"type": "unix", "path": rest}
        case "fd":
            return {"type": "fd", "str": rest}
        case _:
            return None
