"""Writes flattened device trees (Devicetree Specification 0.4, chapter 5).

    header | memory reservations (none) | structure: nodes and properties | strings: property names, each once

    soc = root.add(Node("soc", {"compatible": "simple-bus", "ranges": True}))
    plic = soc.add(Node("plic@c000000", {"reg": Cells64(0xC000000, 0x600000), "interrupt-controller": True}))
    soc.add(Node("serial@10000000", {"reg": Cells64(0x10000000, 0x100), "interrupt-parent": plic}))
    blob = root.to_bytes()

A node that a property refers to gets a phandle when the tree is written. Trees are made here, never read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from emu.errors import ConfigError

MAGIC = 0xD00DFEED
VERSION, LAST_COMPATIBLE = 17, 16  # 5.2
BEGIN_NODE, END_NODE, PROP, END = 1, 2, 3, 9  # tokens (5.4.1)
HEADER = struct.Struct(">10I")
RESERVE_ENTRY = struct.Struct(">QQ")
PROP_HEADER = struct.Struct(">III")
TOKEN = struct.Struct(">I")
CELL_MAX = (1 << 32) - 1


class Cells64(tuple[int, ...]):
    """64-bit values, each two cells."""

    __slots__ = ()

    def __new__(cls, *values: int) -> Cells64:
        """From the values."""
        return super().__new__(cls, values)


# A string or list of strings (null-terminated), an int or list of ints (32-bit cells), 64-bit cells, bytes as they are, a Node
# (its phandle), or True (no value). Lists mix ints and Nodes.
Value: TypeAlias = "str | int | bool | bytes | Cells64 | Node | Sequence[str] | Sequence[int | Node]"


class Node:
    """One node: its name with unit address, and its properties."""

    def __init__(self, name: str, properties: Mapping[str, Value]) -> None:
        self.name = name
        self.properties = dict(properties)
        self.children: list[Node] = []

    def add(self, child: Node) -> Node:
        """Put `child` behind the other children and return it; two children of one name are a ValueError."""
        if any(sibling.name == child.name for sibling in self.children):
            raise ValueError(f"node {self.name or '/'!r} has a child {child.name!r} already")
        self.children.append(child)
        return child

    def to_bytes(self) -> bytes:
        """The flattened tree with this node as its root. The same tree gives the same bytes.

        A ConfigError when a string holds a null character, for those are the user's; other impossible values are a ValueError.
        """
        phandles: dict[Node, int] = {}
        _number(self, phandles)
        strings = _Strings()
        parts: list[bytes] = []
        _flatten(self, phandles, strings, parts)
        if missing := set(phandles) - set(_nodes(self)):
            raise ValueError(f"node {missing.pop().name!r} is referred to, but is not in the tree")
        structure = b"".join(parts) + TOKEN.pack(END)
        reserve = RESERVE_ENTRY.pack(0, 0)
        reserve_at = HEADER.size
        structure_at = reserve_at + len(reserve)
        strings_at = structure_at + len(structure)
        total = strings_at + len(strings.data)
        boot_cpu = 0
        header = (MAGIC, total, structure_at, strings_at, reserve_at, VERSION, LAST_COMPATIBLE, boot_cpu)
        return HEADER.pack(*header, len(strings.data), len(structure)) + reserve + structure + bytes(strings.data)


class _Strings:
    """The strings block (5.5)."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._offsets: dict[str, int] = {}

    def offset(self, name: str) -> int:
        if name not in self._offsets:
            self._offsets[name] = len(self.data)
            self.data += name.encode("ascii") + b"\0"
        return self._offsets[name]


def _nodes(node: Node) -> list[Node]:
    return [node, *(below for child in node.children for below in _nodes(child))]


def _number(node: Node, phandles: dict[Node, int]) -> None:
    """Give a phandle, from 1 on, to every node that a property in the tree refers to, in the order of the references."""
    for value in node.properties.values():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, Node):
                phandles.setdefault(item, len(phandles) + 1)
    for child in node.children:
        _number(child, phandles)


def _flatten(node: Node, phandles: dict[Node, int], strings: _Strings, parts: list[bytes]) -> None:
    parts += [TOKEN.pack(BEGIN_NODE), _padded(node.name.encode("ascii") + b"\0")]
    properties = dict(node.properties)
    if node in phandles:
        properties["phandle"] = phandles[node]
    for name, value in properties.items():
        data = _encode(value, phandles, f"{node.name or '/'}: {name}")
        parts += [PROP_HEADER.pack(PROP, len(data), strings.offset(name)), _padded(data)]
    for child in node.children:
        _flatten(child, phandles, strings, parts)
    parts.append(TOKEN.pack(END_NODE))


def _encode(value: Value, phandles: dict[Node, int], what: str) -> bytes:
    if value is True:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        if "\0" in value:
            raise ConfigError(f"device tree property {what} holds a null character, which ends a string there")
        return value.encode(errors="surrogateescape") + b"\0"  # an argument that is no UTF-8 passes as its bytes
    if isinstance(value, Cells64):
        return struct.pack(f">{len(value)}Q", *value)
    if isinstance(value, Node):
        return TOKEN.pack(phandles[value])
    if isinstance(value, bool):
        raise ValueError(f"{what} is False: leave the property out")  # noqa: TRY004 - the type is right, the value is not
    if isinstance(value, int):
        if not 0 <= value <= CELL_MAX:
            raise ValueError(f"{what} is {value:#x}, a cell holds 0..{CELL_MAX:#x}")
        return TOKEN.pack(value)
    return b"".join(_encode(item, phandles, what) for item in value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def device(name: str, base: int, size: int, compatible: Value, irq: tuple[Node, int] | None = None) -> Node:
    """A device with `size` bytes of registers at `base`, and its interrupt: controller and number."""
    node = Node(f"{name}@{base:x}", {"compatible": compatible, "reg": Cells64(base, size)})
    if irq is not None:
        controller, number = irq
        node.properties |= {"interrupt-parent": controller, "interrupts": number}
    return node
