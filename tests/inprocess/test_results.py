"""What stays on a node when it has ended, and what is refused before anything runs."""

from __future__ import annotations

import asyncio

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def nodes(comfyui) -> dict[str, type]:
    """Node id -> the pack's node, as ComfyUI gets it."""
    from impasto.nodes import ImpastoExtension

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(ImpastoExtension().get_node_list())}


def completed(node: type, output, **inputs):
    from impasto.nodes import results

    return results.completing(node.GET_SCHEMA())(output, inputs)


def test_of_a_node_with_a_report_the_report_is_its_sentence_and_its_sheets_are_its_pictures(nodes):
    import torch
    from comfy_api.latest import io
    from impasto.nodes.host import folders

    sheet = torch.rand(1, 3000, 1500, 3)
    output = completed(nodes["ImpastoQualityFilter"], io.NodeOutput(None, sheet, "23 of 24 passed", sheet[:, :64, :64]))
    assert output.ui["impasto"] == ["23 of 24 passed"]
    files = [folders.results_folder() / picture["filename"] for picture in output.ui["images"]]
    assert [Image.open(file).size for file in files] == [(512, 1024), (64, 64)]
    again = completed(nodes["ImpastoQualityFilter"], io.NodeOutput(None, sheet, "", sheet[:, :64, :64]))
    assert again.ui["images"] == output.ui["images"]  # the same picture is not written twice


def test_what_a_node_shows_by_itself_stays(nodes):
    from comfy_api.latest import io

    shown = io.NodeOutput(None, "2 changed", "[]", ui={"impasto_captions": []})
    output = completed(nodes["ImpastoCaptionEditor"], shown)
    assert output.ui == {"impasto_captions": [], "impasto": ["2 changed"], "impasto_made": []}


def test_every_node_ends_with_the_same_kinds_of_results_whatever_it_made(nodes):
    """ComfyUI joins the results of a node that runs over a list, and fails where one lacks what the first has."""
    from comfy_api.latest import io
    from impasto.nodes import results

    for node in nodes.values():
        outputs = node.GET_SCHEMA().outputs
        nothing = completed(node, io.NodeOutput(*[None] * len(outputs))).ui
        has_pictures = any(output.get_io_type() == io.Image.io_type for output in outputs)
        grid = any(output.get_io_type() == "IMPASTO_PICTURE_GRID" for output in outputs)
        lasting = any(output.get_io_type() in results.LASTING for output in outputs)
        there = {"images": has_pictures, "impasto_grid": grid, "impasto_made": lasting}
        assert nothing == {"impasto": [""]} | {kind: [] for kind, has in there.items() if has}, node.__name__
    assert results.said("done", []) == {"impasto": ["done"], "images": []}


def test_what_a_node_made_is_told_by_the_names_that_a_script_goes_on_with(nodes, tmp_path):
    from comfy_api.latest import io
    from impasto.dataset.config_writer import DatasetConfig
    from impasto.dataset.records import Dataset
    from impasto.trainers.run.folder import Run

    dataset = Dataset("monets", str(tmp_path / "monets"), "0123456789abcdef")
    loaded = completed(nodes["ImpastoImageFolderLoader"], io.NodeOutput(dataset, "3 pictures"))
    assert loaded.ui["impasto_made"] == [{"dataset": "monets", "revision": dataset.revision, "report": "3 pictures"}]
    config = DatasetConfig(str(tmp_path / "monets" / "ab-cd.toml"), "key")
    written = completed(nodes["ImpastoDatasetTOMLWriter"], io.NodeOutput(config, "[general]"))
    assert written.ui["impasto_made"][0]["dataset_config"] == "monets/ab-cd.toml"
    run = Run("monets-00000000", str(tmp_path / "no such run"))
    trained = completed(nodes["ImpastoFluxLoraTrainer"], io.NodeOutput(run, {}, {}, "monets/monets-0.safetensors"))
    made = {"run_id": run.id, "best_step": None, "lora": "monets/monets-0.safetensors", "report": ""}
    assert trained.ui["impasto_made"] == [made]


