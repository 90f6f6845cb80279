"""Dataset configs of sd-scripts: its inheritance and defaults, its captions, and nothing passed over in silence."""

import pytest
from impasto.errors import DatasetError
from impasto.trainers import dataset_config
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """Two pictures with captions in `paintings/`."""
    paintings = tmp_path / "paintings"
    paintings.mkdir()
    for name in ("boats", "garden"):
        Image.new("RGB", (64, 64)).save(paintings / f"{name}.png")
        (paintings / f"{name}.txt").write_text(f"a {name} picture\nsecond line\n", encoding="utf-8")
    return tmp_path


def write(folder, text):
    path = folder / "dataset.toml"
    path.write_text(text, encoding="utf-8")
    return path


MINIMAL = """
[[datasets]]
resolution = 512
  [[datasets.subsets]]
  image_dir = "paintings"
"""


def test_a_minimal_config_gets_the_defaults_of_sd_scripts(folder):
    (dataset,) = dataset_config.read(write(folder, MINIMAL)).datasets
    (subset,) = dataset.subsets

    assert dataset.batch_size == 1
    assert dataset.buckets.resolution == (512, 512)
    assert not dataset.buckets.enable_bucket
    assert not dataset.buckets.bucket_no_upscale
    assert (dataset.buckets.min_bucket_reso, dataset.buckets.max_bucket_reso) == (256, 1024)
    assert dataset.buckets.bucket_reso_steps == 64
    assert dataset.validation_split == 0
    assert subset.num_repeats == 1
    assert subset.caption_extension == ".caption"
    assert subset.image_dir == folder / "paintings"


def test_a_subset_overrides_its_dataset_and_a_dataset_the_general_table(folder):
    path = write(
        folder,
        """
[general]
resolution = [640, 512]
enable_bucket = true
num_repeats = 2
caption_extension = ".txt"
[[datasets]]
batch_size = 4
  [[datasets.subsets]]
  image_dir = "paintings"
[[datasets]]
resolution = 768
batch_size = 4
num_repeats = 3
  [[datasets.subsets]]
  image_dir = "paintings"
  [[datasets.subsets]]
  image_dir = "paintings"
  num_repeats = 5
  caption_extension = ".cap"
""",
    )
    first, second = dataset_config.read(path).datasets

    assert first.buckets.resolution == (640, 512)
    assert second.buckets.resolution == (768, 768)
    assert first.buckets.enable_bucket and second.buckets.enable_bucket
    assert [subset.num_repeats for subset in first.subsets + second.subsets] == [2, 3, 5]
    assert [subset.caption_extension for subset in second.subsets] == [".txt", ".cap"]


def test_pictures_come_by_name_with_the_first_line_of_their_caption(folder):
    (folder / "paintings" / ".partial-1-boats.png").write_bytes(b"torn")
    (folder / "paintings" / "notes.md").write_text("not a picture")
    path = write(folder, MINIMAL + 'caption_extension = ".txt"\nnum_repeats = 3\n')
    pictures = dataset_config.pictures(dataset_config.read(path))

    assert [(picture.path.name, picture.caption, picture.repeats) for picture in pictures] == [
        ("boats.png", "a boats picture", 3),
        ("garden.png", "a garden picture", 3),
    ]


def test_prefix_and_suffix_go_around_every_caption(folder):
    text = MINIMAL + 'caption_extension = ".txt"\ncaption_prefix = "m0net,"\ncaption_suffix = "in oil"\n'
    picture = dataset_config.pictures(dataset_config.read(write(folder, text)))[0]
    assert picture.caption == "m0net, a boats picture in oil"


def test_class_tokens_stand_in_for_a_missing_caption(folder):
    (folder / "paintings" / "boats.txt").unlink()
    text = MINIMAL + 'caption_extension = ".txt"\nclass_tokens = "a painting"\n'
    pictures = dataset_config.pictures(dataset_config.read(write(folder, text)))
    assert [picture.caption for picture in pictures] == ["a painting", "a garden picture"]


