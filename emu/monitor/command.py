"""What a command is: a typed function, the parameters it takes, and its faces in QMP and in the human monitor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from emu.errors import EmuError
from emu.monitor.jobs import Jobs
from migration.vmstate import Wire

if TYPE_CHECKING:
    from emu.machine import Machine

INT_RANGE = range(-(1 << 63), 1 << 64)  # QMP's integers: what fits in int64 or uint64


class CommandError(EmuError):
    """Raised when a command is asked for in a way it cannot be carried out; QMP's GenericError."""


class CommandNotFoundError(CommandError):
    """Raised when there is no such command, or not now; QMP's CommandNotFound."""


@dataclass(slots=True)
class Context:
    """What commands act on. One for each machine, shared by all its monitors."""

    machine: Machine
    quit: Callable[[int], None]  # ends the process soon, with this exit code; called on any thread, returns at once
    started_at: float  # seconds since the epoch
    jobs: Jobs = field(init=False)

    def __post_init__(self) -> None:
        self.jobs = Jobs(self.machine.events.emit)


class Kind(Enum):
    """The type of a parameter, by QMP's name for it."""

    STRING = "string"
    BOOL = "boolean"
    INT = "integer"
    ARRAY = "array"

    def accepts(self, value: object) -> bool:
        """Whether a JSON value is of this type."""
        match self:
            case Kind.STRING:
                return isinstance(value, str)
            case Kind.BOOL:
                return isinstance(value, bool)
            case Kind.INT:
                return type(value) is int and value in INT_RANGE
            case Kind.ARRAY:
                return isinstance(value, list)


def _nothing(_ctx: Context) -> Iterable[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. What an optional one is without being given is the default of the function's argument."""

    name: str
    kind: Kind = Kind.STRING
    required: bool = field(default=True, kw_only=True)
    values: tuple[str, ...] = field(default=(), kw_only=True)  # the only ones accepted; empty: any
    suggest: Callable[[Context], Iterable[str]] = field(default=_nothing, kw_only=True)  # for completion alone

    @property
    def argument(self) -> str:
        """The name of the function's argument."""
        return self.name.replace("-", "_")


class Run(Protocol):
    """A command's function: `def stop(ctx: Context) -> Wire`, its parameters by keyword. Runs on a worker thread."""

    def __call__(self, ctx: Context, /, *args: Any, **arguments: Any) -> Wire | Awaitable[Wire]:  # type: ignore[explicit-any]  # bind() checks them, and a test the declarations
        """Carry the command out. One that waits for other commands returns an awaitable instead, for the event loop."""


def say_nothing(_answer: Wire) -> str:
    """The text of a command that only does something."""
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hmp:
    """A command in the human monitor."""

    name: str  # two words for a sub-command: "info status"
    help: str
    aliases: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)  # "-d" to the boolean parameter it sets
    words: tuple[str, ...] = ()  # the parameters that the words stand for, in order
    format: str = ""  # the parameter that /FMT behind the name sets; the last of the words is then an expression with spaces
    show: Callable[[Wire], str] = say_nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command."""

    run: Run
    parameters: tuple[Parameter, ...] = ()
    qmp: bool = True  # False for a command of the human monitor alone
    negotiation: bool = False  # allowed before QMP's capabilities negotiation is over, and only then
    hmp: Hmp | None = None

    def parameter(self, name: str) -> Parameter:
        """One parameter by its name."""
        return next(parameter for parameter in self.parameters if parameter.name == name)


def bind(parameters: Iterable[Parameter], given: Mapping[str, object]) -> dict[str, object]:
    """The function's arguments for `given`; CommandError in QEMU's words when something is missing, mistyped or unknown."""
    rest = dict(given)
    arguments: dict[str, object] = {}
    for parameter in parameters:
        if parameter.name not in rest:
            if parameter.required:
                raise CommandError(f"Parameter '{parameter.name}' is missing")
            continue
        value = rest.pop(parameter.name)
        if not parameter.kind.accepts(value):
            raise CommandError(f"Invalid parameter type for '{parameter.name}', expected: {parameter.kind.value}")
        if parameter.values and value not in parameter.values:
            raise CommandError(f"Parameter '{parameter.name}' does not accept value '{value:.60}'")
        if not _is_text(value):
            raise CommandError(f"Parameter '{parameter.name}' holds a NUL or a lone surrogate, which no name or path can")
        arguments[parameter.argument] = value
    for name in rest:
        raise CommandError(f"Parameter '{name:.60}' is unexpected")
    return arguments


def _is_text(value: object) -> bool:
    """Whether the operating system would take every string in `value`."""
    match value:
        case str():
            return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
        case list():
            return all(_is_text(item) for item in value)
        case dict():
            return all(_is_text(item) for item in (*value, *value.values()))
        case _:
            return True


async def execute(ctx: Context, command: Command, given: Mapping[str, object]) -> Wire:
    """Check the arguments and carry the command out without holding up the event loop."""
    answer = await asyncio.to_thread(command.run, ctx, **bind(command.parameters, given))
    return await answer if isinstance(answer, Awaitable) else answer
