"""The device tree writer, judged by a reader of its own and by Debian's dtc."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emu.errors import ConfigError
from targets.devicetree import BEGIN_NODE, END, END_NODE, HEADER, MAGIC, PROP, Cells64, Node

HAS_DTC = shutil.which("dtc") is not None


@dataclass
class Parsed:
    """A node as read back."""

    name: str
    properties: dict[str, bytes] = field(default_factory=dict)
    children: dict[str, Parsed] = field(default_factory=dict)

    def at(self, path: str) -> Parsed:
        node = self
        for name in path.strip("/").split("/"):
            node = node.children[name]
        return node


class Reader:
    """Reads a structure block by the grammar of Devicetree Specification 0.4, 5.4.2."""

    def __init__(self, blob: bytes) -> None:
        (self.magic, self.total, structure, strings, reserve, *versions, self.strings_size, self.structure_size) = (
            HEADER.unpack(blob[: HEADER.size])
        )
        self.versions = versions
        self.reserve = blob[reserve:structure]
        self.structure = blob[structure : structure + self.structure_size]
        self.strings = blob[strings : strings + self.strings_size]
        self.offset = 0
        self.root = self.node(self.token())
        self.end = self.token()

    def token(self) -> int:
        (token,) = struct.unpack_from(">I", self.structure, self.offset)
        self.offset += 4
        return int(token)

    def node(self, token: int) -> Parsed:
        assert token == BEGIN_NODE
        end = self.structure.index(b"\0", self.offset)
        node = Parsed(self.structure[self.offset : end].decode())
        self.offset = (end + 4) // 4 * 4
        while (token := self.token()) != END_NODE:
            if token == PROP:
                size, name = self.token(), self.token()
                label = self.strings[name : self.strings.index(b"\0", name)].decode()
                node.properties[label] = self.structure[self.offset : self.offset + size]
                self.offset += (size + 3) // 4 * 4
            else:
                child = self.node(token)
                node.children[child.name] = child
        return node


def cells(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def sample() -> Node:
    root = Node("", {"#address-cells": 2, "#size-cells": 2, "model": "emu,sample", "compatible": ["emu,one", "emu,two"]})
    cpus = root.add(Node("cpus", {"#address-cells": 1, "#size-cells": 0}))
    cpu = cpus.add(Node("cpu@0", {"device_type": "cpu", "reg": 0, "compatible": "riscv"}))
    intc = cpu.add(Node("interrupt-controller", {"#interrupt-cells": 1, "#address-cells": 0, "interrupt-controller": True}))
    root.add(Node("memory@80000000", {"device_type": "memory", "reg": Cells64(0x8000_0000, 0x1_0000_0000)}))
    soc = root.add(Node("soc", {"#address-cells": 2, "#size-cells": 2, "compatible": "simple-bus", "ranges": True}))
    plic = Node("plic@c000000", {"reg": Cells64(0xC00_0000, 0x60_0000), "#interrupt-cells": 1, "#address-cells": 0})
    plic.properties["interrupt-controller"] = True
    plic.properties["interrupts-extended"] = [intc, 11, intc, 9]
    plic.properties["riscv,ndev"] = 95
    serial = Node("serial@10000000", {"reg": Cells64(0x1000_0000, 0x100), "interrupts": 10, "interrupt-parent": plic})
    soc.add(serial)  # refers to a node that is not there yet
    soc.add(plic)
    serial.properties["emu,raw"] = b"\x01\x02\x03"
    return root


def test_header_describes_the_blocks() -> None:
    blob = sample().to_bytes()

    reader = Reader(blob)

    assert reader.magic == MAGIC
    assert reader.total == len(blob)
    assert reader.versions == [17, 16, 0]
    assert reader.reserve == bytes(16)
    assert reader.end == END
    assert reader.offset == reader.structure_size
    assert HEADER.size + 16 + reader.structure_size + reader.strings_size == len(blob)


def test_every_kind_of_value_is_read_back() -> None:
    root = Reader(sample().to_bytes()).root

    assert root.properties["model"] == b"emu,sample\0"
    assert root.properties["compatible"] == b"emu,one\0emu,two\0"
    assert root.properties["#address-cells"] == cells(2)
    assert root.at("memory@80000000").properties["reg"] == cells(0, 0x8000_0000, 1, 0)
    assert root.at("soc").properties["ranges"] == b""
    assert root.at("soc/serial@10000000").properties["emu,raw"] == b"\x01\x02\x03"


def test_references_name_the_phandles_of_their_nodes_alone() -> None:
    root = Reader(sample().to_bytes()).root

    intc = root.at("cpus/cpu@0/interrupt-controller").properties["phandle"]
    plic = root.at("soc/plic@c000000").properties["phandle"]

    assert intc != plic
    assert root.at("soc/plic@c000000").properties["interrupts-extended"] == intc + cells(11) + intc + cells(9)
    assert root.at("soc/serial@10000000").properties["interrupt-parent"] == plic
    assert "phandle" not in root.at("soc/serial@10000000").properties


def test_children_and_properties_keep_their_order() -> None:
    root = Reader(sample().to_bytes()).root

    assert list(root.children) == ["cpus", "memory@80000000", "soc"]
    assert list(root.properties) == ["#address-cells", "#size-cells", "model", "compatible"]


def test_same_tree_gives_the_same_bytes() -> None:
    root = sample()

    assert root.to_bytes() == root.to_bytes() == sample().to_bytes()


@pytest.mark.skipif(not HAS_DTC, reason="dtc is not installed (Debian package device-tree-compiler)")
def test_dtc_reads_it_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "sample.dtb"
    path.write_bytes(sample().to_bytes())

    done = subprocess.run(["dtc", "-I", "dtb", "-O", "dts", path], capture_output=True, text=True, timeout=20, check=False)

    assert done.returncode == 0
    assert done.stderr == ""
    assert "riscv,ndev = <0x5f>;" in done.stdout


@pytest.mark.skipif(not HAS_DTC, reason="dtc is not installed (Debian package device-tree-compiler)")
def test_dtc_writes_the_same_structure(tmp_path: Path) -> None:
    path = tmp_path / "sample.dtb"
    path.write_bytes(sample().to_bytes())

    theirs = subprocess.run(["dtc", "-q", "-I", "dtb", "-O", "dtb", path], capture_output=True, timeout=20, check=True).stdout

    assert Reader(theirs).root == Reader(path.read_bytes()).root


def test_argument_that_is_no_utf8_passes_as_its_bytes() -> None:
    root = Node("", {"bootargs": b"caf\xe9".decode(errors="surrogateescape")})

    assert Reader(root.to_bytes()).root.properties["bootargs"] == b"caf\xe9\0"


def test_null_character_is_the_users_error() -> None:
    root = Node("", {})
    root.add(Node("chosen", {"bootargs": "quiet\0init=/bin/sh"}))

    with pytest.raises(ConfigError) as caught:
        root.to_bytes()

    assert str(caught.value) == "device tree property chosen: bootargs holds a null character, which ends a string there"


@pytest.mark.parametrize("value", [-1, 1 << 32, [0, 1 << 32], False])
def test_value_that_is_no_cell_is_our_mistake(value: int) -> None:
    root = Node("", {"reg": value})

    with pytest.raises(ValueError, match=r"/: reg is"):
        root.to_bytes()


def test_two_children_of_one_name_are_our_mistake() -> None:
    root = Node("", {})
    root.add(Node("cpus", {}))

    with pytest.raises(ValueError, match="'cpus' already"):
        root.add(Node("cpus", {}))


def test_reference_to_a_node_outside_the_tree_is_our_mistake() -> None:
    root = Node("", {"interrupt-parent": Node("plic@c000000", {})})

    with pytest.raises(ValueError, match="'plic@c000000' is referred to"):
        root.to_bytes()
