"""The display of a migration's progress where there is no terminal."""

from __future__ import annotations

import io

from emu.cli.progress import BarProgress, PlainProgress, Snapshot
from migration.vmstate import Wire

MIB = 1 << 20


def query(status: str, remaining: int) -> dict[str, Wire]:
    ram: dict[str, Wire] = {
        "transferred": 3 * MIB,
        "remaining": remaining,
        "total": 64 * MIB,
        "mbps": 839,
        "dirty-sync-count": 2,
        "dirty-pages-rate": 17,
    }
    return {"status": status, "total-time": 40, "ram": ram}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_tells_what_was_sent_and_what_is_left() -> None:
    line = Snapshot.of(query("active", 5 * MIB)).line()
    assert line == "active: 3.0 MiB sent, 5.0 of 64 MiB left, 100 MiB/s, round 2, 17 pages/s dirtied"


def test_a_finished_migration_tells_its_downtime() -> None:
    line = Snapshot.of(query("completed", 0) | {"downtime": 7}).line()
    assert line.endswith("40 ms, downtime 7 ms")


def test_the_rate_of_the_first_round_is_the_mean_so_far() -> None:
    ram: dict[str, Wire] = {"transferred": 6 * MIB, "mbps": 0}
    assert "12 MiB/s" in Snapshot.of({"status": "active", "total-time": 500, "ram": ram}).line()


def test_disks_that_move_along_count_as_well() -> None:
    disk: dict[str, Wire] = {"transferred": MIB, "remaining": 2 * MIB, "total": 36 * MIB}
    line = Snapshot.of(query("active", 5 * MIB) | {"disk": disk}).line()
    assert line.startswith("active: 4.0 MiB sent, 7.0 of 100 MiB left")


def test_an_answer_without_numbers_is_shown_as_well() -> None:
    assert Snapshot.of({"status": "setup"}).line().startswith("setup: 0.0 MiB sent")


def test_there_is_one_line_a_second_and_one_at_the_end() -> None:
    clock, lines = Clock(), list[str]()
    progress = PlainProgress(lines.append, clock)

    progress.update(query("active", 9 * MIB))
    clock.now += 1.1
    progress.update(query("active", 8 * MIB))
    clock.now += 0.5
    progress.update(query("active", 7 * MIB))
    progress.update(query("completed", 0))
    progress.close()
    progress.close()

    assert [line.split(":")[0] for line in lines] == ["active", "completed"]
    assert "8.0 of 64 MiB" in lines[0]


def test_the_bar_shows_the_numbers_on_a_terminal() -> None:
    screen = io.StringIO()
    bar = BarProgress(screen)

    bar.update(query("active", 5 * MIB))
    bar.close()

    assert "active" in screen.getvalue()
    assert "round 2" in screen.getvalue()
