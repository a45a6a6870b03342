"""Commands that save, load and delete snapshots: at once for people, as jobs for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable

from emu.monitor.block import check_node
from emu.monitor.command import CommandError, Context
from migration.snapshot import OnProgress, SaveOptions, SnapshotInfo
from migration.vmstate import Wire


def savevm(ctx: Context, *, tag: str | None = None) -> Wire:
    """Save the guest as `tag`, or by the time of day; a snapshot of the same tag is replaced."""
    ctx.machine.savevm(time.strftime("vm-%Y%m%d%H%M%S") if tag is None else tag)
    return {}


def loadvm(ctx: Context, *, tag: str) -> Wire:
    """Become the guest saved as `tag`."""
    ctx.machine.loadvm(tag)
    return {}


def delvm(ctx: Context, *, tag: str) -> Wire:
    """Delete the snapshot `tag`."""
    ctx.machine.delvm(tag)
    return {}


def query_snapshots(ctx: Context) -> Wire:
    """The snapshots, the oldest first, then those that not all drives have.

    vm-state-size in bytes; date-sec and date-nsec since the epoch; vm-clock-sec and vm-clock-nsec of guest time, where known;
    node-name for one that only that drive has, and the id it has there.
    """
    return [_to_wire(info) for info in ctx.machine.snapshots.list()]


def _to_wire(info: SnapshotInfo) -> dict[str, Wire]:
    seconds, rest = divmod(info.taken_ns, 1_000_000_000)
    wire: dict[str, Wire] = {"tag": info.tag, "vm-state-size": info.size, "date-sec": seconds, "date-nsec": rest}
    if info.clock_ns is not None:
        seconds, rest = divmod(info.clock_ns, 1_000_000_000)
        wire |= {"vm-clock-sec": seconds, "vm-clock-nsec": rest}
    return wire | ({"node-name": info.only_on, "id": info.id} if info.only_on else {})


def snapshot_tags(ctx: Context) -> Iterable[str]:
    """For completion."""
    return [info.tag for info in ctx.machine.snapshots.list()]


def snapshot_save(
    ctx: Context, *, job_id: str, tag: str, vmstate: str | None = None, devices: list[object] | None = None
) -> Wire:
    """Save the guest as `tag`, in a job; its progress is bytes of RAM. There must be no snapshot of that tag."""
    _check_nodes(ctx, vmstate, devices)

    def save(on_progress: OnProgress) -> object:
        return ctx.machine.savevm(tag, SaveOptions(overwrite=False, vmstate=vmstate, on_progress=on_progress))

    ctx.jobs.start(job_id, "snapshot-save", save)
    return {}


def snapshot_load(
    ctx: Context, *, job_id: str, tag: str, vmstate: str | None = None, devices: list[object] | None = None
) -> Wire:
    """Become the guest saved as `tag`, in a job."""
    _check_nodes(ctx, vmstate, devices)
    ctx.jobs.start(job_id, "snapshot-load", lambda _progress: ctx.machine.loadvm(tag, vmstate=vmstate))
    return {}


def snapshot_delete(ctx: Context, *, job_id: str, tag: str, devices: list[object] | None = None) -> Wire:
    """Delete the snapshot `tag`, in a job."""
    _check_nodes(ctx, None, devices)
    ctx.jobs.start(job_id, "snapshot-delete", lambda _progress: ctx.machine.delvm(tag))
    return {}


def _check_nodes(ctx: Context, vmstate: str | None, devices: list[object] | None) -> None:
    """A snapshot covers every writable drive or is none: a list that leaves one out asks for what is not done."""
    if vmstate is not None:
        check_node(ctx, vmstate)
    if devices is None:
        return
    for name in devices:
        if not isinstance(name, str):
            raise CommandError("Invalid parameter type for 'devices', expected: array of string")
        check_node(ctx, name)
    left_out = [drive.id for drive, _image in ctx.machine.drives if not drive.readonly and drive.id not in devices]
    if left_out:
        raise CommandError(f"'devices' leaves out {', '.join(left_out)}: a snapshot covers every writable drive")


def query_jobs(ctx: Context) -> Wire:
    """All jobs that were not dismissed."""
    return ctx.jobs.query()


def job_dismiss(ctx: Context, *, id: str) -> Wire:  # noqa: A002 - the parameter's name in QMP
    """Forget a concluded job."""
    ctx.jobs.dismiss(id)
    return {}
