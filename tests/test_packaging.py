"""What is written down twice says the same, and every shipped thing is there."""

import json
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
OWNED_BY_COMFYUI = {"torch", "torchvision", "torchaudio", "numpy", "pillow", "transformers", "aiohttp"}
NODE_IDS = [
    match[1]
    for file in sorted((REPOSITORY / "nodes").glob("*.py"))
    for match in re.finditer(r'node_id="(\w+)"', file.read_text())
]


def test_requirements_and_project_name_the_same_packages():
    assert (REPOSITORY / "requirements.txt").read_text().splitlines() == PROJECT["dependencies"]


def test_pip_installs_every_package_of_the_pack():
    installed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {file.parent.name for file in REPOSITORY.glob("*/__init__.py")} - {"setup", "tests", "benchmarks"}
    assert set(installed) == {"impasto", *(f"impasto.{folder}" for folder in folders)}


def test_nothing_that_comfyui_owns_is_required():
    assert not OWNED_BY_COMFYUI & {re.split(r"[<>=~;\[ ]", line)[0].lower() for line in PROJECT["dependencies"]}


def test_every_required_package_has_a_version_that_was_tested():
    constrained = {line.split("==")[0] for line in (REPOSITORY / "setup" / "constraints.txt").read_text().splitlines()}
    required = {re.split(r"[<>=~;\[ ]", line)[0] for line in PROJECT["dependencies"] if "python_version" not in line}
    assert required <= constrained


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_node_has_a_help_page_and_stands_in_the_readme(node_id: str):
    page = (REPOSITORY / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
    title = page.splitlines()[0].removeprefix("# ")
    assert f"| {title} |" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("workflow", sorted((REPOSITORY / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_every_workflow_is_explained_shown_and_of_core_and_own_nodes(workflow: Path):
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    assert graph["version"] == 0.4
    assert any(node["type"] == "MarkdownNote" for node in graph["nodes"])
    assert workflow.with_suffix(".jpg").is_file()
    notes = "\n".join(node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote")
    models = [model for node in graph["nodes"] for model in node["properties"].get("models", ())]
    assert all(model["url"] in notes and f"── {model['directory']}/" in notes for model in models)
    packs = {node["properties"].get("cnr_id") for node in graph["nodes"] if node["type"] != "MarkdownNote"}
    assert packs == {"comfy-core", "impasto"}
    assert not {node["type"] for node in graph["nodes"] if node["properties"].get("cnr_id") == "impasto"} - set(
        NODE_IDS
    )


def test_the_shipped_batch_frees_memory_between_the_prompts_and_the_painting_and_after_it():
    graph = json.loads((REPOSITORY / "workflows" / "schnell_batch.json").read_text(encoding="utf-8"))
    kind = {node["id"]: node["type"] for node in graph["nodes"]}
    links = {(kind[source], kind[target]) for _, source, _, target, _, _ in graph["links"]}
    assert {("ImpastoPromptSet", "ImpastoMemoryCleanup"), ("ImpastoMemoryCleanup", "ImpastoBatchGenerator")} <= links
    assert ("ImpastoPromptSet", "ImpastoBatchGenerator") not in links
    assert ("ImpastoBatchGenerator", "ImpastoMemoryCleanup") in links
