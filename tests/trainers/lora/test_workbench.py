"""The workbench on files: what it makes, saves, finds again and refuses."""

import json

import pytest
import torch
from impasto import checksums
from impasto.errors import NameRefused, SettingsError, TrainingError
from impasto.trainers.lora import file_formats
from impasto.trainers.lora.arithmetic import GroupScales, layers_of
from impasto.trainers.lora.workbench import Ingredient, Workpiece, parse_lines, save, work
from safetensors.torch import load_file, save_file

from .test_file_formats import file_of, whole, with_dora


def lora(folder, name: str, state: dict, format: str = "diffusers", metadata: dict | None = None):
    file = folder / name
    folder.mkdir(exist_ok=True)
    save_file(file_formats.convert(state, format), file, metadata)
    return file


def half(state: dict) -> dict:
    return {key: tensor / 2 if key.endswith("lora_B.weight") else tensor for key, tensor in state.items()}


def dense(state: dict) -> dict[str, torch.Tensor]:
    return {name: layer.b.double() @ layer.a.double() for name, layer in layers_of(state).items()}


@pytest.mark.parametrize("format", file_formats.FORMATS)
def test_loras_of_any_format_are_added_as_their_dense_matrices_are(tmp_path, format):
    files = [lora(tmp_path, "a.st", whole(), format), lora(tmp_path, "b.st", half(whole()))]
    pieces = tuple(Ingredient(file.name, file, weight) for file, weight in zip(files, (1.0, -0.5), strict=True))
    found, expected = dense(work(Workpiece(pieces)).state), dense(whole())
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], 0.75 * expected[name], atol=1e-5) for name in expected)


def test_an_average_s_weights_add_up_to_1(tmp_path):
    files = [lora(tmp_path, f"{number}.st", whole()) for number in range(3)]
    piece = Workpiece(tuple(Ingredient(file.name, file, 2.0) for file in files), "average")
    assert piece.weights == pytest.approx((1 / 3,) * 3)
    made, expected = work(piece), dense(whole())
    found = dense(made.state)
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)
    assert made.ranks == (12, 12)


def test_resizing_tells_what_was_lost_of_the_whole(tmp_path):
    file = lora(tmp_path, "a.st", whole())
    made = work(Workpiece((Ingredient("a.st", file, 1.0),), rank=2))
    before, after = dense(whole()), dense(made.state)
    lost = sum(torch.linalg.norm(before[name] - after[name]) ** 2 for name in before).sqrt()
    total = sum(torch.linalg.norm(matrix) ** 2 for matrix in before.values()).sqrt()
    assert made.error == pytest.approx((lost / total).item(), rel=1e-5)
    assert made.ranks == (2, 2) and made.ranks_before == (4, 4)
    assert f"Resized from rank 4: {made.error:.3%} of the norm was lost" in made.report()
    shares = {name: torch.linalg.norm(before[name] - after[name]) / torch.linalg.norm(before[name]) for name in before}
    assert made.worst[0] == max(shares, key=shares.get)


def test_what_is_saved_says_what_it_was_made_of_and_no_folder(tmp_path):
    files = [
        lora(tmp_path, "a.st", whole(), metadata={"modelspec.trigger_phrase": "monet", "ss_steps": "9"}),
        lora(tmp_path, "b.st", whole(), metadata={"modelspec.trigger_phrase": "monet"}),
    ]
    named = tuple(Ingredient(f"sub/{file.name}", file, 0.5) for file in files)
    piece = Workpiece(named, scales=GroupScales(double=0.5))
    made = work(piece)
    file = save(made.state, made, piece, tmp_path / "loras", "sum")
    said = file_formats.read_metadata(file)
    assert (said["modelspec.trigger_phrase"], said["modelspec.title"]) == ("monet", "sum") and "ss_steps" not in said
    recipe = json.loads(said["impasto_workbench"])
    assert [each["name"] for each in recipe["loras"]] == ["sub/a.st", "sub/b.st"]
    assert recipe["scales"]["double"] == 0.5 and str(tmp_path) not in str(said)
    assert checksums.damage_of(file) == ""


