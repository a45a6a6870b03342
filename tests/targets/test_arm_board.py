"""The board as its guest meets it: what boots, where it lies, and what PSCI answers."""

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
from targets.arm.board import VirtBoard
from targets.arm.boot import IMAGE_MAGIC, KERNEL_OFFSET
from targets.arm.map import RAM_BASE
from targets.arm.psci import AFFINITY_ON, NO_TRUSTED_OS, SMC64, SPEC_VERSION, Function, Ret
from tests.devices.fakes import MemoryChardev

MIB = 1 << 20
Build = Callable[..., Machine]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Builds stopped machines from MachineConfig arguments; without a kernel, one of nothing but zeros."""
    machines: list[Machine] = []

    def begin(**options: object) -> Machine:
        if "kernel" not in options:
            options["kernel"] = tmp_path / "kernel"
            (tmp_path / "kernel").write_bytes(bytes(16))
        target = str(options.pop("target", "arm64"))
        config = MachineConfig(target=target, **{"memory": 16 * MIB, **options})  # type: ignore[arg-type]  # passed on as they are
        machine = Machine(config, find_target(target), MemoryChardev())
        machines.append(machine)
        return machine

    yield begin
    for machine in machines:
        machine.close()


def board_of(machine: Machine) -> VirtBoard:
    assert isinstance(machine.board, VirtBoard)
    return machine.board


def test_a_kernel_is_entered_as_linux_wants_it(build: Build) -> None:
    board = board_of(build())
    registers = board.cpu.registers()

    assert registers["pc"] == RAM_BASE + KERNEL_OFFSET
    assert registers["pstate"] == 0x3C5  # EL1, all masked
    assert registers["sctlr_el1"] & 1 == 0
    assert board.memory.read(registers["x0"], 4) == b"\xd0\x0d\xfe\xed"
    assert [registers[f"x{n}"] for n in (1, 2, 3)] == [0, 0, 0]


def test_a_32_bit_kernel_is_entered_as_linux_wants_it(build: Build) -> None:
    board = board_of(build(target="arm"))
    registers = board.cpu.registers()

    assert registers["pc"] == RAM_BASE + KERNEL_OFFSET + 0x8000
    assert registers["cpsr"] == 0x1D3  # SVC, all masked, ARM state
    assert registers["sctlr"] & 1 == 0
    assert (registers["r0"], registers["r1"]) == (0, 0xFFFF_FFFF)
    assert board.memory.read(registers["r2"], 4) == b"\xd0\x0d\xfe\xed"


def test_an_elf_kernel_starts_at_its_entry(build: Build) -> None:
    with bundled("arm64-tiny").kernel() as path:
        board = board_of(build(kernel=path))

    assert board.cpu.pc == 0x4020_0000


def image_header(text_offset: int, image_size: int) -> bytes:
    return struct.pack("<8xQQ32x4s4x", text_offset, image_size, IMAGE_MAGIC)


def test_a_linux_image_lies_at_its_offset(build: Build, tmp_path: Path) -> None:
    (tmp_path / "Image").write_bytes(image_header(0x8_0000, MIB))

    board = board_of(build(kernel=tmp_path / "Image"))

    assert board.cpu.pc == RAM_BASE + KERNEL_OFFSET + 0x8_0000
    assert board.memory.read(board.cpu.pc + 56, 4) == IMAGE_MAGIC


def test_a_linux_image_reserves_the_memory_its_header_asks_for(build: Build, tmp_path: Path) -> None:
    (tmp_path / "Image").write_bytes(image_header(0, 15 * MIB))

    with pytest.raises(ConfigError, match="needs 15728640 bytes"):
        build(kernel=tmp_path / "Image")


def test_the_initrd_lies_below_the_tree(build: Build, tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"i" * 5000)
    board = board_of(build(initrd=tmp_path / "initrd"))

    at = RAM_BASE + board.memory.read(RAM_BASE, 16 * MIB).index(b"i" * 5000)

    assert at % 4096 == 0
    assert at + 5000 <= board.cpu.registers()["x0"]


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ({}, {"kernel": None}, "no kernel was given"),
        ({}, {"kernel": "missing"}, "kernel .*missing: No such file"),
        ({"kernel": bytes(16 * MIB)}, {}, "needs 16777216 bytes"),
        ({"kernel": b"\x7fELF garbage"}, {}, "kernel .*kernel:"),
        ({"initrd": bytes(15 * MIB)}, {"initrd": "initrd"}, "do not fit between kernel and device tree in 16 MiB"),
        ({}, {"bios": "kernel"}, "target arm64 runs no firmware"),
    ],
)
def test_what_cannot_boot_is_refused_in_one_line(
    files: dict[str, bytes], options: dict[str, object], words: str, build: Build, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    paths = {key: tmp_path / value if isinstance(value, str) else value for key, value in options.items()}
    if "kernel" in files:
        paths["kernel"] = tmp_path / "kernel"
    with pytest.raises(ConfigError, match=words) as refusal:
        build(**paths)
    assert "\n" not in str(refusal.value)


def test_a_32_bit_guest_gets_what_it_can_address(build: Build) -> None:
    with pytest.raises(ConfigError, match="4096 MiB of RAM are asked for, target arm has 3072 at most"):
        build(target="arm", memory=4 << 30)


def test_it_has_32_slots(build: Build, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(512))
    drives = tuple(DriveConfig(path=str(tmp_path / "disk"), id=f"drive{n}", readonly=True) for n in range(32))

    with pytest.raises(ConfigError, match="33 virtio devices are asked for, the board has 32 slots"):
        build(drives=drives)


def psci(machine: Machine, function: int, *args: int) -> int:
    """Make a call as the guest would; the answer as a signed number."""
    cpu = board_of(machine).cpu

    def call() -> int:
        for number, value in enumerate((function, *args)):
            cpu.write(number, value)
        assert cpu.on_call is not None
        cpu.on_call()
        return cpu.read(0)

    answer = machine.call(call)
    return answer - (1 << 64 if answer >> 63 else 0)


@pytest.mark.parametrize(
    ("function", "args", "answer"),
    [
        (Function.VERSION, (), SPEC_VERSION),
        (Function.MIGRATE_INFO_TYPE, (), NO_TRUSTED_OS),
        (Function.CPU_OFF, (), Ret.DENIED),
        (Function.CPU_SUSPEND | SMC64, (), Ret.SUCCESS),
        (Function.CPU_ON | SMC64, (0, 0, 0), Ret.ALREADY_ON),
        (Function.CPU_ON, (1, 0, 0), Ret.INVALID_PARAMETERS),
        (Function.AFFINITY_INFO, (0,), AFFINITY_ON),
        (Function.AFFINITY_INFO | SMC64, (1,), Ret.INVALID_PARAMETERS),
        (Function.FEATURES, (Function.SYSTEM_OFF,), Ret.SUCCESS),
        (Function.FEATURES, (Function.CPU_ON | SMC64,), Ret.SUCCESS),
        (Function.FEATURES, (Function.SYSTEM_OFF | SMC64,), Ret.NOT_SUPPORTED),
        (Function.FEATURES, (0x8000_0000,), Ret.NOT_SUPPORTED),  # SMCCC_VERSION
        (0x8400_000E, (), Ret.NOT_SUPPORTED),  # SYSTEM_SUSPEND
        (0, (), Ret.NOT_SUPPORTED),
    ],
)
def test_psci_answers(build: Build, function: int, args: tuple[int, ...], answer: int) -> None:
    assert psci(build(), function, *args) == answer


@pytest.mark.parametrize(("function", "code"), [(Function.SYSTEM_OFF, 0), (Function.FAILED_OFF, 1)])
def test_a_power_off_call_ends_a_running_guest(build: Build, function: Function, code: int) -> None:
    machine = build()
    machine.call(lambda: setattr(machine._vcpu, "running", True))
    machine._state = RunState.RUNNING

    psci(machine, function)
    machine.call(lambda: None)

    assert machine.state is RunState.SHUTDOWN
    assert machine.exit_code == code
    assert machine.over.is_set()


def test_a_reset_call_starts_the_guest_again(build: Build) -> None:
    machine = build()
    board_of(machine).cpu.pc = 0

    psci(machine, Function.SYSTEM_RESET)

    assert machine.call(lambda: board_of(machine).cpu.pc) == RAM_BASE + KERNEL_OFFSET


def test_the_tree_can_be_read_by_others(build: Build) -> None:
    board = board_of(build(append="console=ttyAMA0"))
    tree = board.memory.read(board.cpu.registers()["x0"], 64 << 10)

    size = int.from_bytes(tree[4:8], "big")
    assert b"console=ttyAMA0\0" in tree[:size]
    for compatible in (
        b"arm,cortex-a57\0",
        b"arm,pl011\0arm,primecell\0",
        b"arm,pl031\0",
        b"arm,armv8-timer\0",
        b"virtio,mmio\0",
    ):
        assert compatible in tree[:size]
