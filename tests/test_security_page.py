"""SECURITY.md names what is there: files, folders, variables and inputs."""

import re
from pathlib import Path

from impasto.captioners.keys import _VARIABLE

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
CODE = "\n".join(
    file.read_text(encoding="utf-8")
    for folder in (
        *("api", "captioners", "curation", "dataset", "nodes", "prompting", "publishing", "sources"),
        "trainers",
    )
    for file in sorted((REPOSITORY / folder).rglob("*.py"))
)


def named(pattern: str) -> set[str]:
    found = set(re.findall(pattern, PAGE))
    assert found, pattern
    return found


def test_the_owners_files_are_called_so_in_the_code():
    for name in named(r"`user/impasto/([\w./]+?)/?`"):
        assert re.search(rf'["\'/]{re.escape(name)}\b', CODE), name


def test_files_of_the_repository_that_are_named_exist():
    for place in named(r"`((?:sources|tests|paths)[\w/.]*)`"):
        assert (REPOSITORY / place).exists(), place


def test_files_of_a_run_and_inputs_that_are_named_are_in_the_code():
    for name in named(r"`((?:settings|metrics|workflow)\.\w+|keep_metadata)`"):
        assert f'"{name}"' in CODE, name


def test_only_keys_of_the_services_are_looked_up_in_the_environment():
    assert all(_VARIABLE.fullmatch(name) for name in named(r"`(\w+_API_KEY)…?`"))
    assert not any(_VARIABLE.fullmatch(name) for name in ("HF_TOKEN", "PATH", "AWS_SECRET_ACCESS_KEY"))


def test_the_bounds_of_routes_are_those_of_the_code():
    assert "LARGEST_BODY = 2**20" in CODE and "1 MiB" in PAGE
    (posts,) = re.findall(r"MOST_POSTS, POSTS_SECONDS = (\d+), 60", CODE)
    assert f"{posts} requests a minute" in PAGE
    assert 'TOKEN = "IMPASTO_TOKEN"' in CODE and "`IMPASTO_TOKEN`" in PAGE


def test_the_readme_leads_here():
    assert "(SECURITY.md)" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
