"""`emu analyze`: what a stream holds, without the machine; of a damaged one, all up to the damage."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import cast

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.cli.analyze import MAX_DEPTH
from emu.cli.main import main
from migration.channel import Channel, connect, parse_uri
from migration.protocols import BLOCK, PAGE
from migration.stream import Kind, StreamWriter
from migration.vmstate import Wire
from tests.emu.block.qcow2.tools import create, needs_qemu_img, qemu_img

BLOB = bytes(range(100))
PAGES = 3
GOLDEN = Path(__file__).parents[1] / "golden"


def write_stream(path: Path, *sections: dict[str, Wire], header: int = 0) -> None:
    """A stream as a one-way migration writes it, `header` bytes into a file."""
    path.write_bytes(bytes(header))
    channel = connect(parse_uri(f"file:{path},offset={header}"))
    writer = StreamWriter(channel)
    writer.start()
    writer.frame(Kind.CONFIG, {"machine": {"target": "riscv64", "memory": 64 << 20}, "two-way": False})
    numbers = np.arange(PAGES, dtype="<u4").tobytes()
    writer.frame(Kind.RAM, {"block": "ram", "pages": numbers, "zero": numbers[:8]}, memoryview(bytes(PAGES * PAGE)))
    for section in sections or ({"name": "clock", "type": "clock", "version": 1, "fields": {"now": 7, "fifo": BLOB}},):
        writer.frame(Kind.SECTION, section)
    writer.frame(Kind.DESCRIPTION, {"sections": {"clock": {"type": "clock"}}})
    writer.frame(Kind.END, {"run": True})
    channel.close()


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    write_stream(tmp_path / "stream")
    return tmp_path / "stream"


def analyze(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Wire], str]:
    code = main(["analyze", *words])
    out, err = capsys.readouterr()
    return code, cast("dict[str, Wire]", json.loads(out)), err


def test_disks_that_moved_along_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    channel = connect(parse_uri(f"file:{tmp_path / 'stream'}"))
    writer = StreamWriter(channel)
    writer.start()
    for blocks in (1, 2):
        fields: dict[str, Wire] = {"disk": "root", "blocks": bytes(4 * blocks), "zero": bytes(8)}
        writer.frame(Kind.DISK, fields, memoryview(bytes(blocks * BLOCK)))
    writer.frame(Kind.END, {"run": True})
    channel.close()

    code, shown, _err = analyze(capsys, str(tmp_path / "stream"))

    assert code == 0
    assert shown["disks"] == {"root": {"frames": 2, "bytes": 3 * BLOCK, "zero_runs": 2}}


def test_a_whole_stream_is_shown(stream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown, err = analyze(capsys, str(stream))

    assert (code, err) == (0, "")
    assert shown["machine"] == {"target": "riscv64", "memory": 64 << 20}
    assert shown["bytes"] == stream.stat().st_size
    assert shown["ram"] == {
        "ram": {"frames": 1, "pages": PAGES, "zero_pages": 2, "mapped_bytes": 0, "mapped_at": None},
    }
    assert shown["description"] == {"sections": {"clock": {"type": "clock"}}}
    assert shown["end"] == {"run": True}
    assert "error" not in shown


def test_bytes_are_hexadecimal_and_shortened(stream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _code, shown, _err = analyze(capsys, str(stream))

    assert shown["sections"] == [
        {"name": "clock", "type": "clock", "version": 1, "fields": {"now": 7, "fifo": f"{BLOB[:32].hex()}… (100 bytes)"}}
    ]


def test_full_shows_all(stream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _code, shown, _err = analyze(capsys, "--full", str(stream))
    assert BLOB.hex() in json.dumps(shown["sections"])


def test_a_stream_behind_a_header_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_stream(tmp_path / "stream", header=5000)

    code, shown, _err = analyze(capsys, f"{tmp_path / 'stream'},offset=5000")

    assert (code, shown["end"]) == (0, {"run": True})


def test_a_snapshots_mapped_ram_is_told_by_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "snapshot"
    with path.open("w+b") as file:
        channel = Channel(None, file.fileno(), two_way=False, label=str(path))
        writer = StreamWriter(channel)
        writer.start()
        writer.frame(Kind.MAP, {"block": "ram", "size": 4 * PAGE})
        file.seek(5 * PAGE)
        writer.frame(Kind.END, {"run": False})

        code, shown, _err = analyze(capsys, str(path))

    assert code == 0
    assert shown["ram"] == {
        "ram": {"frames": 0, "pages": 0, "zero_pages": 0, "mapped_bytes": 4 * PAGE, "mapped_at": PAGE},
    }


def test_a_stream_cut_short_shows_what_stood_before(stream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = stream.read_bytes()
    stream.write_bytes(whole[:-20])

    code, shown, err = analyze(capsys, str(stream))

    assert code == 1
    assert [cast("dict[str, Wire]", section)["name"] for section in cast("list[Wire]", shown["sections"])] == ["clock"]
    assert shown["end"] is None
    assert "bytes short of" in cast(str, shown["error"])
    assert err == f"emu: error: {shown['error']}\n"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bits=st.integers(0, 255))
def test_no_damage_is_more_than_one_line(
    stream: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, place: float, bits: int
) -> None:
    """`bits` are inverted at `place`; none inverted stands for a stream that ends there."""
    damaged = bytearray(stream.read_bytes())
    at = int(place * len(damaged))
    damaged[at] ^= bits
    (tmp_path / "damaged").write_bytes(damaged if bits else damaged[:at])

    code, shown, err = analyze(capsys, str(tmp_path / "damaged"))

    assert code == 1
    assert shown["error"]
    assert err.count("\n") == 1
    assert err.startswith("emu: error: ")


def test_a_value_nested_without_end_is_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nested: Wire = 1
    for _ in range(400):
        nested = [nested]
    write_stream(tmp_path / "stream", {"name": "x", "type": "x", "version": 1, "fields": nested})

    code, shown, _err = analyze(capsys, str(tmp_path / "stream"))

    assert code == 0
    assert f"nested more than {MAX_DEPTH} deep" in json.dumps(shown["sections"], ensure_ascii=False)


def test_a_value_that_json_has_not_is_shown_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = cast(Wire, msgpack.ExtType(5, b"x"))
    write_stream(tmp_path / "stream", {"name": "x", "type": "x", "version": 1, "fields": [odd, cast(Wire, 1.5)]})

    code, shown, _err = analyze(capsys, str(tmp_path / "stream"))

    assert code == 0
    assert "ExtType" in json.dumps(shown["sections"])


@pytest.mark.parametrize(
    ("name", "told"), [("none", "No such file or directory"), (",offset=x", "offset 'x' must be a number")]
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, told: str) -> None:
    code = main(["analyze", str(tmp_path / name)])

    assert code == 1
    assert told in capsys.readouterr().err


def test_the_states_inside_a_qcow2_image_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "disk"
    image.write_bytes(gzip.decompress((GOLDEN / "riscv64-tiny-1.qcow2.gz").read_bytes()))

    code, shown, err = analyze(capsys, str(image))

    assert (code, err) == (0, "")
    (snapshot,) = cast("list[dict[str, dict[str, dict[str, Wire]]]]", shown["snapshots"])
    assert snapshot["state"]["machine"]["target"] == "riscv64"
    assert cast("list[dict[str, str]]", snapshot["state"]["sections"])[0]["name"] == "clock"


@needs_qemu_img
def test_a_snapshot_of_a_disk_alone_has_no_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = create(tmp_path / "disk.qcow2", 1 << 20)
    qemu_img("snapshot", "-c", "before", image)

    code, shown, err = analyze(capsys, str(image))

    assert (code, err, shown) == (0, "", {"snapshots": [{"id": "1", "tag": "before", "state": None}]})
