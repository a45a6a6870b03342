"""The human monitor: one line in, its text out, and the completion of a line."""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias, cast

from emu.errors import EmuError
from emu.monitor.command import Command, CommandError, Context, Hmp, Kind, Parameter, execute
from emu.monitor.commands import COMMANDS, help_text, usage
from emu.monitor.migration import query_migrate
from migration.status import Status
from migration.vmstate import Wire

MAX_DIGITS = 19  # of a whole number; all of them fit in 64 bits
PROGRESS_SECONDS = 0.1  # between two looks at a migration that is waited for

# Called on the event loop's thread with query-migrate's answer.
ShowProgress: TypeAlias = Callable[[Mapping[str, Wire]], None]

BY_NAME: dict[str, Command] = {
    name: command for command in COMMANDS.values() if command.hmp for name in (command.hmp.name, *command.hmp.aliases)
}

log = logging.getLogger(__name__)


async def run_line(ctx: Context, line: str, *, progress: ShowProgress | None = None) -> str:
    """Carry out one line and return its text, several lines perhaps, without a newline at the end; empty when there is nothing
    to say. Never raises for what was typed or what became of it: such a text starts with `Error: `.

    `migrate` without -d returns when the migration is over or waits for migrate_continue; `progress` is called meanwhile. A
    caller that cancels this coroutine leaves the migration to itself.
    """
    try:
        return await _run(ctx, _words(line), progress)
    except (EmuError, OSError) as exc:
        return f"Error: {_one_line(exc)}"
    except ValueError as exc:  # shlex: quotation marks that do not match
        return f"Error: {_one_line(exc)}"
    except Exception as exc:
        log.exception("monitor line %r", line)
        return f"Error: internal error: {type(exc).__name__}, the log has more"


def _words(line: str) -> list[str]:
    """The words of a line, with the format of `x/4i` as one of its own."""
    words = shlex.split(line)
    name, slash, form = words[0].partition("/") if words else ("", "", "")
    return [name, slash + form, *words[1:]] if slash and name in BY_NAME else words


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())


async def _run(ctx: Context, words: list[str], progress: ShowProgress | None) -> str:
    if not words:
        return ""
    if words == ["info"]:
        return cast(str, help_text(ctx, name="info"))
    command, rest = _find(words)
    hmp = cast(Hmp, command.hmp)
    arguments = _arguments(command, rest)
    answer = await execute(ctx, command, arguments)
    if command is COMMANDS["migrate"]:
        answer = {} if arguments.get("detach") else await _wait(ctx, progress)
    return hmp.show(answer)


def _find(words: list[str]) -> tuple[Command, list[str]]:
    for count in (2, 1):
        command = BY_NAME.get(" ".join(words[:count]))
        if command is not None and len(words) >= count:
            return command, words[count:]
    name = " ".join(words[:2]) if words[0] == "info" else words[0]
    raise CommandError(f"unknown command '{name:.60}', 'help' lists the commands")


def _arguments(command: Command, words: Iterable[str]) -> dict[str, object]:
    """What the words stand for; CommandError that tells the usage when they are too few or too many."""
    hmp = cast(Hmp, command.hmp)
    arguments: dict[str, object] = {}
    places = list(hmp.words)
    for word in words:
        if word in hmp.flags:
            arguments[hmp.flags[word]] = True
        elif hmp.format and word.startswith("/") and not arguments:
            arguments[hmp.format] = word[1:]
        elif places:
            parameter = command.parameter(places.pop(0))
            arguments[parameter.name] = _value(parameter, word)
        elif hmp.format:
            arguments[hmp.words[-1]] = f"{arguments[hmp.words[-1]]} {word}"
        else:
            raise CommandError(f"extraneous characters at the end of line, usage: {usage(command)}")
    if any(command.parameter(name).required or name == "uri" for name in places):
        raise CommandError(f"{places[0]} is missing, usage: {usage(command)}")
    return arguments


def _value(parameter: Parameter, word: str) -> object:
    if parameter.kind is Kind.INT:
        if not (word.isascii() and word.isdecimal() and len(word) <= MAX_DIGITS):
            raise CommandError(f"{parameter.name} is '{word:.60}', must be a whole number")
        return int(word)
    if parameter.kind is not Kind.BOOL:
        return word
    if word not in ("on", "off"):
        raise CommandError(f"{parameter.name} is '{word:.60}', must be 'on' or 'off'")
    return word == "on"


async def _wait(ctx: Context, progress: ShowProgress | None) -> Wire:
    migrations = ctx.machine.migrations
    while not await asyncio.to_thread(migrations.wait_over, PROGRESS_SECONDS):
        if migrations.status is Status.PRE_SWITCHOVER:
            break  # whoever is to type migrate_continue needs the monitor back
        if progress is not None:
            progress(cast("dict[str, Wire]", query_migrate(ctx)))
    answer = cast("dict[str, Wire]", query_migrate(ctx))
    if progress is not None:
        progress(answer)
    if answer["status"] in (Status.FAILED, Status.CANCELLED):
        reason = cast(str, answer.get("error-desc") or answer["status"])
        raise CommandError(f"the migration was not completed: {reason}")
    return answer


def complete(ctx: Context, text: str) -> list[str]:
    """The words that may stand in place of the last word of `text`, which is empty behind a space."""
    words = text.split()
    last = words.pop() if words and not text[-1].isspace() else ""
    try:
        return sorted({word for word in _candidates(ctx, words) if word.startswith(last)})
    except (EmuError, OSError):
        return []


def _candidates(ctx: Context, before: list[str]) -> Iterable[str]:
    """What may follow the words `before`."""
    if before[:1] in (["help"], ["?"]):
        before = before[1:]
        return _names_after(before)
    names = _names_after(before)
    if names:
        return names
    try:
        command, typed = _find(before)
    except CommandError:
        return ()
    hmp = cast(Hmp, command.hmp)
    taken = sum(word not in hmp.flags for word in typed)
    if taken >= len(hmp.words):
        return ()
    parameter = command.parameter(hmp.words[taken])
    flags = () if taken else [flag for flag in hmp.flags if flag not in typed]
    return (*flags, *(("on", "off") if parameter.kind is Kind.BOOL else parameter.suggest(ctx)))


def _names_after(before: list[str]) -> list[str]:
    """First words of all commands, or second words of those that start with the one word given."""
    return [
        words[len(before)] for name in BY_NAME if len(words := name.split()) > len(before) and words[: len(before)] == before
    ]
