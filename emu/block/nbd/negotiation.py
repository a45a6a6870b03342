"""The beginning of an NBD connection: fixed newstyle, as all servers of today have it.

    server: NBDMAGIC IHAVEOPT flags          client: flags
    client: STRUCTURED_REPLY                 server: ACK, or any error: replies are simple then
    client: GO name, wants the block sizes   server: INFO EXPORT, INFO BLOCK_SIZE, ..., ACK

Missing: TLS, NBD_OPT_EXPORT_NAME for servers from before GO (2017), meta contexts.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from emu.block.nbd.wire import (
    GREETING,
    NEW_STYLE,
    OLD_STYLE,
    OPTION,
    OPTION_HEAD,
    OPTION_REPLY,
    OPTION_REPLY_HEAD,
    Export,
    Handshake,
    Info,
    Option,
    OptionReply,
    ServerLostError,
    Wire,
    printable,
)

MAX_OPTION_REPLY = 8192  # bytes; the longest have a string of up to 4096
MAX_OPTION_REPLIES = 32  # to one option; an export has six kinds of information
MAX_EXPORT = 1 << 62  # bytes; offsets of files have 63 bits
MAX_MINIMUM = 64 << 10  # bytes: the protocol's bound on the smallest block
MAX_PAYLOAD = 32 << 20  # bytes: what every server takes that does not say otherwise

REFUSALS = {  # NBD_REP_ERR_*
    1: "is too old: it does not know NBD_OPT_GO",
    2: "does not allow it",
    3: "calls the request invalid",
    4: "cannot do it on its platform",
    5: "wants TLS, which is not supported",
    6: "has no such export",
    7: "is shutting down",
    8: "wants block sizes",
    9: "finds the request too big",
}
NO_SUCH_EXPORT = 6


@dataclass(frozen=True, slots=True)
class Offer:
    """What the server has under the export's name."""

    size: int  # bytes
    flags: Export
    structured: bool  # replies come in chunks
    minimum: int = 1  # bytes; all offsets and lengths are multiples
    payload: int = MAX_PAYLOAD  # bytes of one read or write at most


class NoSuchExportError(ServerLostError):
    """Raised when a server says that it has no export of that name."""


def negotiate(wire: Wire, name: str, until: float) -> Offer:
    """Come to terms with a server that was just connected, by `until` (time.monotonic)."""
    magic, style = struct.unpack(">QQ", wire.receive(16, until))
    if magic != GREETING or style not in (NEW_STYLE, OLD_STYLE):
        raise ServerLostError(f"is none: it greets with {magic:#018x} {style:#018x}")
    flags = Handshake(int.from_bytes(wire.receive(2, until), "big")) if style == NEW_STYLE else Handshake(0)
    if Handshake.FIXED_NEWSTYLE not in flags:
        raise ServerLostError("is too old: it does not know fixed newstyle negotiation")
    wire.send([struct.pack(">I", flags & (Handshake.FIXED_NEWSTYLE | Handshake.NO_ZEROES))])
    kind, _answers = _ask(wire, Option.STRUCTURED_REPLY, b"", until)
    structured = kind == OptionReply.ACK
    raw = name.encode(errors="surrogateescape")
    request = struct.pack(f">I{len(raw)}sHH", len(raw), raw, 1, Info.BLOCK_SIZE)
    kind, answers = _ask(wire, Option.GO, request, until)
    if kind != OptionReply.ACK:
        code, words = kind - OptionReply.ERROR, printable(answers[-1])
        text = REFUSALS.get(code, f"refuses with error {code}") + (f" ({words})" if words else "")
        raise NoSuchExportError(text) if code == NO_SUCH_EXPORT else ServerLostError(text)
    return _offer({int.from_bytes(answer[:2], "big"): answer[2:] for answer in answers}, structured=structured)


def _ask(wire: Wire, option: Option, data: bytes, until: float) -> tuple[int, list[bytes]]:
    """How the server answers an option in the end, and what it tells before that, or with its refusal."""
    wire.send([OPTION_HEAD.pack(OPTION, option, len(data)), data])
    answers: list[bytes] = []
    for _ in range(MAX_OPTION_REPLIES):
        magic, answered, kind, length = OPTION_REPLY_HEAD.unpack(wire.receive(OPTION_REPLY_HEAD.size, until))
        if magic != OPTION_REPLY or answered != option:
            raise ServerLostError(f"answers option {option} with {magic:#x} for option {answered}")
        if length > MAX_OPTION_REPLY:
            raise ServerLostError(f"answers option {option} with {length} bytes, at most {MAX_OPTION_REPLY} are allowed")
        content = wire.receive(length, until)
        if kind == OptionReply.ACK:
            return kind, answers
        answers.append(content)
        if kind >= OptionReply.ERROR:
            return kind, answers
        if kind != OptionReply.INFO:
            raise ServerLostError(f"answers option {option} with reply type {kind}")
    raise ServerLostError(f"answers option {option} more than {MAX_OPTION_REPLIES} times")


def _offer(infos: dict[int, bytes], *, structured: bool) -> Offer:
    about = infos.get(Info.EXPORT, b"")
    if len(about) != 10:
        raise ServerLostError(f"tells of its export in {len(about)} bytes, must be 10")
    size, flags = struct.unpack(">QH", about)
    minimum, payload = 1, MAX_PAYLOAD
    if Info.BLOCK_SIZE in infos:
        if len(infos[Info.BLOCK_SIZE]) != 12:
            raise ServerLostError(f"tells its block sizes in {len(infos[Info.BLOCK_SIZE])} bytes, must be 12")
        minimum, _preferred, largest = struct.unpack(">III", infos[Info.BLOCK_SIZE])
        if not 1 <= minimum <= MAX_MINIMUM or minimum & (minimum - 1):
            raise ServerLostError(f"has a smallest block of {minimum} bytes, must be a power of two up to {MAX_MINIMUM}")
        payload = min(largest, MAX_PAYLOAD) // minimum * minimum
        if payload == 0:
            raise ServerLostError(f"has a largest block of {largest} bytes, the smallest has {minimum}")
    if size > MAX_EXPORT or size % minimum:
        raise ServerLostError(f"has an export of {size} bytes, must be blocks of {minimum} up to {MAX_EXPORT}")
    return Offer(size, Export(flags), structured, minimum, payload)
