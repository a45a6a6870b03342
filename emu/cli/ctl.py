"""`emu ctl NAME COMMAND…`: one monitor command to a running guest, or QMP commands from arguments or standard input."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from emu.cli.registry import open_registry
from emu.cli.report import FAILED
from emu.errors import ConfigError, EmuError
from emu.monitor.client import QmpCallError, qmp_call

if TYPE_CHECKING:
    from migration.protocols import StepHook
    from migration.vmstate import Wire


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("guest", metavar="NAME", help="a name that `emu ls` shows")
    parser.add_argument(
        "--qmp", action="store_true", help='the commands are QMP, {"execute": …}, one a line on stdin if none is given'
    )
    parser.add_argument("words", metavar="COMMAND", nargs=argparse.REMAINDER, help="a monitor command: info migrate")


def execute(arguments: argparse.Namespace, _hook: StepHook | None) -> int:
    """Run the commands; 1 when one of them failed."""
    guest = open_registry().find(arguments.guest)
    words: list[str] = arguments.words
    if arguments.qmp:
        return _run_qmp(guest.socket, words or sys.stdin)
    if not words:
        raise ConfigError("no command is given; 'emu ctl NAME help' lists them")
    answer = qmp_call(guest.socket, "human-monitor-command", {"command-line": " ".join(words)})
    text = answer if isinstance(answer, str) else json.dumps(answer)
    if text:
        print(text.rstrip("\n"))
    return FAILED if text.startswith("Error") else 0


def _run_qmp(socket: Path, messages: Iterable[str]) -> int:
    code = 0
    for message in messages:
        if not message.strip():
            continue
        command, arguments = _parse(message)
        try:
            answer: dict[str, Wire] = {"return": qmp_call(socket, command, arguments)}
        except QmpCallError as exc:
            answer, code = {"error": str(exc)}, FAILED
        print(json.dumps(answer), flush=True)
    return code


def _parse(message: str) -> tuple[str, dict[str, Wire]]:
    try:
        match json.loads(message):
            case {"execute": str(command), **rest} if set(rest) <= {"arguments"} and isinstance(
                rest.get("arguments", {}), dict
            ):
                return command, cast("dict[str, Wire]", rest.get("arguments", {}))
    except (ValueError, RecursionError) as exc:
        raise EmuError(f"{message.strip():.60} is no JSON: {exc}") from exc
    raise EmuError(f'{message.strip():.60} must be {{"execute": NAME, "arguments": {{…}}}}')
