"""The sources there are, and which of them a name means."""

from __future__ import annotations

from typing import Protocol

from ..paths import Roots
from . import hub_repository, local, wikiart_org
from .plan import Request
from .source import PaintingSource


class Opener(Protocol):
    """How the sources of one kind are found by name; a module can be one."""

    def recognises(self, source: str) -> bool:
        """Whether the name is written as those of this kind are."""

    def fingerprint(self, datasets_root: Roots, source: str) -> str:
        """What changes when the source does; asked at every queueing, so found quickly. Raises as `open_source`."""

    def open_source(self, datasets_root: Roots, request: Request) -> PaintingSource:
        """The source that a request names.

        Raises:
            NameRefused: the name is not plain, or leads out of the root.
            SettingsError: the request cannot be read, or not be answered by this kind of source.
            DatasetError: there is no such source.
        """


# What a person is offered beside the folders that are there.
COLLECTIONS = {
    "huggan/wikiart": "81,444 paintings on the Hugging Face Hub, labelled by style, genre and artist.",
    wikiart_org.NAME: "The site itself: slow, because it allows 400 requests an hour.",
}
# The first that recognises a name opens it; a folder's may be any.
OPENERS: tuple[Opener, ...] = (wikiart_org, hub_repository, local)


def open_source(datasets_root: Roots, request: Request) -> PaintingSource:
    """The source that a request names. Raises as `Opener.open_source`."""
    return _opener(request.source).open_source(datasets_root, request)


def source_fingerprint(datasets_root: Roots, source: str) -> str:
    """Changes when what the source holds is known to have changed. Raises as `Opener.open_source`."""
    return _opener(source).fingerprint(datasets_root, source)


def suggested(datasets_root: Roots) -> dict[str, str]:
    """Sources that are known by name, and what each is, in a sentence; any dataset on the Hub may be one too."""
    return COLLECTIONS | dict.fromkeys(local.find_sources(datasets_root), "A folder among ComfyUI's datasets.")


def _opener(source: str) -> Opener:
    return next(opener for opener in OPENERS if opener.recognises(source))
