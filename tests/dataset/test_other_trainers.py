"""Datasets as OneTrainer and SimpleTuner describe them, and trees of folders, become dataset configs of sd-scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from impasto.dataset import config_reader as dataset_config
from impasto.dataset.config_editor import Changes, find_toml, rewrite_dataset_toml, written_toml_fingerprint
from impasto.errors import DatasetError

from ..small_sources import picture_bytes


def put(folder: Path, *names: str, captions: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / f"{name}.jpg").write_bytes(picture_bytes(number))
        if captions:
            (folder / f"{name}.txt").write_text(f"a picture of {name}")
    return folder


def concept(path: Path | str, **others: object) -> dict:
    """As OneTrainer writes one: of its many keys, those that count here and some that do not."""
    text = {"prompt_source": "sample", "prompt_path": "", "enable_tag_shuffling": False, "keep_tags_count": 1}
    image = {"enable_crop_jitter": True, "enable_random_flip": False, "enable_random_rotate": False}
    given = {"__version": 2, "name": "", "path": str(path), "seed": 7, "enabled": True, "type": "STANDARD"}
    given |= {"include_subdirectories": False, "image_variations": 1, "balancing": 1.0, "balancing_strategy": "REPEATS"}
    given |= {"loss_weight": 1.0, "concept_stats": {}}
    text |= others.pop("text", {})
    image |= others.pop("image", {})
    return given | others | {"text": text, "image": image}


def read(source: Path, **changes: int) -> tuple[list, str]:
    """The pictures that the translated config names: (name, caption, repeats, dataset), and the config's text."""
    config = rewrite_dataset_toml(source, Changes(**changes))
    group = dataset_config.read(config.path)
    found = [(each.path.stem, each.caption, each.repeats, each.dataset) for each in dataset_config.pictures(group)]
    return found, Path(config.path).read_text(encoding="utf-8")


def written(tmp_path: Path, content: object, name: str = "concepts.json") -> Path:
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    return tmp_path / name


def test_onetrainers_concepts_come_in_with_folders_repeats_prompts_and_validation(tmp_path):
    put(tmp_path / "sea", "a", "b")
    put(tmp_path / "sea" / "deep" / "er", "c")
    put(tmp_path / "held out", "v")
    put(tmp_path / "one prompt", "p")
    prompts = tmp_path / "prompt.txt"
    prompts.write_text("a boat at sea\n")
    flipped = {"enable_random_flip": True}
    concepts = [
        concept(tmp_path / "sea", name="sea", include_subdirectories=True, balancing=1.5, image=flipped),
        concept("held out", type="VALIDATION"),
        concept(tmp_path / "one prompt", text={"prompt_source": "concept", "prompt_path": str(prompts)}),
        concept(tmp_path / "missing", name="off", enabled=False),
    ]
    found, text = read(written(tmp_path, concepts), resolution=256)
    assert [(name, caption, repeats) for name, caption, repeats, _ in found] == [
        ("a", "a picture of a", 3),
        ("b", "a picture of b", 3),
        ("c", "a picture of c", 3),
        ("p", "a boat at sea", 2),
        ("v", "a picture of v", 2),
    ]
    assert [dataset.validation_split for *_, dataset in found] == [0, 0, 0, 0, 1.0]
    assert {dataset.buckets.resolution for *_, dataset in found} == {(256, 256)}
    assert [subset.flip_aug for subset in found[0][3].subsets] == [True, True, False]
    assert "# 'off' is not enabled." in text and "# All repeats are 2 times what they were" in text


def test_what_onetrainer_has_and_sd_scripts_has_not_is_told_in_the_copy(tmp_path):
    put(tmp_path / "sea", "a")
    more = {"image": {"enable_random_rotate": True}, "text": {"tag_dropout_enable": True}, "loss_weight": 0.5}
    _, text = read(written(tmp_path, {"concepts": [concept("sea", name="sea", **more)]}, "config.json"))
    assert "# Of 'sea' is not taken over: enable_random_rotate, tag_dropout_enable, loss_weight." in text


def test_a_concept_may_have_a_size_of_its_own_and_repeats_by_their_older_name(tmp_path):
    put(tmp_path / "sea", "a")
    old = concept("sea", image={"enable_resolution_override": True, "resolution_override": "768"}, repeats=4)
    del old["balancing"], old["type"]
    found, _ = read(written(tmp_path, [old]))
    assert [(repeats, dataset.buckets.resolution) for _, _, repeats, dataset in found] == [(4, (768, 768))]


def backend(path: Path | str, **others: object) -> dict:
    return {"id": "sea", "type": "local", "dataset_type": "image", "instance_data_dir": str(path)} | others


