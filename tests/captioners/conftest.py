"""The tiny Florence-2, made once for all tests of a run."""

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("tiny_florence", Path(__file__).with_name("tiny_florence.py"))
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)


@pytest.fixture(scope="session")
def tiny_florence(tmp_path_factory) -> Path:
    """The folder of a native checkpoint that names the colour of a red, green or blue picture."""
    return tiny.make_tiny_florence(tmp_path_factory.mktemp("models") / "florence2" / "Florence-2-tiny")
