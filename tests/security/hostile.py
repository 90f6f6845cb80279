"""Prompts that mean harm, for any node, made from its own schema as the port gives it.

`hostile_prompt` is a function of the schema and a random generator: the same seed gives the same prompts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

Prompt = dict[str, dict[str, Any]]
MARK = "escaped-by-name"  # in every name that would be seen outside if it were followed
DEEP = 150  # levels; some hundreds end ComfyUI's queue, whatever the node: not ours

NAMES = (
    *(f"../{MARK}", f"../../{MARK}", f"..\\..\\{MARK}", f"a/../../{MARK}", f"/tmp/{MARK}", f"~/{MARK}", f"./{MARK}"),
    *(f"C:\\{MARK}", f"\\\\127.0.0.1\\share\\{MARK}", f"\\\\?\\C:\\{MARK}", f"file:///tmp/{MARK}", f"{MARK}:stream"),
    *("/etc/passwd", "/proc/self/environ", "/dev/zero", "/dev/stdin", "..", ".", "...", "", " ", "\t", "\n", "-rf"),
    *(f"{MARK}\0.png", "\0", "a\ud83d", "\udce9", "\ud83d\ude00", "\ufeff", "\u200b", "\u202egpj.exe", "\x1b[2Jcat"),
    *("CON", "con.txt", "NUL", "nul.png", "AUX", "COM1", "LPT9.toml", "CONIN$", "COM\u00b9", "prn .txt"),
    *("e\u0301", "\u00e9", "\uff0e\uff0e\uff0f" + MARK, "\u2025/" + MARK),
    *("\u212bngstr\u00f6m", "\ufb01", "\u0130stanbul"),
    *("a" * 100, "a" * 101, "a" * 256, "a" * 5_000, "梅" * 100, "梅" * 60, "a." * 2_000, "/" * 5_000, "a/" * 3_000),
    *("name.", "name ", " name", "a\nb"),
    *("a\r\nSet-Cookie: b", "%2e%2e%2f" + MARK, f"$(touch {MARK})", f"`touch {MARK}`"),
    *("{0.__class__}", "%s%n%d", "${HOME}", "$HOME", "%TEMP%", "*", "?", "[a-z]", "**/*", "latest", "None", "nan"),
    *("allowed_hosts.txt", "accelerate", "manifests", "images", "captions.jsonl", "features", ".git", "seeds.sqlite"),
    *("https://127.0.0.1/" + MARK, "owner/name", "owner/../name"),
    *("owner/name@../..", "owner/name@main\n", "wikiart.org "),
)
EXPRESSIONS = (
    *("(a+)+$", "(a|a)*b", "(x+x+)+y", "(.*a){25}"),
    *("(?:(?:a*)*)*b", "a{30000000}", "a{1,65535}" * 20, "(a{1000}){1000}"),
    *("((((((((((a{9}){9}){9}){9}){9}){9}){9}){9}){9}){9})", "(" * 500 + ")" * 500, "(" * 5_000),
    *("[", "(?P<a>", "(?R)"),
    *("\\", "\\1", "(?<=a+)b", "(?i)" * 200 + "a"),
    *("[\\w]{99999999999999999999}", "\\p{L}{5000}", "(?s:.*)*", "a" * 50_000),
)
TOMLS = (
    *("a = " + "[" * 3_000, "a = " + "[" * 200 + "]" * 200, ".".join("a" * 3_000) + " = 1"),
    *("a = " + "{b = " * 500, "[[a]]"),
    *("a = " + "9" * 5_000, "a = 1e999999999", "a = nan", "a = inf", "a = -inf"),
    *('a = """', "a = '''b", "=", "[", "a = 1\na = 2"),
    *('caption_prefix = "\\ud83d"', "cache_info = 9223372036854775808"),
    *("alpha_mask = []", "class_tokens = 1979-05-27"),
    *("num_repeats = -1", "[general]", 'image_dir = "/etc"'),
    *('conditioning_data_dir = "../.."', "x = 0x" + "f" * 5_000),
)
JSONS = (
    *("[" * 5_000, '{"a":' * 5_000, "9" * 5_000, '{"a": ' + "9" * 5_000 + "}"),
    *("NaN", "-Infinity", '"\\ud83d"', "nul"),
    *('{"__proto__": 1}', '{"a": 1, "a": 2}', '{"seed": 1e999}', "{}"),
    *("[]", "null", "\u0000", '{"a": "' + "b" * 100_000 + '"}'),
)
DYNAMICS = (
    *("{" * 3_000, "}" * 3_000, "{a|b}" * 60),
    *("{a|b|c|d|e|f}" * 30, "{1000000000$$a|b}", "{999-1000$$, $$" + "a|" * 400 + "b}"),
    *("{2$$" + "{a|b|c}|" * 40 + "d}", "{5$$a}", "{-1$$a|b}", "{$$a|b}"),
    *("{2-1$$a|b}", "{" + "|" * 20_000 + "}", "__../../x__"),
    *("__*__", "__" * 3_000, "__a/../b__", "${a=${b}}${b=${a}}${a}"),
    *("${a=!${a}${a}}${a}", "${x=" * 500, "{a::b|1e999::c}"),
    *("{0::a|0::b}", "{" * 60 + "a|b" + "}" * 60, "{nan::a|b}"),
    *("{" + "9" * 5_000 + "$$a|b}", "(a:1e999)", "(" * 2_000 + "a"),
    *("a --d 99999999999999999999999 --w -1", "a --n " + "b" * 5_000, "a --s nan --l inf"),
    *("# only a comment", "\n" * 5_000),
)
LINES = (
    *("landscape: -1", "landscape: 1e9", "landscape: 999999999999999999999999", "artist=: 1"),
    *(": 1", "landscape", "=" * 5_000),
    *("landscape: 1\n" * 5_000, "genre: ../..", "image: __class__"),
    *("single_blocks.0: 99999", "double_blocks.*: 4", "0-99999999: 8"),
    *("a => b", "=> b", "a =>", "=>" * 1_000, "(a) => \\2", "(a) => \\g<x>", "a => " + "b" * 100_000, "a => \\ud83d"),
    *("3fa94c: x", "000000: " + "y" * 50_000, "zzzzzz: !", "!" * 1_000),
    *("000000:" * 2_000, "1, 2, 3", "1," * 50_000, "-1, 0x10"),
    *("18446744073709551616", "9" * 5_000, "1 # note\n2 # note", "\u0661\u0662"),
    *("1e5", "GEMINI_API_KEY, HF_TOKEN", "HOME", "PATH"),
    *("AIza" + "a" * 35, "sk-" + "b" * 48, "ollama\n", "http://127.0.0.1:1/v1"),
    *("models/../x", "gemini?key=1", "a/b:c@d"),
)
URLS = (
    *("http://127.0.0.1/a.jpg", "https://127.0.0.1:{port}/system_stats"),
    *("http://localhost:{port}/a.jpg", "https://[::1]/a.jpg"),
    *("http://169.254.169.254/latest/meta-data/", "https://metadata.google.internal/computeMetadata/v1/"),
    "http://[fd00:ec2::254]/",
    *("https://0/a.jpg", "https://2130706433/a.jpg", "https://0x7f.1/a.jpg"),
    *("https://0177.0.0.1/a.jpg", "https://127.1/a.jpg"),
    *("https://[::ffff:127.0.0.1]/a.jpg", "https://[64:ff9b::7f00:1]/a.jpg"),
    *("https://10.0.0.1/a.jpg", "https://192.168.0.1/"),
    *("https://upload.wikimedia.org@127.0.0.1/a.jpg", "https://upload.wikimedia.org:22/a.jpg"),
    "https://a:b@upload.wikimedia.org/",
    *("https://upload.wikimedia.org.evil.invalid/a.jpg", "https://upload.wikimedia.org\\@127.0.0.1/"),
    "https://127.0.0.1#@a.jpg",
    *("file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1:6379/_x"),
    *("data:image/png;base64,AAAA", "//127.0.0.1/a.jpg"),
    *("https://\u2460\u2461\u2466.0.0.1/a.jpg", "https://127.0.0.1\r\nHost: a/"),
    *("https://" + "a" * 5_000, "https://evil.invalid/"),
    *("https://[::1", "https://[fe80::1%25eth0]/a", "http:127.0.0.1"),
    *("https:///a.jpg", "https://100.100.100.200/latest/"),
)
TEXTS = (
    *("x" * 1_000_000, "x " * 100_000, "\u0301" * 5_000, "\U0001f468\u200d" * 2_000),
    *("a" + "\0" * 1_000, "\ud83d" * 100, "\r" * 9),
    *("<script>alert(1)</script>", "' OR 1=1 --", '"; DROP TABLE prompts; --', "\\", '"'),
    *("NEAR(", "* *", "a OR", "^", "(" * 300),
)
STRINGS = (NAMES, NAMES, EXPRESSIONS, TOMLS, JSONS, DYNAMICS, LINES, URLS, TEXTS)
# Which kinds a name of an input calls for most: else every kind comes equally often everywhere.
AIMED = (
    (("name", "folder", "file", "source", "save_as", "sequence", "run_id", "start_from", "profile", "features"), NAMES),
    (("replacements", "remove", "words"), EXPRESSIONS),
    (("more_keys", "columns"), TOMLS),
    (("urls", "server"), URLS),
    (("quotas", "block_ranks", "overrides", "seeds", "replay", "projects", "model"), LINES),
    (("text", "prompt", "negative"), DYNAMICS),
)
NUMBERS = (
    *(0, -1, 1, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0),
    *(1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf")),
    *("7", "0x10", "\u0661\u0662", "1e3", "nan", "9" * 5_000),
)
WRONG = (None, True, False, 0, -1, 1.5, float("nan"), "", "dataset", "../..", [], ["x"], ["x", 0], [[], 0], [1, 2], {})

# How a socket is given what it wants, on the disk of an earlier version; {} where nothing can.
GOOD: dict[str, tuple[str, int, dict[str, Any]]] = {
    "IMPASTO_DATASET": (
        *("ImpastoImageFolderLoader", 0),
        {"root": "input", "folder": "pictures", "name": "pictures", "format": "JPEG"},
    ),
    "IMPASTO_DATASET_CONFIG": (
        *("ImpastoDatasetTOMLLoader", 0),
        {"file": "garden/cf15d16f2e8538a1-022c9c00.toml", "target": "sd-scripts"}
        | dict.fromkeys(("resolution", "batch_size", "num_repeats"), 0),
    ),
    "IMPASTO_PROMPTS": ("ImpastoPromptSet", 0, {"text": "a pond\na barn", "seed": 1}),
    "IMPASTO_TRAINING": ("ImpastoTrainingPreset", 0, {}),
    "IMPASTO_RUN": ("ImpastoTrainingRunLoader", 0, {"run_id": "plain-42b0beaf"}),
    "IMPASTO_CAPTIONER": ("ImpastoMetadataCaptioner", 2, {"trigger_word": "mntgrdn"}),
    "IMAGE": ("EmptyImage", 0, {"width": 64, "height": 64, "batch_size": 1, "color": 0}),
    "LATENT": ("EmptyLatentImage", 0, {"width": 64, "height": 64, "batch_size": 1}),
    "STRING": ("PrimitiveString", 0, {"value": "linked"}),
    "INT": ("PrimitiveInt", 0, {"value": 7}),
}

# What takes long, as it should, and is not what is attacked.
QUICK = {
    "ImpastoWikiArtLoader": {"source": "museum"},
    "ImpastoBatchGenerator": {"steps": 1},
    "ImpastoLoraXYGrid": {"x_axis": "seed", "x_values": "1\n2", "steps": 1, "width": 64, "height": 64},
    "ImpastoGenerationSequence": {"between": 1, "steps": 1, "width": 64, "height": 64},
}
# Given a dataset, it asks a local server again and again, for a minute, as it should.
WAITING = ("ImpastoOpenAICaptioner",)


def inputs_of(info: Mapping[str, Any]) -> dict[str, tuple[Any, dict[str, Any], bool]]:
    """Input name -> its type, its options and whether it is required, from a node's part of /object_info."""
    return {
        name: (spec[0], dict(spec[1]) if len(spec) > 1 else {}, kind == "required")
        for kind in ("required", "optional")
        for name, spec in info["input"].get(kind, {}).items()
    }


def hostile_prompt(node: str, nodes: Mapping[str, Any], draw: random.Random, port: int) -> Prompt:
    """One prompt that attacks one to three inputs of `node`, and gives the others what they want."""
    prompt: Prompt = {}
    inputs = inputs_of(nodes[node])
    attacked = set(draw.sample(sorted(inputs), min(len(inputs), draw.choice((1, 1, 2, 3)))))
    values = {}
    for name, (kind, options, required) in inputs.items():
        if name in attacked:
            values[name] = _hostile(name, kind, options, nodes, prompt, draw, port)
        elif is_widget(kind):
            values[name] = QUICK.get(node, {}).get(name, _usual(kind, options))
        elif required or (draw.random() < 0.5 and node not in WAITING):
            values[name] = _wanted(kind, nodes, prompt)
    if draw.random() < 0.03:
        values.pop(draw.choice(sorted(values)), None)
    if draw.random() < 0.03:
        values["no_such_input"] = draw.choice(("x", _link("INT", nodes, prompt)))
    prompt["attacked"] = {"class_type": node, "inputs": values}
    if not nodes[node]["output_node"]:
        output = draw.randrange(len(nodes[node]["output"])) if draw.random() < 0.97 else 99
        prompt["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["attacked", output]}}
    return json.loads(json.dumps(prompt))  # as the port gets it: no value is shared


def is_widget(kind: Any) -> bool:
    return isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def _usual(kind: Any, options: Mapping[str, Any]) -> Any:
    choices = kind if isinstance(kind, list) else options.get("options") or [""]
    empty = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}
    return options.get("default", empty.get(kind, choices[0]) if isinstance(kind, str) else choices[0])


def _hostile(name, kind, options, nodes, prompt: Prompt, draw: random.Random, port: int) -> Any:
    if draw.random() < 0.15 or not is_widget(kind):
        return _of_another_type(kind, nodes, prompt, draw)
    if kind in ("INT", "FLOAT"):
        low, high = options.get("min", 0), options.get("max", 1)
        return draw.choice((low, high, low - 1, high + 1, (low + high) / 2, *draw.sample(NUMBERS, 5)))
    if kind == "BOOLEAN":
        return draw.choice((True, False, *WRONG))
    if kind != "STRING":
        choices = options.get("options") or kind
        return draw.choice(choices) if draw.random() < 0.3 and isinstance(choices, list) else draw.choice(NAMES)
    aimed = next((texts for names, texts in AIMED if any(part in name for part in names)), NAMES)
    text = draw.choice(aimed if draw.random() < 0.6 else draw.choice(STRINGS)).replace("{port}", str(port))
    return text + draw.choice(("", "", "\n", ", ")) + draw.choice(aimed) if draw.random() < 0.1 else text


def _of_another_type(kind, nodes, prompt: Prompt, draw: random.Random) -> Any:
    way = draw.randrange(6)
    if way == 0:
        return draw.choice(WRONG)
    if way == 1:
        # A link in there is not validated by ComfyUI, and one to nowhere ends its queue whatever the node: not ours.
        value = draw.choice((*WRONG, ["attacked", 0], _nested(DEEP)))
        return {"__value__": draw.choice(WRONG[:7]) if value == ["x", 0] else value}
    if way == 2:
        return draw.choice((_nested(DEEP), {"a": {"b": ["c"]}}, ["attacked", 0], ["nowhere", 0], ["show", 0]))
    other = draw.choice([name for name in sorted(GOOD) if name != kind])
    if way == 3:  # ComfyUI sees the wrong type
        return _link(other, nodes, prompt)
    # Through a node that passes anything on, ComfyUI does not.
    value = draw.choice((1, "x", None, -1.5)) if way == 4 else _link(other, nodes, prompt)
    passing = {"class_type": "ImpastoMemoryReport", "inputs": {"tensors": False}}
    if value is not None:
        passing["inputs"]["value"] = value
    prompt["passing"] = passing
    return ["passing", 0]


def _nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


def _wanted(kind: str, nodes, prompt: Prompt) -> Any:
    if kind in GOOD:
        return _link(kind, nodes, prompt)
    return _link("IMAGE", nodes, prompt) if kind in ("*", "COMFY_MATCHTYPE_V3") else "nothing that fits"


def _link(kind: str, nodes, prompt: Prompt) -> list:
    """A link to a node that gives this kind, which is put into the prompt."""
    node, output, inputs = GOOD[kind]
    usual = {name: _usual(of, options) for name, (of, options, _) in inputs_of(nodes[node]).items() if is_widget(of)}
    prompt[kind] = {"class_type": node, "inputs": usual | inputs}
    return [kind, output]
