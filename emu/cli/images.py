"""`emu images`: the guests that come with emu, and the Debian kernels that were fetched for it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from emu.cli.ls import print_table
from images import BUNDLED
from images.linux import default_cache

if TYPE_CHECKING:
    from migration.protocols import StepHook

MAX_MANIFEST = 64 << 10  # bytes; it holds two strings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="a JSON object")


def execute(arguments: argparse.Namespace, _hook: StepHook | None) -> int:
    """Print both lists."""
    cached = cached_kernels(default_cache() / "linux")
    if arguments.json:
        guests = {
            name: {"target": image.target, "memory": image.memory, "description": image.description}
            for name, image in BUNDLED.items()
        }
        print(json.dumps({"bundled": guests, "debian": cached}, indent=2))
        return 0
    rows = [(name, image.target, f"{image.memory_mib} MiB", image.description) for name, image in sorted(BUNDLED.items())]
    print_table([("NAME", "TARGET", "MEMORY", "WHAT IT IS"), *rows])
    print("\nemu run NAME starts one.")
    if cached:
        print("\nDebian kernels in the cache:\n")
        print_table([("ARCH", "RELEASE", "KERNEL", "INITRD"), *(tuple(kernel.values()) for kernel in cached)])
    return 0


def cached_kernels(folder: Path) -> list[dict[str, str]]:
    """What images/linux.py keeps in `folder`, as architecture, release and the two files."""
    found = []
    for manifest in sorted(folder.glob("*/manifest.json")):
        release = _release(manifest)
        if release is not None:
            place = manifest.parent
            found.append(
                {"arch": place.name, "release": release, "kernel": str(place / "kernel"), "initrd": str(place / "initrd.cpio")}
            )
    return found


def _release(manifest: Path) -> str | None:
    try:
        with manifest.open("rb") as file:
            match json.loads(file.read(MAX_MANIFEST)):
                case {"release": str(release)}:
                    return release
    except (OSError, ValueError):
        pass
    return None
