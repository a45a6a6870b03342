"""`emu run`'s options: what they stand for, and what is told about a wrong one."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

import pytest

from emu.cli.main import Parser
from emu.cli.options import (
    MAX_CONFIG_FILE,
    Endpoint,
    EndpointKind,
    LogOptions,
    SessionOptions,
    add_arguments,
    merge_config,
    parse_machine,
    parse_session,
)
from emu.config import DriveConfig, MachineConfig, ShareConfig
from emu.errors import ConfigError

MIB = 1 << 20
UUID = "12345678-1234-5678-1234-567812345678"


def arguments(*words: str) -> argparse.Namespace:
    parser = Parser()
    add_arguments(parser)
    parsed = parser.parse_args(words)
    merge_config(parsed)
    return parsed


def machine(*words: str) -> MachineConfig:
    with ExitStack() as keep:
        return parse_machine(arguments("riscv64", *words), keep)


def drive(text: str) -> DriveConfig:
    return machine("--drive", text).drives[0]


@pytest.mark.parametrize(
    ("text", "size"), [("64M", 64 * MIB), ("1G", 1024 * MIB), ("512K", MIB // 2), ("64", 64 * MIB), ("2g", 2048 * MIB)]
)
def test_memory_has_a_unit_and_is_mib_without(text: str, size: int) -> None:
    bytes_or_mib = machine("--memory", text).memory
    assert bytes_or_mib == size


@pytest.mark.parametrize(
    ("text", "path", "channels"),
    [
        ("out.log", "out.log", ()),
        ("int", None, ("int",)),
        ("in_asm,exec", None, ("in_asm", "exec")),
        ("out.log,int,exec", "out.log", ("int", "exec")),
        ("a,,b,int", "a,b", ("int",)),
        ("./int", "int", ()),
    ],
)
def test_a_log_is_a_file_channels_or_both(text: str, path: str | None, channels: tuple[str, ...]) -> None:
    log = parse_session(arguments("riscv64", "--log", text)).log

    assert log == LogOptions(None if path is None else Path(path), channels)


@pytest.mark.parametrize("text", ["", "int,", "out.log,cpu", "int,out.log"])
def test_a_log_channel_that_does_not_exist_is_told_with_the_known_ones(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--log channel '.*' is unknown, known are in_asm, exec, int"):
        parse_session(arguments("riscv64", "--log", text))


def test_all_of_a_machine_can_be_given() -> None:
    config = machine(
        *("--kernel", "Image", "--initrd", "i.cpio", "--append", "console=ttyS0", "--bios", "fw.bin", "--no-rng", "--icount"),
        *("--name", "box", "--uuid", UUID.upper(), "--snapshots", "saved", "--memory", "128M"),
    )

    assert config == MachineConfig(
        target="riscv64",
        memory=128 * MIB,
        kernel=Path("Image"),
        initrd=Path("i.cpio"),
        append="console=ttyS0",
        bios=Path("fw.bin"),
        rng=False,
        icount=True,
        name="box",
        uuid=UUID,
        snapshots=Path("saved"),
    )


def test_a_bundled_guest_brings_its_kernel_and_memory() -> None:
    with ExitStack() as keep:
        config = parse_machine(arguments("riscv64-tiny"), keep)

        assert config.target == "riscv64"
        assert config.memory == 64 * MIB
        assert config.kernel is not None
        assert config.kernel.read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.img", DriveConfig(path="a.img", id="drive0")),
        ("a.img,readonly", DriveConfig(path="a.img", id="drive0", readonly=True)),
        ("a.img,readonly=off", DriveConfig(path="a.img", id="drive0")),
        ("a.img,id=root,serial=S1", DriveConfig(path="a.img", id="root", serial="S1")),
        ("a.img,locking=off", DriveConfig(path="a.img", id="drive0", locking=False)),
        ("a.img,locking=on", DriveConfig(path="a.img", id="drive0")),
        ("a.img,werror=stop,rerror=ignore", DriveConfig(path="a.img", id="drive0", werror="stop", rerror="ignore")),
        ("a,,b.img,format=raw", DriveConfig(path="a,b.img", format="raw", id="drive0")),
    ],
)
def test_drive_options(text: str, expected: DriveConfig) -> None:
    assert drive(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dir", ShareConfig(path=Path("dir"), tag="host0")),
        ("dir,readonly", ShareConfig(path=Path("dir"), tag="host0", readonly=True)),
        ("dir,tag=data,security=mapped", ShareConfig(path=Path("dir"), tag="data", security="mapped")),
        ("dir,migratable", ShareConfig(path=Path("dir"), tag="host0", migratable=True)),
        (
            "dir,migratable,on-mismatch=stale",
            ShareConfig(path=Path("dir"), tag="host0", migratable=True, on_mismatch="stale"),
        ),
        ("a,,b,readonly=off,security=none", ShareConfig(path=Path("a,b"), tag="host0")),
    ],
)
def test_share_options(text: str, expected: ShareConfig) -> None:
    assert machine("--share", text).shares == (expected,)


def test_shares_are_numbered_in_order() -> None:
    shares = machine("--share", "a", "--share", "b").shares
    assert [share.tag for share in shares] == ["host0", "host1"]


def test_help_says_what_the_guest_may_do_to_a_share() -> None:
    parser = Parser()
    add_arguments(parser)
    text = " ".join(parser.format_help().split())
    assert (
        "The guest may read, write, make and delete everything in DIR as the user that emu runs as, and nothing outside" in text
    )


def test_drives_are_numbered_in_order() -> None:
    drives = machine("--drive", "a.img", "--drive", "b.img").drives
    assert [drive.id for drive in drives] == ["drive0", "drive1"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--memory", "64X"), "--memory is '64X', must be a number"),
        (("--memory", "0"), "memory is 0 bytes, must be a multiple of 4096"),
        (("--drive", ""), "names no file"),
        (("--drive", "a.img,cache=none"), "'cache=none' is unknown"),
        (("--drive", "a.img,readonly=maybe"), "'readonly=maybe' is unknown"),
        (("--drive", "a.img,locking=auto"), "'locking=auto' is unknown"),
        (("--drive", "a.img,werror=retry"), "--drive werror is 'retry', must be one of enospc, stop, report, ignore"),
        (("--drive", "a.img,rerror=enospc"), "--drive rerror is 'enospc', must be one of stop, report, ignore"),
        (("--drive", "a.img,id=1"), "--drive id '1' must be a letter"),
        (("--drive", f"a.img,serial={'s' * 21}"), "at most 20 ASCII characters"),
        (("--drive", "a.img", "--drive", "b.img,id=drive0"), "drive id 'drive0' is given 2 times"),
        (("--share", ""), "names no directory"),
        (
            ("--share", "dir,cache=loose"),
            "'cache=loose' is unknown, known are readonly, migratable, tag=, security=, on-mismatch=",
        ),
        (("--share", "dir,migratable,on-mismatch=ignore"), "--share on-mismatch is 'ignore', must be one of abort, stale"),
        (("--share", "dir,on-mismatch=stale"), "--share on-mismatch=stale is for shares that are migratable"),
        (("--share", "dir,tag=a b"), "--share tag 'a b' must be 1..31"),
        (("--share", f"dir,tag={'t' * 32}"), "must be 1..31"),
        (("--share", "dir,security=passthrough"), "must be one of mapped, none"),
        (("--share", "a", "--share", "b,tag=host0"), "share tag 'host0' is given 2 times, must be given once"),
        (("--name", "../x"), "--name '../x' must be 1..64"),
        (("--name", ""), "--name '' must be 1..64"),
        (("--uuid", "1"), "--uuid '1' is no UUID"),
    ],
)
def test_a_wrong_machine_option_is_told_with_its_bound(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        machine(*words)
    assert told in str(caught.value)


def test_a_guest_must_be_named() -> None:
    with ExitStack() as keep, pytest.raises(ConfigError, match="no guest is named: give a bundled guest"):
        parse_machine(arguments(), keep)


def test_console_and_start_options() -> None:
    options = parse_session(
        arguments("riscv64", "--serial", "unix:s", "--monitor", "stdio", "--qmp", "unix:q", "--paused", "--incoming", "defer")
    )

    assert options == SessionOptions(
        serial=Endpoint(EndpointKind.UNIX, Path("s")),
        monitor=Endpoint(EndpointKind.STDIO),
        qmp="unix:q",
        paused=True,
        incoming="defer",
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--serial", "pty"), "--serial is 'pty', must be stdio or unix:PATH or file:PATH or none"),
        (("--serial", "unix:"), "--serial is 'unix:'"),
        (("--serial", "stdio:x"), "--serial is 'stdio:x'"),
        (("--monitor", "file:x"), "--monitor is 'file:x', must be stdio or unix:PATH or none"),
        (("--incoming", "tcp::1", "--loadvm", "a"), "--incoming and --loadvm exclude each other"),
    ],
)
def test_a_wrong_session_option_is_told(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_session(arguments("riscv64", *words))
    assert told in str(caught.value)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "box.toml"


def test_a_config_file_has_the_options_names(config_file: Path) -> None:
    config_file.write_text(
        'guest = "riscv64"\nmemory = "32M"\nno-rng = true\ndrive = ["a.img", "b.img,readonly"]\nserial = "none"\n'
        'share = ["dir", "other,readonly"]\n'
    )

    parsed = arguments("--config", str(config_file))
    with ExitStack() as keep:
        config = parse_machine(parsed, keep)

    assert (config.target, config.memory, config.rng) == ("riscv64", 32 * MIB, False)
    assert [drive.path for drive in config.drives] == ["a.img", "b.img"]
    assert [(share.path.name, share.readonly) for share in config.shares] == [("dir", False), ("other", True)]
    assert parse_session(parsed).serial == Endpoint(EndpointKind.NONE)


def test_the_command_line_goes_before_the_config_file_and_drives_and_shares_add_up(config_file: Path) -> None:
    config_file.write_text('guest = "arm64"\nmemory = 32\ndrive = "a.img"\nshare = "a"\n')

    config = machine("--config", str(config_file), "--memory", "64M", "--drive", "b.img", "--share", "b")

    assert (config.target, config.memory) == ("riscv64", 64 * MIB)
    assert [drive.path for drive in config.drives] == ["a.img", "b.img"]
    assert [share.tag for share in config.shares] == ["host0", "host1"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("memroy = 1", "'memroy' is no option, known are guest, kernel,"),
        ("no_rng = true", "'no_rng' is no option"),
        ("config = 'x'", "'config' is no option"),
        ("paused = 1", "paused is 1, must be true or false"),
        ("memory = 1.5", "memory has 1.5, must be text or a number"),
        ("memory = {}", "memory has {}, must be text or a number"),
        ("memory =", "Invalid value"),
        ("#" * (MAX_CONFIG_FILE + 1), f"more than {MAX_CONFIG_FILE} bytes"),
    ],
)
def test_a_wrong_config_file_is_told(config_file: Path, text: str, told: str) -> None:
    config_file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        arguments("--config", str(config_file))

    assert str(config_file) in str(caught.value)
    assert told in str(caught.value)


def test_a_missing_config_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        arguments("--config", str(tmp_path / "none.toml"))
