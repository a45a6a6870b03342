"""What every device is: something with a declared state that can be reset, saved and loaded.

A device gets what it needs by its constructor (an IrqLine, a clock, guest memory, an image), never the machine.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Generic, Protocol, TypeVar, cast

from migration.vmstate import State

StateT = TypeVar("StateT", bound=State)


class Device(Generic[StateT]):
    """A device of the machine; all its methods run on the vCPU thread.

    A subclass sets `STATE`, its state's class, or `UNMIGRATABLE`, a whole sentence that says why it can be neither saved nor
    moved and what to do about it. Setting neither is refused when the class is defined: no device forgets its state silently.
    """

    STATE: ClassVar[type[State] | None] = None
    UNMIGRATABLE: ClassVar[str] = ""

    state: StateT

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if (cls.STATE is None) == (not cls.UNMIGRATABLE):
            raise TypeError(f"{cls.__name__} must set either STATE or UNMIGRATABLE")

    def __init__(self, name: str) -> None:
        """`name` is the instance's name in a stream: unique in its machine and the same on both sides of a migration."""
        self.name = name
        self.reset()

    def reset(self) -> None:
        """Put the device in its state after power-on."""
        if self.STATE is not None:
            self.load(cast(StateT, self.STATE()))

    def save(self) -> StateT:
        """Return the state as it is now; called between slices with the device quiet."""
        return self.state

    def load(self, state: StateT) -> None:
        """Take over a checked state. Cannot fail."""
        self.state = state
        self.after_load()

    def prepared(self, state: StateT) -> AbstractContextManager[None]:  # noqa: ARG002 - for devices that need something
        """Hold what of the host a checked state needs, for `load` inside; EmuError, and nothing held, when it cannot be had.

        Called on any thread, with the guest held.
        """
        return nullcontext()

    def after_load(self) -> None:
        """Rebuild what is derived from `state` inside this device alone; line levels come with the controller."""


class Mmio(Protocol):
    """The register file of a device, as the bus calls it on the vCPU thread."""

    def read(self, offset: int, size: int) -> int:
        """Return the value of a `size`-byte (1, 2, 4, 8) load at `offset` from the region's start."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Carry out a `size`-byte store of `value` at `offset`."""
