"""`emu run …` that tells when it was loaded and when its guest ran its first instruction: a child process of restore.py.

    python -m benchmarks.restored REPORT MODULES run riscv64 --loadvm …

REPORT gets three lines: the monotonic clock's seconds when the interpreter was up, when everything was imported, and when the
guest's first slice began, which ends the process. What to import stands in MODULES, one name a line; without that file nothing
is imported in advance, and what the run imports is written there.
"""

from __future__ import annotations

import os
import sys
import time

UP = time.monotonic()


def main() -> None:
    """Run, and end at the first slice."""
    report, modules, *arguments = sys.argv[1:]
    warm = os.path.exists(modules)  # noqa: PTH110 - pathlib is one of the imports that are measured
    if warm:
        from importlib import import_module

        with open(modules) as names:  # noqa: PTH123 - as above
            for name in names.read().split():
                import_module(name)
        from emu.engine.library import quick_library

        quick_library()
    loaded = time.monotonic()
    from emu.vcpu import Vcpu

    def first_slice(self: Vcpu) -> None:  # noqa: ARG001 - a method's
        now = time.monotonic()
        with open(report, "w") as file:  # noqa: PTH123 - as above
            file.write(f"{UP}\n{loaded}\n{now}\n")
        if not warm:
            with open(modules, "w") as file:  # noqa: PTH123 - as above
                file.write("\n".join(name for name in list(sys.modules) if name.startswith(PACKAGES)))
        os._exit(0)

    Vcpu._slice = first_slice  # type: ignore[method-assign]  # the place where the guest's first instruction is run
    from emu.cli.main import main as emu

    sys.exit(emu(arguments))


PACKAGES = ("asyncio", "devices", "emu", "migration", "msgpack", "numpy", "targets", "xxhash")

if __name__ == "__main__":
    main()
