"""What saved graphs hold to: node ids, inputs in their order, defaults, choices, outputs."""

from __future__ import annotations

from ..inprocess.conftest import comfyui  # noqa: F401 (a fixture)
from . import current


def test_schemas(golden, comfyui):  # noqa: F811
    golden("nodes", current.node_schemas())
