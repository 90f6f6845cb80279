import contextlib
import gc
import random
import time
import tracemalloc

import pytest
from impasto.errors import SettingsError
from impasto.prompting.dynamic import MAX_COMBINATIONS, DynamicPromptError, combinations, expand

WILDCARDS = {
    "colour": ("red", "blue"),
    "animals/cat": ("tabby", "siamese"),
    "animals/dog": ("poodle",),
    "place": ("a {calm|rough} sea", "a __colour__ room"),
    "weighted": ("0::never", "2::often"),
    "loop": ("__loop__",),
    "ping": ("__pong__",),
    "pong": ("__ping__",),
    "broken": ("fine", "a {b"),
    "snake_case": ("ok",),
}

# What is written, and every prompt it stands for, in order.
CASES = [
    # Plain text
    ("", [""]),
    ("a red boat", ["a red boat"]),
    ("  a red boat \n", ["a red boat"]),
    ("one\ntwo", ["one\ntwo"]),
    ("a | b", ["a | b"]),
    ("5$ and $5", ["5$ and $5"]),
    ("price $$", ["price $$"]),
    ("snake_case and __init", ["snake_case and __init"]),
    ("(a boat:1.2), [b]", ["(a boat:1.2), [b]"]),
    (r"a \(boat\)", [r"a \(boat\)"]),
    ("C:\\boats", ["C:\\boats"]),
    ("a :: b", ["a :: b"]),
    ("日本の庭 🎨", ["日本の庭 🎨"]),
    ("<lora:boat:0.8> a", ["<lora:boat:0.8> a"]),
    # Escapes
    (r"\{a\|b\}", ["{a|b}"]),
    (r"{a\|b|c}", ["a|b", "c"]),
    (r"\$\{x\}", ["${x}"]),
    (r"\__colour\__", ["__colour__"]),
    (r"\# one", ["# one"]),
    (r"{\{|\}}", ["{", "}"]),
    # Comments
    ("# all of it", [""]),
    ("# above\na boat", ["a boat"]),
    ("  # indented\na boat", ["a boat"]),
    ("a boat # at the end", ["a boat"]),
    ("a boat # first\nat sea", ["a boat\nat sea"]),
    ("a #boat", ["a #boat"]),
    ("colour#1", ["colour#1"]),
    ("#ff0000 red\nboat", ["boat"]),
    ("# {a|b\nboat", ["boat"]),
    ("{a # first\n|b}", ["a", "b"]),
    ("a #", ["a"]),
    # Choices
    ("{a}", ["a"]),
    ("{a|b}", ["a", "b"]),
    ("{a|b|c}", ["a", "b", "c"]),
    ("{a|}", ["a", ""]),
    ("{|}", ["", ""]),
    ("x{|a}y", ["xy", "xay"]),
    ("{a|a}", ["a", "a"]),
    ("{ a | b }!", ["a !", "b !"]),
    ("{a|b} {c|d}", ["a c", "a d", "b c", "b d"]),
    ("{a{b|c}|d}", ["ab", "ac", "d"]),
    ("{{a|b}|{c|d}}", ["a", "b", "c", "d"]),
    ("{{{a}}}", ["a"]),
    ("{a,b|c;d}", ["a,b", "c;d"]),
    ("{(a:1.2)|(b:0.8)}", ["(a:1.2)", "(b:0.8)"]),
    ("({a|b}:1.2)", ["(a:1.2)", "(b:1.2)"]),
    ("{a\nb|c}", ["a\nb", "c"]),
    ("pre{fix|lude}s", ["prefixs", "preludes"]),
    # Weights
    ("{3::a|b}", ["a", "b"]),
    ("{0.5::a|1.5::b}", ["a", "b"]),
    ("{.5::a|2.::b}", ["a", "b"]),
    ("{0::a|b}", ["b"]),
    ("{ 2::a|b}", ["a", "b"]),
    ("{2:: a|b}x", ["ax", "bx"]),
    ("{x::a|b}", ["x::a", "b"]),
    ("{2::|b}", ["", "b"]),
    ("{2::{a|b}|0::c}", ["a", "b"]),
    # Several
    ("{2$$a|b}", ["a, b", "b, a"]),
    ("{2$$a|b|c}", ["a, b", "a, c", "b, a", "b, c", "c, a", "c, b"]),
    ("{1$$a|b}", ["a", "b"]),
    ("{0$$a|b}x", ["x"]),
    ("{1-2$$a|b}", ["a", "b", "a, b", "b, a"]),
    ("{0-1$$a|b}", ["", "a", "b"]),
    ("{-2$$a|b}", ["a", "b", "a, b", "b, a"]),
    ("{2-$$a|b}", ["a, b", "b, a"]),
    ("{1-$$a|b}", ["a", "b", "a, b", "b, a"]),
    ("{1-9$$a|b}", ["a", "b", "a, b", "b, a"]),
    ("{2$$ and $$a|b}", ["a and b", "b and a"]),
    ("{2$$, $$a|b}", ["a, b", "b, a"]),
    ("{2$$$$a|b}", ["ab", "ba"]),
    ("{2$$\n$$a|b}", ["a\nb", "b\na"]),
    ("{1-2$$ or $$a|b}", ["a", "b", "a or b", "b or a"]),
    ("{2$$0::a|b|c}", ["b, c", "c, b"]),
    ("{2$${a|b}|c}", ["a, c", "b, c", "c, a", "c, b"]),
    ("{2$$a|}", ["a,", ", a"]),
    ("{2$$ + $$__colour__|x}", ["red + x", "blue + x", "x + red", "x + blue"]),
    # Wildcards
    ("__colour__", ["red", "blue"]),
    ("a __colour__ boat", ["a red boat", "a blue boat"]),
    ("__animals/cat__", ["tabby", "siamese"]),
    ("__animals/*__", ["tabby", "siamese", "poodle"]),
    ("__animals/ca?__", ["tabby", "siamese"]),
    ("__*/dog__", ["poodle"]),
    ("__snake_case__", ["ok"]),
    ("__colour____animals/dog__", ["redpoodle", "bluepoodle"]),
    ("__colour__, __animals/dog__", ["red, poodle", "blue, poodle"]),
    ("__place__", ["a calm sea", "a rough sea", "a red room", "a blue room"]),
    ("__weighted__", ["often"]),
    ("{2$$__colour__}", ["red, blue", "blue, red"]),
    ("{1-2$$ & $$__colour__}", ["red", "blue", "red & blue", "blue & red"]),
    ("{__colour__|green}", ["red", "blue", "green"]),
    ("{0::__unknown__|a}", ["a"]),
    ("__COLOUR", ["__COLOUR"]),
    # Variables
    ("${c=red}${c} and ${c}", ["red and red"]),
    ("${c={a|b}}${c}${c}", ["aa", "ab", "ba", "bb"]),
    ("${c=!{a|b}}${c}${c}", ["aa", "bb"]),
    ("${c=a|b}${c}", ["a", "b"]),
    ("${c=!a|b}${c}${c}", ["aa", "bb"]),
    ("${c=}x${c}y", ["xy"]),
    ("${c:grey}", ["grey"]),
    ("${c=red}${c:grey}", ["red"]),
    ("${c:{a|b}}", ["a", "b"]),
    ("${c=red}${c=blue}${c}", ["blue"]),
    ("${a=x}${b=${a}y}${b}", ["xy"]),
    ("${c=__colour__}a ${c} boat", ["a red boat", "a blue boat"]),
    ("{${c=red}|${c=blue}}${c}", ["red", "blue"]),
    ("${ c=red}${ c}", ["red"]),
    ("${c=3::a|0::b}${c}", ["a"]),
    ("${a=!__colour__} ${a} on ${a}", ["red on red", "blue on blue"]),
]

