"""Makes the repository importable as the package `impasto`, whatever its folder is called; models made once a run."""

import importlib.util
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

if "impasto" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        "impasto", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["impasto"] = package
    spec.loader.exec_module(package)


@pytest.fixture(scope="session")
def tiny_florence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a native Florence-2 that names the colour of a red, green or blue picture."""
    spec = importlib.util.spec_from_file_location("tiny_florence", REPOSITORY / "tests" / "tiny_florence.py")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return tiny.make_tiny_florence(tmp_path_factory.mktemp("florence") / "Florence-2-tiny")


# Their files last longest: begun last, one of them would keep a single process busy while the others have ended.
SLOWEST = ("comfyui", "browser", "learning", "security", "benchmarks", "trainers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders of `SLOWEST` first, in that order; within a folder everything stays in order."""

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(REPOSITORY / "tests").parts[0]
        return SLOWEST.index(folder) if folder in SLOWEST else len(SLOWEST)

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have measured, as they recorded it by `record_property("measured", …)`."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.getreports(name)]
    lines = [text for report in reports for name, text in report.user_properties if name == "measured"]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.line(line)
