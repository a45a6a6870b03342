"""The interrupt controller: gateways, priorities, claims, completions."""

from __future__ import annotations

import pytest

from devices.plic import CONTEXT_STRIDE, CONTEXTS_MAX, ENABLE_STRIDE, PRIORITY_MAX, SOURCES_MAX, Plic, PlicState, Reg
from emu.errors import StateError
from emu.irq import IrqLine
from migration.vmstate import Wire as WireValue
from migration.vmstate import dump, parse
from tests.devices.fakes import Wire

UART, DISK, LAST = 10, 1, 95
M, S = 0, 1


class Board:
    """A PLIC, the hart's external interrupt lines, and a driver that knows the registers."""

    def __init__(self) -> None:
        self.targets = Wire(), Wire()
        self.plic = Plic("plic", *(target.irq for target in self.targets), sources=LAST)
        self.lines = {source: self.plic.line(source) for source in (DISK, UART, 32, 33, LAST)}

    def read(self, offset: int) -> int:
        return self.plic.read(offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.plic.write(offset, 4, value)

    def enable(self, *sources: int, priority: int = 1, context: int = S) -> None:
        for source in sources:
            self.write(Reg.PRIORITY + 4 * source, priority)
            word = Reg.ENABLE + ENABLE_STRIDE * context + 4 * (source // 32)
            self.write(word, self.read(word) | 1 << source % 32)

    def set_threshold(self, threshold: int, context: int = S) -> None:
        self.write(Reg.CONTEXT + CONTEXT_STRIDE * context + Reg.THRESHOLD, threshold)

    def claim(self, context: int = S) -> int:
        return self.read(Reg.CONTEXT + CONTEXT_STRIDE * context + Reg.CLAIM)

    def complete(self, source: int, context: int = S) -> None:
        self.write(Reg.CONTEXT + CONTEXT_STRIDE * context + Reg.CLAIM, source)

    def is_pending(self, source: int) -> bool:
        return bool(self.read(Reg.PENDING + 4 * (source // 32)) >> source % 32 & 1)

    def raised(self, context: int = S) -> bool:
        return self.targets[context].level


@pytest.fixture
def board() -> Board:
    return Board()


def test_enabled_source_interrupts_its_context_alone(board: Board) -> None:
    board.enable(UART)

    board.lines[UART].set(True)

    assert board.raised(S)
    assert not board.raised(M)
    assert board.is_pending(UART)


def test_disabled_source_is_pending_but_silent(board: Board) -> None:
    board.write(Reg.PRIORITY + 4 * UART, 7)

    board.lines[UART].set(True)

    assert board.is_pending(UART)
    assert not board.raised()
    assert board.claim() == 0


def test_enabling_a_pending_source_interrupts(board: Board) -> None:
    board.lines[UART].set(True)

    board.enable(UART)

    assert board.raised()


def test_priority_0_never_interrupts(board: Board) -> None:
    board.enable(UART, priority=0)

    board.lines[UART].set(True)

    assert not board.raised()
    assert board.claim() == 0


def test_claim_takes_the_request_and_lowers_the_target(board: Board) -> None:
    board.enable(UART)
    board.lines[UART].set(True)

    claimed = board.claim()

    assert claimed == UART
    assert not board.raised()
    assert not board.is_pending(UART)
    assert board.claim() == 0


def test_line_still_high_at_completion_interrupts_again(board: Board) -> None:
    board.enable(UART)
    board.lines[UART].set(True)
    board.claim()

    before = board.raised()
    board.complete(UART)

    assert not before
    assert board.raised()
    assert board.claim() == UART


def test_line_low_at_completion_is_quiet_until_it_rises(board: Board) -> None:
    board.enable(UART)
    board.lines[UART].set(True)
    board.claim()
    board.lines[UART].set(False)
    board.complete(UART)
    quiet = board.raised()

    board.lines[UART].set(True)

    assert not quiet
    assert board.raised()


def test_line_that_pulses_while_claimed_is_one_level_at_completion(board: Board) -> None:
    board.enable(UART)
    board.lines[UART].set(True)
    board.claim()

    board.lines[UART].set(False)
    board.lines[UART].set(True)
    while_claimed = board.is_pending(UART)
    board.complete(UART)

    assert not while_claimed
    assert board.claim() == UART


def test_line_that_falls_leaves_its_request_pending(board: Board) -> None:
    board.enable(UART)
    board.lines[UART].set(True)

    board.lines[UART].set(False)

    assert board.raised()
    assert board.claim() == UART


def test_highest_priority_is_claimed_first_and_the_lowest_number_among_equals(board: Board) -> None:
    board.enable(DISK, UART, 33, priority=2)
    board.enable(32, LAST, priority=5)
    for line in board.lines.values():
        line.set(True)

    assert [board.claim() for _ in range(6)] == [32, LAST, DISK, UART, 33, 0]


def test_threshold_masks_priorities_up_to_it(board: Board) -> None:
    board.enable(UART, priority=3)
    board.lines[UART].set(True)

    board.set_threshold(3)
    masked = board.raised()
    board.set_threshold(2)

    assert not masked
    assert board.raised()


def test_claim_disregards_the_threshold(board: Board) -> None:
    board.enable(UART, priority=3)
    board.set_threshold(7)
    board.lines[UART].set(True)

    assert board.claim() == UART


def test_source_enabled_in_both_contexts_is_claimed_once(board: Board) -> None:
    board.enable(UART, context=M)
    board.enable(UART, context=S)
    board.lines[UART].set(True)
    both = board.raised(M), board.raised(S)

    claims = board.claim(M), board.claim(S)

    assert both == (True, True)
    assert claims == (UART, 0)
    assert (board.raised(M), board.raised(S)) == (False, False)


@pytest.mark.parametrize("source", [0, DISK, LAST + 1, 1023, 0xFFFF_FFFF])
def test_completing_what_was_not_claimed_is_ignored(board: Board, source: int) -> None:
    board.enable(DISK, UART)
    board.lines[UART].set(True)
    board.claim()
    before = dump(board.plic.save())

    board.complete(source)

    assert dump(board.plic.save()) == before


def test_completing_a_source_that_is_not_enabled_here_is_ignored(board: Board) -> None:
    board.enable(UART)
    board.lines[UART].set(True)
    board.claim()

    board.complete(UART, context=M)

    assert not board.is_pending(UART)


def test_priorities_and_thresholds_hold_three_bits(board: Board) -> None:
    board.write(Reg.PRIORITY + 4 * UART, 0xFFFF_FFFF)
    board.set_threshold(0xFFFF_FFFA)

    assert board.read(Reg.PRIORITY + 4 * UART) == PRIORITY_MAX
    assert board.read(Reg.CONTEXT + CONTEXT_STRIDE * S) == 2


def test_enable_bits_exist_for_sources_1_to_ndev(board: Board) -> None:
    words = [Reg.ENABLE + 4 * word for word in range(32)]
    for word in words:
        board.write(word, 0xFFFF_FFFF)

    assert [board.read(word) for word in words] == [0xFFFF_FFFE, 0xFFFF_FFFF, 0xFFFF_FFFF, *[0] * 29]


RESERVED = [0x0, 4 * (LAST + 1), 0xFFC, 0x1010, 0x1FFC, 0x2010, 0x2100, 0x1F_FFFC, 0x20_0008, 0x20_2000, 0x20_2004, 0x5F_FFFC]


@pytest.mark.parametrize("offset", [*RESERVED, Reg.PENDING])
def test_reserved_and_read_only_registers_take_nothing(board: Board, offset: int) -> None:
    before = dump(board.plic.save())

    board.write(offset, 0xFFFF_FFFF)

    assert board.read(offset) == 0
    assert dump(board.plic.save()) == before


@pytest.mark.parametrize(("offset", "size"), [(4, 1), (4, 2), (4, 8), (6, 4), (0x20_1004, 8)])
def test_other_widths_take_nothing(board: Board, offset: int, size: int) -> None:
    board.enable(DISK)
    board.lines[DISK].set(True)
    before = dump(board.plic.save())

    board.plic.write(offset, size, 7)

    assert board.plic.read(offset, size) == 0
    assert dump(board.plic.save()) == before


@pytest.mark.parametrize("source", [0, -1, LAST + 1])
def test_line_that_does_not_exist_is_our_mistake(board: Board, source: int) -> None:
    with pytest.raises(ValueError, match=r"has the sources 1\.\.95"):
        board.plic.line(source)


@pytest.mark.parametrize(("targets", "sources"), [(0, 95), (CONTEXTS_MAX + 1, 95), (1, 0), (1, SOURCES_MAX + 1)])
def test_controller_that_cannot_be_is_our_mistake(targets: int, sources: int) -> None:
    lines = [IrqLine(lambda _level: None)] * targets

    with pytest.raises(ValueError, match="a PLIC has"):
        Plic("plic", *lines, sources=sources)


def test_every_source_of_the_largest_controller_reaches_its_target() -> None:
    target = Wire()
    plic = Plic("plic", target.irq, sources=SOURCES_MAX)
    plic.write(Reg.PRIORITY + 4 * SOURCES_MAX, 4, 1)
    plic.write(Reg.ENABLE + 12, 4, 1 << 31)

    plic.line(SOURCES_MAX).set(True)

    assert target.level
    assert plic.read(Reg.CONTEXT + Reg.CLAIM, 4) == SOURCES_MAX


def test_claim_in_progress_and_line_levels_are_loaded(board: Board) -> None:
    board.enable(UART, DISK)
    board.lines[UART].set(True)
    board.claim()
    board.lines[DISK].set(True)
    there = Board()

    there.plic.load(parse(PlicState, 1, dump(board.plic.save())))
    driven_by_load = there.targets[S].changes
    first = there.claim()
    there.complete(UART)

    assert driven_by_load == 0  # the hart's pending bits come with the hart
    assert first == DISK
    assert there.claim() == UART


def test_target_that_was_high_at_the_save_falls_after_the_load(board: Board) -> None:
    board.enable(UART)
    board.lines[UART].set(True)
    there = Board()
    there.targets[S].level = True

    there.plic.load(parse(PlicState, 1, dump(board.plic.save())))
    there.claim()

    assert not there.raised()


def with_word(value: int) -> list[WireValue]:
    return [value, 0, 0, 0]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"priority": [1, *[0] * SOURCES_MAX]}, "plic.priority[0] is 1, source 0 does not exist"),
        ({"pending": with_word(1)}, "plic.pending[0] is 0x1, bit 0 must be 0"),
        (
            {"contexts": [{"enable": [0] * 4, "threshold": 0}, {"enable": with_word(3), "threshold": 0}]},
            "contexts[1].enable[0]",
        ),
        ({"pending": with_word(6), "claimed": with_word(4)}, "plic.pending[0] is 0x6, claimed[0] is 0x4"),
        ({"level": with_word(2)}, "plic.level[0] is 0x2, must be within pending and claimed (0x0)"),
    ],
)
def test_state_that_no_guest_can_reach_is_refused(fields: dict[str, WireValue], text: str) -> None:
    with pytest.raises(StateError) as caught:
        parse(PlicState, 1, {**dump(PlicState()), **fields})

    assert text in str(caught.value)
