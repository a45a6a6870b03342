"""`emu pull NAME`: a guest that runs in another process of this host comes here, live, and its console with it.

here                                             the guest's process
x-emu-configuration --------------------------->
build the same machine, listen on a unix socket
migrate [-b|-i] unix:… ------------------------>  moves the guest, as any migration
the guest runs here; quit ---------------------->  exits with 3
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, cast, get_args, get_origin, get_type_hints

from emu.cli.options import (
    MONITOR_KINDS,
    SERIAL_KINDS,
    SessionOptions,
    add_log_argument,
    parse_drive,
    parse_endpoint,
    parse_log,
    parse_name,
)
from emu.cli.progress import open_progress
from emu.cli.registry import Entry, RunningGuest, open_registry
from emu.cli.report import configure_logging, report
from emu.config import MachineConfig
from emu.errors import ConfigError, EmuError, MigrationError
from emu.monitor.client import qmp_call

if TYPE_CHECKING:
    from emu.cli.session import Session
    from migration.protocols import StepHook
    from migration.vmstate import Wire

LOOK_EVERY = 0.05  # seconds between two questions how far it is
ANSWER_WITHIN = 10.0  # seconds for the other process to answer one
GONE_WITHIN = 5.0  # seconds for it to end after `quit`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("guest", metavar="NAME", help="a name that `emu ls` shows")
    copy = parser.add_mutually_exclusive_group()
    copy.add_argument("-b", dest="blk", action="store_true", help="all that its disks hold comes along, into those of --drive")
    copy.add_argument("-i", dest="inc", action="store_true", help="what differs from their backing files comes along")
    parser.add_argument(
        "--drive",
        action="append",
        default=[],
        metavar="FILE[,format=raw|qcow2][,id=ID]",
        help="an image of the same size to take a disk's place, for each that can be written (-b, -i)",
    )
    parser.add_argument("--name", help="another name for the guest here")
    parser.add_argument("--serial", metavar="stdio|unix:PATH|file:PATH|none", help="the guest's serial line (stdio)")
    parser.add_argument("--monitor", metavar="stdio|unix:PATH|none", help="the monitor (stdio when that is a terminal)")
    parser.add_argument("--qmp", metavar="unix:PATH", help="a QMP server for other programs")
    add_log_argument(parser)


def execute(arguments: argparse.Namespace, hook: StepHook | None) -> int:
    """Fetch the guest, then run it here until it ends."""
    log = parse_log(arguments.log)
    configure_logging(log.path, trace=bool(log.channels))
    serial, monitor = arguments.serial, arguments.monitor
    options = SessionOptions(
        qmp=arguments.qmp,
        serial=None if serial is None else parse_endpoint(serial, "--serial", SERIAL_KINDS),
        monitor=None if monitor is None else parse_endpoint(monitor, "--monitor", MONITOR_KINDS),
        log=log,
        incoming="unix",  # the socket's place is known once this process has its own in the registry
    )
    registry = open_registry()
    source = registry.find(arguments.guest)
    config = read_configuration(_ask(source, "x-emu-configuration"))
    how: dict[str, Wire] = {key: True for key in ("blk", "inc") if getattr(arguments, key)}
    if how or arguments.drive:
        config = with_own_images(config, arguments.drive, copied=bool(how))
    wanted = "" if arguments.name is None else parse_name(arguments.name)
    with closing(registry.claim(replace(config, name=wanted), base=source.description.name)) as entry:
        from emu.cli.session import run_session

        def start(session: Session) -> None:
            _fetch(session, source, entry, how)
            if not registry.wait_gone(source, GONE_WITHIN):
                report(f"process {source.description.pid}, where the guest was, has not ended yet")
            elif not wanted:
                entry.rename(source.description.name)

        return run_session(replace(config, name=wanted or source.description.name), options, entry, hook=hook, start=start)


def with_own_images(config: MachineConfig, drives: Sequence[str], *, copied: bool) -> MachineConfig:
    """The machine with other images in the place of its own; ConfigError unless each disk that can be written has one."""
    if not copied:
        raise ConfigError("--drive is for -b and -i; without them the guest's disks stay where they are")
    images = {drive.id: drive for drive in (parse_drive(text, index) for index, text in enumerate(drives))}
    ours = []
    for drive in config.drives:
        image = images.pop(drive.id, None)
        if image is not None:
            drive = replace(drive, path=image.path, format=image.format)
        elif not drive.readonly:
            raise ConfigError(
                f"drive {drive.id!r} can be written and needs an image of its own here: --drive FILE,id={drive.id}"
            )
        ours.append(drive)
    if images:
        raise ConfigError(
            f"--drive: the guest has no drive {next(iter(images))!r}, it has {', '.join(d.id for d in ours) or 'none'}"
        )
    return replace(config, drives=tuple(ours))


def _ask(source: RunningGuest, command: str, **arguments: Wire) -> Wire:
    return qmp_call(source.socket, command, arguments, timeout=ANSWER_WITHIN)


def _fetch(session: Session, source: RunningGuest, entry: Entry, how: Mapping[str, Wire]) -> None:
    """Have the guest moved here; MigrationError with the reason when it stays where it is."""
    migrations = session.machine.migrations
    uri = migrations.incoming(f"unix:{entry.incoming}")
    try:
        _ask(source, "migrate", uri=uri, **how)
    except EmuError as exc:
        raise MigrationError(f"{source.description.name} cannot be pulled: {exc}") from exc
    with closing(open_progress()) as progress:
        query = _query(source)
        while query.get("status") not in ("completed", "failed", "cancelled"):
            progress.update(query)
            time.sleep(LOOK_EVERY)
            query = _query(source)
        progress.update(query)
    status = query["status"]
    if status != "completed":
        migrations.cancel()
        reason = migrations.error or query.get("error-desc") or status
        raise MigrationError(f"{source.description.name} could not be pulled and runs on where it was: {reason!s}")
    migrations.wait_over()
    # The guest is here now; what becomes of the process it left is no reason to end it.
    with contextlib.suppress(EmuError):
        _ask(source, "quit")


def _query(source: RunningGuest) -> dict[str, Wire]:
    answer = _ask(source, "query-migrate")
    return answer if isinstance(answer, dict) else {}


def read_configuration(answer: Wire) -> MachineConfig:
    """The machine that `x-emu-configuration` describes; MigrationError names what this build does not know."""
    return cast(MachineConfig, _revive("machine", MachineConfig, answer))


def _revive(where: str, kind: object, wire: Wire) -> object:
    """A value of a configuration's type from its plain form."""
    inner = get_args(kind)
    if kind is Path and isinstance(wire, str):
        return Path(wire)
    if kind in (str, int, bool) and type(wire) is kind:
        return wire
    if NoneType in inner:
        return None if wire is None else _revive(where, inner[0], wire)
    if get_origin(kind) is tuple and isinstance(wire, list):
        return tuple(_revive(f"{where}[{index}]", inner[0], item) for index, item in enumerate(wire))
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(wire, dict):
        hints = get_type_hints(kind)
        if set(wire) != set(hints):
            odd = ", ".join(sorted(set(wire) ^ set(hints)))
            raise MigrationError(f"{where}: the running guest's emu and this one differ in {odd}: are they of one version?")
        return kind(**{name: _revive(f"{where}.{name}", hints[name], value) for name, value in wire.items()})
    raise MigrationError(f"{where} is {wire!r:.60} in the running guest's emu, which this one cannot use")
