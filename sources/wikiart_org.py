"""WikiArt.org itself as a source, for what no dataset has: slow, because the site allows few requests.

Its JSON lists tell which paintings have a style, a genre or an artist, sixty a page, and nothing else of their labels.
So the lists of every label asked for are read first, which is what takes the time, and a painting has the labels of
the lists it is in. Pages with paintings are kept
under `<datasets root>/.sources/wikiart.org/` and never read again.

The addresses are those that gallery-dl 1.x (`extractor/wikiart.py`) uses, the limits those of WikiArt.org's page on its
API: 10 requests in 2.5 seconds, 400 requests an hour, 20 pictures a second.
"""

from __future__ import annotations

import contextlib
import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..clock import Clock
from ..dataset.labels import ANY, label_key
from ..dataset.pictures import Outcome, PictureRefused, stored_or_refused
from ..dataset.wikiart_labels import ARTISTS, GENRES, STYLES
from ..errors import DatasetError, SettingsError
from ..files import parsed_json, remove_partials, write_whole
from ..paths import Roots
from ..progress import Progress, duration
from ..rate_limit import Limit
from ..rate_limit import RateLimiter as RateLimiter
from ..texts import cleaned, one_line
from .download import NO_HEADERS, Fetcher, Limits, Network, Unavailable
from .download_log import DownloadLog
from .parallel import in_parallel
from .plan import Request
from .quotas import Quota, parse_quotas
from .source import NOTHING_TO_FETCH, Cost, Row, RowGroups, cache_folder

NAME = "wikiart.org"  # as the source of a request
HOST = "www.wikiart.org"
# Pictures lie on numbered hosts, in two families as far as is known.
PICTURE_HOSTS = [f"{family}uploads{number}.{NAME}" for family in ("", "use2-") for number in ("", *range(10))]
PER_HOUR = Limit(400, 3600.0)
LIST_LIMITS = (Limit(10, 2.5), PER_HOUR)
PICTURE_LIMITS = (Limit(20, 1.0),)
PICTURES_AT_ONCE = 4
LIMITS = Limits(silence=10.0, attempts=1, redirects=2)  # how long to wait for a busy site is decided here
ATTEMPTS = 4  # at one page or picture
UNNAMED_WAIT = 5.0  # seconds times the attempts so far, where the site does not say
LONGEST_WAIT = 3600.0  # seconds, whatever it says
MOST_FAILURES = 5  # pictures in a row that the site does not give, before giving up
MOST_PAGES = 1000  # of one list; the largest known has about 300
KNOWN = {"style": STYLES, "genre": GENRES, "artist": ARTISTS}
# The site's names where they are not the label of huggan/wikiart with hyphens.
SLUGS = {
    ("style", "art nouveau"): "art-nouveau-modern",
    ("genre", "abstract painting"): "abstract",
    ("genre", "nude painting"): "nude-painting-nu",
}


@dataclass(frozen=True)
class Site:
    """How the site is reached; tests put a stand-in and a clock of their own here."""

    network: Network = field(default_factory=Network)
    clock: Clock = field(default_factory=Clock)


class Painting(NamedTuple):
    """What a list says of one painting."""

    id: str
    title: str
    year: str
    artist: str
    image: str  # URL of the picture in full size
    page: str  # path of the painting's page on the site


class Page(NamedTuple):
    """One page of a list."""

    pages: int  # that the list has, by its own count
    paintings: list[Painting]


@dataclass(frozen=True)
class PaintingList:
    """The site's list of the paintings of one label."""

    kind: str  # "style", "genre" or "artist"
    label: str

    @property
    def slug(self) -> str:
        """The label as the site's addresses have it: "Post_Impressionism" is post-impressionism."""
        key = label_key(self.label)
        plain = unicodedata.normalize("NFKD", key).encode("ascii", "ignore").decode()
        slug = SLUGS.get((self.kind, key), "-".join(plain.split()))
        if not re.fullmatch(r"[a-z0-9-]{1,100}", slug):
            raise SettingsError(
                f"The {self.kind} '{self.label}' cannot be looked up on {NAME}. Write it as the address of its page "
                "there does, for example 'claude-monet'."
            )
        return slug

    def url(self, page: int) -> str:
        path = f"{self.slug}/mode/all-paintings" if self.kind == "artist" else f"paintings-by-{self.kind}/{self.slug}"
        return f"https://{HOST}/en/{path}?json=2&layout=new&page={page}&resultType=masonry"


def lists_for(labels: Iterable[tuple[str, str]], quotas: Iterable[Quota]) -> list[PaintingList]:
    """The lists to read for these labels, given by kind, and for the quotas.

    Raises:
        SettingsError: there would be none; the site has no list of everything.
    """
    asked = [*labels, *((quota.kind, quota.label) for quota in quotas if quota.kind in KNOWN)]
    lists = {(kind, label_key(label)): PaintingList(kind, _spelt(kind, label)) for kind, label in asked}
    if not lists:
        raise SettingsError(
            f"{NAME} has no list of all its paintings. Ask for a style, a genre or an artist, or give quotas."
        )
    return list(lists.values())


