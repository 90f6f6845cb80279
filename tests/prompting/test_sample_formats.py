import json
import re

import pytest
from impasto.errors import SettingsError
from impasto.prompting.prompt_set import Prompt
from impasto.prompting.sample_formats import SampleSettings, write_sample_formats

PROMPTS = (Prompt('a "quiet" harbour: at dawn # not a comment', 7), Prompt("ein Café in Köln 🎨", 2**64 - 1))
SETTINGS = SampleSettings(768, 512, 20, 3.5)


@pytest.fixture
def files(tmp_path):
    return {file.name: file.read_text(encoding="utf-8") for file in write_sample_formats(tmp_path, PROMPTS, SETTINGS)}


def test_kohya_reads_text_and_options_line_by_line(files):
    """As library/train_util.py of sd-scripts splits a line: at ' --'."""
    lines = files["kohya.txt"].splitlines()
    for line, prompt in zip(lines, PROMPTS, strict=True):
        text, *options = line.split(" --")
        assert text == prompt.text
        assert options == ["w 768", "h 512", "s 20", "l 1", "g 3.5", f"d {prompt.seed}"]


def test_ai_toolkit_reads_the_block_as_yaml(files):
    import yaml  # comes with ComfyUI

    sample = yaml.safe_load(files["ai-toolkit.yaml"])["sample"]
    assert (sample["width"], sample["height"], sample["sample_steps"], sample["guidance_scale"]) == (768, 512, 20, 3.5)
    assert sample["prompts"] == [f"{prompt.text} --d {prompt.seed}" for prompt in PROMPTS]


def test_simpletuner_reads_nicknames_that_can_be_file_names(files):
    library = json.loads(files["simpletuner.json"])
    assert list(library.values()) == [prompt.text for prompt in PROMPTS]
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in library)


@pytest.mark.parametrize("text", ["a boat --w 64", "a boat\nand more"])
def test_a_prompt_that_a_trainer_would_misread_is_refused(tmp_path, text):
    with pytest.raises(SettingsError, match="option"):
        write_sample_formats(tmp_path, (Prompt(text, 1),), SETTINGS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_guidance_that_is_no_finite_number_is_refused(number):
    with pytest.raises(SettingsError, match="guidance is"):
        SampleSettings(768, 512, 20, number)