def test_a_saved_lora_is_found_again_and_another_of_its_name_does_not_replace_it(tmp_path):
    file = lora(tmp_path, "a.st", whole())
    one, two = (Workpiece((Ingredient("a.st", file, weight),)) for weight in (1.0, 0.5))
    made = {piece: work(piece) for piece in (one, two)}

    def saved(piece):
        return save(made[piece].state, made[piece], piece, tmp_path / "loras", "mine").name

    first = saved(one)
    kept = (tmp_path / "loras" / first).read_bytes()
    assert [first, saved(one), saved(two), saved(two), saved(one)] == [
        "mine.safetensors",
        "mine.safetensors",
        "mine-2.safetensors",
        "mine-2.safetensors",
        "mine.safetensors",
    ]
    assert (tmp_path / "loras" / first).read_bytes() == kept
    there = load_file(tmp_path / "loras" / first)
    assert all(torch.equal(tensor, there[key]) for key, tensor in made[one].state.items())


@pytest.mark.parametrize("name", ["../mine", "a/b", "", "CON", "x" * 200, ".hidden"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    file = lora(tmp_path, "a.st", whole())
    piece = Workpiece((Ingredient("a.st", file, 1.0),))
    with pytest.raises(NameRefused):
        save(work(piece).state, work(piece), piece, tmp_path / "loras", name)
    assert not (tmp_path / "loras").exists()


def test_a_dora_is_passed_on_as_it_is_and_not_changed(tmp_path):
    file = lora(tmp_path, "dora.st", with_dora(whole()))
    made = work(Workpiece((Ingredient("dora.st", file, 1.0),)))
    state = load_file(file)
    assert made.dora and all(torch.equal(made.state[key], tensor) for key, tensor in state.items())
    assert "A DoRA" in made.report()
    plain = Ingredient("plain.st", lora(tmp_path, "plain.st", whole()), 1.0)
    dora = Ingredient("dora.st", file, 1.0)
    for piece in (
        Workpiece((Ingredient("dora.st", file, 0.5),)),
        Workpiece((dora,), rank=2),
        Workpiece((dora,), scales=GroupScales(attention=0.0)),
        Workpiece((plain, dora)),
    ):
        with pytest.raises(SettingsError, match=r"dora\.st is a DoRA.*Take it alone"):
            work(piece)


def test_a_lora_of_another_family_one_that_is_gone_and_a_damaged_one_are_named(tmp_path):
    other = file_of(tmp_path, {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.ones(2, 2)})
    with pytest.raises(TrainingError, match=r"cannot be read as one of FLUX\.1.*Stable Diffusion"):
        work(Workpiece((Ingredient("sdxl.st", other, 1.0),)))
    other.unlink()
    with pytest.raises(TrainingError, match="There is no LoRA file"):
        work(Workpiece((Ingredient("sdxl.st", other, 1.0),)))
    cut = lora(tmp_path, "cut.st", whole())
    cut.write_bytes(cut.read_bytes()[:-50])
    with pytest.raises(TrainingError, match="not a whole safetensors file"):
        work(Workpiece((Ingredient("cut.st", cut, 1.0),)))


def test_nothing_left_is_an_error_with_the_remedy(tmp_path):
    piece = Workpiece((Ingredient("a.st", lora(tmp_path, "a.st", whole()), 0.0),))
    with pytest.raises(SettingsError, match=r"nothing of the LoRA is left\. Set one"):
        work(piece)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.st\n\n  b.st : 0.5 \n", [("a.st", 1.0), ("b.st", 0.5)]),
        ("c:d.st", [("c:d.st", 1.0)]),
        ("c:d.st:-2", [("c:d.st", -2.0)]),
        ("絵.st: 1e-1", [("絵.st", 0.1)]),
        ("7", [("7", 1.0)]),
        ("", []),
    ],
)
def test_lines_name_loras_and_their_weights(text, expected):
    assert parse_lines(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.st: nan", "The weight of a.st is nan"),
        ("a.st: 1e9", "The weight of a.st is 1e.09"),
        ("a\n" * 33, "33 LoRAs are named"),
    ],
)
def test_lines_out_of_range_are_named(text, said):
    with pytest.raises(SettingsError, match=said):
        parse_lines(text)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ingredients": ()}, "no LoRA to work on"),
        ({"rank": 2000}, "The rank is 2000"),
        ({"combination": "multiply"}, "combine is 'multiply'"),
        ({"ingredients": "opposed", "combination": "average"}, "add up to 0"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, settings, said):
    one = Ingredient("a.st", tmp_path / "a.st", 1.0)
    opposed = (one, Ingredient("a.st", tmp_path / "a.st", -1.0))
    settings = {"ingredients": (one,)} | settings
    if settings["ingredients"] == "opposed":
        settings["ingredients"] = opposed
    with pytest.raises(SettingsError, match=said):
        Workpiece(**settings)
