"""The registry: every command of every monitor, and the few that speak of the registry itself."""

from __future__ import annotations

from typing import cast

from emu.monitor import block, control, hardware, memory, migration, snapshots, text
from emu.monitor.command import Command, CommandError, Context, Hmp, Kind, Parameter, Run
from migration.settings import LIMITS
from migration.status import Status
from migration.vmstate import Wire


def query_commands(_ctx: Context) -> Wire:
    """The commands of QMP."""
    return [{"name": name} for name, command in sorted(COMMANDS.items()) if command.qmp]


async def human_monitor_command(ctx: Context, *, command_line: str, cpu_index: int = 0) -> Wire:
    """Carry out a line of the human monitor and return its text. A `migrate` without -d answers when it is over."""
    from emu.monitor.hmp import run_line  # the human monitor looks its commands up in this registry, which lists it

    if cpu_index:
        raise CommandError(f"cpu-index is {cpu_index}, this machine has CPU 0 alone")
    return await run_line(ctx, command_line)


def help_text(_ctx: Context, *, name: str | None = None, subcommand: str | None = None) -> Wire:
    """One line for each command of the human monitor, or for the one (or the one with its sub-commands) called `name`."""
    faces = [(usage(command), command.hmp) for command in COMMANDS.values() if command.hmp]
    wanted = " ".join(word for word in (name, subcommand) if word)
    lines = [
        f"{line} -- {hmp.help}"
        for line, hmp in faces
        if not wanted or wanted in (hmp.name, *hmp.aliases) or hmp.name.startswith(f"{wanted} ")
    ]
    if not lines:
        raise CommandError(f"unknown command '{wanted:.60}', 'help' lists the commands")
    return "\n".join(sorted(lines))


def usage(command: Command) -> str:
    """How a command is typed: `migrate [-d] uri`."""
    hmp = cast(Hmp, command.hmp)
    words = [command.parameter(name) for name in hmp.words]
    shown = [parameter.name if parameter.required or parameter.name == "uri" else f"[{parameter.name}]" for parameter in words]
    names = "|".join(f"{name}[/FMT]" if hmp.format else name for name in (hmp.name, *hmp.aliases))
    return " ".join([names, *(f"[{flag}]" for flag in hmp.flags), *shown])


_URI = Parameter("uri", required=False)  # or channels; which one is there the command itself checks
_CHANNELS = Parameter("channels", Kind.ARRAY, required=False)
_FORMAT = Parameter("format", required=False)
_SAVED_TAG = Parameter("tag", suggest=snapshots.snapshot_tags)
_JOB = (Parameter("job-id"), Parameter("tag"))
_VMSTATE = Parameter("vmstate", required=False)
_DEVICES = Parameter("devices", Kind.ARRAY, required=False)


def _formatted(run: Run, name: str, operand: str, help: str, aliases: tuple[str, ...] = ()) -> Command:  # noqa: A002 - as Hmp's
    """A command of the human monitor that prints what `operand` says, in the format behind its name."""
    return Command(
        run=run,
        parameters=(_FORMAT, Parameter(operand)),
        qmp=False,
        hmp=Hmp(name=name, aliases=aliases, help=help, format=_FORMAT.name, words=(operand,), show=str),
    )


