"""One suite over every device there is: what one of them promises, all keep.

A new one is asked for a line in DEVICES.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.clint import Clint
from devices.cmos import Cmos
from devices.generic_timer import GenericTimer
from devices.gicv2 import GicV2
from devices.goldfish_pic import GoldfishPic
from devices.goldfish_rtc import GoldfishRtc
from devices.i8254 import Pit
from devices.i8259 import PicPair
from devices.ns16550 import Ns16550
from devices.p9.hostfs import HostFs
from devices.p9.server import Server
from devices.p9.session import Session
from devices.pci import PciHost
from devices.pcpower import PcPower
from devices.pl011 import Pl011
from devices.pl031 import Pl031
from devices.plic import Plic
from devices.syscon import Syscon
from devices.tc1797_scu import Tc1797Scu
from devices.virtio.blk import VirtioBlk
from devices.virtio.mmio import VirtioMmio
from devices.virtio.p9 import VirtioP9
from devices.virtio.pci import VirtioPci
from devices.virtio.rng import VirtioRng
from emu.block.image import Image, open_image
from emu.config import DriveConfig
from emu.device import Device
from emu.engine.core import Engine
from emu.ioerror import OnError
from emu.irq import IrqLine
from migration.blockers import Blockers
from migration.stream import unpack
from migration.vmstate import State, Wire, dump, parse
from targets.riscv.cpu import RiscvCpu
from targets.riscv.sbi import Sbi
from tests.devices.fakes import FakeClock, MemoryChardev
from tests.devices.virtio.driver import InlineExecutor, Memory, Posts
from tests.migration.states import BUILT, Schema, classes, consistent

DRIVE = DriveConfig(path=Path("disk"), id="disk")
SCRATCH = tempfile.TemporaryDirectory(prefix="emu-conformance-")  # gone with the process
EVERY_DEVICE = cast("list[type[Device[Any]]]", classes(Device))
CONCRETE = [cls for cls in EVERY_DEVICE if not any(issubclass(other, cls) for other in EVERY_DEVICE if other is not cls)]


def no_line() -> IrqLine:
    return IrqLine(lambda _level: None)


@functools.cache
def share() -> HostFs:
    return HostFs(Path(SCRATCH.name), readonly=True, mapped=False)


@functools.cache
def disk() -> Image:
    path = Path(SCRATCH.name) / "disk"
    path.write_bytes(bytes(1 << 20))
    return open_image(str(path), "raw", read_only=False, active=True)


@functools.cache
def hart() -> RiscvCpu:
    return RiscvCpu(Engine("riscv64"), FakeClock())


def make_p9() -> VirtioP9:
    blockers = Blockers()
    session = Session(share(), lambda: blockers.add("The share is mounted."))
    return VirtioP9("p9", Memory(), Server(session), tag="host0", executor=InlineExecutor(), post=Posts())


def make_sbi() -> Sbi:
    return Sbi(
        "sbi",
        cpu=hart(),
        clock=FakeClock(),
        memory=Memory(),
        console=MemoryChardev(),
        power_off=lambda _code: None,
        request_reset=lambda: None,
    )


DEVICES: dict[type[Device[Any]], Callable[[], Device[Any]]] = {
    Clint: lambda: Clint("clint", msip=no_line(), mtip=no_line(), clock=FakeClock()),
    GenericTimer: lambda: GenericTimer("timer", FakeClock(), physical=no_line(), virtual=no_line()),
    GicV2: lambda: GicV2("gic", no_line()),
    GoldfishPic: lambda: GoldfishPic("pic", no_line()),
    GoldfishRtc: lambda: GoldfishRtc("rtc", no_line(), FakeClock()),
    Ns16550: lambda: Ns16550("serial", no_line(), MemoryChardev(), FakeClock()),
    Pl011: lambda: Pl011("serial", no_line(), MemoryChardev(), FakeClock()),
    Pl031: lambda: Pl031("rtc", no_line(), FakeClock()),
    Cmos: lambda: Cmos("rtc", no_line(), FakeClock()),
    PciHost: lambda: PciHost("pci", 0xC000_0000, [no_line() for _ in range(4)]),
    PcPower: lambda: PcPower("power", on_power_off=lambda _code: None, on_reset=lambda: None),
    PicPair: lambda: PicPair("pic", no_line()),
    Pit: lambda: Pit("pit", no_line(), FakeClock()),
    Plic: lambda: Plic("plic", no_line(), no_line()),
    Sbi: make_sbi,
    Syscon: lambda: Syscon("test", on_power_off=lambda _code: None, on_reset=lambda: None),
    Tc1797Scu: lambda: Tc1797Scu("scu", on_idle=lambda: None),
    VirtioBlk: lambda: VirtioBlk(
        "blk", Memory(), disk(), executor=InlineExecutor(), post=Posts(), on_error=OnError(DRIVE, lambda _error: None)
    ),
    VirtioMmio: lambda: VirtioMmio("slot", VirtioRng("rng", Memory()), no_line()),
    VirtioPci: lambda: VirtioPci("function", VirtioRng("rng", Memory()), no_line()),
    VirtioP9: make_p9,
    VirtioRng: lambda: VirtioRng("rng", Memory()),
}


def test_every_device_is_tested() -> None:
    movable = {cls for cls in CONCRETE if cls.STATE is not None}

    assert movable == set(DEVICES), "DEVICES must say how to build each device that has a state"


def test_every_device_that_cannot_move_says_why_in_a_sentence() -> None:
    reasons = [cls.UNMIGRATABLE for cls in CONCRETE if cls.STATE is None]

    assert [reason for reason in reasons if not (reason[0].isupper() and reason.endswith("."))] == []


def test_device_without_state_or_reason_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match="Forgetful must set either STATE or UNMIGRATABLE"):
        type("Forgetful", (Device,), {})


every_device = pytest.mark.parametrize("make", DEVICES.values(), ids=[cls.__name__ for cls in DEVICES])


@every_device
def test_fresh_devices_are_in_the_same_state_before_and_after_a_reset(make: Callable[[], Device[Any]]) -> None:
    device = make()
    fresh = dump(device.save())

    device.reset()

    assert dump(device.save()) == fresh == dump(make().save())


@every_device
@given(data=st.data())
@BUILT
def test_device_in_any_state_can_be_moved(make: Callable[[], Device[Any]], data: st.DataObject) -> None:
    here, there = make(), make()
    cls = cast("type[State]", here.STATE)
    here.load(parse(cls, cls.VMSTATE.version, data.draw(consistent(cls))))

    sent = dump(here.save())
    there.load(parse(cls, cls.VMSTATE.version, unpack(memoryview(msgpack.packb(sent)), "SECTION")))

    assert dump(there.save()) == sent


@every_device
@given(data=st.data())
@BUILT
def test_device_in_any_state_can_be_reset(make: Callable[[], Device[Any]], data: st.DataObject) -> None:
    device = make()
    fresh = dump(device.save())
    cls = cast("type[State]", device.STATE)
    device.load(parse(cls, cls.VMSTATE.version, {**cast(Schema, data.draw(consistent(cls))), **kept_by_reset(cls)}))

    device.reset()

    assert dump(device.save()) == fresh


def kept_by_reset(cls: type[State]) -> dict[str, Wire]:
    """What stays as it was: input that is on the line, outside the device, and how far a real-time clock was set."""
    return {name: value for name, value in dump(cls()).items() if name in ("backlog", "offset")}