def test_a_seed_that_a_browser_may_have_rounded_is_named(nodes):
    from comfy_api.latest import io

    def told(seed: int) -> str:
        return completed(nodes["ImpastoPromptSet"], io.NodeOutput(None, ui={"impasto": ["2 prompts"]}), seed=seed).ui[
            "impasto"
        ]

    assert told(2**53) == ["2 prompts"]
    assert told(2**53 + 2)[0].startswith("2 prompts\nseed is 9007199254740994. A browser rounds")


def test_a_node_that_is_run_again_says_nothing_yet(nodes):
    from comfy_api.latest import io

    assert completed(nodes["ImpastoDatasetComposition"], io.NodeOutput(None, "", expand={"1": {}})).ui is None


def test_a_full_disk_takes_no_result_away(nodes, monkeypatch):
    import torch
    from comfy_api.latest import io
    from impasto.nodes import results

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write_changed", full)
    output = completed(nodes["ImpastoLossPlot"], io.NodeOutput(torch.rand(1, 8, 9, 3)))
    assert output.args and output.ui["images"] == []


@pytest.mark.parametrize(
    ("node", "inputs", "said"),
    [
        ("WikiArtLoader", {"quotas": "landscape 300"}, "quotas: The quota 'landscape 300' is not of the form"),
        ("WikiArtLoader", {"columns": "size: x"}, "columns: "),
        ("DatasetComposition", {"quotas": "landscape: 0"}, "quotas: The quota 'landscape: 0'"),
        ("ImageFolderLoader", {"root": "input", "folder": "no\x1b[2Jwhere"}, "folder: There is no folder 'nowhere'"),
        ("ImageFolderLoader", {"root": "/etc", "folder": "x"}, "root: choose one of input, datasets"),
        ("ImageFolderLoader", {"root": ["input"], "folder": "x"}, "root: choose one of input, datasets"),
        ("ImageFolderLoader", {"root": "input", "folder": [[]]}, "folder takes a text, and got a value of type list"),
        ("PromptSet", {"text": "a barn", "file": 3}, "file takes a text, and got a value of type int"),
        ("ImageURLLoader", {"urls": "", "file": ""}, "urls: The list of URLs is empty"),
        ("DatasetTOMLLoader", {"file": "gone.toml"}, "file: There is no TOML file 'gone.toml'"),
        ("PromptSet", {"text": "# nothing"}, "text: The prompt set is empty"),
        ("GeminiCaptioner", {"projects": " "}, "projects: No project is named"),
        ("CaptionEditor", {"replacements": "a dog"}, "replacements: "),
        ("CaptionEditor", {"overrides": "xyz: a boat"}, "overrides: "),
    ],
)
def test_what_costs_nothing_to_check_is_refused_before_anything_runs_by_its_widgets_name(nodes, node, inputs, said):
    refusal = nodes[f"Impasto{node}"].validate_inputs(**inputs)
    assert isinstance(refusal, str) and refusal.startswith(said)


def test_what_is_right_or_not_known_yet_is_let_through(nodes):
    for name, inputs in {
        "WikiArtLoader": {"style": "Plein air", "genre": "any", "quotas": "landscape: 3\nartist=Claude Monet: 4"},
        "DatasetComposition": {"quotas": None},
        "ImageFolderLoader": {"root": None, "folder": None},
        "PromptSet": {"text": "", "file": "", "held_out": 3},
        "GeminiCaptioner": {"projects": "GEMINI_API_KEY"},
        "CaptionEditor": {"replacements": "a dog => a puppy", "overrides": "3fa94c: a boat"},
    }.items():
        assert nodes[f"Impasto{name}"].validate_inputs(**inputs) is True, name


def test_an_error_is_called_by_its_class_alone(comfyui):
    """ComfyUI's page shows an error's module before its class, and the module of a pack is a path on the server."""
    from execution import full_type_name
    from impasto import errors
    from impasto.captioners.quota import DayLimitReached

    assert full_type_name(errors.TrainingError) == "TrainingError"
    assert full_type_name(errors.ImpastoError) == "ImpastoError"
    assert full_type_name(DayLimitReached) == "DayLimitReached"
