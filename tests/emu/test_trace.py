"""What a log tells of a guest that makes an ecall, takes an interrupt, hits a breakpoint, and switches itself off."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from emu.config import MachineConfig
from emu.engine.traps import Trap
from emu.errors import ConfigError
from emu.machine import Machine
from emu.symbols import Symbols, load_symbols
from emu.trace import Trace
from targets import find_target
from tests.devices.fakes import MemoryChardev
from tests.emu.elf import elf_with_symbols

WAIT = 10  # seconds; only a hang takes so long
START = 0x8020_0000
LABELS = {"start": 0, "raise": 0x20, "handler": 0x2C, "fault": 0x3C, "over": 0x4C}
CODE = bytes.fromhex(
    "97020000 9382c202 73905210 93080001 13080000 73000000"  # stvec = handler; li a7, 0x10 (BASE); li a6, 0; ecall
    "73604110 73600110"  # csrsi sie, 2 (SSIE); csrsi sstatus, 2 (SIE)
    "73604114 13000000 6f004002"  # raise: csrsi sip, 2 (SSIP); nop; j over
    "73704114 73232014 63540300 73002010"  # handler: csrci sip, 2; csrr t1, scause; bgez t1, fault; sret
    "73231014 13034300 73101314 73002010"  # fault: sepc += 4; sret
    "73001000 b7585253 9b884835 13080000 13050000 93050000 73000000"  # over: ebreak; SRST
)


def traced(folder: Path, caplog: pytest.LogCaptureFixture, *channels: str, target: str = "riscv64") -> list[str]:
    """The messages of a whole run."""
    kernel = folder / "kernel"
    kernel.write_bytes(elf_with_symbols(START, CODE, LABELS))
    machine = Machine(MachineConfig(target=target, memory=16 << 20, kernel=kernel), find_target(target), MemoryChardev())
    try:
        symbols = load_symbols((kernel, None))
        machine.call(lambda: Trace(machine.board, symbols, channels))
        with caplog.at_level(logging.DEBUG, "emu.trace"):
            machine.cont()
            assert machine.over.wait(WAIT)
    finally:
        machine.close()
    return [record.getMessage() for record in caplog.records if record.name == "emu.trace"]


def test_int_tells_number_meaning_and_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert traced(tmp_path, caplog, "int") == [
        "exception 8 (environment call) at 0x80200014 start+0x14",
        "interrupt 1 (supervisor software) at 0x80200024 raise+0x4",
        "exception 3 (breakpoint) at 0x8020004c over+0x0",
        "exception 8 (environment call) at 0x80200064 over+0x18",
    ]


def test_exec_tells_every_block_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocks = [message.removeprefix("Trace: ").split() for message in traced(tmp_path, caplog, "exec")]

    places = [place for _pc, place in blocks]
    assert places[:2] == ["start+0x0", "start+0xc"]
    assert places.count("handler+0x0") == 2
    assert places.index("raise+0x4") < places.index("over+0x0") < places.index("fault+0x0") < places.index("over+0x4")


def test_in_asm_tells_every_block_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocks = traced(tmp_path, caplog, "in_asm")

    assert blocks[0].splitlines() == [
        "IN: start+0x0",
        "0x80200000:  97 02 00 00  auipc t0, 0",
        "0x80200004:  93 82 c2 02  addi t0, t0, 0x2c",
        "0x80200008:  73 90 52 10  csrw stvec, t0",
    ]
    assert len(blocks) == len(set(blocks))
    lines = [line for block in blocks for line in block.splitlines()[1:]]
    assert sorted(int(line.split(":")[0], 16) for line in lines) == list(range(START, START + len(CODE), 4))


def test_channels_come_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = traced(tmp_path, caplog, "int", "exec", "in_asm")

    ecall = told.index("exception 8 (environment call) at 0x80200014 start+0x14")
    assert told[ecall - 1] == "Trace: 0x8020000c start+0xc"
    assert told[ecall - 2].startswith("IN: start+0xc\n")


@pytest.mark.parametrize(
    ("channels", "hooks"), [(["int"], ["traps"]), (["exec"], ["blocks"]), (["exec", "int"], ["blocks", "traps"])]
)
def test_only_what_is_asked_for_is_hooked(channels: list[str], hooks: list[str]) -> None:
    asked: list[str] = []
    engine = SimpleNamespace(
        isa="riscv64", trace_blocks=lambda _tracer: asked.append("blocks"), trace_traps=lambda _tracer: asked.append("traps")
    )

    Trace(SimpleNamespace(engine=engine, memory=None), Symbols([]), channels)  # type: ignore[arg-type]  # the part it uses

    assert asked == hooks


def test_a_channel_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="log channel 'cpu' is unknown, known are in_asm, exec, int"):
        Trace(SimpleNamespace(), Symbols([]), ["cpu"])  # type: ignore[arg-type]


def test_what_a_tracer_raises_stops_the_guest(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(elf_with_symbols(START, CODE, LABELS))
    machine = Machine(MachineConfig(target="riscv64", memory=16 << 20, kernel=kernel), find_target("riscv64"), MemoryChardev())
    engine = machine.board.engine

    def fail(trap: Trap) -> None:
        raise RuntimeError(trap.kind)

    machine.call(lambda: engine.trace_traps(fail))
    with pytest.raises(RuntimeError, match="exception"):
        machine.call(engine.run)
    machine.close()


def test_an_address_has_the_name_of_the_symbol_before_it() -> None:
    symbols = Symbols([(0x1000, 0x1100, "first"), (0x1080, 0x1100, "second")])

    assert [symbols.name(address) for address in (0xFFF, 0x1000, 0x107F, 0x1080, 0x10FF, 0x1100)] == [
        "",
        "first+0x0",
        "first+0x7f",
        "second+0x0",
        "second+0x7f",
        "",
    ]


def test_files_without_symbols_have_none(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"kernel")
    (tmp_path / "torn").write_bytes(b"\x7fELF\2")

    symbols = load_symbols((None, tmp_path / "raw", tmp_path / "torn", tmp_path / "missing"))

    assert symbols.name(START) == ""
