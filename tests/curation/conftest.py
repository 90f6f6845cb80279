"""The small sources of paintings that the tests of this folder ask for."""

from ..small_sources import datasets_root, make_source, mixed_source  # noqa: F401 (fixtures)