def recognises(source: str) -> bool:
    """Whether the site is meant, whose name is no folder's."""
    return source.strip().lower() == NAME


def fingerprint(datasets_root: Roots, source: str) -> str:
    """Always the same: the site's lists are read once."""
    return NAME


def open_source(datasets_root: Roots, request: Request, site: Site | None = None) -> WikiArtOrg:
    """The lists that a request needs.

    Args:
        site: how it is reached; as from this machine where it is None.

    Raises:
        SettingsError: no label is asked for, or a quota line has another form.
    """
    labels = [(kind, label) for kind, label in request.labels().items() if label_key(label) not in ("", ANY)]
    lists = lists_for(labels, parse_quotas(request.quotas))
    return WikiArtOrg(cache_folder(datasets_root, NAME), lists, site or Site(), request.keep_metadata)


class WikiArtOrg:
    """The paintings of some of the site's lists."""

    name = NAME
    groups: RowGroups | None = None

    def __init__(self, cache: Path, lists: Sequence[PaintingList], site: Site, keep_metadata: bool = False) -> None:
        self._cache, self._lists, self._keep_metadata = cache, lists, keep_metadata
        self._fetcher = Fetcher(frozenset([HOST, *PICTURE_HOSTS]), LIMITS, site.network)
        self._list_limiter = RateLimiter(LIST_LIMITS, site.clock, cache / "requests.jsonl")
        self._picture_limiter = RateLimiter(PICTURE_LIMITS, site.clock)
        self._paintings: list[Painting] = []
        self.notes: list[str] = []  # for the report: lists that ended early, once `rows` has read them

    @property
    def shard_names(self) -> list[str]:
        """One for each painting, so that the choice depends on the site's own numbers for them, not on their order."""
        return [painting.id for painting in self._paintings]

    def stop(self) -> None:
        """End every wait and every transfer."""
        self._list_limiter.stop()
        self._picture_limiter.stop()
        self._fetcher.stop()

    def rows(self, progress: Progress) -> list[Row]:
        """The paintings of the lists; pages read before are not read again.

        Raises:
            DatasetError: the site does not give a page.
        """
        for of in self._lists:
            remove_partials(self._path(of, 1).parent)
        self._read([(of, 1) for of in self._lists], progress)
        first = {of: self._page(of, 1) for of in self._lists}
        pages = {of: min(page.pages, MOST_PAGES) if page else 0 for of, page in first.items()}
        self._read([(of, number) for of in self._lists for number in range(1, pages[of] + 1)], progress)
        self.notes = []
        paintings: dict[str, Painting] = {}
        labels: dict[str, dict[str, str]] = {}
        for of in self._lists:
            read = [page for number in range(1, pages[of] + 1) if (page := self._page(of, number))]
            if not read or len(read) < pages[of]:
                place = f"ended at page {len(read)} of {pages[of]}" if read else "is empty"
                self.notes.append(
                    f"{NAME}'s list of the {of.kind} '{of.label}' {place}. The rest is asked for when this runs again."
                )
            for page in read:
                for painting in page.paintings:
                    paintings.setdefault(painting.id, painting)
                    labels.setdefault(painting.id, {}).setdefault(of.kind, of.label)
        self._paintings = [paintings[key] for key in sorted(paintings)]
        return [_row(number, painting, labels[painting.id]) for number, painting in enumerate(self._paintings)]

    def place(self, row: Row) -> str:
        return f"https://{HOST}/{self._paintings[row.shard].page.lstrip('/')}"

    def cost(self, folder: Path, rows: Iterable[Row]) -> Cost:
        """What it will take to have these pictures, beyond what the dataset has already."""
        fetched = DownloadLog(folder)
        missing = sum(fetched.get(self._key(row)) is None for row in rows)
        if not missing:
            return NOTHING_TO_FETCH
        seconds = missing / PICTURE_LIMITS[0].most
        return Cost(
            f"To fetch: {missing:,} pictures in as many requests, at least {duration(seconds)} at the site's limit "
            f"of {PICTURE_LIMITS[0].most} a second. It does not tell how many megabytes they are."
        )

    def store(
        self, folder: Path, rows: Sequence[Row], pool: Collection[Row], tick: Callable[[str], None]
    ) -> Iterator[tuple[Row, Outcome]]:
        """Put the pictures of `rows` into the dataset's folder, in any order.

        Raises:
            DatasetError: the site gives several in a row not at all.
        """
        fetched = DownloadLog(folder, self._keep_metadata)
        waiting, failures = [], 0
        for row in rows:
            if (outcome := fetched.verified(self._key(row))) is not None:
                yield row, outcome
                tick("")
            else:
                waiting.append(row)

        def fetch(row: Row) -> Outcome:
            try:
                data = self._ask(self._paintings[row.shard].image, self._picture_limiter)
            except PictureRefused as refused:
                return refused
            outcome = stored_or_refused(folder, data, self._keep_metadata)
            fetched.add(NAME, {self._paintings[row.shard].id: outcome})
            return outcome

        def look() -> None:
            tick(_countdown(self._picture_limiter) or f"Fetching from {NAME}")

        for row, outcome in in_parallel(self, fetch, waiting, look, PICTURES_AT_ONCE):
            failures = failures + 1 if isinstance(outcome, Unavailable) else 0
            if failures == MOST_FAILURES:
                raise DatasetError(
                    f"{NAME} gave {failures} pictures in a row not at all ({outcome}). What was fetched is kept: "
                    "queue again later."
                )
            yield row, outcome

    def _read(self, pages: Sequence[tuple[PaintingList, int]], progress: Progress) -> None:
        """Read those pages that are not here yet, one after the other: the hour's limit leaves nothing to hurry for."""
        missing = [page for page in pages if self._page(*page) is None]
        done = len(pages) - len(missing)

        def look() -> None:
            at = f"page {done + 1} of {len(pages)} of {NAME}'s lists"
            beyond = len(pages) - done - self._list_limiter.calls_left(PER_HOUR)
            hours = f"; {PER_HOUR.most} an hour are allowed, so up to {-(-beyond // PER_HOUR.most)} h more"
            text = _countdown(self._list_limiter) or f"Reading {at}"
            progress(done, len(pages), f"{text}{hours if beyond > 0 else ''}")

        for _ in in_parallel(self, self._read_page, missing, look, 1):
            done += 1

    def _read_page(self, page: tuple[PaintingList, int]) -> None:
        of, number = page
        before = self._page(of, number - 1) if number > 1 else None
        if number > 1 and not before:
            return  # the list ends earlier than its own count says
        url = of.url(number)
        # as the site's own pages ask, so that it answers with JSON
        headers = {"Accept": "application/json", "X-Requested-With": "XMLHttpRequest", "Referer": url.partition("?")[0]}
        try:
            answer = _parsed(self._ask(url, self._list_limiter, headers))
        except PictureRefused as refused:
            raise DatasetError(
                f"{NAME} does not give page {number} of its list of the {of.kind} '{of.label}' ({refused}). Where it "
                f"answers 404, write the {of.kind} as the address of its page there does. The pages read are kept."
            ) from refused
        if answer.paintings:
            write_whole(self._path(of, number), json.dumps(answer))

    def _ask(self, url: str, limiter: RateLimiter, headers: Any = NO_HEADERS) -> bytes:
        """What is behind a URL, asked for again where the site is busy or fails."""
        attempt = 1
        while True:
            try:
                return self._fetcher.fetch(url, headers, limiter.call)
            except Unavailable as failure:
                if attempt == ATTEMPTS:
                    raise
                limiter.pause(min(failure.wait or attempt * UNNAMED_WAIT, LONGEST_WAIT))
                attempt += 1

    def _page(self, of: PaintingList, number: int) -> Page | None:
        """A page as it was read; None where it was not, or the file is damaged.

        One without paintings counts as not read: the site may have been ailing, and the list goes on after all.
        """
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
            pages, paintings = parsed_json(self._path(of, number).read_bytes())
            return Page(pages, [Painting(*painting) for painting in paintings]) if paintings else None
        return None

    def _path(self, of: PaintingList, number: int) -> Path:
        return self._cache / f"{of.kind}-{of.slug}" / f"{number}.json"

    def _key(self, row: Row) -> tuple[str, str]:
        return NAME, self._paintings[row.shard].id


