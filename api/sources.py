"""What is told of the sources that paintings can be taken from."""

from __future__ import annotations

from ..embedded.paintings import EMBEDDED_SOURCES
from ..sources.opening import suggested
from .routing import Call, Reply

PAINTED = "Painted by the pack itself, without a download."


def listed(call: Call) -> Reply:
    """The sources that are known by name: those that need nothing first. Any other of the Hub's is taken too."""
    painted = dict.fromkeys(EMBEDDED_SOURCES, PAINTED)  # once painted, they lie among the datasets too
    known = painted | suggested(call.places.datasets_roots) | painted
    return Reply({"sources": [{"name": name, "about": about} for name, about in known.items()]})
