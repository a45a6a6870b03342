"""What an engine is opened on, a library that is known and laid out as it says, and what it refuses to be asked."""

import subprocess
import sys
from dataclasses import replace

import pytest

from emu.engine import isas
from emu.engine.core import Engine
from emu.engine.isas import layout_of
from emu.engine.layout import UNICORN_2_1_4_X86_64
from emu.engine.repairs.codewatch import watch_code
from emu.engine.selftest import self_test
from emu.errors import EngineError
from tests.emu.engine.riscv import Board


def test_mapping_off_the_page_is_refused(board: Board) -> None:
    with pytest.raises(EngineError, match="map 0x1000 bytes at 0x20000010"):
        board.engine.map_mmio(0x2000_0010, 0x1000, board.read, board.write)


def test_unknown_function_is_an_error_that_names_it(board: Board) -> None:
    with pytest.raises(EngineError, match="no function fly_riscv64"):
        board.engine.function("fly", None)


def test_closing_twice_and_a_late_stop_are_harmless() -> None:
    engine = Engine("riscv64")
    engine.close()
    engine.close()
    engine.stop()


def test_unknown_build_is_refused_with_what_was_found_and_what_is_supported() -> None:
    found = replace(UNICORN_2_1_4_X86_64, version=(2, 2, 0))
    with pytest.raises(EngineError, match=r"found unicorn 2\.2\.0 on linux x86_64 .* supported is unicorn 2\.1\.4 on linux"):
        layout_of(found, "riscv64")


def test_unknown_isa_is_refused_with_those_there_are() -> None:
    with pytest.raises(EngineError, match=r"no CPU 'vax' .* there are .*riscv64"):
        Engine("vax")


def test_library_laid_out_differently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {UNICORN_2_1_4_X86_64: replace(isas.CORE[UNICORN_2_1_4_X86_64], uc_cpu=448)}
    monkeypatch.setattr(isas, "CORE", rows)
    with pytest.raises(EngineError, match="laid out differently"):
        Engine("riscv64")


@pytest.mark.parametrize("field", ["invalidate_fast", "invalidate_fast_slot", "protect", "protect_slot"])
def test_library_with_its_internal_calls_elsewhere_is_refused(field: str) -> None:
    core, layout = layout_of(UNICORN_2_1_4_X86_64, "riscv64")
    known = layout.calls
    with pytest.raises(EngineError, match="this library says it is unicorn 2"):
        watch_code("riscv64", replace(known, **{field: getattr(known, field) + 8}), core.uc_cpu)


def test_self_test_passes_on_this_build() -> None:
    self_test("riscv64")


@pytest.mark.parametrize(
    ("field", "offset", "failure"),
    [
        ("uc_no_exit_request", 2440, "a slice does not end at the head of a block"),
        ("cpu_halted", 33180, "a slice that was ended passes for a CPU that waits"),
    ],
)
def test_self_test_names_what_a_wrong_offset_breaks(
    monkeypatch: pytest.MonkeyPatch, field: str, offset: int, failure: str
) -> None:
    row = replace(isas.CORE[UNICORN_2_1_4_X86_64], **{field: offset})
    monkeypatch.setattr(isas, "CORE", {UNICORN_2_1_4_X86_64: row})
    with pytest.raises(EngineError, match=failure):
        self_test("riscv64")


def test_the_engine_does_not_import_the_unicorn_package() -> None:
    program = "import sys; from emu.engine.selftest import self_test; self_test('riscv64'); print('unicorn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
