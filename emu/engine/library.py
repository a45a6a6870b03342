"""Finds and loads libunicorn without importing the `unicorn` package, which would add some 50 ms to every start."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import MappingProxyType, ModuleType

from emu.engine.layout import Build, this_build
from emu.errors import EngineError

LIBRARY = "libunicorn.so.2"


@cache
def package_directory() -> Path:
    """Where the `unicorn` package is installed; EngineError when it is not."""
    spec = PathFinder.find_spec("unicorn")
    if spec is None or not spec.submodule_search_locations:
        raise EngineError("the Python package unicorn is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def library_path() -> Path:
    """The shared library inside the package."""
    path = package_directory() / "lib" / LIBRARY
    if not path.exists():
        raise EngineError(f"{path} is missing: this unicorn package has no shared library for the host")
    return path


@cache
def quick_library() -> ctypes.PyDLL:
    """The library for short calls, made with the GIL held: half the cost of a call that gives it up."""
    return ctypes.PyDLL(str(library_path()))


@cache
def slow_library() -> ctypes.CDLL:
    """The library for calls that run for long, made without the GIL."""
    return ctypes.CDLL(str(library_path()))


@cache
def library_build() -> Build:
    """Which build of Unicorn is installed."""
    packed = int(quick_library().uc_version(None, None))
    return this_build((packed >> 24 & 0xFF, packed >> 16 & 0xFF, packed >> 8 & 0xFF))


@cache
def register_ids(isa_module: str) -> Mapping[str, int]:
    """Unicorn's register ids by lower-case name, from the package's constants file for the architecture `isa_module`."""
    name = f"{isa_module}_const"
    path = package_directory() / f"{name}.py"
    module = ModuleType(name)
    # Loaded by itself: `import unicorn.riscv_const` would run the whole package first.
    SourceFileLoader(name, str(path)).exec_module(module)
    prefix = f"UC_{isa_module.upper()}_REG_"
    return MappingProxyType(
        {key.removeprefix(prefix).lower(): value for key, value in vars(module).items() if key.startswith(prefix)}
    )
