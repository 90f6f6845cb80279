"""Sources are opened by name, and a new one takes a module and a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from impasto.dataset.pictures import stored_or_refused
from impasto.sources import hub_repository, local, opening, wikiart_org
from impasto.sources.opening import source_fingerprint
from impasto.sources.plan import Request
from impasto.sources.source import NOTHING_TO_FETCH, Row
from impasto.sources.wikiart import load_paintings

from ..small_sources import picture_bytes


class Atelier:
    """Three pictures that are painted when they are asked for, as a module of its own would define them."""

    name = "atelier"
    shard_names = ("easel",)
    notes = ("The paint is still wet.",)
    groups = None

    @staticmethod
    def recognises(source: str) -> bool:
        return source == "atelier"

    @staticmethod
    def fingerprint(datasets_root: Path, source: str) -> str:
        return "dry"

    @classmethod
    def open_source(cls, datasets_root: Path, request: Request) -> Atelier:
        return cls()

    def rows(self, progress) -> list[Row]:
        return [Row(0, number, "Me", "landscape", "", f"No. {number}", "", "") for number in range(3)]

    def place(self, row: Row) -> str:
        return f"atelier#{row.row}"

    def cost(self, folder: Path, rows):
        return NOTHING_TO_FETCH

    def store(self, folder: Path, rows, pool, tick) -> Iterator:
        for row in rows:
            tick("Painting")
            yield row, stored_or_refused(folder, picture_bytes(row.row, 64, 64))


def test_a_new_source_takes_a_module_and_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "OPENERS", (Atelier, *opening.OPENERS))
    assert source_fingerprint(tmp_path, "atelier") == "dry"
    planned = load_paintings(tmp_path, Request("atelier", "mine", count=2), plan_only=True).report
    assert "Nothing needs to be fetched" in planned and "The paint is still wet." in planned
    loaded = load_paintings(tmp_path, Request("atelier", "mine", count=2))
    assert [record.artist for record in loaded.dataset.records()] == ["Me", "Me"]
    assert "The paint is still wet." in loaded.report


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("wikiart.org", wikiart_org),
        (" WikiArt.org ", wikiart_org),
        ("huggan/wikiart", hub_repository),
        ("huggan/wikiart@refs/convert/parquet", hub_repository),
        ("museum", local),
        ("owner/name/more", local),  # refused there: no plain name
    ],
)
def test_a_name_says_which_kind_of_source_is_meant(source, kind):
    assert next(opener for opener in opening.OPENERS if opener.recognises(source)) is kind
