"""docs/targets.md has every target and every CPU's section."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from targets import TARGETS
from tests.migration.test_conformance import STATES

TEXT = (Path(__file__).parents[2] / "docs" / "targets.md").read_text()
WORDS = set(re.findall(r"[\w-]+", TEXT))
SECTIONS = sorted(name for cls in STATES if (name := cls.VMSTATE.name).endswith("-cpu"))


@pytest.mark.parametrize("name", [*TARGETS, *SECTIONS])
def test_a_target_and_its_section_are_documented(name: str) -> None:
    assert name in WORDS
