"""Imports point down: cli -> monitor -> targets -> devices -> emu (the machine) -> migration, emu.block -> emu.errors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each room may import of the project, itself apart. A room is the longest prefix listed here.
ROOMS: dict[str, set[str]] = {
    "emu.errors": set(),
    "emu.unixsocket": set(),
    "migration": {"emu.errors", "emu.unixsocket"},
    "emu.block": {"emu.errors"},
    "emu.engine": {"emu.errors"},
    "emu": {"emu.errors", "migration", "emu.block", "emu.engine"},
    "devices": {"emu.errors", "emu", "migration", "emu.block"},
    "targets": {"emu.errors", "emu", "emu.engine", "emu.block", "migration", "devices"},
    "emu.monitor": {"emu.errors", "emu.unixsocket", "emu", "migration"},
    "images": {"emu.errors"},
    "emu.cli": {"emu.errors", "emu.unixsocket", "emu", "emu.monitor", "targets", "devices", "images", "migration"},
}
PACKAGES = ("emu", "targets", "devices", "migration", "images")


def room_of(module: str) -> str:
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
    return found


MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    room = room_of(module_of(path))
    ours = {module for module in imports_of(path) if module.split(".")[0] in PACKAGES}
    upward = {module for module in ours if room_of(module) not in ROOMS[room] | {room}}
    assert not upward, f"{module_of(path)} may import {sorted(ROOMS[room])}"


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_only_the_engine_imports_unicorn(path: Path) -> None:
    foreign = {module.split(".")[0] for module in imports_of(path)}
    assert "unicorn" not in foreign or room_of(module_of(path)) == "emu.engine"
