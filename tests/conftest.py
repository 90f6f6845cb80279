"""Makes the repository importable as the package `impasto`, whatever its folder is called."""

import importlib.util
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

if "impasto" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        "impasto", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["impasto"] = package
    spec.loader.exec_module(package)
