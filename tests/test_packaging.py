"""What is written down twice says the same, and every shipped thing is there."""

import ast
import fnmatch
import json
import re
import sys
from pathlib import Path

import pytest
from impasto.embedded.tiny_flux import JUDGES, PRETRAINED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
OWNED_BY_COMFYUI = {"torch", "torchvision", "torchaudio", "numpy", "pillow", "transformers", "aiohttp"}
IMPORTED_FROM_COMFYUI = (OWNED_BY_COMFYUI - {"pillow"}) | {
    *("PIL", "comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview"),
    *("execution", "node_helpers", "nodes", "server"),
    *("av", "psutil", "pydantic", "safetensors", "scipy", "tqdm", "yaml"),  # of its requirements.txt
    *("comfyui_version", "packaging"),  # its own module; of transformers
}
PACKAGES = {  # dotted, from the repository root
    ".".join(file.parent.relative_to(REPOSITORY).parts)
    for pattern in ("*/__init__.py", "*/*/__init__.py")
    for file in REPOSITORY.glob(pattern)
    if file.relative_to(REPOSITORY).parts[0] not in {"setup", "tests", "benchmarks", ".impasto"}
}
NODE_IDS = [
    match[1]
    for file in sorted((REPOSITORY / "nodes").glob("*.py"))
    for match in re.finditer(r'node_id="(\w+)"', file.read_text())
]


def test_requirements_and_project_name_the_same_packages():
    assert (REPOSITORY / "requirements.txt").read_text().splitlines() == PROJECT["dependencies"]


def test_pip_installs_every_package_of_the_pack():
    installed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(installed) == {"impasto", *(f"impasto.{folder}" for folder in PACKAGES)}


def test_pip_and_the_archive_bring_the_weights_that_the_tiny_flux_has_learned():
    tools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]
    patterns = tools["setuptools"]["package-data"]["impasto.embedded"]
    shipped = (*PRETRAINED.values(), JUDGES)
    for path in shipped:
        assert path.is_file(), f"{path} is not there: embedded/export_weights.py writes it"
        assert in_archive(path.relative_to(REPOSITORY).as_posix())
        assert any(path.relative_to(REPOSITORY / "embedded").match(pattern) for pattern in patterns)
    assert sum(path.stat().st_size for path in shipped) <= 25 * 2**20


def test_nothing_that_comfyui_owns_is_required():
    assert not OWNED_BY_COMFYUI & {re.split(r"[<>=~;\[ ]", line)[0].lower() for line in PROJECT["dependencies"]}


def imported(file: Path) -> set[str]:
    """The packages, not of the standard library, that a file imports anywhere in it."""
    names = set()
    for statement in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            names |= {alias.name.split(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and not statement.level:
            names.add(statement.module.split(".")[0])
    return names - sys.stdlib_module_names - {"impasto"}


def test_every_imported_package_is_required_or_comes_with_comfyui():
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    named = {re.split(r"[<>=~;\[ ]", line)[0].replace("-", "_") for line in PROJECT["dependencies"] + extras}
    ours = [file for folder in PACKAGES for file in (REPOSITORY / folder.replace(".", "/")).glob("*.py")] + [
        *REPOSITORY.glob("*.py")
    ]
    assert not set().union(*map(imported, ours)) - named - IMPORTED_FROM_COMFYUI - {"google", "httpx", "httpx2"}


def test_the_least_comfyui_is_the_same_wherever_it_is_written():
    source = (REPOSITORY / "nodes" / "host" / "version.py").read_text()
    least = ".".join(re.search(r"^LEAST = \((\d+), (\d+), (\d+)\)", source, re.MULTILINE).groups())
    tool = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["comfy"]
    assert tool["requires-comfyui"] == f">={least}"
    assert f"ComfyUI {least} or newer" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def in_archive(path: str) -> bool:
    """Whether the registry's archive holds a file: of the lines of .comfyignore, the last that fits decides."""
    kept = True
    for line in (REPOSITORY / ".comfyignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if path.startswith(pattern) if pattern.endswith("/") else fnmatch.fnmatch(path, pattern):
            kept = line.startswith("!")
    return kept


def test_the_archive_holds_every_file_that_the_readme_links_and_installs_with():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\((?!https?:)([^)#]+)", readme)) | {"setup/install.py", "requirements.txt"}
    assert not [path for path in named if not (REPOSITORY / path).is_file() or not in_archive(path)]
    assert not in_archive("tests/conftest.py") and not in_archive("setup/quickstart.py")


def test_the_readme_tells_of_scripts_that_the_archive_lacks_in_the_repository_alone():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for section in readme.split("\n## ")[1:]:
        if re.search(r"quickstart\.sh|\btest\.sh", section):
            assert "In the repository" in section, section[:60]


def test_the_comments_of_the_script_name_paths_that_exist():
    named = re.findall(r"^#.*\s(tests/[\w./]*\w)", (REPOSITORY / "test.sh").read_text(), re.MULTILINE)
    assert named and all((REPOSITORY / path).exists() for path in named)


def test_nothing_stands_for_an_address_that_does_not_exist():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"<this repository>|example\.com|your-", readme + (REPOSITORY / "pyproject.toml").read_text())


def test_windows_gets_the_time_zones_that_it_does_not_have():
    assert any(re.fullmatch(r"tzdata\S*; sys_platform == 'win32'", line) for line in PROJECT["dependencies"])


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
    graph = json.loads(next((REPOSITORY / "workflows").glob("07 *.json")).read_text(encoding="utf-8"))
    kind = {node["id"]: node["type"] for node in graph["nodes"]}
    links = {(kind[source], kind[target]) for _, source, _, target, _, _ in graph["links"]}
    assert {("ImpastoPromptSet", "ImpastoMemoryCleanup"), ("ImpastoMemoryCleanup", "ImpastoBatchGenerator")} <= links
    assert ("ImpastoPromptSet", "ImpastoBatchGenerator") not in links
    assert ("ImpastoBatchGenerator", "ImpastoMemoryCleanup") in links
