from dataclasses import replace
from pathlib import Path

import pytest
from impasto.errors import ModelError, SettingsError
from impasto.prompting.seeds import MAX_SEED
from impasto.rendering.cells import Sampling
from impasto.rendering.picture_specs import PictureSpec
from impasto.rendering.xy_grid import AXES, Known, XYGrid, api_form, axis
from PIL import Image

LORA = Path("/loras/monet.safetensors")
BASE = PictureSpec("a harbour", 1, Sampling(64, 48, 4), LORA, 0.8)


def lora_of(name: str) -> Path:
    if name != "sub/monet.safetensors":
        raise ModelError(f"ComfyUI knows no LoRA '{name}'.")
    return LORA


KNOWN = Known(lora_of, {100: Path("/run/100"), 200: Path("/run/200")}, ["euler", "heun"])


def grid(x: tuple[str, str], y: tuple[str, str] | None = None, base: PictureSpec = BASE) -> XYGrid:
    return XYGrid("grid", base, axis(*x, KNOWN), y and axis(*y, KNOWN))


def changes(kind: str, text: str) -> list[dict]:
    return [dict(values) for _, values in axis(kind, text, KNOWN).values]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("seed", f"0\n\n {MAX_SEED} ", [{"seed": 0}, {"seed": MAX_SEED}]),
        ("strength", "-0.5\n1,25", [{"strength": -0.5}, {"strength": 1.25}]),
        ("guidance", "3.5", [{"guidance": 3.5}]),
        ("steps", "4\n20", [{"steps": 4}, {"steps": 20}]),
        ("sampler", "heun", [{"sampler_name": "heun"}]),
        ("LoRA", "none\nsub/monet.safetensors", [{"adapter": None}, {"adapter": LORA}]),
        ("checkpoint", "base\nstep 100\n200", [{"adapter": step} for step in (None, *KNOWN.checkpoints.values())]),
        ("prompt", '"a, b" # c\n🎨\n夜の港\nميناء', [{"text": t} for t in ('"a, b" # c', "🎨", "夜の港", "ميناء")]),
    ],
)
def test_values_are_read_one_a_line(kind, text, expected):
    assert changes(kind, text) == expected


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("seed", "-1", "'seed' has '-1'"),
        ("seed", "9" * 5000, "'seed' has '999"),
        ("steps", "0", "'steps' has '0'.*1 to 200"),
        ("strength", "nan", "'strength' has 'nan'"),
        ("strength", "strong", "'strength' has 'strong'"),
        ("guidance", "1e9", "'guidance' has '1e9'"),
        ("sampler", "eular", "no sampler 'eular'. It has: euler, heun"),
        ("LoRA", "../x", "knows no LoRA"),
        ("checkpoint", "150", "no checkpoint of step 150. It has: 100, 200"),
        ("prompt", " \n ", "has no values"),
        ("prompt", "x\n" * 201, "has 201 values"),
        ("colour", "red", "no axis 'colour'"),
    ],
)
def test_a_value_that_is_none_of_its_axis_is_named(kind, text, said):
    with pytest.raises((SettingsError, ModelError), match=said):
        axis(kind, text, KNOWN)


def test_checkpoints_without_a_run_are_refused():
    with pytest.raises(SettingsError, match="Connect 'run'"):
        axis("checkpoint", "100", replace(KNOWN, checkpoints=None))


def test_every_cell_has_its_row_s_and_its_column_s_value_and_the_rest_of_the_base():
    cells = grid(("strength", "0\n1"), ("guidance", "2\n3\n4")).cells()
    assert cells.keys() == {(row, column) for row in range(3) for column in range(2)}
    assert cells[2, 1] == replace(BASE, strength=1.0, sampling=replace(BASE.sampling, guidance=4.0))


@pytest.mark.parametrize("kind", AXES)
def test_every_axis_changes_what_it_is_called(kind):
    value = {"prompt": "b", "LoRA": "none", "checkpoint": "200", "sampler": "heun"}.get(kind, "7")
    (cell,) = grid((kind, value)).cells().values()
    assert cell != BASE


def test_one_cell_is_a_grid_and_8_000_are_refused_with_their_number():
    assert list(grid(("steps", "4")).cells().values()) == [BASE]
    with pytest.raises(SettingsError, match=r"8,000 cells \(100 × 80\)\. Use at most 1,000"):
        grid(("seed", "\n".join(map(str, range(100)))), ("guidance", "\n".join(map(str, range(80)))))


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (("seed", "1"), ("seed", "2"), "Both axes are 'seed'"),
        (("LoRA", "none"), ("checkpoint", "100"), "which is a LoRA too"),
        (("strength", "1"), None, "Choose one in 'lora'"),
        (("strength", "1"), ("seed", "1"), "Choose one in 'lora'"),
    ],
)
def test_axes_that_do_not_go_together_are_refused(x, y, said):
    with pytest.raises(SettingsError, match=said):
        grid(x, y, replace(BASE, adapter=None))


def test_a_missing_picture_shifts_no_other():
    made = grid(("seed", "1\n2\n3"), ("guidance", "1\n2"))
    red = Image.new("RGB", (64, 48), "red")
    cells = dict.fromkeys(made.cells(), red)
    whole = made.picture(cells)
    del cells[0, 1]
    without = made.picture(cells)
    assert whole.size == without.size and whole.tobytes() != without.tobytes()
    differing = Image.composite(whole, without, Image.new("L", whole.size, 0))
    assert differing.tobytes() == without.tobytes()


def test_a_large_grid_shows_the_newest_picture_while_it_is_painted():
    newest = Image.new("RGB", (64, 48), "red")
    assert grid(("seed", "\n".join(map(str, range(101))))).preview({}, newest) is newest
    assert grid(("seed", "1\n2")).preview({}, newest).width > 2 * 64


GRAPH = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux.safetensors"}},
    "2": {"class_type": "ModelSamplingFlux", "inputs": {"model": ["1", 0], "max_shift": 1.15}},
    "3": {"class_type": "DualCLIPLoader", "inputs": {}},
    "4": {"class_type": "VAELoader", "inputs": {}},
    "5": {"class_type": "ImpastoLoraXYGrid", "inputs": {"model": ["2", 0], "clip": ["3", 0], "vae": ["4", 0]}},
    "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0]}},
}


def test_a_cell_s_graph_has_the_models_of_the_queued_one_and_core_s_nodes_alone():
    form = api_form(GRAPH, "5", BASE, "sub/monet.safetensors")
    assert {each for each in form if each.isdigit()} == {"1", "2", "3", "4"}
    assert form["cell_lora"]["inputs"] == {
        "model": ["2", 0],
        "lora_name": "sub/monet.safetensors",
        "strength_model": 0.8,
    }
    assert form["cell_sampler"]["inputs"]["model"] == ["cell_lora", 0]
    assert (form["cell_sampler"]["inputs"]["seed"], form["cell_text"]["inputs"]["text"]) == (1, "a harbour")
    assert not any(node["class_type"].startswith("Impasto") for node in form.values())


def test_without_a_lora_the_model_goes_straight_into_the_sampler():
    form = api_form(GRAPH, "5", BASE, None)
    assert form["cell_sampler"]["inputs"]["model"] == ["2", 0] and "cell_lora" not in form
