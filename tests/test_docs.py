"""What the documentation points at is there."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
TESTS = {
    name
    for file in (REPOSITORY / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_test_that_is_named_exists(page):
    named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
    assert named and not named - TESTS


def test_there_is_a_line_for_each_pain_and_each_trap():
    page = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    pains, traps = page.split("## Thirty-one traps")
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", pains, re.MULTILINE)] == list(range(1, 26))
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", traps, re.MULTILINE)] == list(range(1, 32))
