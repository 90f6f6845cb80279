"""The pack's link, and versions that leave nothing to the day of the installation."""

import re
from pathlib import Path

import impasto
import pytest
from impasto.setup import environment
from impasto.setup.steps import StepFailed

REPOSITORY = Path(impasto.__file__).resolve().parent


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "custom_nodes").mkdir()
    return tmp_path


def test_the_repository_becomes_a_custom_node(base: Path):
    environment.link_pack(base)
    environment.link_pack(base)
    assert (base / "custom_nodes" / "impasto").resolve() == REPOSITORY


def test_a_link_to_an_older_place_of_the_repository_is_replaced(base: Path):
    (base / "custom_nodes" / "impasto").symlink_to(base / "moved-away")
    environment.link_pack(base)
    assert (base / "custom_nodes" / "impasto").resolve() == REPOSITORY


def test_a_folder_in_the_links_place_is_left_alone_and_named(base: Path):
    theirs = base / "custom_nodes" / "impasto" / "notes.txt"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    with pytest.raises(StepFailed, match="Remove what is there"):
        environment.link_pack(base)
    assert theirs.read_text() == "mine"


@pytest.mark.parametrize("path", [environment.CONSTRAINTS, environment.TOOLS], ids=lambda path: path.name)
def test_every_version_is_pinned_exactly(path: Path):
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    assert not [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.+]+( ; .+)?", line)]


def test_everything_the_pack_depends_on_is_pinned():
    project = (REPOSITORY / "pyproject.toml").read_text()
    names = re.findall(r'^\s+"([a-z-]+)>=', project, re.MULTILINE)
    pinned = {line.split("==")[0] for line in environment.CONSTRAINTS.read_text().splitlines()}
    assert len(names) > 5
    assert not set(names) - pinned
