"""`emu COMMAND …`: finds the command, and turns whatever goes wrong into one line and an exit code.

Exit codes: 0 done, or the guest switched itself off (a guest that failed gives its own code); 1 an error, told in one line on
stderr; 3 the guest has moved to another process; 130 Ctrl-C; 128 + N ended by signal N.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from emu.cli.report import FAILED, report_bug, report_error
from emu.errors import ConfigError, EmuError

if TYPE_CHECKING:
    from migration.protocols import StepHook

INTERRUPTED = 130
BLAS_THREADS = "OPENBLAS_NUM_THREADS"


class CommandModule(Protocol):
    """What the module of a command has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""

    def execute(self, arguments: argparse.Namespace, hook: StepHook | None) -> int:
        """Do it; returns the exit code."""


@dataclass(frozen=True, slots=True)
class Command:
    """A line of `emu --help`, and where the command is."""

    summary: str
    module: str


# Only the module of the command that was asked for is imported: `emu ls` shall not wait for a translator to load.
COMMANDS: dict[str, Command] = {
    "run": Command("start a guest, its console in this terminal", "emu.cli.run"),
    "ls": Command("list the guests running on this host", "emu.cli.ls"),
    "pull": Command("move a running guest into this terminal, live", "emu.cli.pull"),
    "ctl": Command("give a running guest's monitor a command", "emu.cli.ctl"),
    "demo": Command("boot, write to a disk, migrate, check: all in a few seconds", "emu.cli.demo"),
    "images": Command("list the guests that come with emu", "emu.cli.images"),
    "serve-9p": Command("share a directory with other 9P clients, as with a guest", "emu.cli.serve9p"),
    "analyze": Command("print a snapshot or migration stream as JSON", "emu.cli.analyze"),
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


def build_version() -> str:
    """The version of the installed package; `unknown` when run from a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version  # 15 ms, for `emu --version` alone

    try:
        return version("emu")
    except PackageNotFoundError:
        return "unknown"


class PrintVersion(argparse.Action):
    """`--version`, which is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_unused: object) -> NoReturn:
        """Print it and exit."""
        print(f"emu {build_version()}")
        parser.exit()


@contextmanager
def importing() -> Iterator[None]:
    """Make imports a third faster: without a search for garbage, now or later, and without numpy's threads for algebra."""
    given = os.environ.get(BLAS_THREADS)
    os.environ[BLAS_THREADS] = "1"
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
        if given is None:
            del os.environ[BLAS_THREADS]
        else:
            os.environ[BLAS_THREADS] = given


def build_parser(chosen: str | None) -> tuple[Parser, CommandModule | None]:
    """The whole command line, with the options of the command that was `chosen`, and that command."""
    parser = Parser(
        prog="emu",
        description="Boots guests of other CPU architectures, saves them, and moves them live between terminals and hosts.",
        epilog="emu COMMAND --help tells what a command takes.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=PrintVersion, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    module: CommandModule | None = None
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == chosen:
            with importing():
                module = cast(CommandModule, import_module(command.module))
            module.add_arguments(sub)
    return parser, module


def main(argv: Sequence[str] | None = None, *, hook: StepHook | None = None) -> int:
    """Run one command and return its exit code. `hook` is called at every named step of a migration."""
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        parser, module = build_parser(given[0] if given else None)
        arguments = parser.parse_args(given)
        return 0 if module is None else module.execute(arguments, hook)
    except SystemExit as exc:  # argparse, after --help and --version
        return exc.code if isinstance(exc.code, int) else FAILED
    except EmuError as exc:
        report_error(str(exc))
        return FAILED
    except BrokenPipeError:
        # The reader of our output went away; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as exc:
        report_bug(exc)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