# What is written, and the character at fault.
MALFORMED = [
    ("a {b|c", 2),
    ("{a|{b|c}", 0),
    ("{a|{b|c", 3),
    ("a} b", 1),
    ("{a}}", 3),
    ("{}", 0),
    ("x {} y", 2),
    ("{x$$a|b}", 1),
    ("{$$a|b}", 1),
    ("{2-1$$a|b}", 1),
    ("{1-2-3$$a|b}", 1),
    ("{3$$a|b}", 0),
    ("x{2$$0::a|b}", 1),
    ("{-1::a|b}", 1),
    ("{a|-0.5::b}", 3),
    ("{0::a|0::b}", 0),
    ("a __nothing__", 2),
    ("__animals__", 0),
    ("__loop__", 0),
    ("__ping__", 0),
    ("__broken__", 2),
    ("x ${c", 2),
    ("${c=red", 0),
    ("${c=a|b", 0),
    ("${}", 0),
    ("${=red}", 0),
    ("${two words}", 0),
    ("x ${c}", 2),
    ("${c} ${c=red}", 0),
    ("${a=${a}}${a}", 4),
    ("${a=${b}}${b=${a}}${a}", 13),
    ("one\ntwo {three", 8),
    ("{" * 60 + "a" + "}" * 60, 50),
]


