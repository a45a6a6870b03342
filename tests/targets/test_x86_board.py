"""The PC as its guest meets it: what boots, and how it ends."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.config import MachineConfig
from emu.errors import ConfigError
from emu.machine import Machine
from emu.runstate import RunState
from images import bundled
from targets import find_target
from targets.x86.boot import HEADER_MAGIC, INIT_SIZE, MAGIC, PREF_ADDRESS, VERSION
from targets.x86.map import COMMAND_LINE, ZERO_PAGE
from tests.devices.fakes import MemoryChardev

MIB = 1 << 20
GIB = 1 << 30
WAIT = 10
TARGETS = ("i386", "x86_64")
LOAD = 2 * MIB  # where the kernel below wants to be
Build = Callable[..., Machine]


def bzimage(path: Path, code: bytes, *, version: int = 0x20F, size: int = 0x2000) -> Path:
    """A kernel of the boot protocol whose two entries, 0x200 apart, are the same code."""
    setup = bytearray(2 * 512)
    setup[0x1F1] = 1
    setup[MAGIC - 2 : MAGIC] = b"\xeb\x66"
    setup[MAGIC : MAGIC + 4] = HEADER_MAGIC
    struct.pack_into("<H", setup, VERSION, version)
    struct.pack_into("<QI", setup, PREF_ADDRESS, LOAD, size)
    assert INIT_SIZE == PREF_ADDRESS + 8
    path.write_bytes(setup + code.ljust(0x200, b"\x90") + code)
    return path


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Builds stopped machines: build(target, code, **options of MachineConfig)."""
    machines: list[Machine] = []

    def begin(target: str, code: bytes = b"\xf4", **options: object) -> Machine:
        chosen: dict[str, object] = {"kernel": bzimage(tmp_path / "kernel", code), "memory": 16 * MIB, **options}
        config = MachineConfig(name="test", target=target, **chosen)  # type: ignore[arg-type]  # of the fields' types
        machines.append(Machine(config, find_target(target), MemoryChardev()))
        return machines[-1]

    yield begin
    for machine in machines:
        machine.close()


def ended(machine: Machine) -> int:
    """Run the guest to its end; its exit code."""
    machine.cont()
    assert machine.over.wait(WAIT)
    assert machine.state is RunState.SHUTDOWN
    return machine.exit_code


@pytest.mark.parametrize("target", TARGETS)
def test_hlt_with_interrupts_off_switches_the_machine_off(build: Build, target: str) -> None:
    assert ended(build(target)) == 0


@pytest.mark.parametrize("target", TARGETS)
def test_the_exit_code_is_that_of_the_debug_port(build: Build, target: str) -> None:
    code = bytes.fromhex("66ba0105 b003 ee ebfe")  # mov dx, 0x501; mov al, 3; out dx, al; jmp .

    assert ended(build(target, code)) == 7


@pytest.mark.parametrize("target", TARGETS)
def test_a_triple_fault_resets_the_machine(build: Build, target: str) -> None:
    # inc dword [0x5000]; cmp dword [0x5000], 2; je behind; ud2; hlt
    code = bytes.fromhex("ff042500500000 833c250050000002 7402 0f0b f4")
    if target == "i386":
        code = bytes.fromhex("ff0500500000 833d0050000002 7402 0f0b f4")

    assert ended(build(target, code)) == 0


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_answers_with_all_ones_where_nobody_is(build: Build, target: str) -> None:
    # mov ebx, 0xd0000000; mov eax, [ebx]; mov [ebx], ebx; inc eax; jnz .; hlt
    code = bytes.fromhex("bb000000d0 8b03 891b 83c001 75fe f4")

    assert ended(build(target, code)) == 0


@pytest.mark.parametrize("target", TARGETS)
def test_the_zero_page_tells_memory_and_command_line(build: Build, target: str) -> None:
    machine = build(target, append="console=ttyS0 quiet")
    ram = machine.board.rams[0].view

    assert bytes(ram[COMMAND_LINE : COMMAND_LINE + 20]) == b"console=ttyS0 quiet\0"
    page = bytes(ram[ZERO_PAGE : ZERO_PAGE + 4096])
    ranges = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * n) for n in range(page[0x1E8])]
    assert ranges[-1] == (MIB, 15 * MIB, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": MIB}, "has 2 MiB to 3 GiB of RAM, 1 MiB are asked for"),
        ({"memory": 4 * GIB}, "has 2 MiB to 3 GiB of RAM, 4096 MiB are asked for"),
        ({"memory": 2 * MIB}, "kernel .* needs 8192 bytes at 0x200000, which is not within RAM"),
        ({"bios": Path("bios")}, "runs no firmware"),
        ({"kernel": None}, "no kernel was given"),
        ({"append": "x" * 4096}, "the command line has 4096 bytes, at most 4095"),
    ],
)
def test_what_does_not_fit_is_one_sentence(build: Build, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build("x86_64", **options)


def test_a_kernel_of_an_old_protocol_is_refused(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has boot protocol 2\.10, needed is 2\.12 or newer"):
        build("x86_64", kernel=bzimage(tmp_path / "old", b"", version=0x20A))


def test_a_file_that_is_no_kernel_is_refused(build: Build, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ConfigError, match="neither an ELF file nor a bzImage"):
        build("x86_64", kernel=tmp_path / "text")


def test_a_kernel_of_the_other_width_is_refused(build: Build) -> None:
    with (
        bundled("i386-tiny").kernel() as kernel,
        pytest.raises(ConfigError, match="is for EM_386, this machine needs EM_X86_64"),
    ):
        build("x86_64", kernel=kernel)
