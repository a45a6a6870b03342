"""Pages on the wire: what is sent in a round, and what the other side does with zero pages."""

from __future__ import annotations

import msgpack
import numpy as np

from migration.pages import RamReceiver, merge_runs, page_numbers
from migration.protocols import PAGE
from migration.stream import Frame, Kind
from tests.migration.fakes import FakeRam


def runs(*pairs: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array(pairs, np.int64).reshape(-1, 2)


def ram_frame(pages: list[int], zero: list[int]) -> Frame:
    fields = {"block": "ram", "pages": np.array(pages, "<u4").tobytes(), "zero": np.array(zero, "<u4").tobytes()}
    packed = msgpack.packb(fields)
    data = b"\x01" * (PAGE * len(pages))
    return Frame(Kind.RAM, memoryview(len(packed).to_bytes(4, "little") + packed + data))


class WatchedRam(FakeRam):
    """RAM whose absent pages are marked: touching one would cost host memory."""

    def __init__(self) -> None:
        super().__init__()
        self.words[:] = 7


def test_pages_of_both_rounds_are_sent_once_and_in_order() -> None:
    merged = merge_runs(runs((4, 3), (20, 1)), runs((2, 4), (30, 2)))

    assert page_numbers(merged).tolist() == [2, 3, 4, 5, 6, 20, 30, 31]


def test_merging_nothing_with_nothing_gives_nothing() -> None:
    assert len(merge_runs(runs(), runs())) == 0


def test_a_zero_page_over_one_that_came_before_is_cleared() -> None:
    ram = FakeRam()
    receiver = RamReceiver([ram])
    receiver.take(ram_frame([3, 4], []))

    receiver.take(ram_frame([], [3]))

    assert not ram.words[3].any()
    assert ram.words[4].all()


def test_a_zero_page_that_is_absent_is_left_alone() -> None:
    ram = WatchedRam()

    RamReceiver([ram]).take(ram_frame([], [5]))

    assert ram.words[5].all()