def test_there_are_enough_cases_to_speak_of_a_grammar():
    assert len(CASES) + len(MALFORMED) >= 140


@pytest.mark.parametrize(("text", "prompts"), CASES, ids=[repr(text) for text, _ in CASES])
def test_a_dynamic_prompt_stands_for_exactly_these(text, prompts):
    assert combinations(text, WILDCARDS) == prompts


@pytest.mark.parametrize(("text", "prompts"), CASES, ids=[repr(text) for text, _ in CASES])
def test_one_at_random_is_among_them_and_the_seed_decides(text, prompts):
    for seed in range(5):
        assert expand(text, seed, WILDCARDS) in prompts
        assert expand(text, seed, WILDCARDS) == expand(text, seed, WILDCARDS)


@pytest.mark.parametrize(("text", "position"), MALFORMED, ids=[repr(text[:20]) for text, _ in MALFORMED])
def test_what_cannot_be_read_is_told_with_its_place(text, position):
    with pytest.raises(DynamicPromptError) as error:
        combinations(text, WILDCARDS)
    assert error.value.position == position
    with pytest.raises(DynamicPromptError):
        for seed in range(20):
            expand(text, seed, WILDCARDS)


def test_the_place_is_told_in_lines_and_characters():
    with pytest.raises(DynamicPromptError, match="line 2, character 5, at '{three'.*never closed"):
        expand("one\ntwo {three", 0)


def test_every_option_comes_as_often_as_its_weight_says():
    taken = [expand("{3::a|b}", seed) for seed in range(2000)]
    assert 0.70 < taken.count("a") / len(taken) < 0.80


def test_a_seed_gives_the_same_prompt_on_every_machine():
    prompts = [expand("{a|b|c} {2$$x|y|z} __colour__", seed, WILDCARDS) for seed in (0, 1, 2**64 - 1)]
    assert prompts == ["c x, z red", "b x, y red", "a y, x blue"]


@pytest.mark.parametrize(
    "bomb",
    [
        "${a=xxxxxxxxxx}" + "".join(f"${{a{n}=!${{a{n - 1}:aaaaaaaaaa}}${{a{n - 1}:b}}}}" for n in range(1, 40)),
        "${a0=}" + "".join(f"${{a{n}=${{a{n - 1}}}${{a{n - 1}}}}}" for n in range(1, 40)) + "${a39}",
    ],
)
def test_a_prompt_that_doubles_itself_is_refused_before_it_is_expanded(bomb):
    """Expanded, it has 2^39 parts."""
    with pytest.raises(SettingsError, match="Shorten"):
        expand(bomb, 0)


def test_too_many_combinations_are_refused():
    with pytest.raises(SettingsError, match=f"{MAX_COMBINATIONS:,}"):
        combinations("{0|1|2|3|4|5|6|7|8|9}" * 5)


def test_a_long_prompt_with_many_choices_is_expanded():
    assert len(expand("{a|b} " * 5000, 1)) == 5000 * 2 - 1


@pytest.mark.parametrize(
    ("text", "position", "told"),
    [
        ("a {" + "9" * 5000 + "$$a|b}", 3, "smaller number"),
        ("a {1-" + "9" * 5000 + "$$a|b}", 3, "smaller number"),
        ("a {" + "9" * 400 + "::a|b}", 3, "above 1,000,000,000"),
        ("{a|" + "9" * 400 + "::b}", 3, "above 1,000,000,000"),
    ],
)
def test_numbers_beyond_all_bounds_are_told_with_their_place(text, position, told):
    for read in (combinations, lambda text: expand(text, 0)):
        with pytest.raises(DynamicPromptError, match=told) as error:
            read(text)
        assert error.value.position == position


