"""The board as its guest meets it: what boots, where it lies, and what the SBI answers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.config import DriveConfig, MachineConfig
from emu.errors import ConfigError
from emu.machine import Machine
from emu.runstate import RunState
from images import bundled
from targets import find_target
from targets.riscv.board import VirtBoard
from targets.riscv.boot import IMAGE_MAGIC
from targets.riscv.map import RAM_BASE
from targets.riscv.sbi import Err, Ext
from targets.riscv.state import RV32, RV64, Irq, Priv
from tests.devices.fakes import MemoryChardev

MASK64 = (1 << 64) - 1
MIB = 1 << 20
KERNEL_OFFSET = RV64.megapage
WAIT = 10
# lui x5, 0x200c; addi x5, x5, -8 (mtime); addi x6, x0, 1; slli x6, x6, 40; sd x6, 0(x5); rdtime x7; ld x8, 0(x5);
# lui x28, 0x100; lui x29, 0x5; addi x29, x29, 0x555; sw x29, 0(x28) (test device: PASS); j .
SET_MTIME = bytes.fromhex(
    "b7c20002 938282ff 13031000 13138302 23b06200 f32310c0 03b40200 370e1000 b75e0000 938e5e55 2320de01 6f000000"
)
Build = Callable[..., Machine]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Builds stopped machines from MachineConfig arguments; without a kernel, one of nothing but zeros."""
    machines: list[Machine] = []

    def begin(**options: object) -> Machine:
        if "kernel" not in options:
            options["kernel"] = tmp_path / "kernel"
            (tmp_path / "kernel").write_bytes(bytes(16))
        options = {"target": "riscv64", "memory": 16 * MIB, **options}
        config = MachineConfig(**options)  # type: ignore[arg-type]  # passed on as they are
        machine = Machine(config, find_target(config.target), MemoryChardev())
        machines.append(machine)
        return machine

    yield begin
    for machine in machines:
        machine.close()


def board_of(machine: Machine) -> VirtBoard:
    assert isinstance(machine.board, VirtBoard)
    return machine.board


@pytest.mark.parametrize(("target", "offset"), [("riscv32", 4 * MIB), ("riscv64", 2 * MIB)])
def test_a_kernel_is_entered_as_linux_wants_it(target: str, offset: int, build: Build) -> None:
    board = board_of(build(target=target))
    cpu = board.cpu

    assert (cpu.pc, cpu.priv) == (RAM_BASE + offset, Priv.S)
    assert cpu.read(11) % offset == 0
    assert cpu.read(10) == 0
    assert board.memory.read(cpu.read(11), 4) == b"\xd0\x0d\xfe\xed"
    assert cpu.registers()["satp"] == 0


def test_an_elf_kernel_starts_at_its_entry(build: Build) -> None:
    with bundled("riscv64-tiny").kernel() as path:
        board = board_of(build(kernel=path))
    assert board.cpu.pc == 0x8020_0000


@pytest.mark.parametrize(("target", "words", "offset"), [("riscv32", "<6I", 4 * MIB), ("riscv64", "<6Q", 2 * MIB)])
def test_firmware_starts_in_machine_mode_and_finds_the_kernel(
    target: str, words: str, offset: int, build: Build, tmp_path: Path
) -> None:
    (tmp_path / "bios").write_bytes(b"firmware")
    board = board_of(build(target=target, bios=tmp_path / "bios"))
    cpu = board.cpu

    assert (cpu.pc, cpu.priv) == (RAM_BASE, Priv.M)
    info = board.memory.read(cpu.read(12), struct.calcsize(words))
    magic, version, following, mode, _options, hart = struct.unpack(words, info)
    assert (magic, version, following, mode, hart) == (0x4942534F, 2, RAM_BASE + offset, 1, 0)
    assert board.memory.read(RAM_BASE, 8) == b"firmware"


def test_the_time_csr_follows_what_firmware_sets_mtime_to(build: Build, tmp_path: Path) -> None:
    (tmp_path / "bios").write_bytes(SET_MTIME)
    machine = build(bios=tmp_path / "bios")

    machine.cont()

    assert machine.over.wait(WAIT)
    csr, register = machine.call(lambda: [board_of(machine).cpu.read(x) for x in (7, 8)])
    assert 1 << 40 <= csr <= register < 1 << 41


