"""A session as it is saved: every fid with the file that it stands for, which the other side finds again by its path.

What a guest has open is opened once more there, with the same flags, and must be the same file: the identity of each was noted
when the guest stood still. Truncation and creation belong to the first open and are not repeated. Two things need no place: how
far a guest is in a directory comes with each of its messages, and locks are all granted, for its own kernel keeps them.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from devices.p9.fids import FIDS_MAX, OPEN_MAX, PATHS_MAX, Attribute, Fid, Fids
from devices.p9.hostfs import LASTING_FLAGS, NOT_THERE, HostFs
from devices.p9.identity import Identity
from devices.p9.paths import NAME_MAX, PATH_MAX, plain
from devices.p9.xattrs import VALUE_MAX
from emu.errors import MigrationError, StateError
from migration.vmstate import State, VMState, blob, flag, structs, u32, u64

log = logging.getLogger(__name__)

NAMED = 3  # files that a message names; of the rest it gives the number
FID_BYTES, OPEN_BYTES = 128, 320  # of a stream, beside paths and values
SAVED_MAX = 12 << 20  # bytes of a stream for one session, well below what a section may have
LOST = (*NOT_THERE, errno.EPERM, errno.EROFS, errno.ENXIO, errno.ETXTBSY)  # what opening says of the file, not of the host
NOWHERE = Identity(0, 0, 0)


@dataclass(slots=True, kw_only=True)
class FidState(State):
    """One fid and what it stood for: type, inode's qid and time of birth (ns, 0 unknown), all 0 where it led nowhere."""

    VMSTATE: ClassVar[VMState] = VMState("p9-fid", version=1, minimum=1)
    number: int = u32()
    uid: int = u32()
    path: bytes = blob(max_len=PATH_MAX)
    kind: int = u32(max=0xF000)
    qid: int = u64()
    born: int = u64()
    stale: bool = flag()

    @property
    def identity(self) -> Identity:
        """The file."""
        return Identity(self.kind, self.qid, self.born)

    def check(self) -> None:
        if stat.S_IFMT(self.kind) != self.kind:
            raise StateError(f"p9-fid.kind is {self.kind:#x}, must be within {stat.S_IFMT(0xFFFF):#x}")
        if self.kind == 0 and (self.qid or self.born):
            raise StateError(f"p9-fid.kind is 0, nothing, with qid {self.qid:#x} and born {self.born}")
        try:
            for name in self.path.split(b"/") if self.path else ():
                plain(name)
        except OSError as exc:
            raise StateError(f"p9-fid.path {self.path[:40]!r} leads out of a share: {exc.strerror}") from exc


@dataclass(slots=True, kw_only=True)
class OpenState(State):
    """An open file or directory."""

    VMSTATE: ClassVar[VMState] = VMState("p9-open", version=1, minimum=1)
    fid: int = u32()
    flags: int = u32(max=LASTING_FLAGS)  # open(2)'s that last

    def check(self) -> None:
        if self.flags & ~LASTING_FLAGS:
            raise StateError(f"p9-open.flags is {self.flags:#o}, must be within {LASTING_FLAGS:#o}")


@dataclass(slots=True, kw_only=True)
class AttributeState(State):
    """An extended attribute that is read, or gathered; `size` and `flags` are those announced."""

    VMSTATE: ClassVar[VMState] = VMState("p9-attribute", version=1, minimum=1)
    fid: int = u32()
    name: bytes = blob(max_len=NAME_MAX)
    value: bytes = blob(max_len=VALUE_MAX)
    size: int = u32(max=VALUE_MAX)
    flags: int = u32()
    written: bool = flag()


@dataclass(slots=True, kw_only=True)
class FidsState(State):
    """All fids of a session, and the share's own directory as its first side saw it."""

    VMSTATE: ClassVar[VMState] = VMState("p9-fids", version=1, minimum=1)
    root: int = u64()  # the qid and time of birth of the share
    root_born: int = u64()
    fids: list[FidState] = structs(FidState, max_len=FIDS_MAX)
    files: list[OpenState] = structs(OpenState, max_len=OPEN_MAX)
    attributes: list[AttributeState] = structs(AttributeState, max_len=OPEN_MAX)

    def check(self) -> None:
        numbers = {fid.number for fid in self.fids}
        if len(numbers) != len(self.fids):
            raise StateError(f"p9-fids.fids has {len(self.fids)} fids with {len(numbers)} numbers")
        if sum(len(fid.path) for fid in self.fids) > PATHS_MAX:
            raise StateError(f"p9-fids.fids has more than {PATHS_MAX} bytes of paths")
        used = [file.fid for file in self.files] + [attribute.fid for attribute in self.attributes]
        if len(set(used)) != len(used):
            raise StateError(f"p9-fids.files and p9-fids.attributes have {len(used)} fids, {len(set(used))} different ones")
        if unknown := set(used) - numbers:
            raise StateError(f"p9-fids.files and p9-fids.attributes have a fid {min(unknown)} that p9-fids.fids lacks")
        if not self.fids and (self.root or self.root_born):
            raise StateError(f"p9-fids.root is {self.root:#x}, must be 0 without fids")


