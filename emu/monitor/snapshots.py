"""Commands that save, load and delete snapshots: at once for people, as jobs for programs."""

from __future__ import annotations

from collections.abc import Iterable

from emu.monitor.block import check_node
from emu.monitor.command import CommandError, Context
from migration.vmstate import Wire


def savevm(ctx: Context, *, tag: str) -> Wire:
    """Save the guest as `tag`."""
    with ctx.snapshot_lock:
        ctx.machine.savevm(tag)
    return {}


def loadvm(ctx: Context, *, tag: str) -> Wire:
    """Become the guest saved as `tag`."""
    with ctx.snapshot_lock:
        ctx.machine.loadvm(tag)
    return {}


def delvm(ctx: Context, *, tag: str) -> Wire:
    """Delete the snapshot `tag`."""
    with ctx.snapshot_lock:
        ctx.machine.delvm(tag)
    return {}


def query_snapshots(ctx: Context) -> Wire:
    """The snapshots, the oldest first: size in bytes on the host's disk, time in seconds since the epoch."""
    return [{"tag": info.tag, "vm-state-size": info.size, "date-sec": int(info.taken)} for info in ctx.machine.snapshots.list()]


def snapshot_tags(ctx: Context) -> Iterable[str]:
    """For completion."""
    return [info.tag for info in ctx.machine.snapshots.list()]


def snapshot_save(
    ctx: Context, *, job_id: str, tag: str, vmstate: str | None = None, devices: list[object] | None = None
) -> Wire:
    """Save the guest as `tag`, in a job."""
    _check_nodes(ctx, vmstate, devices)
    ctx.jobs.start(job_id, "snapshot-save", lambda: savevm(ctx, tag=tag))
    return {}


def snapshot_load(
    ctx: Context, *, job_id: str, tag: str, vmstate: str | None = None, devices: list[object] | None = None
) -> Wire:
    """Become the guest saved as `tag`, in a job."""
    _check_nodes(ctx, vmstate, devices)
    ctx.jobs.start(job_id, "snapshot-load", lambda: loadvm(ctx, tag=tag))
    return {}


def snapshot_delete(ctx: Context, *, job_id: str, tag: str, devices: list[object] | None = None) -> Wire:
    """Delete the snapshot `tag`, in a job."""
    _check_nodes(ctx, None, devices)
    ctx.jobs.start(job_id, "snapshot-delete", lambda: delvm(ctx, tag=tag))
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
