"""The rows of sd-scripts' keys: what every one of them needs, so that a row more goes all the way by itself."""

import pytest
from impasto.dataset import config_reader
from impasto.dataset.config_schema import BY_NAME, KEYS
from impasto.dataset.config_writer import TomlSettings, write_dataset_toml
from impasto.dataset.schema_key import BUCKETS

from .test_config_writer import captioned

ANOTHER = {bool: True, int: 7, float: 0.5, str: "x"}
WRITTEN = [key.name for key in KEYS if key.widget and not key.refused and key.part != BUCKETS]


def test_a_name_is_in_one_row():
    assert len(BY_NAME) == len(KEYS)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_graph_gives_a_key_in_one_way_or_is_told_why_not(key):
    assert [bool(way) for way in (key.widget, key.line, key.not_in_graph)].count(True) == 1


@pytest.mark.parametrize("key", [key for key in KEYS if key.widget], ids=lambda key: key.name)
def test_a_widget_offers_what_the_writer_takes(key):
    if key.kind in (int, float):
        least, most, _ = key.widget.offered or (key.least, key.most, 0)
        assert least >= (key.least or 0) and (key.most is None or most <= key.most)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_the_writer_writes_the_reader_reads(tmp_path, name):
    key = BY_NAME[name]
    other = {key.only_with: ANOTHER[BY_NAME[key.only_with].kind]} if key.only_with else {}
    settings = TomlSettings(cached_text=False, cached_latents=False, **{name: ANOTHER[key.kind]}, **other)
    [block] = config_reader.read(write_dataset_toml(captioned(tmp_path, "a"), settings).path).datasets
    [subset] = block.subsets
    found = vars(block) | vars(subset) | vars(subset.captions) | vars(subset.pictures)
    if key.idle:
        assert name not in found
    else:
        assert found[name] == ANOTHER[key.kind] and type(found[name]) is key.kind
