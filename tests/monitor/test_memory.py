"""`x`, `xp` and `print` on a real machine whose page table maps one page somewhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from emu.config import MachineConfig
from emu.machine import Machine
from emu.monitor.command import CommandError, Context
from emu.monitor.expression import LONGEST, evaluate
from emu.monitor.hmp import run_line
from targets import find_target
from targets.riscv.cpu import RiscvCpu
from targets.riscv.map import RAM_BASE
from tests.devices.fakes import MemoryChardev

Run = Callable[[str], str]
KERNEL = RAM_BASE + (2 << 20)
TABLE = RAM_BASE + (1 << 20)
VIRTUAL = 0xFFFF_FFC0_0000_0000  # the first of Sv39's upper half
DATA = bytes.fromhex("73700110 73104010 01a0") + b"hi\n\0\xff\xff\xff\xff"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A machine whose kernel, at KERNEL, is DATA, and is seen at VIRTUAL too, one gigabyte for one."""
    (tmp_path / "kernel").write_bytes(DATA)
    machine = Machine(
        MachineConfig(target="riscv64", memory=16 << 20, kernel=tmp_path / "kernel"), find_target("riscv64"), MemoryChardev()
    )

    def page() -> None:
        cpu = cast(RiscvCpu, machine.board.cpu)
        leaf = RAM_BASE >> 2 | 0xCF  # of 1 GiB: D A X W R V
        machine.board.memory.write(TABLE + 8 * 256, leaf.to_bytes(8, "little"))
        cpu.write_csr(cpu.width.csrs["satp"], 8 << 60 | TABLE >> 12)
        cpu.write(2, 0x1234)
        cpu.pc = VIRTUAL + KERNEL - RAM_BASE

    machine.call(page)
    ctx = Context(machine, lambda _code: None, started_at=0.0)
    yield lambda line: asyncio.run(run_line(ctx, line))
    machine.close()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("x/2i $pc", "0xffffffc000200000:  73 70 01 10  csrci sstatus, 2\n0xffffffc000200004:  73 10 40 10  csrw sie, zero"),
        ("x $pc", "ffffffc000200000: 0x10017073"),
        ("x/2xw $pc + 2 * 2", "ffffffc000200004: 0x10401073 0x6968a001"),
        ("x /2xh $pc", "ffffffc000200000: 0x7073 0x1001"),
        ("x/s $pc+10", r'ffffffc00020000a: "hi\n"'),
        ("x/3c $pc+10", r"ffffffc00020000a: 'h' 'i' '\n'"),
        ("x/dw $pc+14", "ffffffc00020000e:         -1"),
        ("x/uh $pc+14", "ffffffc00020000e: 65535"),
        ("x/ob $pc", "ffffffc000200000: 0163"),
        (
            "x/17xb 0x80200000 | 15 << 60",
            "Error: '0x80200000 | 15 << 60' is no expression of numbers, $registers and + - * / % & | ^ ~ ( )",
        ),
        ("xp/1xg 0x80200000", "0000000080200000: 0x1040107310017073"),
        ("x/2xw 0x80200000", "Cannot access memory"),
        ("xp/2xw 0xffffffc000200000", "Cannot access memory"),
        ("xp/xb 0x10000000", "Cannot access memory"),
        ("xp/6xw 0x80fffff8", "0000000080fffff8: 0x00000000 0x00000000\nCannot access memory"),
        ("xp/s 0", "Cannot access memory"),
        ("print $sp", "0x1234"),
        ("p/d $x2 - 0x1235", "-1"),
        ("p/c 104", "'h'"),
        ("p (1+2)*3 % 5 | 8", "0xc"),
        ("p ~0", "0xffffffffffffffff"),
        ("p 1/0", "Error: '1/0' divides by zero"),
        ("p $nothing", "Error: there is no register '$nothing', 'info registers' lists them"),
        ("p/2x 1", "Error: print shows one value as x, d, u, o or c"),
        ("p", "Error: expression is missing, usage: print[/FMT]|p[/FMT] expression"),
        ("x/q 1", "Error: format '/q' must be a count, one of x d u o c i s and one of b h w g"),
        ("x/-1x 1", "Error: format '/-1x' must be a count, one of x d u o c i s and one of b h w g"),
        ("x/xd 1", "Error: format '/xd' must be a count, one of x d u o c i s and one of b h w g"),
        ("x/65537xb 0", "Error: format '/65537xb' asks for more than 65536 bytes"),
        ("help x", "x[/FMT] address -- virtual memory dump starting at 'address': x/10i $pc"),
        ("stop/4i", "Error: extraneous characters at the end of line, usage: stop|s"),
    ],
)
def test_a_line_gives_its_text(run: Run, line: str, text: str) -> None:
    assert run(line) == text


def test_registers_are_shown_whole_and_by_both_names(run: Run) -> None:
    shown = run("info registers")

    for name in ("pc", "x2/sp", "x31/t6", "satp", "mip", "fcsr", "f0/ft0", "f31/ft11"):
        assert f" {name} " in shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "()",
        "a",
        "__import__('os')",
        "1 ** 9",
        "1 << 9",
        "1.5",
        "True",
        "'a'",
        "$",
        "$pc(1)",
        "(" * 150,
    ],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is no expression of numbers"):
        evaluate(text, {"pc": 1})


def test_a_long_expression_is_refused() -> None:
    with pytest.raises(CommandError, match=f"has {LONGEST + 1} characters, at most {LONGEST} are read"):
        evaluate("1" * (LONGEST + 1), {})
