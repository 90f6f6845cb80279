import pytest
from impasto.errors import SettingsError
from impasto.prompting.prompt_set import MAX_SEED, Prompt, prompt_set


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