@pytest.mark.parametrize("content", [b"", b"\n", b"   \nsecond", b"\xff\xfe\x00a"])
def test_an_unusable_caption_is_named_with_its_file(folder, content):
    (folder / "paintings" / "boats.txt").write_bytes(content)
    path = write(folder, MINIMAL + 'caption_extension = ".txt"\nclass_tokens = "a painting"\n')
    with pytest.raises(DatasetError, match="boats.txt"):
        dataset_config.pictures(dataset_config.read(path))


def test_a_missing_caption_is_named_with_the_file_that_was_looked_for(folder):
    with pytest.raises(DatasetError, match=r"boats\.caption.*class_tokens"):
        dataset_config.pictures(dataset_config.read(write(folder, MINIMAL)))


@pytest.mark.parametrize("directory", ["nowhere", "empty"])
def test_a_folder_without_pictures_is_named(folder, directory):
    (folder / "empty").mkdir()
    path = write(folder, MINIMAL.replace("paintings", directory))
    with pytest.raises(DatasetError, match=directory):
        dataset_config.pictures(dataset_config.read(path))


@pytest.mark.parametrize(
    "line, named",
    [
        ("learning_rate = 1.0", "learning_rate"),
        ("color_aug = true", "color_aug"),
        ("flip_aug = true", "flip_aug"),
        ("random_crop = true", "random_crop"),
        ("face_crop_aug_range = [1.0, 2.0]", "face_crop_aug_range"),
        ("shuffle_caption = true", "shuffle_caption"),
        ("enable_wildcard = true", "enable_wildcard"),
        ("caption_dropout_rate = 0.1", "Training Settings"),
        ("caption_tag_dropout_rate = 0.1", "caption_tag_dropout_rate"),
        ("token_warmup_step = 10", "token_warmup_step"),
        ('secondary_separator = ";"', "secondary_separator"),
        ("is_reg = true", "is_reg"),
        ("alpha_mask = true", "alpha_mask"),
        ('metadata_file = "meta.json"', "metadata_file"),
        ('conditioning_data_dir = "masks"', "conditioning_data_dir"),
        ("batch_size = 2", "batch_size.*another level"),
        ("num_repeats = 0", "num_repeats"),
        ("num_repeats = 1.5", "num_repeats"),
        ('num_repeats = "3"', "num_repeats"),
    ],
)
def test_what_would_train_otherwise_is_refused_by_key_and_file(folder, line, named):
    with pytest.raises(DatasetError, match=named) as refused:
        dataset_config.read(write(folder, MINIMAL + line))
    assert "dataset.toml" in str(refused.value)


def test_a_supported_value_of_an_unsupported_key_changes_nothing(folder):
    harmless = (
        "color_aug = false\nrandom_crop = false\nshuffle_caption = false\ncaption_dropout_rate = 0\nkeep_tokens = 1\n"
        'is_reg = false\ncaption_separator = ";"\n'
    )
    assert dataset_config.read(write(folder, MINIMAL + harmless)) == dataset_config.read(write(folder, MINIMAL))


@pytest.mark.parametrize(
    "text, named",
    [
        ("", "datasets"),
        ("[[datasets]]\nresolution = 512\n", "subsets"),
        ("[[datasets]]\nresolution = 512\n[[datasets.subsets]]\n", "image_dir"),
        (MINIMAL.replace("resolution = 512", ""), "resolution"),
        (MINIMAL.replace("512", "[512]"), "resolution"),
        (MINIMAL.replace("512", "500"), "500 x 500"),
        (MINIMAL.replace("512", "512.0"), "resolution"),
        (MINIMAL.replace("512", "512\nbatch_size = 0"), "batch_size"),
        (MINIMAL.replace("512", "512\nvalidation_split = 1.0"), "validation_split"),
        (MINIMAL.replace("512", "512\nnetwork_multiplier = 0.5"), "network_multiplier"),
        (MINIMAL + MINIMAL.replace("512", "512\nbatch_size = 2"), "batch_size differs"),
        ("[datasets", "cannot be read"),
        ("[train]\n", "train"),
        ("datasets = [1]\n", "datasets"),
    ],
)
def test_a_config_that_cannot_be_used_says_why(folder, text, named):
    with pytest.raises(DatasetError, match=named) as refused:
        dataset_config.read(write(folder, text))
    assert "dataset.toml" in str(refused.value)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(DatasetError, match="nowhere.toml"):
        dataset_config.read(tmp_path / "nowhere.toml")