def save(files: HostFs, fids: Fids) -> FidsState:
    """The session as it is, nothing under way, its data where the other side sees it. OSError when the host fails at that."""
    if not fids:
        return FidsState()
    root = files.root()
    state = FidsState(root=root.qid, root_born=root.born)
    ordered = sorted(fids.items(), key=lambda item: item[1].path)
    for (number, fid), seen in zip(ordered, files.identities(fid.path for _, fid in ordered), strict=True):
        found = fid.lost or (files.identity(fid.fd) if fid.fd >= 0 else seen) or NOWHERE
        state.fids.append(
            FidState(
                number=number,
                uid=fid.uid,
                path=fid.path,
                kind=found.kind,
                qid=found.qid,
                born=found.born,
                stale=fid.lost is not None,
            )
        )
        if fid.fd >= 0:
            files.publish(fid.fd)
            state.files.append(OpenState(fid=number, flags=files.flags(fid.fd)))
        elif (held := fid.attribute) is not None:
            attribute = AttributeState(fid=number, name=held.name, value=bytes(held.value), size=held.size)
            attribute.flags, attribute.written = held.flags, held.written
            state.attributes.append(attribute)
    return state


def obstacles(files: HostFs, fids: Fids, *, strict: bool) -> list[str]:
    """What keeps a session from being saved, as predicates of its share; with `strict` also names that lead elsewhere now."""
    found = []
    opened = sorted((fid for fid in fids if fid.fd >= 0), key=lambda fid: fid.path)
    nameless = []
    for fid, seen in zip(opened, files.identities(fid.path for fid in opened), strict=True):
        if seen is None or (strict and not seen.same(files.identity(fid.fd))):
            nameless.append(f"{os.fsdecode(fid.path)!r:.80}")
    if nameless:
        found.append(f"has files open that were deleted or replaced: {_first(nameless)}; close them in the guest")
    size = sum(FID_BYTES + len(fid.path) for fid in fids)
    size += sum(OPEN_BYTES + (len(fid.attribute.value) if fid.attribute else 0) for fid in fids)
    if size > SAVED_MAX:
        found.append(f"has {len(fids)} fids that take {size} bytes to save, at most {SAVED_MAX} are allowed")
    return found


def restore(files: HostFs, state: FidsState, fids: Fids, *, strict: bool) -> None:
    """Fill the empty `fids` with a saved session, its files open and the same as they were.

    A file that is not there any more is a MigrationError with `strict`, else its fids are stale. MigrationError, too, when the
    share is another directory, and OSError when the host cannot look; what is in `fids` then is the caller's to clear.
    """
    _check_root(files, state)
    _check_room(state, fids)
    _fill(fids, state)
    lost = _find(files, state, fids)
    if lost and strict:
        raise MigrationError(f"has other files than the guest knows: {_names(lost)}")
    if lost:
        log.warning("9p: these fids are stale, the share has other files than the guest knew: %s", _names(lost))


def lose(state: FidsState, fids: Fids) -> None:
    """Fill the empty `fids` with a saved session of which no file is left."""
    _fill(fids, state)
    for saved in state.fids:
        fids.any(saved.number).lost = saved.identity


def _check_root(files: HostFs, state: FidsState) -> None:
    ours, theirs = files.root(), Identity(stat.S_IFDIR, state.root, state.root_born)
    if state.fids and not ours.same(theirs):
        raise MigrationError(
            f"is another directory here (inode {ours.qid}) than the one that the guest has mounted (inode {theirs.qid}): "
            "both sides must see the same one"
        )


def _check_room(state: FidsState, fids: Fids) -> None:
    if len(state.fids) > fids.fids_max:
        raise MigrationError(f"has {len(state.fids)} fids, at most {fids.fids_max} are allowed here")
    if (held := len(state.files) + len(state.attributes)) > fids.open_max:
        raise MigrationError(f"has {held} files open, at most {fids.open_max} are allowed here")


def _fill(fids: Fids, state: FidsState) -> None:
    for saved in state.fids:
        fids.add(saved.number, Fid(saved.path, saved.uid, lost=saved.identity if saved.stale else None))
    for held in state.attributes:
        attribute = Attribute(held.name, bytearray(held.value), held.size, held.flags, held.written)
        fids.holds(fids.any(held.fid), attribute)


def _find(files: HostFs, state: FidsState, fids: Fids) -> dict[bytes, str]:
    """Open what was open; paths that do not lead to their file any more, with the reason, their fids stale."""
    flags = {file.fid: file.flags for file in state.files}
    lost: dict[bytes, str] = {}
    for saved, seen in zip(state.fids, files.identities(saved.path for saved in state.fids), strict=True):
        fid, wanted = fids.any(saved.number), saved.identity
        why = ""
        if fid.lost is not None or wanted == NOWHERE:
            continue
        if seen is None:
            why = "gone"
        elif not seen.same(wanted):
            why = "another file"
        elif saved.number in flags:
            why = _open(files, fids, fid, wanted, flags[saved.number])
        if why:
            fid.lost = wanted
            lost.setdefault(saved.path, why)
    return lost


def _open(files: HostFs, fids: Fids, fid: Fid, wanted: Identity, flags: int) -> str:
    """Open a fid's file; the reason why it is not to be had, empty when it is done."""
    try:
        found = files.find(fid.path)
        try:
            if not files.identity(found).same(wanted):  # it was the one a moment ago
                return "another file"
            fids.opens(fid, files.reopen(found, flags))
        finally:
            os.close(found)
    except OSError as exc:
        if exc.errno not in LOST:
            raise
        return exc.strerror or str(exc)
    return ""


def _names(lost: dict[bytes, str]) -> str:
    return _first([f"{os.fsdecode(path)!r:.80} ({why})" for path, why in lost.items()])


def _first(texts: Sequence[str]) -> str:
    """A few of them, for a message of one line."""
    rest = len(texts) - NAMED
    return ", ".join(texts[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
