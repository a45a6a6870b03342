"""`emu run`: a guest in this process, its console in this terminal."""

from __future__ import annotations

import argparse
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

from emu.cli.options import add_arguments, merge_config, parse_machine, parse_session
from emu.cli.registry import open_registry
from emu.cli.report import configure_logging

if TYPE_CHECKING:
    from migration.protocols import StepHook

__all__ = ["add_arguments", "execute"]


def execute(arguments: argparse.Namespace, hook: StepHook | None) -> int:
    """Run the guest until it ends; returns the exit code."""
    merge_config(arguments)
    options = parse_session(arguments)
    configure_logging(options.log.path, trace=bool(options.log.channels))
    with ExitStack() as keep:
        config = parse_machine(arguments, keep)
        entry = keep.enter_context(closing(open_registry().claim(config, base=arguments.guest)))
        # Imported here: `emu run --help` and a mistyped option need no machine.
        from emu.cli.session import run_session

        return run_session(replace(config, name=entry.name), options, entry, hook=hook)
