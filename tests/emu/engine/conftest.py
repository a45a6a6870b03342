"""The CPU that the engine's contract is shown with."""

from collections.abc import Iterator

import pytest

from tests.emu.engine.riscv import BASE, HANDLER, Board


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board()
    made["mtvec"] = BASE + HANDLER
    yield made
    made.engine.close()