def test_simpletuners_backends_come_in_with_repeats_sizes_and_prompts(tmp_path):
    put(tmp_path / "sea", "a")
    put(tmp_path / "sea" / "below", "b")
    put(tmp_path / "prior", "r", captions=False)
    put(tmp_path / "eval", "e")
    same = {"id": "prior", "resolution": 1024, "is_regularisation_data": True}
    quarter = {"id": "eval", "dataset_type": "eval", "resolution": 0.25, "resolution_type": "area"}
    backends = [
        backend(tmp_path / "sea", resolution=1024, resolution_type="pixel_area", repeats=9),
        backend("prior", caption_strategy="instanceprompt", instance_prompt="a boat", **same),
        backend("eval", prepend_instance_prompt=True, instance_prompt="mntgrdn,", **quarter),
        {"id": "text", "dataset_type": "text_embeds", "type": "local", "default": True, "cache_dir": "cache/text"},
        backend("gone", id="off", disabled=True),
    ]
    found, _ = read(written(tmp_path, backends, "multidatabackend.json"))
    assert [(name, caption, repeats) for name, caption, repeats, _ in found] == [
        ("a", "a picture of a", 10),
        ("b", "a picture of b", 10),
        ("r", "a boat", 1),
        ("e", "mntgrdn, a picture of e", 1),
    ]
    sizes = [dataset.buckets.resolution[0] for *_, dataset in found]
    assert sizes == [1024, 1024, 1024, 512] and found[3][3].validation_split == 1.0
    assert [subset.is_reg for subset in found[0][3].subsets] == [False, False, True]


def test_a_tree_of_folders_comes_in_with_the_repeats_and_words_of_each(tmp_path):
    tree = tmp_path / "tree"
    put(tree / "10_monet garden" / "by day", "a", captions=False)
    put(tree / "10_monet garden", "b")
    put(tree / "5_sea", "c", captions=False)
    put(tree / ".hidden", "h")
    (tree / "empty").mkdir()
    found, text = read(tree)
    assert sorted((name, caption, repeats) for name, caption, repeats, _ in found) == [
        ("a", "monet garden", 10),
        ("b", "a picture of b", 10),
        ("c", "sea", 5),
    ]
    assert [path.name for path in tree.glob("*.toml")] and "resolution = 512" in text
    again, _ = read(tree)
    assert again == found


def test_a_tree_and_a_file_are_read_again_when_something_in_them_has_changed(tmp_path):
    put(tmp_path / "sea", "a")
    concepts = written(tmp_path, [concept("sea")])
    for source in (concepts, tmp_path / "sea"):
        before = written_toml_fingerprint(source)
        assert written_toml_fingerprint(source) == before
        (tmp_path / "sea" / "a.txt").write_text(f"changed for {source.name}")
        assert written_toml_fingerprint(source) != before


def test_they_are_found_by_name_and_nothing_else_is(tmp_path):
    concepts = written(tmp_path, [])
    (tmp_path / "tree").mkdir()
    (tmp_path / "notes.md").touch()
    assert find_toml(tmp_path, "concepts.json") == concepts and find_toml(tmp_path, "tree/") == tmp_path / "tree"
    for name in ("notes.md", "none.json", "none"):
        with pytest.raises(DatasetError, match="There is no TOML file"):
            find_toml(tmp_path, name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": 1}, "no list of OneTrainer's concepts"),
        ([], "no list of OneTrainer's concepts"),
        ([1], "no list of OneTrainer's concepts"),
        ([concept("sea", name="x", type="PRIOR_PREDICTION")], "'x' of .* prior prediction"),
        ([concept("sea", balancing_strategy="SAMPLES")], "Choose REPEATS"),
        ([concept("sea", balancing=0)], "above 0"),
        ([concept("sea", text={"prompt_source": "filename"})], "names of its files"),
        ([concept("sea", text={"prompt_source": "concept", "prompt_path": "none.txt"})], "prompt_path"),
        ([concept("sea", text={"prompt_source": "concept", "prompt_path": "/etc/hostname"})], "Give a text file, .txt"),
        ([concept("sea", text={"enable_tag_shuffling": True, "keep_tags_count": "many"})], "another kind"),
        ([concept("")], "has no folder"),
        ([concept("sea", enabled=False)], "leads to no pictures"),
        ([backend("sea", type="aws")], "'sea' of .*type is 'aws'"),
        ([backend("sea", dataset_type="video")], "dataset_type is 'video'"),
        ([backend("sea", caption_strategy="parquet")], "caption_strategy is 'parquet'"),
        ([backend("sea", resolution="large")], "resolution is 'large'"),
        ([backend("sea", repeats="x")], "another kind"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_remedy(tmp_path, content, said):
    put(tmp_path / "sea", "a")
    with pytest.raises(DatasetError, match=said):
        rewrite_dataset_toml(written(tmp_path, content), Changes())


def test_an_empty_tree_and_what_is_no_json_are_named(tmp_path):
    (tmp_path / "tree").mkdir()
    with pytest.raises(DatasetError, match="leads to no pictures"):
        rewrite_dataset_toml(tmp_path / "tree", Changes())
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DatasetError, match="cannot be read as JSON"):
        rewrite_dataset_toml(tmp_path / "x.json", Changes())
