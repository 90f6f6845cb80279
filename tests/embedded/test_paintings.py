"""The embedded painter: true to its seed, its scene and its caption, and readable as WikiArt."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from impasto.dataset.wikiart_labels import ARTISTS, GENRES, STYLES
from impasto.embedded import paintings
from impasto.embedded.scenes import KINDS, caption, compositions, scene
from impasto.embedded.training_pictures import HELD_OUT, HELD_OUT_SCENES
from impasto.errors import SettingsError
from PIL import Image, ImageFilter

EVERY_COMPOSITION = [(kind, seed) for kind in KINDS for seed in range(len(compositions(kind)))]


def _thumbnail(picture):
    return np.asarray(picture.resize((16, 14), Image.Resampling.BOX), dtype=np.float64).ravel()


def _calmest_texture(picture):
    """The mean fine contrast of the calmest fifth of the picture, 0..255: where a smooth picture has little."""
    grey = picture.convert("L")
    fine = np.abs(np.asarray(grey, dtype=np.float64) - np.asarray(grey.filter(ImageFilter.GaussianBlur(2)), np.float64))
    blocks = np.asarray(Image.fromarray(fine.astype(np.float32)).resize((16, 14), Image.Resampling.BOX)).ravel()
    return np.sort(blocks)[: blocks.size // 5].mean()


def test_the_same_arguments_paint_the_same_pixels_and_another_seed_does_not():
    first = paintings.paint(scene("landscape", 3), "impressionist", 160, 128)
    assert first.size == (160, 128)
    assert first.tobytes() == paintings.paint(scene("landscape", 3), "impressionist", 160, 128).tobytes()
    other = paintings.paint(scene("landscape", 3 + len(compositions("landscape"))), "impressionist", 160, 128)
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("kind, seed", EVERY_COMPOSITION)
def test_both_finishes_show_the_same_scene_and_only_one_has_strokes_everywhere(kind, seed):
    subject = scene(kind, seed)
    plain = paintings.paint(subject, "plain", 336, 288)
    strokes = paintings.paint(subject, "impressionist", 336, 288)
    assert np.corrcoef(_thumbnail(plain), _thumbnail(strokes))[0, 1] > 0.85
    assert _calmest_texture(strokes) > 1.25 * _calmest_texture(plain)


@pytest.mark.parametrize("kind, seed", EVERY_COMPOSITION)
def test_the_impressionist_palette_has_no_black(kind, seed):
    pixels = np.asarray(paintings.paint(scene(kind, seed), "impressionist", 320, 272))
    assert pixels.max(axis=2).min() > 45


@pytest.mark.parametrize("kind", KINDS)
def test_captions_name_everything_that_is_drawn(kind):
    for seed in range(3 * len(compositions(kind))):
        subject = scene(kind, seed)
        drawn = paintings.draw(subject, 96, 80).drawn
        assert len(drawn) >= 4
        missing = {thing for thing in drawn if thing.lower() not in caption(subject).lower()}
        assert not missing, (subject, caption(subject))


def test_every_composition_is_reached_and_captions_vary():
    for kind in KINDS:
        scenes = [scene(kind, seed) for seed in range(40)]
        assert {one.composition for one in scenes} == set(compositions(kind))
        assert len({caption(one) for one in scenes}) > 20


def test_a_kind_or_a_finish_that_does_not_exist_is_named_with_the_choices():
    with pytest.raises(SettingsError, match="'seascape'.*landscape"):
        scene("seascape", 0)
    with pytest.raises(SettingsError, match="'cubist'.*impressionist"):
        paintings.paint(scene("landscape", 0), "cubist", 128, 128)


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wikiart")
    told = []
    paths = paintings.write_wikiart_shards(
        folder,
        8,
        seed=5,
        finishes=("plain", "impressionist"),
        defects=True,
        progress=lambda done, total, text="", preview=None: told.append((done, total)),
    )
    assert told == [(done, 11) for done in range(1, 12)]
    return folder, paths


def _rows(paths):
    import pyarrow.parquet as pq

    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_the_shards_have_the_schema_of_huggan_wikiart(painted):
    import pyarrow as pa
    import pyarrow.parquet as pq

    _, paths = painted
    assert [path.name for path in paths] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    for path in paths:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        assert schema.names == ["image", "artist", "genre", "style"]
        assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        assert {schema.field(name).type for name in ("artist", "genre", "style")} == {pa.int64()}
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        assert features["image"] == {"_type": "Image"}
        for name, labels in (("artist", ARTISTS), ("genre", GENRES), ("style", STYLES)):
            assert features[name] == {"names": list(labels), "_type": "ClassLabel"}
        assert file.metadata.num_row_groups > 1


def test_the_labels_are_wikiarts_own():
    assert (len(ARTISTS), len(GENRES), len(STYLES)) == (129, 11, 27)
    assert len(set(ARTISTS)) == 129
    assert (ARTISTS[0], ARTISTS[4], ARTISTS[128]) == ("Unknown Artist", "claude-monet", "canaletto")
    assert ARTISTS[49].encode("latin-1").decode("utf-8", "replace") != "joaquín-sorolla"
    assert ARTISTS[49] == "joaqu\u00e3\u00adn-sorolla"
    assert (GENRES[1], GENRES[4], GENRES[6], GENRES[9]) == ("cityscape", "landscape", "portrait", "still_life")
    assert (STYLES[12], STYLES[21]) == ("Impressionism", "Realism")


def test_every_good_row_decodes_within_the_sizes_promised_and_no_painter_is_named(painted):
    _, paths = painted
    good = [row for row in _rows(paths) if row["image"]["path"].split("-")[-1] in ("plain.jpg", "impressionist.jpg")]
    assert len(good) == 8
    sizes = set()
    for row in good:
        picture = Image.open(io.BytesIO(row["image"]["bytes"]))
        picture.load()
        assert picture.format == "JPEG"
        assert min(picture.size) >= 512 and max(picture.size) <= 1024
        assert len(row["image"]["bytes"]) / (picture.width * picture.height) > 0.1
        sizes.add(picture.size)
        assert ARTISTS[row["artist"]] == "Unknown Artist"
        assert STYLES[row["style"]] == ("Realism" if "plain" in row["image"]["path"] else "Impressionism")
    assert len(sizes) > 2
    assert {GENRES[row["genre"]] for row in good} == {"landscape", "portrait", "cityscape", "still_life"}


def test_captions_lie_beside_the_shards(painted):
    folder, paths = painted
    lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    assert {line["path"] for line in lines} == {row["image"]["path"] for row in _rows(paths)}
    pair = {line["caption"] for line in lines if line["path"].startswith("landscape-00000")}
    assert len(pair) == 1 and pair.pop().endswith(".")


def test_defects_on_request_are_what_a_quality_filter_must_refuse(painted):
    _, paths = painted
    rows = {row["image"]["path"]: row["image"]["bytes"] for row in _rows(paths)}
    small, wide, flat = (
        Image.open(io.BytesIO(rows[name]))
        for name in ("landscape-small.jpg", "cityscape-panorama.jpg", "landscape-overcompressed.jpg")
    )
    assert max(small.size) <= 300
    assert wide.width == 3 * wide.height and wide.height >= 512
    assert min(flat.size) >= 512
    assert len(rows["landscape-overcompressed.jpg"]) / (flat.width * flat.height) < 0.05


def test_a_set_already_painted_is_not_painted_again_but_other_arguments_replace_it(tmp_path):
    first = paintings.write_wikiart_shards(tmp_path, 2, seed=1, shards=1)
    content = first[0].read_bytes()

    def refuse(done, total, text="", preview=None):
        raise AssertionError("painted again")

    assert paintings.write_wikiart_shards(tmp_path, 2, seed=1, shards=1, progress=refuse) == first
    (tmp_path / "painted.txt").unlink()
    paintings.write_wikiart_shards(tmp_path, 2, seed=1, shards=1)
    assert first[0].read_bytes() == content
    paintings.write_wikiart_shards(tmp_path, 2, seed=2, shards=1)
    assert first[0].read_bytes() != content


def test_a_set_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="1 paintings in 2 shards"):
        paintings.write_wikiart_shards(tmp_path, 1)
    with pytest.raises(SettingsError, match="cubist"):
        paintings.write_wikiart_shards(tmp_path, 4, finishes=("cubist",))


def test_the_embedded_source_is_painted_where_it_is_missing_and_finished_after_a_stop(tmp_path, monkeypatch):
    source = "embedded-brushwork"
    monkeypatch.setitem(paintings.EMBEDDED_SOURCES, source, paintings.EMBEDDED_SOURCES[source] | {"count": 2})

    def stop(done, total, text="", preview=None):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paintings.paint_embedded_source(tmp_path, source, stop)
    folder = paintings.paint_embedded_source(tmp_path, source)
    shards = sorted(folder.glob("data/*.parquet"))
    assert len(shards) == 2
    before = [shard.stat().st_mtime_ns for shard in shards]
    paintings.paint_embedded_source(tmp_path, source)
    assert [shard.stat().st_mtime_ns for shard in shards] == before


def test_the_broad_strokes_for_the_tiny_flux_are_of_scenes_that_it_never_saw_and_have_titles(tmp_path):
    arguments = paintings.EMBEDDED_SOURCES["embedded-brushwork"]
    paths = paintings.write_wikiart_shards(tmp_path, **arguments | {"count": 2})
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    captions = [json.loads(line)["caption"] for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert sorted(row["title"] for row in rows) == sorted(captions)
    assert arguments["seed"] * 1000 * len(KINDS) > HELD_OUT + HELD_OUT_SCENES
    first = scene("landscape", arguments["seed"] * 1000)
    (row,) = [row for row in rows if row["title"] == paintings.caption(first)]
    shown = Image.open(io.BytesIO(row["image"]["bytes"]))
    narrow, broad = (
        _contrast_of_half_size(paintings.paint(first, "impressionist", 128, 128, stroke))
        for stroke in (paintings.ANY_STROKE, paintings.BROAD_STROKE)
    )
    assert abs(_contrast_of_half_size(shown.resize((128, 128), Image.Resampling.BOX)) - broad) < abs(narrow - broad)


def test_a_source_of_that_name_that_someone_else_made_is_left_alone(tmp_path):
    (tmp_path / "embedded-wikiart").mkdir()
    folder = paintings.paint_embedded_source(tmp_path, "embedded-wikiart")
    assert not any(folder.iterdir())


def _contrast_of_half_size(picture):
    """The mean contrast between neighbours in the picture made half as large, where narrow strokes run together."""
    small = np.asarray(picture.convert("L"), dtype=np.float64).reshape(64, 2, 64, 2).mean((1, 3))
    return np.abs(np.diff(small, axis=1)).mean()


def test_strokes_of_a_least_width_outlive_a_smaller_picture_and_the_same_scene_is_shown():
    for kind in KINDS:
        fine = paintings.paint(scene(kind, 1), "impressionist", 128, 128)
        broad = paintings.paint(scene(kind, 1), "impressionist", 128, 128, least_stroke=0.035)
        assert _contrast_of_half_size(broad) > 1.1 * _contrast_of_half_size(fine)
        assert np.corrcoef(_thumbnail(fine.convert("L")), _thumbnail(broad.convert("L")))[0, 1] > 0.8


def test_without_a_least_width_the_strokes_are_as_they_always_were():
    fine = paintings.paint(scene("portrait", 3), "impressionist", 96, 96)
    assert fine.tobytes() == paintings.paint(scene("portrait", 3), "impressionist", 96, 96, least_stroke=1e-6).tobytes()
