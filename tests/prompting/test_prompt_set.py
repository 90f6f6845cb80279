import pytest
from impasto.errors import SettingsError
from impasto.prompting.prompt_set import Prompt, crossed, expanded_set, held_out_prompts, prompt_set
from impasto.prompting.seeds import MAX_SEED
from impasto.prompting.text_file import read_text


def test_each_line_is_a_prompt_and_blank_and_comment_lines_are_left_out():
    text = "a harbour at dawn\n\n   \n# not this one\n  a quiet garden  "
    assert prompt_set(text, 7) == (Prompt("a harbour at dawn", 7), Prompt("a quiet garden", 7))


def test_adding_a_line_changes_no_other_lines_seed():
    before, after = prompt_set("one\ntwo", 5), prompt_set("one\nnew\ntwo", 5)
    assert set(before) < set(after)


def test_a_line_can_carry_its_own_seed():
    assert prompt_set("a harbour --d 123\na garden", 7) == (Prompt("a harbour", 123), Prompt("a garden", 7))


def test_two_dashes_in_prose_are_part_of_the_prompt():
    assert prompt_set("a bridge -- at dawn --impressionist", 1)[0].text == "a bridge -- at dawn --impressionist"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a harbour --w 512 --d 3", "--w 512"),
        ("a harbour --d soon", "'soon'"),
        ("a harbour --d " + "9" * 5000, "at most 20 digits"),
        ("a harbour --d", "''"),
        ("a harbour --d -3", "'-3'"),
        (f"a harbour --d {MAX_SEED + 1}", str(MAX_SEED + 1)),
        ("--d 3", "only options"),
    ],
)
def test_an_option_that_cannot_be_used_is_named_with_its_line(line, told):
    with pytest.raises(SettingsError, match="[Ll]ine 2") as error:
        prompt_set(f"a first prompt\n{line}", 1)
    assert told in str(error.value)


@pytest.mark.parametrize("text", ["", " \n ", "# only a comment"])
def test_a_set_without_prompts_says_what_to_write(text):
    with pytest.raises(SettingsError, match="one prompt per line"):
        prompt_set(text, 1)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_a_seed_outside_64_bits_is_refused(seed):
    with pytest.raises(SettingsError, match=str(seed)):
        prompt_set("a harbour", seed)


def test_the_whole_64_bit_range_is_accepted():
    assert [prompt_set(f"a --d {seed}", seed)[0].seed for seed in (0, MAX_SEED)] == [0, MAX_SEED]


def test_a_set_with_choices_becomes_every_combination_or_one_of_each():
    prompts = prompt_set("a {red|blue} boat\na __place__ --d 3", 7)
    wildcards = {"place": ("harbour", "lake")}
    assert expanded_set(prompts, "every combination", wildcards) == (
        Prompt("a red boat", 7),
        Prompt("a blue boat", 7),
        Prompt("a harbour", 3),
        Prompt("a lake", 3),
    )
    one_each = expanded_set(prompts, "at random", wildcards)
    assert len(one_each) == 2 and set(one_each) < set(expanded_set(prompts, "every combination", wildcards))
    assert expanded_set(prompts, "as written", wildcards) == prompts


def test_every_prompt_is_crossed_with_every_seed_or_keeps_its_own():
    prompts = (Prompt("a", 1), Prompt("b", 2))
    assert crossed(prompts, "8, 9") == (Prompt("a", 8), Prompt("a", 9), Prompt("b", 8), Prompt("b", 9))
    assert crossed(prompts, " ") == prompts


def test_held_out_prompts_are_of_the_datasets_genres_in_turn_and_none_of_its_captions():
    genres = ["landscape", "landscape", "still_life", "", "odd_genre"]
    captions = ["Monet style, hills under a wide sky."]
    prompts = held_out_prompts(genres, captions, 4, 7, "monet style,")
    assert [prompt.text for prompt in prompts] == [
        "monet style, a river through a valley",
        "monet style, apples and a jug on a table",
        "monet style, odd genre",
        "monet style, a lone tree on a plain",
    ]
    assert {prompt.seed for prompt in prompts} == {7}


def test_more_held_out_prompts_than_the_genres_give_are_refused():
    with pytest.raises(SettingsError, match="2 held-out prompts, not 3"):
        held_out_prompts(["self_portrait"], [], 3, 1)
    with pytest.raises(SettingsError, match="no genres"):
        held_out_prompts(["", ""], [], 3, 1)


def test_prompts_are_read_from_a_file(tmp_path):
    (tmp_path / "set.txt").write_text("\ufeffa boat\n", encoding="utf-8")
    assert read_text(tmp_path / "set.txt") == "a boat\n"
    with pytest.raises(SettingsError, match="no file"):
        read_text(tmp_path / "none.txt")