def _spelt(kind: str, label: str) -> str:
    """The label as huggan/wikiart spells it, if that has it: sources are then told apart by their pictures only."""
    return next((known for known in KNOWN[kind] if label_key(known) == label_key(label)), label.strip())


def _row(number: int, painting: Painting, labels: dict[str, str]) -> Row:
    return Row(
        shard=number,
        row=0,
        artist=labels.get("artist", painting.artist),
        genre=labels.get("genre", ""),
        style=labels.get("style", ""),
        title=painting.title,
        date=painting.year,
        text="",
    )


def _parsed(content: bytes) -> Page:
    """A page of a list, from the site's JSON.

    Raises:
        PictureRefused: it is something else.
    """
    try:
        answer = parsed_json(content)
        entries, count, size = answer["Paintings"] or [], int(answer["AllPaintingsCount"]), int(answer["PageSize"])
        paintings = [_painting(entry) for entry in entries if entry.get("id") and entry.get("image")]
        return Page(-(-count // max(1, size)), paintings)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = f"the answer is not one of its lists ({type(error).__name__}); it may keep programs out for now"
        raise PictureRefused("fetch", reason) from error


def _painting(entry: dict[str, Any]) -> Painting:
    def text(name: str) -> str:
        return one_line(cleaned(str(entry.get(name) or "")))

    # "….jpg!Large.jpg" is a smaller copy
    image = text("image").partition("!")[0]
    return Painting(text("id"), text("title"), text("year"), text("artistName"), image, text("paintingUrl"))


def _countdown(limiter: RateLimiter) -> str:
    """What to tell while a limit is waited for; "" where that takes no time worth telling."""
    left = round(limiter.countdown())
    if left < 2:
        return ""
    return f"Waiting until {NAME} may be asked again: {duration(left)}"
