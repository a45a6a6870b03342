"""Commands about drives."""

from __future__ import annotations

from emu.monitor.command import CommandError, Context
from emu.snapshots import snapshots_in
from migration.snapshot import SnapshotInfo
from migration.vmstate import Wire


def query_block(ctx: Context) -> Wire:
    """The drives: QMP's list of BlockInfo. A drive's id is also its node's name."""
    unlimited: dict[str, Wire] = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    drives: list[Wire] = []
    for drive, image in ctx.machine.drives:
        about: dict[str, Wire] = {
            "filename": image.path,
            "format": image.format,
            "virtual-size": image.size,
            "dirty-flag": False,
        }
        if snapshots := snapshots_in(drive.id, image):
            about["snapshots"] = [_snapshot_info(snapshot) for snapshot in snapshots]
        inserted: dict[str, Wire] = unlimited | {
            "file": image.path,
            "node-name": drive.id,
            "ro": image.read_only,
            "drv": image.format,
            "active": image.active,
            "encrypted": False,
            "backing_file_depth": 0,
            "detect_zeroes": "off",
            "write_threshold": 0,
            "cache": {"writeback": True, "direct": False, "no-flush": False},
            "image": about,
        }
        info: dict[str, Wire] = {"device": drive.id, "type": "unknown", "locked": False, "removable": False}
        if drive.stops_on_error:
            info["io-status"] = str(ctx.machine.io_status(drive.id))
        drives.append(info | {"inserted": inserted})
    return drives


def _snapshot_info(info: SnapshotInfo) -> Wire:
    """QMP's SnapshotInfo."""
    date, date_ns = divmod(info.taken_ns, 1_000_000_000)
    clock, clock_ns = divmod(info.clock_ns or 0, 1_000_000_000)
    return {
        "id": info.id,
        "name": info.tag,
        "vm-state-size": info.size,
        "date-sec": date,
        "date-nsec": date_ns,
        "vm-clock-sec": clock,
        "vm-clock-nsec": clock_ns,
    }


def check_node(ctx: Context, name: str) -> None:
    """Raise CommandError unless a drive is called `name`."""
    if name not in {drive.id for drive, _image in ctx.machine.drives}:
        raise CommandError(f"Cannot find device='' nor node-name='{name:.60}'")


def blockdev_set_active(ctx: Context, *, active: bool, node_name: str | None = None) -> Wire:
    """Take the drives' images or let them go, for another process to take. Images are owned all together or not at all."""
    machine = ctx.machine
    if node_name is not None:
        check_node(ctx, node_name)
        if len(machine.drives) > 1:
            raise CommandError(
                f"drive {node_name!r} shares its owner with the {len(machine.drives) - 1} others of this machine: "
                "leave node-name out to change all"
            )
    machine.set_disks_active(active=active)
    return {}
