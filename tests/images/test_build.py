"""The stored images are what their sources give, and are found by name."""

from __future__ import annotations

import shutil

import pytest
from elftools.elf.elffile import ELFFile

from emu.errors import ConfigError
from images import BUNDLED, bundled
from images.build import ISAS, check_image, main
from tests.live.machines import FIRST

each_isa = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[
                pytest.mark.skipif(
                    shutil.which(isa.compiler) is None, reason=f"{isa.compiler} ({isa.package}) is not installed"
                ),
                *([] if name in FIRST else [pytest.mark.every_target]),
            ],
        )
        for name, isa in ISAS.items()
    ],
)


@each_isa
def test_stored_image_is_what_its_sources_give(name: str) -> None:
    check_image(name)


def test_missing_compiler_names_the_debian_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")

    code = main(["--check", "riscv64"])

    assert code == 1
    assert capsys.readouterr().err == (
        "images.build: riscv64-linux-gnu-gcc is not installed; Debian's package is gcc-riscv64-linux-gnu\n"
    )


def test_unknown_isa_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["vax"])

    assert (code, capsys.readouterr().err) == (1, f"images.build: no ISA vax; known are {', '.join(ISAS)}\n")


def test_changed_image_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("images.build.compile_image", lambda _name: b"other")

    with pytest.raises(ConfigError, match=r"riscv64-tiny\.elf has \d+ bytes that differ from the 5 its sources give here"):
        check_image("riscv64")


@pytest.mark.parametrize("name", sorted(BUNDLED))
def test_code_and_data_never_share_a_page(name: str) -> None:
    with bundled(name).kernel() as path, path.open("rb") as file:
        segments = [segment.header for segment in ELFFile(file).iter_segments("PT_LOAD")]

    code, data = segments
    assert (code.p_flags, data.p_flags) == (5, 6)  # R-X, RW-
    assert data.p_vaddr % 4096 == 0
    assert code.p_vaddr + code.p_memsz <= data.p_vaddr


def test_unknown_bundled_image_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=f"no bundled image vax-tiny; known are {', '.join(sorted(BUNDLED))}"):
        bundled("vax-tiny")


def test_bundled_image_is_read_as_an_elf_file() -> None:
    assert bundled("riscv64-tiny").read()[:4] == b"\x7fELF"
