"""A shared directory behind the 9P device, and the driver of a guest that uses it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from devices.p9 import wire
from devices.p9.hostfs import HostFs
from devices.p9.server import Server
from devices.p9.session import Session
from devices.p9.wire import Type
from devices.virtio.mmio import VirtioMmio
from devices.virtio.p9 import VirtioP9, VirtioP9State
from devices.virtio.workers import Executor
from migration.blockers import Blockers
from migration.vmstate import dump, parse
from tests.devices.virtio.driver import Driver, HeldExecutor, Memory, Posts, Sent

REASON = "The share is mounted."
MSIZE = 64 << 10
FILE = bytes(range(256)) * 64


class Share:
    """A share and the driver of a guest that uses it."""

    def __init__(self, root: Path, executor: Executor, *, migratable: bool = False) -> None:
        self.posts = Posts()
        self.memory = Memory()
        self.blockers = Blockers()
        self.files = HostFs(root, readonly=False, mapped=False)
        self.executor = executor
        self.driver = Driver(self.new_device(migratable=migratable), self.memory).start()

    def new_device(self, *, migratable: bool = False, keep_stale: bool = False) -> VirtioP9:
        self.session = Session(self.files, None if migratable else lambda: self.blockers.add(REASON))
        server = Server(self.session)
        device = VirtioP9(
            "p9", self.memory, server, tag="host0", executor=self.executor, post=self.posts, keep_stale=keep_stale
        )
        self.blockers.ask(device.obstacles)
        return device

    def move(self, *, migratable: bool = True, keep_stale: bool = False) -> None:
        """Go on with another device, which has the state of the one before, unless it refuses with a MigrationError."""
        old, bus = self.driver.device, self.driver.bus
        state = parse(VirtioP9State, 1, dump(old.save()))
        fresh = self.new_device(migratable=migratable, keep_stale=keep_stale)
        with fresh.prepared(state):
            fresh.load(state)
        self.driver.device, self.driver.bus = fresh, VirtioMmio("mmio-p9", fresh, self.driver.line.irq)
        self.driver.bus.load(bus.save())
        old.reset()

    def send(self, kind: int, body: bytes, payload: bytes = b"", room: tuple[int, ...] = (11, 4096), tag: int = 1) -> Sent:
        message = wire.message(kind, tag, body, len(payload))
        return self.driver.add([message, payload] if payload else [message], room, indirect=True)

    def ask(self, kind: int, body: bytes, payload: bytes = b"", room: tuple[int, ...] = (11, 4096)) -> bytes:
        """The whole reply."""
        sent = self.send(kind, body, payload, room)
        self.driver.kick()
        self.posts.run()
        [(head, length)] = self.driver.used()
        reply = self.driver.content(sent)
        assert head == sent.head
        assert struct.unpack_from("<I", reply)[0] == length
        return reply[:length]

    def mount(self) -> None:
        self.ask(Type.VERSION, wire.u32(MSIZE) + wire.string(wire.VERSION))
        reply = self.ask(Type.ATTACH, struct.pack("<IIHHI", 0, 0xFFFF_FFFF, 0, 0, 0))
        assert reply[4] == Type.ATTACH + 1

    def files_of_a_session(self, held: HeldExecutor) -> None:
        """Mount and open a file with workers that must be told to begin."""
        for kind, body in (
            (Type.VERSION, wire.u32(MSIZE) + wire.string(wire.VERSION)),
            (Type.ATTACH, struct.pack("<IIHHI", 0, 0xFFFF_FFFF, 0, 0, 0)),
            (Type.WALK, struct.pack("<II", 0, 1) + wire.strings([b"file"])),
            (Type.LOPEN, struct.pack("<II", 1, 0)),
        ):
            self.send(kind, body)
            self.driver.kick()
            held.run()
            self.posts.run()
        assert len(self.driver.used()) == 4

    def open_file(self, fid: int = 1) -> None:
        self.ask(Type.WALK, struct.pack("<II", 0, fid) + wire.strings([b"file"]))
        reply = self.ask(Type.LOPEN, struct.pack("<II", fid, 2))
        assert reply[4] == Type.LOPEN + 1


Begin = Callable[..., Share]
