"""`emu run`'s options, a TOML file with the same names, and the machine and session they describe."""

from __future__ import annotations

import argparse
import re
import tomllib
import uuid as uuids
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from emu.config import (
    LOG_CHANNELS,
    ON_MISMATCH,
    RERROR,
    SAVEVM,
    SECURITY,
    TAG_MAX,
    WERROR,
    DriveConfig,
    MachineConfig,
    ShareConfig,
)
from emu.errors import ConfigError
from images import BUNDLED, bundled

DEFAULT_MEMORY = 256 << 20  # bytes; a Linux distribution's kernel and initrd need half of it
MAX_SERIAL = 20  # bytes of a drive's serial number: virtio 1.2, 5.2.6.1
MAX_CONFIG_FILE = 1 << 20  # bytes; a machine is described in tens of lines
_SIZE_SUFFIXES = {"": 20, "K": 10, "M": 20, "G": 30}
_SIZE = re.compile(r"(\d{1,15})([KMG]?)", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # names a folder beside other guests', and nothing outside of it
_TAG = re.compile(rf"[A-Za-z0-9_./-]{{1,{TAG_MAX}}}")  # what can be typed in the guest as it is
_DRIVE_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")  # QEMU's rule for ids


class EndpointKind(StrEnum):
    """Where a character stream can go."""

    STDIO = "stdio"
    UNIX = "unix"
    FILE = "file"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The host's end of the serial line or the monitor."""

    kind: EndpointKind
    path: Path = Path()


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What is logged where."""

    path: Path | None = None  # None: standard error
    channels: tuple[str, ...] = ()  # of LOG_CHANNELS


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How one process shows and controls its guest; None for what the user left open."""

    qmp: str | None = None
    monitor: Endpoint | None = None
    serial: Endpoint | None = None
    paused: bool = False
    loadvm: str | None = None
    incoming: str | None = None  # a URI, or DEFER
    only_migratable: bool = False
    log: LogOptions = LogOptions()


DEFER = "defer"

SERIAL_KINDS = (EndpointKind.STDIO, EndpointKind.UNIX, EndpointKind.FILE, EndpointKind.NONE)
MONITOR_KINDS = (EndpointKind.STDIO, EndpointKind.UNIX, EndpointKind.NONE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `emu run`'s options."""
    known = ", ".join(BUNDLED)
    parser.add_argument("guest", nargs="?", metavar="NAME|TARGET", help=f"a bundled guest ({known}) or a target")
    parser.add_argument(
        "--config", metavar="FILE.toml", type=Path, help="options from a file: memory = '1G', drive = ['a.img']"
    )

    machine = parser.add_argument_group("machine")
    machine.add_argument("--kernel", metavar="FILE", type=Path, help="ELF file or the target's Linux image")
    machine.add_argument("--initrd", metavar="FILE", type=Path)
    machine.add_argument("--append", metavar="TEXT", default="", help="kernel command line")
    machine.add_argument("--bios", metavar="FILE", type=Path, help="firmware in place of the built-in one")
    machine.add_argument("--memory", metavar="SIZE", help="K, M or G behind a number; a bare number is MiB, as QEMU has it")
    machine.add_argument(
        "--drive",
        metavar="FILE|NBD[,format=raw|qcow2][,id=ID][,readonly][,serial=TEXT][,savevm=copy][,locking=off]"
        "[,werror=enospc|stop|report|ignore][,rerror=report|stop|ignore]",
        action="append",
        default=[],
        help="a virtio disk: a file, or what an NBD server has at nbd:HOST:PORT/NAME, nbd:unix:PATH:exportname=NAME, "
        "nbd://HOST:PORT/NAME or nbd+unix:///NAME?socket=PATH; unless given, its format is told by its first bytes and its id "
        "is drive0, drive1, …; savevm=copy puts a copy of the disk into every snapshot; a comma in a name is written twice. "
        "A write that the host has no room for stops the guest, and the monitor's cont carries it out again; werror and rerror "
        "say whether other errors of writes and reads are to stop it too, are reported to it, or ignored. With locking=off, "
        "for file systems without locks, nothing keeps two guests from writing to the image at the same time and destroying it",
    )
    machine.add_argument(
        "--share",
        metavar="DIR[,tag=TAG][,readonly][,security=none|mapped][,migratable][,on-mismatch=abort|stale]",
        action="append",
        default=[],
        help="a directory of the host for the guest to mount by its tag (host0, host1, … unless given). The guest may read, "
        "write, make and delete everything in DIR as the user that emu runs as, and nothing outside of it, whatever links "
        "there are; with readonly it may only read. With security=none files are the host's own, owners and setuid bits "
        "included where the user may set them; with mapped those are kept in extended attributes and mean nothing to the "
        "host. A mounted share forbids saving and moving the guest; one that is migratable on both sides, which see the same "
        "directory, moves along with the guest's open files. If they are not the same there, the move is refused, or with "
        "on-mismatch=stale these files alone fail in the guest. A snapshot does not hold the directory's content",
    )
    machine.add_argument("--no-rng", action="store_true", help="leave out the virtio entropy source")
    machine.add_argument(
        "--icount", action="store_true", help="deterministic: time is instructions executed, equal runs are equal bit for bit"
    )
    machine.add_argument("--name", help="how `emu ls`, `emu ctl` and `emu pull` call the guest")
    machine.add_argument(
        "--uuid", help="the guest's UUID; random unless given, zero with --icount, where it seeds the entropy source"
    )
    machine.add_argument(
        "--snapshots",
        metavar="DIR",
        type=Path,
        default=Path("snapshots"),
        help="where savevm and loadvm look unless a writable qcow2 drive has them inside",
    )

    control = parser.add_argument_group("console and control")
    control.add_argument("--serial", metavar="stdio|unix:PATH|file:PATH|none", help="the guest's serial line (stdio)")
    control.add_argument("--monitor", metavar="stdio|unix:PATH|none", help="the monitor (stdio when that is a terminal)")
    control.add_argument("--qmp", metavar="unix:PATH", help="a QMP server for other programs")
    add_log_argument(control)

    start = parser.add_argument_group("start")
    start.add_argument("--paused", action="store_true", help="do not run the guest until the monitor's cont")
    start.add_argument("--loadvm", metavar="TAG", help="start from a snapshot")
    start.add_argument(
        "--incoming", metavar="URI|defer", help="wait for a guest from tcp:HOST:PORT, unix:PATH, exec:, fd:, file:"
    )
    start.add_argument("--only-migratable", action="store_true", help="refuse to start what could not be moved or saved")
    parser.epilog = (
        "In the terminal, Ctrl-A X quits, Ctrl-A C goes to the monitor and back, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A H helps.\n"
        "Exit codes: 0 power-off (or the code the guest gave), 1 error, 3 the guest has moved away, 130 Ctrl-C in the monitor."
    )


def add_log_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare `--log`."""
    parser.add_argument(
        "--log",
        metavar="[FILE][,CHANNEL…]",
        help="write everything worth knowing to FILE, and what the guest executes: "
        + "; ".join(f"{name} {what}" for name, what in LOG_CHANNELS.items())
        + " (without FILE on stderr)",
    )


def parse_log(text: str | None) -> LogOptions:
    """`--log`: a file first unless it is the name of a channel, then channels."""
    if text is None:
        return LogOptions()
    first, *rest = _split_commas(text)
    channels = rest if first and first not in LOG_CHANNELS else [first, *rest]
    for name in channels:
        if name not in LOG_CHANNELS:
            raise ConfigError(f"--log channel {name!r:.40} is unknown, known are {', '.join(LOG_CHANNELS)}")
    return LogOptions(None if first in channels else Path(first), tuple(channels))


def parse_size(text: str, option: str) -> int:
    """Bytes of `64M`, `1G`, `512K`, or of a bare number of MiB."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigError(f"{option} is {text!r:.40}, must be a number with K, M or G behind it")
    return int(match[1]) << _SIZE_SUFFIXES[match[2].upper()]


def parse_drive(text: str, index: int) -> DriveConfig:
    """One `--drive`, the `index`-th from 0."""
    path, *options = _split_commas(text)
    if not path:
        raise ConfigError(f"--drive {text!r:.80} names no file")
    values = {"format": "", "id": f"drive{index}", "serial": "", "savevm": "inside", "werror": "enospc", "rerror": "report"}
    flags = {"readonly": False, "locking": True}
    for option in options:
        key, equals, value = option.partition("=")
        if key in flags and value in ("", "on", "off"):
            flags[key] = value != "off"
        elif key in values and equals:
            values[key] = value
        else:
            known = ", ".join((*flags, *(f"{name}=" for name in values)))
            raise ConfigError(f"--drive option {option!r:.40} is unknown, known are {known}")
    if not _DRIVE_ID.fullmatch(values["id"]):
        raise ConfigError(f"--drive id {values['id']!r:.80} must be a letter and up to 63 of A-Z a-z 0-9 . _ -")
    if not values["serial"].isascii() or len(values["serial"]) > MAX_SERIAL:
        raise ConfigError(f"--drive serial {values['serial']!r:.80} must have at most {MAX_SERIAL} ASCII characters")
    for name, known_values in (("savevm", SAVEVM), ("werror", WERROR), ("rerror", RERROR)):
        if values[name] not in known_values:
            raise ConfigError(f"--drive {name} is {values[name]!r:.40}, must be one of {', '.join(known_values)}")
    return DriveConfig(path=path, readonly=flags["readonly"], locking=flags["locking"], **values)


def parse_share(text: str, index: int) -> ShareConfig:
    """One `--share`, the `index`-th from 0."""
    path, *options = _split_commas(text)
    if not path:
        raise ConfigError(f"--share {text!r:.80} names no directory")
    values = {"tag": f"host{index}", "security": "none", "on-mismatch": "abort"}
    flags = {"readonly": False, "migratable": False}
    for option in options:
        key, equals, value = option.partition("=")
        if key in flags and value in ("", "on", "off"):
            flags[key] = value != "off"
        elif key in values and equals:
            values[key] = value
        else:
            known = ", ".join((*flags, *(f"{name}=" for name in values)))
            raise ConfigError(f"--share option {option!r:.40} is unknown, known are {known}")
    if not _TAG.fullmatch(values["tag"]):
        raise ConfigError(f"--share tag {values['tag']!r:.80} must be 1..{TAG_MAX} of A-Z a-z 0-9 _ . / -")
    if values["security"] not in SECURITY:
        raise ConfigError(f"--share security is {values['security']!r:.40}, must be one of {', '.join(SECURITY)}")
    if values["on-mismatch"] not in ON_MISMATCH:
        raise ConfigError(f"--share on-mismatch is {values['on-mismatch']!r:.40}, must be one of {', '.join(ON_MISMATCH)}")
    if values["on-mismatch"] != "abort" and not flags["migratable"]:
        raise ConfigError(f"--share on-mismatch={values['on-mismatch']} is for shares that are migratable")
    return ShareConfig(
        path=Path(path),
        tag=values["tag"],
        readonly=flags["readonly"],
        security=values["security"],
        migratable=flags["migratable"],
        on_mismatch=values["on-mismatch"],
    )


def _split_commas(text: str) -> list[str]:
    """Split at single commas; two of them stand for one in a name, as QEMU has it."""
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]


def parse_endpoint(text: str, option: str, kinds: Sequence[EndpointKind]) -> Endpoint:
    """`stdio`, `none`, or a kind with a path."""
    kind, colon, path = text.partition(":")
    known = " or ".join(k.value if k in (EndpointKind.STDIO, EndpointKind.NONE) else f"{k.value}:PATH" for k in kinds)
    if kind not in kinds or (kind in (EndpointKind.UNIX, EndpointKind.FILE)) != bool(colon and path):
        raise ConfigError(f"{option} is {text!r:.80}, must be {known}")
    return Endpoint(EndpointKind(kind), Path(path))


def parse_name(text: str) -> str:
    """A guest's name, which is also the name of a folder."""
    if not _NAME.fullmatch(text):
        raise ConfigError(f"--name {text!r:.80} must be 1..64 of A-Z a-z 0-9 . _ -, the first a letter or digit")
    return text


def parse_uuid(text: str) -> str:
    """A UUID in its usual spelling."""
    try:
        return str(uuids.UUID(text))
    except ValueError as exc:
        raise ConfigError(f"--uuid {text!r:.80} is no UUID, must look like {uuids.UUID(int=0)}") from exc


def _new_uuid(icount: bool) -> str:
    return str(uuids.UUID(int=0) if icount else uuids.uuid4())


def merge_config(arguments: argparse.Namespace) -> None:
    """Fill in from `--config` what the command line left open; drives and shares of both are kept, the file's first."""
    if arguments.config is None:
        return
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    defaults = vars(parser.parse_args([]))
    stored = vars(parser.parse_args(_config_arguments(arguments.config, defaults)))
    given = vars(arguments)
    added = {name: stored[name] + given[name] for name in ("drive", "share")}
    given |= {name: stored[name] for name, default in defaults.items() if given[name] == default}
    given |= added


def _config_arguments(path: Path, defaults: Mapping[str, object]) -> list[str]:
    """A TOML file as command-line arguments; paths in it are relative to the current directory, as on the command line."""
    arguments: list[str] = []
    for key, value in _load_toml(path).items():
        name = key.replace("-", "_")
        if name not in defaults or "_" in key or key == "config":
            known = ", ".join(option.replace("_", "-") for option in defaults if option != "config")
            raise ConfigError(f"{path}: {key!r:.40} is no option, known are {known}")
        if key == "guest":
            arguments.append(_scalar(path, key, value))
        elif defaults[name] is False:
            if not isinstance(value, bool):
                raise ConfigError(f"{path}: {key} is {value!r:.40}, must be true or false")
            arguments += [f"--{key}"] if value else []
        elif isinstance(value, list):
            arguments += [f"--{key}={_scalar(path, key, item)}" for item in value]
        else:
            arguments.append(f"--{key}={_scalar(path, key, value)}")
    return arguments


def _load_toml(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_FILE + 1)
        if len(text) > MAX_CONFIG_FILE:
            raise ConfigError(f"--config {path} has more than {MAX_CONFIG_FILE} bytes")
        return tomllib.loads(text.decode())
    except OSError as exc:
        raise ConfigError(f"--config {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"--config {path}: {exc}") from exc


def _scalar(path: Path, key: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ConfigError(f"{path}: {key} has {value!r:.40}, must be text or a number")
    return str(value)


def parse_session(arguments: argparse.Namespace) -> SessionOptions:
    """How the guest is to be shown and controlled."""
    if arguments.incoming and arguments.loadvm:
        raise ConfigError("--incoming and --loadvm exclude each other: the guest comes from one place")
    serial, monitor = arguments.serial, arguments.monitor
    return SessionOptions(
        qmp=arguments.qmp,
        monitor=None if monitor is None else parse_endpoint(monitor, "--monitor", MONITOR_KINDS),
        serial=None if serial is None else parse_endpoint(serial, "--serial", SERIAL_KINDS),
        paused=arguments.paused,
        loadvm=arguments.loadvm,
        incoming=arguments.incoming,
        only_migratable=arguments.only_migratable,
        log=parse_log(arguments.log),
    )


def parse_machine(arguments: argparse.Namespace, keep: ExitStack) -> MachineConfig:
    """The machine; a bundled guest's kernel is a file for as long as `keep` is open. `name` is empty unless it was given."""
    guest: str | None = arguments.guest
    if guest is None:
        raise ConfigError(f"no guest is named: give a bundled guest ({', '.join(BUNDLED)}) or a target")
    target, memory, kernel = guest, DEFAULT_MEMORY, arguments.kernel
    if guest in BUNDLED:
        image = bundled(guest)
        target, memory = image.target, image.memory
        kernel = kernel or keep.enter_context(image.kernel())
    return MachineConfig(
        target=target,
        memory=memory if arguments.memory is None else parse_size(arguments.memory, "--memory"),
        kernel=kernel,
        initrd=arguments.initrd,
        append=arguments.append,
        bios=arguments.bios,
        drives=tuple(parse_drive(text, index) for index, text in enumerate(arguments.drive)),
        shares=tuple(parse_share(text, index) for index, text in enumerate(arguments.share)),
        rng=not arguments.no_rng,
        icount=arguments.icount,
        name="" if arguments.name is None else parse_name(arguments.name),
        uuid=_new_uuid(arguments.icount) if arguments.uuid is None else parse_uuid(arguments.uuid),
        snapshots=arguments.snapshots,
    )