def test_the_initrd_lies_below_the_tree(build: Build, tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"i" * 5000)
    board = board_of(build(initrd=tmp_path / "initrd"))
    tree = board.cpu.read(11)

    data = board.memory.read(RAM_BASE, 16 * MIB)
    at = RAM_BASE + data.index(b"i" * 5000)

    assert at % 4096 == 0
    assert at + 5000 <= tree


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ({}, {"kernel": None}, "no kernel was given"),
        ({}, {"kernel": "missing"}, "kernel .*missing: No such file"),
        ({"kernel": bytes(16 * MIB)}, {}, "needs 16777216 bytes"),
        ({"kernel": b"\x7fELF garbage"}, {}, "kernel .*kernel:"),
        ({"initrd": bytes(15 * MIB)}, {"initrd": "initrd"}, "do not fit between kernel and device tree in 16 MiB"),
        ({}, {"memory": MIB}, "not within RAM"),
        ({}, {"memory": 2 * MIB + 8192}, "kernel .*kernel leaves no room for the device tree in 2056 KiB of RAM"),
        (
            {"kernel": bytes(2 * MIB - 4096)},
            {"memory": 4 * MIB},
            "kernel .*kernel leaves no room for the device tree in 4096 KiB",
        ),
        (
            {"bios": b"firmware"},
            {"kernel": None, "bios": "bios", "memory": MIB},
            "the firmware leaves no room for the device tree",
        ),
        ({}, {"target": "riscv32", "memory": 3 << 30}, "riscv32 addresses 2047 MiB of RAM, 3072 MiB are asked for"),
        ({"kernel": b"\x7fELF\1"}, {}, "is for 32 bits, target riscv64 has 64"),
        ({"kernel": b"\x7fELF\2"}, {"target": "riscv32"}, "is for 64 bits, target riscv32 has 32"),
    ],
)
def test_what_cannot_boot_is_refused_in_one_line(
    files: dict[str, bytes], options: dict[str, object], words: str, build: Build, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    paths = {
        key: tmp_path / str(value) if value and key in ("kernel", "initrd", "bios") else value for key, value in options.items()
    }
    if "kernel" in files:
        paths["kernel"] = tmp_path / "kernel"
    with pytest.raises(ConfigError, match=words) as refusal:
        build(**paths)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("size", range(2 * MIB, 5 * MIB, 512 << 10))
def test_however_little_ram_there_is_the_tree_lies_above_the_kernel(size: int, build: Build, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(64 << 10))
    try:
        board = board_of(build(memory=size, kernel=tmp_path / "big"))
    except ConfigError as exc:
        assert size == 2 * MIB, exc
    else:
        assert RAM_BASE + KERNEL_OFFSET + (64 << 10) <= board.cpu.read(11) < RAM_BASE + size


def test_a_linux_image_reserves_the_memory_its_header_asks_for(build: Build, tmp_path: Path) -> None:
    image = bytearray(64)
    image[16:24] = struct.pack("<Q", 15 * MIB)
    image[56:60] = IMAGE_MAGIC
    (tmp_path / "Image").write_bytes(image)
    with pytest.raises(ConfigError, match="needs 15728640 bytes"):
        build(kernel=tmp_path / "Image")


def test_more_disks_than_slots_are_refused(build: Build, tmp_path: Path) -> None:
    drives = []
    for number in range(8):
        (tmp_path / f"{number}").write_bytes(bytes(512))
        drives.append(DriveConfig(path=str(tmp_path / f"{number}"), id=f"drive{number}"))
    with pytest.raises(ConfigError, match="9 virtio devices are asked for, the board has 8 slots"):
        build(drives=tuple(drives))


def sbi(machine: Machine, extension: int, function: int, *args: int) -> tuple[int, int]:
    """Make an ecall as the guest would; returns error (signed) and value."""
    board = board_of(machine)

    def call() -> tuple[int, int]:
        cpu = board.cpu
        for number, value in zip(range(10, 16), (*args, 0, 0, 0, 0, 0, 0), strict=False):
            cpu.write(number, value)
        cpu.write(16, function)
        cpu.write(17, extension)
        assert cpu.on_supervisor_call is not None
        cpu.on_supervisor_call()
        error, xlen = cpu.read(10), cpu.width.xlen
        return error - (1 << xlen if error >> xlen - 1 else 0), cpu.read(11)

    return machine.call(call)


@pytest.mark.parametrize("extension", list(Ext))
def test_probing_finds_every_extension(extension: Ext, build: Build) -> None:
    assert sbi(build(), Ext.BASE, 3, extension) == (Err.SUCCESS, 1)


def test_probing_tells_what_is_absent(build: Build) -> None:
    machine = build()
    assert sbi(machine, Ext.BASE, 3, 0x504D55) == (Err.SUCCESS, 0)  # PMU
    assert sbi(machine, 0x504D55, 0) == (Err.NOT_SUPPORTED, 0)
    assert sbi(machine, Ext.BASE, 99) == (Err.NOT_SUPPORTED, 0)


def test_the_specification_version_is_two(build: Build) -> None:
    assert sbi(build(), Ext.BASE, 0) == (Err.SUCCESS, 2 << 24)


def test_the_timer_raises_its_interrupt_and_setting_it_again_lowers_it(build: Build) -> None:
    machine = build()
    cpu = board_of(machine).cpu
    sbi(machine, Ext.TIME, 0, 0)
    machine.call(machine._clock.fire)
    assert cpu.is_pending(Irq.STIP)

    sbi(machine, Ext.TIME, 0, MASK64)

    assert not cpu.is_pending(Irq.STIP)


def test_a_32_bit_guest_sets_the_timer_with_two_registers(build: Build) -> None:
    machine = build(target="riscv32")
    cpu = board_of(machine).cpu
    sbi(machine, Ext.TIME, 0, 0, 1)
    machine.call(machine._clock.fire)
    assert not cpu.is_pending(Irq.STIP)

    sbi(machine, Ext.TIME, 0, 0, 0)
    machine.call(machine._clock.fire)

    assert cpu.is_pending(Irq.STIP)


def test_hart_0_is_among_all_harts_of_a_32_bit_guest(build: Build) -> None:
    assert sbi(build(target="riscv32"), Ext.IPI, 0, 0, RV32.all_bits) == (Err.SUCCESS, 0)


@pytest.mark.parametrize(
    ("mask", "base", "error"),
    [(1, 0, Err.SUCCESS), (0, MASK64, Err.SUCCESS), (2, 0, Err.INVALID_PARAM), (1, 1, Err.INVALID_PARAM)],
)
def test_interrupts_and_fences_reach_hart_0_alone(mask: int, base: int, error: Err, build: Build) -> None:
    machine = build()
    assert sbi(machine, Ext.IPI, 0, mask, base) == (error, 0)
    assert board_of(machine).cpu.is_pending(Irq.SSIP) is (error is Err.SUCCESS)
    assert sbi(machine, Ext.RFENCE, 1, mask, base, 0, 4096) == (error, 0)


def test_hart_states(build: Build) -> None:
    machine = build()
    assert sbi(machine, Ext.HSM, 2, 0) == (Err.SUCCESS, 0)
    assert sbi(machine, Ext.HSM, 2, 1) == (Err.INVALID_PARAM, 0)
    assert sbi(machine, Ext.HSM, 0, 0) == (Err.ALREADY_AVAILABLE, 0)
    assert sbi(machine, Ext.HSM, 1) == (Err.FAILED, 0)


def test_the_debug_console_takes_bytes_from_guest_memory(tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(b"hello from below")
    console = MemoryChardev()
    config = MachineConfig(target="riscv64", memory=16 * MIB, kernel=tmp_path / "kernel")
    machine = Machine(config, find_target("riscv64"), console)

    assert sbi(machine, Ext.DBCN, 0, 5, RAM_BASE + KERNEL_OFFSET) == (Err.SUCCESS, 5)
    assert sbi(machine, Ext.DBCN, 2, ord("!")) == (Err.SUCCESS, 0)
    assert sbi(machine, Ext.DBCN, 0, 5, 0x1234) == (Err.INVALID_PARAM, 0)
    assert sbi(machine, Ext.DBCN, 0, 5, RAM_BASE + KERNEL_OFFSET, 1) == (Err.INVALID_PARAM, 0)
    assert sbi(machine, Ext.DBCN, 0, MASK64, MASK64)[0] == Err.INVALID_PARAM
    assert console.output == b"hello!"
    machine.close()


def test_a_shutdown_call_ends_a_running_guest(build: Build) -> None:
    machine = build()
    machine.call(lambda: setattr(machine._vcpu, "running", True))
    machine._state = RunState.RUNNING

    sbi(machine, Ext.SRST, 0, 0, 1)
    machine.call(lambda: None)

    assert machine.state is RunState.SHUTDOWN
    assert machine.exit_code == 1
    assert machine.over.is_set()


def test_a_reset_type_that_does_not_exist_is_refused(build: Build) -> None:
    assert sbi(build(), Ext.SRST, 0, 77) == (Err.INVALID_PARAM, 0)
