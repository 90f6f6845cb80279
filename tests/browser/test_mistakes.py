"""What a person does wrong is read on the node where it was done: what is wrong, what was given, and what to do."""

from __future__ import annotations

import pytest
from impasto.embedded.paintings import paint, scene

from .conftest import Page

FOLDER = "mistaken"  # of one picture
LOADED = ("ImpastoImageFolderLoader", {"root": "input", "folder": FOLDER, "name": FOLDER, "format": "JPEG"})
KEY = "GEMINI_API_KEY_NOBODY_HAS"
# What is queued, in API form: the node that the mistake is in is the first; and what that node then says.
MISTAKES = {
    "a folder that is not there": (
        {"1": ("ImpastoImageFolderLoader", {"root": "input", "folder": "harbors", "name": "pictures"})},
        ["folder: ", "harbors"],
    ),
    "a key that nobody has set": (
        {"1": ("ImpastoGeminiCaptioner", {"dataset": ["2", 0], "projects": KEY}), "2": LOADED},
        [f"There is no key for the project '{KEY}'", "Set the environment variable", "gemini.toml"],
    ),
    "no prompt": (
        {"1": ("ImpastoPromptSet", {"text": "  \n# a harbour\n"}), "2": ("PreviewAny", {"source": ["1", 1]})},
        ["text: ", "prompt"],
    ),
    "a line of the quotas": (
        {
            "1": ("ImpastoDatasetComposition", {"dataset": ["2", 0], "quotas": "landscape: 3\nportrait 2"}),
            "2": LOADED,
            "3": ("PreviewAny", {"source": ["1", 1]}),
        },
        ["quotas: ", "portrait 2"],
    ),
    "the space of a sweep": (
        {
            "1": (
                "ImpastoTrainingSweep",
                {
                    "model": ["2", 0],
                    "features": ["3", 0],
                    "training": ["4", 0],
                    "space": "rank: 4, 16\nsharpness: 1, 2",
                },
            ),
            "2": ("ImpastoTinyFluxLoader", {}),
            "3": ("ImpastoEncodeTrainingData", {"clip": ["2", 1], "vae": ["2", 2], "dataset_config": ["5", 0]}),
            "4": ("ImpastoTrainingSettings", {}),
            "5": ("ImpastoDatasetTOMLWriter", {"dataset": ["6", 0]}),
            "6": LOADED,
        },
        ["space: ", "sharpness"],
    ),
}
SAID = """kind => app.rootGraph.nodes.find(node => node.type === kind).widgets
    .find(widget => widget.name === 'impasto_result').element.textContent"""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_read_on_its_node(page: Page, mistake: str, tmp_path):
    (page.server.base / "input" / FOLDER).mkdir(exist_ok=True)
    paint(scene("landscape", 1), "impressionist", 320, 256).save(page.server.base / "input" / FOLDER / "1.jpg")
    nodes, expected = MISTAKES[mistake]
    graph = {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in nodes.items()}
    kind = nodes["1"][0]
    page.tab.evaluate("graph => app.loadApiJson(graph, 'mistaken')", graph)
    page.tab.evaluate("() => { app.queuePrompt(0) }")
    page.wait_for_text(kind, expected[0], failed=True)
    said = page.tab.evaluate(SAID, kind)
    page.tab.screenshot(path=tmp_path / "read.png")
    assert all(part in said for part in expected), said
    assert len(said) < 600 and "Traceback" not in said and "impasto." not in said and not page.faults