def chained(count: int) -> str:
    return "${v0=end}" + "".join(f"${{v{n}=${{v{n - 1}}}}}" for n in range(1, count)) + f"${{v{count - 1}}}"


def test_variables_that_lead_on_and_on_are_told_with_the_place():
    assert combinations(chained(100)) == ["end"]
    for read in (combinations, lambda text: expand(text, 0)):
        with pytest.raises(DynamicPromptError, match="150 deep") as error:
            read(chained(900))
        text = chained(900)
        assert text.startswith("${v", error.value.position)


def test_wildcards_deep_in_braces_of_wildcards_are_told_with_the_place():
    deep = {f"w{n}": ("{" * 40 + f"__w{n + 1}__" + "}" * 40,) for n in range(45)} | {"w45": ("end",)}
    with pytest.raises(DynamicPromptError, match="150 deep"):
        expand("__w0__", 0, deep)


class Cancelled(BaseException):
    """As ComfyUI's, no `Exception`."""


def moment() -> float:
    """Processor seconds, 0.2 on an idle core, of work like a prompt's: a bound in it means the same on a slow core."""
    began = time.thread_time()
    for _ in range(4):
        sorted(", ".join(map(str, range(200_000))).split(", "))
    return time.thread_time() - began


@contextlib.contextmanager
def nothing_collected():
    """Without a look at all that other tests left in this process: it takes seconds, and is not what is timed."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def cancelled_after(seconds: float):
    """A look at Cancel that ends the work after so much processor time, and how much of it passed before each look."""
    began = last = time.thread_time()
    waits: list[float] = []

    def check():
        nonlocal last
        now = time.thread_time()
        waits.append(now - last)
        last = now
        if now - began > seconds:
            raise Cancelled

    return check, waits


LARGE = {
    "many picks": "{15000$$" + "|".join(map(str, range(15_000))) + "}",
    "many weighted picks": "{8000$$" + "|".join(f"{n % 7 + 1}::{n}" for n in range(16_000)) + "}",
    "a number as a count": "{" + "1" * 150_000 + "|a}",
    "a number as a weight": "{" + "1" * 150_000 + " |a}",
    "comments": "#\n" * 90_000,
    "number signs that are no comments": "a#" * 90_000,
    "uses of many options": "${c={" + "|" * 40_000 + "a}}" + "${c}" * 20_000,
    "many variables": "".join(f"${{a{n}=b}}" for n in range(15_000)),
    "many combinations of a long prompt": "{a|b}" * 14 + "{{x}}" * 15_000,
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE.keys())
def test_a_large_prompt_looks_at_cancel_several_times_a_second(text):
    for read in (lambda check: expand(text, 0, check=check), lambda check: combinations(text, check=check)):
        check, waits = cancelled_after(2.0)
        began = time.thread_time()
        with nothing_collected(), contextlib.suppress(Cancelled, SettingsError):
            read(check)
        taken, most = time.thread_time() - began, 5 * moment()
        assert taken < 2.0 + most
        assert max([*waits, 0.0]) < most  # 1 moment on an idle core


def test_the_memory_that_many_variables_take_is_bounded():
    tracemalloc.start()
    try:
        with pytest.raises(SettingsError, match="Shorten its variables"):
            expand(LARGE["many variables"], 0)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


def test_picks_from_thousands_of_options_take_a_moment_and_are_what_they_were():
    text = "{3000$$" + "|".join(map(str, range(3_000))) + "}"
    with nothing_collected():
        began = time.thread_time()
        prompt = expand(text, 5)
        taken = time.thread_time() - began
    assert taken < 10 * moment()
    chosen, rest = random.Random(5), list(range(3_000))
    chosen.randint(3_000, 3_000)
    expected = [rest.pop(rest.index(chosen.choices(rest, [1.0] * len(rest))[0])) for _ in range(3_000)]
    assert prompt == ", ".join(map(str, expected))


def test_a_prompt_of_a_million_characters_is_refused():
    with pytest.raises(SettingsError, match="1,000,000 characters"):
        expand("a" * 1_000_000, 0)


def test_combinations_that_would_fill_the_memory_are_refused():
    with pytest.raises(SettingsError, match="50,000,000 characters"):
        combinations("a" * 90_000 + "{0|1|2|3|4|5|6|7|8|9}" * 3)
