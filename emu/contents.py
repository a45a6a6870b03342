"""What a machine consists of, as whoever saves or moves its guest sees it (migration.protocols.Guest)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Never, cast

from emu.block.copy import DiskCopy
from emu.block.moved import MovedDisk
from emu.board import Board
from emu.clock import VirtualClock
from emu.config import MachineConfig
from emu.drives import Drives, compared
from emu.ram import Ram
from emu.ramcopy import RamCopy
from emu.snapshots import unsavable_reasons
from migration.blockers import Blockers
from migration.protocols import BLOCK, DirtyLog, RamBlock, Savable
from migration.vmstate import State, Wire


class Contents:
    """The half of a Machine that does not depend on whether its guest runs. The machine makes the parts."""

    config: MachineConfig
    blockers: Blockers
    drives: Drives
    board: Board
    _clock: VirtualClock

    def configuration(self) -> Mapping[str, Wire]:
        """What must be equal on both sides."""
        shares: dict[str, Wire] = {
            share.tag: {
                "readonly": share.readonly,
                "security": share.security,
                **({"migratable": True} if share.migratable else {}),
            }
            for share in self.config.shares
        }
        return {
            "target": self.config.target,
            "memory": self.config.memory,
            "uuid": self.config.uuid,
            **({"icount": True} if self.config.icount else {}),  # streams from before there was one have no such key
            # Before the board, whose devices differ as well when a drive is missing, which says less.
            "drives": compared(self.drives),
            "board": dict(self.board.configuration()),
            **({"shares": shares} if shares else {}),  # streams from before there were shares have none
        }

    def savables(self) -> Sequence[Savable]:
        """Clock, CPU, devices."""
        return (self._clock, self.board.cpu, *self.board.devices)

    def ram_blocks(self) -> Sequence[Ram]:
        """All guest RAM."""
        return self.board.rams

    def dirty_log(self, block: RamBlock) -> DirtyLog:
        """A new dirty log for one of `ram_blocks`."""
        return self.board.dirty_log(block)

    def blocked_reasons(self) -> list[str]:
        """Whole sentences, one for each thing that forbids saving and moving."""
        return [*self.blockers.reasons(), *(device.UNMIGRATABLE for device in self.board.devices if device.UNMIGRATABLE)]

    def unsavable_reasons(self) -> list[str]:
        """Whole sentences, one for each thing that forbids saving alone."""
        return unsavable_reasons(self.drives)

    def disk_copies(self) -> Sequence[DiskCopy]:
        """The disks whose content a snapshot keeps."""
        return [DiskCopy(drive.id, image) for drive, image in self.drives if not drive.readonly and drive.savevm == "copy"]

    def moved_disks(self) -> Sequence[MovedDisk]:
        """The disks that move with the guest when they are not shared."""
        return [MovedDisk(drive.id, image, BLOCK) for drive, image in self.drives if not drive.readonly]

    def copy_ram(self) -> RamCopy:
        """A copy of all RAM as it is now."""
        return RamCopy(self.board.rams)

    @contextlib.contextmanager
    def prepared(self, states: Sequence[tuple[Savable, State]]) -> Iterator[None]:
        """Hold what of the host these states need."""
        by_name = {savable.name: state for savable, state in states}
        with contextlib.ExitStack() as stack:
            for device in self.board.devices:
                stack.enter_context(device.prepared(cast(Never, by_name[device.name])))  # parsed as the class it declares
            yield

    def loaded(self) -> None:
        """RAM and devices were replaced."""
        self.board.loaded()