# In the order of QEMU's qapi files; commands of the human monitor alone stand under the name they have there.
COMMANDS: dict[str, Command] = {
    "qmp_capabilities": Command(
        run=control.qmp_capabilities, parameters=(Parameter("enable", Kind.ARRAY, required=False),), negotiation=True
    ),
    "query-version": Command(
        run=control.query_version,
        hmp=Hmp(name="info version", help="show the version", show=text.show_version),
    ),
    "query-commands": Command(run=query_commands),
    "query-name": Command(
        run=control.query_name,
        hmp=Hmp(name="info name", help="show the current VM name", show=text.show_name),
    ),
    "query-uuid": Command(
        run=control.query_uuid,
        hmp=Hmp(name="info uuid", help="show the current VM UUID", show=text.show_uuid),
    ),
    "query-status": Command(
        run=control.query_status,
        hmp=Hmp(name="info status", help="show the current VM status (running|paused)", show=text.show_status),
    ),
    "stop": Command(run=control.stop, hmp=Hmp(name="stop", aliases=("s",), help="stop emulation")),
    "cont": Command(run=control.cont, hmp=Hmp(name="cont", aliases=("c",), help="resume emulation")),
    "system_reset": Command(run=control.system_reset, hmp=Hmp(name="system_reset", help="reset the system")),
    "system_powerdown": Command(
        run=control.system_powerdown,
        hmp=Hmp(name="system_powerdown", help="end the guest as if its plug were pulled, disks flushed (no power button here)"),
    ),
    "quit": Command(run=control.quit_process, hmp=Hmp(name="quit", aliases=("q",), help="quit the emulator")),
    "query-target": Command(run=hardware.query_target),
    "query-cpus-fast": Command(
        run=hardware.query_cpus_fast,
        hmp=Hmp(name="info cpus", help="show infos for each CPU", show=text.show_cpus),
    ),
    "info registers": Command(
        run=hardware.registers,
        qmp=False,
        hmp=Hmp(name="info registers", help="show the cpu registers", show=text.show_registers),
    ),
    "x": _formatted(memory.examine, "x", "address", "virtual memory dump starting at 'address': x/10i $pc"),
    "xp": _formatted(memory.examine_physical, "xp", "address", "physical memory dump starting at 'address'"),
    "print": _formatted(
        memory.print_value, "print", "expression", "print expression value (use $reg for CPU register access)", aliases=("p",)
    ),
    "info mtree": Command(
        run=hardware.memory_tree,
        qmp=False,
        hmp=Hmp(name="info mtree", help="show memory tree", show=text.show_memory_tree),
    ),
    "info qtree": Command(
        run=hardware.device_tree,
        qmp=False,
        hmp=Hmp(name="info qtree", help="show device tree", show=text.show_device_tree),
    ),
    "human-monitor-command": Command(
        run=human_monitor_command,
        parameters=(Parameter("command-line"), Parameter("cpu-index", Kind.INT, required=False)),
    ),
    "help": Command(
        run=help_text,
        parameters=(Parameter("name", required=False), Parameter("subcommand", required=False)),
        qmp=False,
        hmp=Hmp(name="help", aliases=("?",), help="show the help", words=("name", "subcommand"), show=str),
    ),
    "query-block": Command(
        run=block.query_block,
        hmp=Hmp(name="info block", help="show the drives and whether this process owns them", show=text.show_block),
    ),
    "blockdev-set-active": Command(
        run=block.blockdev_set_active,
        parameters=(Parameter("active", Kind.BOOL), Parameter("node-name", required=False)),
    ),
    "migrate": Command(
        run=migration.migrate,
        parameters=(
            _URI,
            _CHANNELS,
            Parameter("blk", Kind.BOOL, required=False),
            Parameter("inc", Kind.BOOL, required=False),
            Parameter("detach", Kind.BOOL, required=False),
            Parameter("resume", Kind.BOOL, required=False),
        ),
        hmp=Hmp(
            name="migrate",
            help="migrate to URI (-d: do not wait, -b: with disks, -i: what differs from base files)",
            flags={"-d": "detach", "-b": "blk", "-i": "inc"},
            words=("uri",),
            show=text.show_migration,
        ),
    ),
    "migrate-incoming": Command(
        run=migration.migrate_incoming,
        parameters=(_URI, _CHANNELS, Parameter("exit-on-error", Kind.BOOL, required=False)),
        hmp=Hmp(name="migrate_incoming", help="continue an incoming migration from an --incoming defer", words=("uri",)),
    ),
    "migrate_cancel": Command(
        run=migration.migrate_cancel,
        hmp=Hmp(name="migrate_cancel", help="cancel the current VM migration"),
    ),
    "migrate-continue": Command(
        run=migration.migrate_continue,
        parameters=(Parameter("state", values=tuple(Status), suggest=lambda _ctx: (Status.PRE_SWITCHOVER,)),),
        hmp=Hmp(name="migrate_continue", help="continue migration from the given paused state", words=("state",)),
    ),
    "query-migrate": Command(
        run=migration.query_migrate,
        hmp=Hmp(name="info migrate", help="show migration status", show=text.show_migration),
    ),
    "migrate-set-capabilities": Command(
        run=migration.migrate_set_capabilities,
        parameters=(Parameter("capabilities", Kind.ARRAY),),
    ),
    "query-migrate-capabilities": Command(
        run=migration.query_migrate_capabilities,
        hmp=Hmp(name="info migrate_capabilities", help="show current migration capabilities", show=text.show_capabilities),
    ),
    "migrate_set_capability": Command(
        run=migration.set_one_capability,
        parameters=(Parameter("capability", suggest=migration.capability_names), Parameter("state", Kind.BOOL)),
        qmp=False,
        hmp=Hmp(
            name="migrate_set_capability",
            help="enable/disable the usage of a capability for migration (on|off)",
            words=("capability", "state"),
        ),
    ),
    "migrate-set-parameters": Command(
        run=migration.migrate_set_parameters,
        parameters=tuple(Parameter(name, Kind.INT, required=False) for name in LIMITS),
    ),
    "query-migrate-parameters": Command(
        run=migration.query_migrate_parameters,
        hmp=Hmp(name="info migrate_parameters", help="show current migration parameters", show=text.show_parameters),
    ),
    "migrate_set_parameter": Command(
        run=migration.set_one_parameter,
        parameters=(Parameter("parameter", suggest=migration.parameter_names), Parameter("value")),
        qmp=False,
        hmp=Hmp(
            name="migrate_set_parameter",
            help="set the parameter for migration (bandwidths are MiB/s unless a unit is given)",
            words=("parameter", "value"),
        ),
    ),
    "savevm": Command(
        run=snapshots.savevm,
        parameters=(Parameter("tag", required=False, suggest=snapshots.snapshot_tags),),
        qmp=False,
        hmp=Hmp(
            name="savevm",
            help="save a VM snapshot, as vm-YYYYMMDDHHMMSS unless named; replaces its namesake",
            words=("tag",),
        ),
    ),
    "loadvm": Command(
        run=snapshots.loadvm,
        parameters=(_SAVED_TAG,),
        qmp=False,
        hmp=Hmp(name="loadvm", help="restore a VM snapshot from its tag", words=("tag",)),
    ),
    "delvm": Command(
        run=snapshots.delvm,
        parameters=(_SAVED_TAG,),
        qmp=False,
        hmp=Hmp(name="delvm", help="delete a VM snapshot from its tag", words=("tag",)),
    ),
    "snapshot-save": Command(run=snapshots.snapshot_save, parameters=(*_JOB, _VMSTATE, _DEVICES)),
    "snapshot-load": Command(run=snapshots.snapshot_load, parameters=(*_JOB, _VMSTATE, _DEVICES)),
    "snapshot-delete": Command(run=snapshots.snapshot_delete, parameters=(*_JOB, _DEVICES)),
    "query-jobs": Command(run=snapshots.query_jobs),
    "job-dismiss": Command(run=snapshots.job_dismiss, parameters=(Parameter("id"),)),
    # Not QEMU's.
    "x-emu-configuration": Command(run=hardware.configuration),
    "x-emu-query-clock": Command(
        run=control.query_clock,
        hmp=Hmp(name="info clock", help="show the guest's time since power-on", show=text.show_clock),
    ),
    "x-emu-query-process": Command(run=control.query_process),
    "x-emu-query-snapshots": Command(
        run=snapshots.query_snapshots,
        hmp=Hmp(name="info snapshots", help="show the currently saved VM snapshots", show=text.show_snapshots),
    ),
    "x-emu-stop-at": Command(
        run=control.stop_at,
        parameters=(Parameter("time", Kind.INT, required=False),),
        hmp=Hmp(
            name="stop_at",
            help="stop emulation when the guest's time is so many ns, under --icount at that very instruction; without, do not",
            words=("time",),
        ),
    ),
}
