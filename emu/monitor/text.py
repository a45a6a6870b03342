"""The human monitor's texts, in the shapes that QEMU gives them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from migration.vmstate import Wire

REGISTERS_PER_LINE = 4
REGISTER_DIGITS = 16
REGISTER_NAME = 8  # columns, or as many as the longest name has


# What an answer holds: Wire without bytes, of which no monitor shows any.
Text: TypeAlias = "int | bool | str | list[Text] | dict[str, Text] | None"


def _record(answer: Wire | Text) -> dict[str, Text]:
    return cast("dict[str, Text]", answer)


def _records(answer: Wire | Text) -> list[dict[str, Text]]:
    return cast("list[dict[str, Text]]", answer)


def _on_off(value: Text) -> str:
    return "on" if value else "off"


def show_status(answer: Wire) -> str:
    """`info status`."""
    status = _record(answer)
    if status["running"]:
        return "VM status: running"
    return "VM status: paused" + ("" if status["status"] == "paused" else f" ({status['status']})")


def show_clock(answer: Wire) -> str:
    """`info clock`."""
    return f"guest time: {_record(answer)['guest-time']} ns"


def show_name(answer: Wire) -> str:
    """`info name`."""
    return str(_record(answer).get("name", ""))


def show_uuid(answer: Wire) -> str:
    """`info uuid`."""
    return str(_record(answer)["UUID"])


def show_version(answer: Wire) -> str:
    """`info version`."""
    version = _record(answer)
    qemu = _record(version["qemu"])
    return f"{qemu['major']}.{qemu['minor']}.{qemu['micro']} ({version['package']})"


def show_block(answer: Wire) -> str:
    """`info block`."""
    return "\n\n".join(_drive(entry, _record(entry["inserted"])) for entry in _records(answer))


def _drive(entry: Mapping[str, Text], inserted: Mapping[str, Text]) -> str:
    notes = (", read-only" if inserted["ro"] else "") + ("" if inserted["active"] else ", inactive")
    status = entry.get("io-status", "ok")
    io_status = "" if status == "ok" else f"\n    I/O status:       {status}"
    return f"{inserted['node-name']}: {inserted['file']} ({inserted['drv']}{notes})\n    Cache mode:       writeback{io_status}"


def show_cpus(answer: Wire) -> str:
    """`info cpus`."""
    return "\n".join(f"* CPU #{cpu['cpu-index']}: thread_id={cpu['thread-id']}" for cpu in _records(answer))


def show_registers(answer: Wire) -> str:
    """`info registers`."""
    values = cast("dict[str, int]", answer)
    width = max(REGISTER_NAME, *map(len, values))
    cells = [f" {name:<{width}} {value:0{REGISTER_DIGITS}x}" for name, value in values.items()]
    lines = ["".join(cells[start : start + REGISTERS_PER_LINE]) for start in range(0, len(cells), REGISTERS_PER_LINE)]
    return "\n".join(["CPU#0", *lines])


def show_memory_tree(answer: Wire) -> str:
    """`info mtree`."""
    lines = ["address-space: memory", "  0000000000000000-ffffffffffffffff (prio 0, i/o): system"]
    for region in _records(answer):
        base, size = cast(int, region["base"]), cast(int, region["size"])
        lines.append(f"    {base:016x}-{base + size - 1:016x} (prio 0, {region['kind']}): {region['name']}")
    return "\n".join(lines)


def show_device_tree(answer: Wire) -> str:
    """`info qtree`."""
    return "\n".join(["bus: main-system-bus", "  type System", *(f"  dev: {name}" for name in cast("list[str]", answer))])


WHOLE = "List of snapshots present on all disks:"


def show_snapshots(answer: Wire) -> str:
    """`info snapshots`."""
    groups: dict[str, list[dict[str, Text]]] = {"": []}
    for snapshot in _records(answer):
        groups.setdefault(cast(str, snapshot.get("node-name", "")), []).append(snapshot)
    blocks = [
        _snapshot_lines(f"List of partial (non-loadable) snapshots on '{node}':" if node else WHOLE, group)
        for node, group in groups.items()
        if group
    ]
    return "\n\n".join(blocks) or "There is no snapshot available."


def _snapshot_lines(title: str, snapshots: Sequence[Mapping[str, Text]]) -> str:
    lines = [title, f"{'ID':<10}{'TAG':<17}{'VM SIZE':>8}{'DATE':>20}{'VM CLOCK':>13}{'ICOUNT':>11}"]
    for snapshot in snapshots:
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(cast(int, snapshot["date-sec"])))
        size, clock = _size(cast(int, snapshot["vm-state-size"])), ""
        if "vm-clock-sec" in snapshot:
            minutes, seconds = divmod(cast(int, snapshot["vm-clock-sec"]), 60)
            milliseconds = cast(int, snapshot["vm-clock-nsec"]) // 1_000_000
            clock = f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}.{milliseconds:03}"
        lines.append(f"{snapshot.get('id', '--'):<10}{snapshot['tag']:<16} {size:>8}{date:>20}{clock:>13}{'':>11}")
    return "\n".join(lines)


def _size(size: int) -> str:
    """Three digits and a unit, as QEMU shows sizes."""
    number, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1000:
            break
        number, unit = number / 1024, larger
    return f"{number:.3g} {unit}"


def show_capabilities(answer: Wire) -> str:
    """`info migrate_capabilities`."""
    return "\n".join(f"{entry['capability']}: {_on_off(entry['state'])}" for entry in _records(answer))


def show_parameters(answer: Wire) -> str:
    """`info migrate_parameters`."""
    units = {"downtime-limit": "ms"}
    return "\n".join(f"{name}: {value} {units.get(name, 'bytes/second')}" for name, value in _record(answer).items())


# Lines of `info migrate`: the key of query-migrate, its title, its unit.
_TIMES = (
    ("total-time", "total time"),
    ("expected-downtime", "expected downtime"),
    ("downtime", "downtime"),
    ("setup-time", "setup"),
)
_RAM: tuple[tuple[str, str, str], ...] = (
    ("transferred", "transferred ram", "kbytes"),
    ("mbps", "throughput", "mbps"),
    ("remaining", "remaining ram", "kbytes"),
    ("total", "total ram", "kbytes"),
    ("duplicate", "duplicate", "pages"),
    ("normal", "normal", "pages"),
    ("normal-bytes", "normal bytes", "kbytes"),
    ("dirty-sync-count", "dirty sync count", ""),
    ("page-size", "page size", "kbytes"),
    ("pages-per-second", "pages-per-second", ""),
    ("dirty-pages-rate", "dirty pages rate", "pages"),
    ("precopy-bytes", "precopy ram", "kbytes"),
    ("downtime-bytes", "downtime ram", "kbytes"),
)
_LEFT_OUT_WHEN_ZERO = ("dirty-pages-rate", "precopy-bytes", "downtime-bytes")


def show_migration(answer: Wire) -> str:
    """`info migrate`; empty when nothing was ever migrated and nothing forbids it."""
    migration = _record(answer)
    lines = [
        "Outgoing migration blocked:",
        *(f"  {reason}" for reason in cast("list[str]", migration.get("blocked-reasons", []))),
    ]
    if len(lines) == 1:
        lines = []
    if "status" in migration:
        reason = f" ({migration['error-desc']})" if "error-desc" in migration else ""
        lines.append(f"Migration status: {migration['status']}{reason}")
    if "socket-address" in migration:
        lines += ["socket address: [", *(f"\t{_address(entry)}" for entry in _records(migration["socket-address"])), "]"]
    lines += [f"{title}: {migration[key]} ms" for key, title in _TIMES if key in migration]
    if "ram" in migration:
        lines += _ram_lines(cast("dict[str, int]", migration["ram"]))
    if "disk" in migration:
        disk = cast("dict[str, int]", migration["disk"])
        lines += [f"{key} disk: {disk[key] >> 10} kbytes" for key in ("transferred", "remaining", "total")]
    return "\n".join(lines)


def _ram_lines(ram: Mapping[str, int]) -> list[str]:
    return [
        f"{title}: {ram[key] >> 10 if unit == 'kbytes' else ram[key]} {unit}".rstrip()
        for key, title, unit in _RAM
        if key in ram and (ram[key] or key not in _LEFT_OUT_WHEN_ZERO)
    ]


def _address(address: Mapping[str, Text]) -> str:
    match address:
        case {"type": "inet", "host": str(host), "port": port}:
            return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"
        case {"path": path}:
            return f"unix:{path}"
        case _:
            return f"fd:{address['str']}"
