"""What the documentation points at is there."""

import json
import re
from pathlib import Path

import pytest

from .test_architecture import MAY_IMPORT

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
TESTS = {
    name
    for file in (REPOSITORY / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_test_that_is_named_exists(page):
    named = set(re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")))
    assert named and not named - TESTS


def test_there_is_a_line_for_each_pain_and_each_trap():
    page = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    pains, traps = page.split("## Thirty-one traps")
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", pains, re.MULTILINE)] == list(range(1, 26))
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", traps, re.MULTILINE)] == list(range(1, 32))


PACKAGES = [
    path
    for path in sorted(REPOSITORY.iterdir())
    if (path / "__init__.py").exists() and path.name not in ("setup", "tests")
]


def modules_of_the_pack() -> set[str]:
    files = [file for package in PACKAGES for file in package.rglob("*.py")] + list(REPOSITORY.glob("*.py"))
    return {file.relative_to(REPOSITORY).as_posix() for file in files if file.name != "__init__.py"}


def test_the_design_names_every_module_of_the_pack_and_no_other():
    """In its folder's table, with a line each."""
    page = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8").split("## Every module")[1]
    named = []
    for folder in page.split("\n### ")[1:]:
        place = re.match(r"`([\w/]+/)`\n", folder)
        rows = re.findall(r"^\| `(\w+)` \| \S", folder, re.MULTILINE)
        named += [f"{place[1] if place else ''}{name}.py" for name in rows]
    assert len(named) == len(set(named))
    assert set(named) == modules_of_the_pack()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/design.md"])
def test_files_and_links_that_a_page_gives_are_there(name):
    """Whole paths from the root in backticks, and links to files."""
    page = REPOSITORY / name
    text = page.read_text(encoding="utf-8")
    tops = "|".join(re.escape(path.name) for path in REPOSITORY.iterdir() if path.is_dir() and path.name[0] != ".")
    given = [REPOSITORY / path for path in re.findall(rf"(?<!\+ )`((?:{tops})/[\w/.-]+)`", text)]
    given += [page.parent / path for path in re.findall(r"\]\(([\w/.-]+)\)", text)]
    assert given
    assert not [path for path in given if not path.exists()]


def test_the_design_gives_the_rules_by_which_packages_import_each_other():
    page = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    table = page.split("## Who may import whom")[1].split("\n\n")[2]
    told = {}
    for row in table.splitlines()[2:]:
        packages, others = (set(re.findall(r"`([\w.]+)`", cell)) for cell in row.strip("|").split("|"))
        told |= dict.fromkeys(packages - {"nodes"}, others)
    assert told == {package: set(others) for package, others in MAY_IMPORT.items()}


HELP_PAGES = sorted((REPOSITORY / "web" / "docs").glob("*.md"))
LONG_PAGE = 400  # words


@pytest.mark.parametrize("page", HELP_PAGES, ids=lambda page: page.stem)
def test_the_tables_of_a_help_page_have_as_many_cells_in_each_row(page):
    """A pipe inside a cell is escaped, in code too: it would end the cell."""
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(cells) == 1, table


@pytest.mark.parametrize("page", HELP_PAGES, ids=lambda page: page.stem)
def test_a_long_help_page_begins_with_what_to_do_and_what_to_do_when_it_goes_wrong(page):
    text = page.read_text(encoding="utf-8")
    if len(text.split()) > LONG_PAGE:
        headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert headings[:2] == ["In three steps", "If it goes wrong"]
        assert re.findall(r"^(\d)\. ", text.split("## ")[1], re.MULTILINE) == ["1", "2", "3"]


@pytest.mark.parametrize("workflow", sorted((REPOSITORY / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_the_note_of_a_shipped_graph_links_to_the_help_page_of_each_of_its_nodes(workflow):
    """As ComfyUI's page serves them where the pack's folder is called `impasto`."""
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    parts = [graph, *graph.get("definitions", {}).get("subgraphs", ())]
    types = {node["type"] for part in parts for node in part["nodes"] if node["type"].startswith("Impasto")}
    [note] = [node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote"]
    linked = set(re.findall(r"\]\(extensions/impasto/docs/(\w+)\.md\)", note))
    assert types and linked == types
    assert all((REPOSITORY / "web" / "docs" / f"{kind}.md").is_file() for kind in linked)


@pytest.mark.parametrize("word", ["lora", "train", "style", "caption"])
def test_a_shipped_graph_is_found_by_each_of_these_words_in_its_name(word):
    """ComfyUI's template browser searches by Fuse.js with a threshold of 0.33 and a distance of 100: what begins behind
    the 33rd letter is not found.
    """
    names = [path.stem.lower() for path in (REPOSITORY / "workflows").glob("*.json")]
    found = [name for name in names if word in name]
    assert len(found) >= 2 and not [name for name in found if name.index(word) > 33]
