"""Dataset configs of sd-scripts: its inheritance and defaults, its captions, and nothing passed over in silence."""

import json

import pytest
from impasto.dataset import config_reader as dataset_config
from impasto.dataset.caption_variants import CaptionRules
from impasto.dataset.config_editor import Changes, rewrite_dataset_toml
from impasto.dataset.config_leftovers import leftovers
from impasto.dataset.picture_variants import PictureRules
from impasto.errors import DatasetError
from impasto.progress import silent
from impasto.trainers.features import plan as planning
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """Two pictures with captions in `paintings/`, and the same in `others/`."""
    for directory in ("paintings", "others"):
        (tmp_path / directory).mkdir()
        for name in ("boats", "garden"):
            Image.new("RGB", (64, 64)).save(tmp_path / directory / f"{name}.png")
            (tmp_path / directory / f"{name}.txt").write_text(f"a {name} picture\nsecond line\n", encoding="utf-8")
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
    assert subset.captions == CaptionRules()
    assert subset.caption_dropout_rate is None  # left to the run, as to sd-scripts' command line
    assert not (subset.flip_aug or subset.is_reg or subset.alpha_mask or subset.caption_dropout_every_n_epochs)


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
batch_size = 2
num_repeats = 3
  [[datasets.subsets]]
  image_dir = "paintings"
  [[datasets.subsets]]
  image_dir = "others"
  num_repeats = 5
  caption_extension = ".cap"
""",
    )
    first, second = dataset_config.read(path).datasets

    assert first.buckets.resolution == (640, 512)
    assert second.buckets.resolution == (768, 768)
    assert (first.batch_size, second.batch_size) == (4, 2)
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


@pytest.mark.parametrize("content", [b"", b"\n", b"   \nsecond", b"\xff\xfe\x00", b"caf\xe9", b"a\0 \0c\0"])
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
        ("face_crop_aug_range = [1.0, 2.0]", "face_crop_aug_range"),
        ("is_reg = true", "only regularisation pictures"),
        ('metadata_file = "meta.json"\nis_reg = true', "is_reg"),
        ('metadata_file = "meta.json"\ncaption_extension = ".txt"', "caption_extension"),
        ('conditioning_data_dir = "masks"', "alpha_mask"),
        ('resize_interpolation = "area"', "Lanczos"),
        ("caption_dropout_rate = 1.5", "caption_dropout_rate"),
        ("caption_tag_dropout_rate = -0.1", "caption_tag_dropout_rate"),
        ("caption_dropout_every_n_epochs = -1", "caption_dropout_every_n_epochs"),
        ("keep_tokens = -1", "keep_tokens"),
        ("token_warmup_step = 100", "token_warmup_step = 100.*encoded once.*Remove this key"),
        ("token_warmup_step = 0.5", "token_warmup_step = 0.5.*encoded once"),
        ("token_warmup_step = nan", "token_warmup_step"),
        ('token_warmup_min = "1"', "token_warmup_min"),
        ("caption_tag_dropout_rate = nan", "finite"),
        ("caption_dropout_rate = inf", "finite"),
        ('caption_separator = ""', "caption_separator"),
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


def test_own_options_stand_in_custom_attributes_which_sd_scripts_does_not_read(folder):
    on = "random_crop = true\ncolor_aug = true\n"
    plain = dataset_config.read(write(folder, MINIMAL + on)).datasets[0].subsets[0]
    assert plain.pictures == PictureRules(random_crop=True, color_aug=True) and plain.pictures.picture_variants == 4
    own = "custom_attributes = {other = 1, impasto = {picture_variants = 6, random_scale = 2}}"
    subset = dataset_config.read(write(folder, MINIMAL + on + own)).datasets[0].subsets[0]
    assert subset.pictures == PictureRules(random_crop=True, color_aug=True, picture_variants=6, random_scale=2.0)
    assert subset.describe() == ("num_repeats 1, color_aug, random_crop, random_scale 2.0, 6 variants of each picture")
    general = f"[general]\n{own}\n{MINIMAL}"
    assert dataset_config.read(write(folder, general)).datasets[0].subsets[0].pictures.picture_variants == 6


@pytest.mark.parametrize(
    "own, named",
    [
        ("{picture_variants = 100}", "picture_variants is 100"),
        ("{picture_variants = 2.5}", "picture_variants in custom_attributes.impasto is 2.5"),
        ("{random_scale = 0.5}", "random_scale is 0.5"),
        ("{random_scale = inf}", "finite"),
        ("{variants = 2}", "the key variants in custom_attributes.impasto is unknown"),
        ("7", "custom_attributes.impasto is not a table"),
    ],
)
def test_own_options_that_cannot_be_used_are_named(folder, own, named):
    with pytest.raises(DatasetError, match=named) as refused:
        dataset_config.read(write(folder, f"{MINIMAL}custom_attributes = {{impasto = {own}}}\n"))
    assert "dataset.toml" in str(refused.value)


def test_a_supported_value_of_an_unsupported_key_changes_nothing(folder):
    harmless = (
        'color_aug = false\nrandom_crop = false\nresize_interpolation = "lanczos"\ncache_info = true\n'
        "custom_attributes = {}\n"
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
        (MINIMAL.replace("512", "512\nvalidation_split = 1.5"), "validation_split is 1.5. It is a share, from 0 to 1"),
        (MINIMAL.replace("512", "512\nnetwork_multiplier = 0.5"), "network_multiplier"),
        (MINIMAL + '[[datasets.subsets]]\nimage_dir = "paintings"\n', "2 subsets of one .* read .*paintings"),
        (MINIMAL + '[[datasets.subsets]]\nmetadata_file = "meta.json"\n', "mixes subsets"),
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


def test_every_key_of_a_subset_is_read_from_its_own_level_or_one_above(folder):
    text = """
