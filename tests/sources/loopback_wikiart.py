"""WikiArt.org on loopback: its JSON lists and pictures in their real shape, counting every request by a clock."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from impasto.clock import Clock
from impasto.sources.plan import Request
from impasto.sources.source import PaintingSource
from impasto.sources.wikiart_org import HOST, PICTURE_HOSTS, Site, open_source

from ..small_sources import picture_bytes, serving_https

PUBLIC = "93.184.215.14"


class LoopbackWikiArt:
    """Lists by the path of their page; whatever is asked for is noted with the time of the clock."""

    def __init__(self) -> None:
        self.lists: dict[str, list[dict[str, object]]] = {}
        self.pictures: dict[str, bytes] = {}
        self.page_size = 60
        self.overstated = 0  # paintings that a list counts and does not give
        self.faults: deque[tuple[int, dict[str, str]]] = deque()  # status and headers, one per request; 200 for none
        self.answer: bytes | None = None  # in place of every list
        self.listed: list[tuple[float, str]] = []
        self.sent: list[tuple[float, str]] = []
        self.headers: list[dict[str, str]] = []
        self.time = 1_700_000_000.0  # seconds
        self.lock = threading.Lock()
        self.site = Site()

    def opener(self) -> Callable[[Path, Request], PaintingSource]:
        """Opens the site's lists here."""
        return partial(open_source, site=self.site)

    def sleep(self, seconds: float) -> None:
        with self.lock:
            self.time += seconds

    def add(self, number: int, *paths: str, artist: str = "claude-monet", picture: bytes | None = None) -> None:
        """Put a painting into lists, as the site describes it."""
        name = f"/images/{artist}/painting-{number}.jpg"
        self.pictures[name] = picture_bytes(number) if picture is None else picture
        painting = {
            "id": f"577271cfedc2cb38{number:08x}",
            "title": f"Painting No. {number}",
            "year": "1872" if number % 2 else None,
            "width": 634,
            "height": 750,
            "artistName": artist.replace("-", " ").title(),
            "image": f"https://uploads{number % 9}.wikiart.org{name}!Large.jpg",
            "map": "0123**67*",
            "paintingUrl": f"/en/{artist}/painting-{number}",
            "artistUrl": f"/en/{artist}",
            "albums": None,
            "flags": 2,
            "images": None,
        }
        for path in paths:
            self.lists.setdefault(path, []).append(painting)

    def page(self, path: str, number: int) -> bytes:
        paintings = self.lists[path]
        shown = paintings[(number - 1) * self.page_size : number * self.page_size]
        answer = {
            "ArtistsHtml": None,
            "CanLoadMoreArtists": False,
            "Paintings": shown or None,
            "Artists": None,
            "AllArtistsCount": 0,
            "PaintingsHtml": None,
            "PaintingsHtmlBeta": None,
            "AllPaintingsCount": len(paintings) + self.overstated,
            "PageSize": self.page_size,
            "TimeLog": None,
        }
        return json.dumps(answer).encode()


def most_within(times: list[float], seconds: float) -> int:
    """The greatest number of requests in any stretch of so many seconds."""
    times = sorted(times)
    return max(sum(start <= time < start + seconds for time in times) for start in times)


class HurriedClock(Clock):
    """The site's, which runs only while somebody waits."""

    def __init__(self, site: LoopbackWikiArt) -> None:
        self.site = site

    def time(self) -> float:
        return self.site.time

    def wait(self, seconds: float) -> None:
        self.site.sleep(seconds)


@contextlib.contextmanager
def serving_wikiart() -> Iterator[LoopbackWikiArt]:
    """The site on a free port of loopback, over https, with `site` set to reach it by its own clock."""
    stand_in = LoopbackWikiArt()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with stand_in.lock:
                status, headers = stand_in.faults.popleft() if stand_in.faults else (200, {})
                place = urlsplit(self.path)
                host = self.headers["Host"]
                noted = stand_in.listed if host == HOST else stand_in.sent
                noted.append((stand_in.time, self.path))
                stand_in.headers.append(dict(self.headers))
            body = b""
            if status == 200:
                status, body = self.found(host, place.path, parse_qs(place.query))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def found(self, host: str, path: str, query: dict[str, list[str]]) -> tuple[int, bytes]:
            if host != HOST:
                return (200, stand_in.pictures[path]) if path in stand_in.pictures else (404, b"")
            if path not in stand_in.lists or query.get("json") != ["2"]:
                return 404, b"<html>"
            return 200, stand_in.answer or stand_in.page(path, int(query["page"][0]))

        def log_message(self, *arguments: object) -> None:
            pass

    with serving_https(Handler, [HOST, *PICTURE_HOSTS], PUBLIC) as network:
        stand_in.site = Site(network, HurriedClock(stand_in))
        yield stand_in