# written by hand
[general]
shuffle_caption = true
keep_tokens = 1
caption_extension = 'txt'   # sd-scripts adds the dot
flip_aug = true
caption_dropout_rate = 0.1

[[datasets]]
resolution = 512
enable_wildcard = true

  [[datasets.subsets]]
  image_dir = 'paintings'
  alpha_mask = true
  caption_dropout_rate = 0
  caption_dropout_every_n_epochs = 3

  [[datasets.subsets]]
  image_dir = 'others'
  is_reg = true
  flip_aug = false
  token_warmup_step = 0
  token_warmup_min = 2
"""
    (dataset,) = dataset_config.read(write(folder, text)).datasets
    first, second = dataset.subsets

    assert first.captions == CaptionRules(shuffle_caption=True, keep_tokens=1, enable_wildcard=True)
    assert second.captions == first.captions
    assert (first.caption_dropout_rate, second.caption_dropout_rate) == (0.0, 0.1)
    assert (first.caption_dropout_every_n_epochs, second.caption_dropout_every_n_epochs) == (3, 0)
    assert (first.flip_aug, second.flip_aug) == (True, False)
    assert (first.is_reg, second.is_reg) == (False, True)
    assert (first.alpha_mask, second.alpha_mask) == (True, False)
    assert first.caption_extension == ".txt"


def test_with_wildcards_a_caption_has_all_its_lines_each_with_prefix_and_suffix(folder):
    (folder / "paintings" / "boats.txt").write_text("one\n\n two \n", encoding="utf-8")
    text = MINIMAL + 'caption_extension = ".txt"\nenable_wildcard = true\ncaption_prefix = "m0net,"\n'
    picture = dataset_config.pictures(dataset_config.read(write(folder, text)))[0]
    assert picture.caption == "m0net, one\nm0net, two"


METADATA = {
    "boats.png": {"caption": "boats at sea\nboats on waves", "tags": "boat, sea", "image_size": [64, 64]},
    "garden.png": {"tags": "garden"},
}


def listed(folder, name, content, lines=""):
    (folder / name).write_text(content, encoding="utf-8")
    text = MINIMAL + f'metadata_file = "{name}"\n{lines}'
    return [
        (picture.path.name, picture.caption)
        for picture in dataset_config.pictures(dataset_config.read(write(folder, text)))
    ]


def test_a_metadata_file_gives_pictures_and_captions_with_their_tags(folder):
    lines = [{"image_path": name} | entry for name, entry in METADATA.items()]
    for name, content in (
        ("meta.json", json.dumps(METADATA)),
        ("meta.jsonl", "\n".join(json.dumps(line) for line in lines)),
    ):
        assert listed(folder, name, content) == [("boats.png", "boats at sea,boat, sea"), ("garden.png", "garden")]
        with_lines = listed(folder, name, content, "enable_wildcard = true")
        assert with_lines[0][1] == "boats at sea,boat, sea\nboats on waves,boat, sea"


@pytest.mark.parametrize(
    "content, named",
    [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "one caption for each picture"),
        ('{"boats.png": "a caption"}', "cannot be read"),
        ('{"boats.png": {"caption": 3}}', "one caption for each picture"),
        ('{"boats.png": {"caption": " "}}', "no caption for boats.png"),
        ('{"boats": {"caption": "a"}}', "boats, which is not there"),
    ],
)
def test_a_metadata_file_that_cannot_be_used_says_why(folder, content, named):
    with pytest.raises(DatasetError, match=named) as refused:
        listed(folder, "meta.json", content)
    assert "meta.json" in str(refused.value)


def test_relative_names_of_a_metadata_file_need_an_image_dir(folder):
    (folder / "meta.json").write_text(json.dumps(METADATA), encoding="utf-8")
    text = '[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nmetadata_file = "meta.json"\n'
    with pytest.raises(DatasetError, match="Give image_dir"):
        dataset_config.pictures(dataset_config.read(write(folder, text)))


def test_a_config_is_read_with_a_byte_order_mark_and_windows_line_ends(folder):
    plain = dataset_config.read(write(folder, MINIMAL))
    path = folder / "dataset.toml"
    path.write_bytes(("\ufeff" + MINIMAL.replace("\n", "\r\n")).encode())
    assert dataset_config.read(path) == plain


@pytest.mark.parametrize(
    "content, named",
    [
        (MINIMAL.encode("utf-16"), "UTF-16.*Save it again as UTF-8"),
        (MINIMAL.encode("utf-16-le"), "UTF-16"),
        (
            MINIMAL.replace("paintings", "été").encode("cp1252"),
            "line 5 is not UTF-8 .byte 0xe9.*Save it again as UTF-8",
        ),
        (
            MINIMAL.replace("paintings", r"D:\train\new").encode(),
            r"line 5 .*image_dir = \"D:/train/new\".* 'D:\\train\\new'",
        ),
        (MINIMAL.replace("paintings", r"C:\Users\me").encode(), r"line 5 .*image_dir = \"C:/Users/me\""),
        (MINIMAL.replace("paintings", "D:\\paintings\\").encode(), r"line 5 .*image_dir = \"D:/paintings/\""),
        (MINIMAL.replace("paintings", "paintings\\").encode(), r"line 5 .*image_dir = \"paintings/\""),
    ],
    ids=[
        "UTF-16",
        "UTF-16 without its mark",
        "Windows' code page",
        "tabs",
        "no escape",
        "backslash at the end",
        "nothing else",
    ],
)
def test_a_config_that_windows_spoilt_says_how_to_mend_it(folder, content, named):
    (folder / "dataset.toml").write_bytes(content)
    for read in (dataset_config.read, lambda path: rewrite_dataset_toml(path, Changes())):
        with pytest.raises(DatasetError, match=named) as refused:
            read(folder / "dataset.toml")
        assert "dataset.toml" in str(refused.value)


@pytest.mark.parametrize(
    "written, meant",
    [(r'"D:\\train"', r"D:\train"), (r"'D:\train'", r"D:\train"), (r'"l\u00e9t\u00e9"', "lété"), (r'"a\"b\""', 'a"b"')],
)
def test_escapes_that_are_meant_are_taken(folder, written, meant):
    text = MINIMAL.replace('"paintings"', written)
    assert dataset_config.read(write(folder, text)).datasets[0].subsets[0].image_dir == folder / meant


MUSUBI = """[general]
resolution = [960, 544]
caption_extension = ".txt"
[[datasets]]
image_directory = "paintings"
cache_directory = "cache"
"""
DIFFUSION_PIPE = """resolutions = [512]
enable_ar_bucket = true
[[directory]]
path = "paintings"
num_repeats = 1
"""


@pytest.mark.parametrize(
    "text, named",
    [
        (MUSUBI, "musubi-tuner .image_directory.*image_dir in a"),
        (DIFFUSION_PIPE, "diffusion-pipe .directory.*image_dir"),
    ],
)
def test_a_config_of_another_trainer_is_named_with_what_to_write_instead(folder, text, named):
    with pytest.raises(DatasetError, match=named):
        dataset_config.read(write(folder, text))


def test_a_dataset_for_validation_alone_is_held_out_whole(folder):
    Image.new("RGB", (64, 64), "red").save(folder / "others" / "garden.png")
    Image.new("RGB", (64, 64), "blue").save(folder / "others" / "boats.png")
    common = '[general]\nresolution = 64\ncaption_extension = ".txt"\n'
    blocks = [
        f'[[datasets]]\n{line}\n[[datasets.subsets]]\nimage_dir = "{name}"\n'
        for name, line in (("paintings", ""), ("others", "validation_split = 1.0"))
    ]

    def planned(text):
        return planning.plan(dataset_config.pictures(dataset_config.read(write(folder, text))), 1, silent)

    held_out = {(each.path.parent.name, each.held_out) for each in planned(common + "".join(blocks))}
    assert held_out == {("paintings", False), ("others", True)}
    with pytest.raises(DatasetError, match="holds out every picture"):
        planned(common + blocks[1])


def test_a_caption_is_found_in_another_case_and_read_by_its_mark(folder):
    (folder / "paintings" / "boats.txt").unlink()
    (folder / "paintings" / "Boats.TXT").write_bytes(b"\xff\xfe" + "a caf\u00e9\0\nmore".encode("utf-16-le"))
    pictures = dataset_config.pictures(dataset_config.read(write(folder, MINIMAL + 'caption_extension = ".txt"\n')))
    assert [picture.caption for picture in pictures] == ["a caf\u00e9", "a garden picture"]


def test_metadata_names_pictures_in_another_case_and_with_backslashes(folder):
    (folder / "paintings" / "Sub").mkdir()
    (folder / "paintings" / "boats.png").rename(folder / "paintings" / "Sub" / "boats.png")
    captions = {"Sub\\boats.PNG": {"caption": "a half \ud83dboat"}, "Garden.png": {"caption": "a garden"}}
    (folder / "captions.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(captions).encode())
    text = MINIMAL + 'metadata_file = "captions.json"\n'
    pictures = dataset_config.pictures(dataset_config.read(write(folder, text)))
    assert {picture.path.name: picture.caption for picture in pictures} == {
        "boats.png": "a half boat",
        "garden.png": "a garden",
    }


def test_what_lies_in_an_image_dir_and_is_not_used_is_told(folder):
    place = folder / "paintings"
    Image.new("L", (64, 64)).save(place / "boats-masklabel.png")
    Image.new("RGB", (64, 64)).save(place / "an animation.gif")
    (place / "photograph.HEIC").write_bytes(b"0")
    (place / "gone.txt").write_text("of no picture")
    (place / "boats.txt").write_text("[trigger], a boat")
    (place / "deeper").mkdir()
    Image.new("RGB", (64, 64)).save(place / "deeper" / "more.png")
    group = dataset_config.read(write(folder, MINIMAL + 'caption_extension = ".txt"\n'))
    assert [picture.path.name for picture in dataset_config.pictures(group)] == ["boats.png", "garden.png"]
    told = "\n".join(leftovers(group))
    for part in (
        "1 masks of OneTrainer (boats-masklabel.png)",
        "1 HEIC pictures (photograph.HEIC)",
        "1 caption files that belong to no picture (gone.txt)",
        "1 other files (an animation.gif): 1 .gif",
        "1 pictures in deeper folders (deeper)",
        "1 captions have [trigger]",
    ):
        assert part in told
    (place / "boats.txt").write_text("a boat")
    assert not leftovers(
        dataset_config.read(write(folder, MINIMAL.replace("paintings", "others") + 'caption_extension = ".txt"\n'))
    )
