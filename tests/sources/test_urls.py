"""Image URLs: what may be fetched, what must never be, and what becomes of it.

No test can reach the network: every resolver and connector here is the test's own, and one that is not wanted fails.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import io
import json
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from impasto.dataset.pictures import PictureRefused
from impasto.errors import DatasetError, NameRefused
from impasto.sources.download import Fetcher, Limits, Network, allowed_hosts, public_address
from impasto.sources.urls import load_urls, read_list
from PIL import Image

from ..small_sources import picture_bytes, serving_https

HOSTS = frozenset({"museum.example", "cdn.example", "slow.example"})
PUBLIC = "93.184.215.14"
QUICK = Limits(seconds=3, silence=1, longest_wait=1)


def never(*arguments: object) -> object:
    raise AssertionError(f"the network was asked for {arguments}")


def resolving_to(*addresses: str) -> Network:
    return Network(lambda host, port: list(addresses), never, never)


class Museum(http.server.BaseHTTPRequestHandler):
    pages: dict[str, Callable[[Museum], None] | bytes] = {}
    asked: list[str] = []
    at_once = most_at_once = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        with self.lock:
            self.asked.append(self.path)
            Museum.at_once += 1
            Museum.most_at_once = max(Museum.at_once, Museum.most_at_once)
        try:
            page = self.pages.get(self.path)
            if callable(page):
                page(self)
            else:
                self.answer(200 if page is not None else 404, page or b"")
        except OSError:  # the other side was told to hang up
            pass
        finally:
            with self.lock:
                Museum.at_once -= 1

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def museum() -> Iterator[type[Museum]]:
    """An https server on loopback; `Museum.network` leads every public name to it."""
    Museum.pages, Museum.asked, Museum.at_once, Museum.most_at_once = {}, [], 0, 0
    with serving_https(Museum, HOSTS, PUBLIC) as Museum.network:
        yield Museum


def refused(url: str, network: Network, limits: Limits = QUICK) -> tuple[str, str]:
    with pytest.raises(PictureRefused) as refusal:
        Fetcher(HOSTS, limits, network).fetch(url)
    return refusal.value.rule, str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://museum.example/a.jpg",
        "file:///etc/passwd",
        "ftp://museum.example/a.jpg",
        "//museum.example/a.jpg",
        "museum.example/a.jpg",
        "https://127.0.0.1/a.jpg",
        "https://[::1]/a.jpg",
        "https://2130706433/a.jpg",
        "https://localhost/a.jpg",
        "https://evil.example/a.jpg",
        "https://museum.example.evil.example/a.jpg",
        "https://notmuseum.example/a.jpg",
        "https://museum.example./a.jpg",
        "https://museum.example:8443/a.jpg",
        "https://museum.example:99999/a.jpg",
        "https://museum.example@127.0.0.1/a.jpg",
        "https://user:password@museum.example/a.jpg",
        "https://evil.example#@museum.example/",
        "https://evil.example\\@museum.example/",
        "https://museum.example/a.jpg\r\nHost: evil.example",
        "https://museum.example/ a.jpg",
        "https://[museum.example/a.jpg",
        "https://mus\u00e9um.example/",
        "https://museum.example/" + "a" * 3000,
        "data:image/png;base64,AAAA",
        "",
    ],
)
def test_no_name_is_even_looked_up_for_a_url_that_may_not_be_fetched(url):
    rule, _ = refused(url, Network(never, never, never))
    assert rule == "address"


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.9.1",
            "0.0.0.0",
            "10.0.0.8",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
        ),
        *(
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fe80::1%eth0",
        ),
        *("fc00::1", "fd12::8", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::"),
        *("64:ff9b::7f00:1", "64:ff9b::a00:1", "2001:db8::1", "2001:0:7f00:1::", "::127.0.0.1", "no address"),
        *("3fff::1", "3fff:fff:ffff::1", "192.88.99.1", "2002:5db8:d70e::", "2001:0:5db8:d70e::", "5f00::1"),
        *("192.31.196.1", "192.52.193.1", "192.175.48.1", "2620:4f:8000::1", "100::1"),
    ],
)
def test_an_allowed_name_that_leads_inside_is_refused_before_connecting(address):
    assert not public_address(address)
    assert refused("https://museum.example/a.jpg", resolving_to(address))[0] == "address"
    # one bad address among good ones is how a name is turned around between two look-ups
    rule, reason = refused("https://museum.example/a.jpg", resolving_to(PUBLIC, address))
    assert rule == "address" and "not public" in reason


@pytest.mark.parametrize("address", ["93.184.215.14", "208.80.154.240", "2620:0:861:ed1a::2:b", "64:ff9b::5db8:d70e"])
def test_addresses_of_the_public_internet_are_not_refused(address):
    assert public_address(address)


@pytest.mark.parametrize(
    "target",
    [
        "https://127.0.0.1/latest/meta-data",
        "http://museum.example/plain",
        "https://evil.example/a.jpg",
        "//169.254.169.254/",
        "file:///etc/passwd",
        "https://museum.example:22/",
    ],
)
def test_a_redirect_is_held_to_the_same_rules(museum, target):
    museum.pages["/a.jpg"] = lambda page: page.answer(302, Location=target)
    rule, _ = refused("https://museum.example/a.jpg", museum.network)
    assert rule == "address"
    assert museum.asked == ["/a.jpg"]


def test_a_name_that_leads_inside_at_the_second_hop_is_refused(museum):
    museum.pages["/a.jpg"] = lambda page: page.answer(301, Location="/b.jpg")
    museum.pages["/b.jpg"] = picture_bytes()
    answers = iter([[PUBLIC], ["10.0.0.1"]])
    turning = replace(museum.network, resolve=lambda host, port: next(answers))
    assert refused("https://museum.example/a.jpg", turning)[0] == "address"
    assert museum.asked == ["/a.jpg"]


def test_a_file_comes_over_redirects_between_allowed_hosts(museum):
    museum.pages["/a.jpg"] = lambda page: page.answer(302, Location="https://cdn.example/b%20c.jpg?size=full")
    museum.pages["/b%20c.jpg?size=full"] = b"content"
    assert Fetcher(HOSTS, QUICK, museum.network).fetch("https://museum.example/a.jpg") == b"content"


def test_each_request_waits_for_its_turn_redirects_included(museum):
    turns: list[int] = []

    @contextlib.contextmanager
    def turn() -> Iterator[None]:
        turns.append(len(museum.asked))
        yield

    museum.pages["/a.jpg"] = lambda page: page.answer(302, Location="https://cdn.example/b.jpg")
    museum.pages["/b.jpg"] = b"content"
    Fetcher(HOSTS, QUICK, museum.network).fetch("https://museum.example/a.jpg", turn=turn)
    assert turns == [0, 1]


def test_redirects_in_a_circle_end(museum):
    museum.pages["/a.jpg"] = lambda page: page.answer(302, Location="/a.jpg")
    assert "more than 5 redirects" in refused("https://museum.example/a.jpg", museum.network)[1]


def test_a_server_that_cannot_show_the_hosts_certificate_gets_no_request(museum):
    network = replace(museum.network, context=ssl.create_default_context)
    assert "certificate verify failed" in refused("https://museum.example/a.jpg", network)[1]
    hosts = frozenset({"other.example"})
    with pytest.raises(PictureRefused, match="certificate"):
        Fetcher(hosts, QUICK, museum.network).fetch("https://other.example/a.jpg")
    assert museum.asked == []


def test_too_many_bytes_are_not_read_whether_announced_or_not(museum):
    def endless(page: Museum) -> None:
        page.send_response(200)
        page.end_headers()
        while True:
            page.wfile.write(b"x" * 65536)

    museum.pages["/endless"] = endless
    museum.pages["/large"] = b"x" * 300_000
    small = replace(QUICK, size=200_000)
    for path in ("endless", "large"):
        assert refused(f"https://museum.example/{path}", museum.network, small)[0] == "too_large"


def test_a_host_that_drips_is_left_at_the_deadline(museum):
    def drip(page: Museum, prefix: bytes) -> None:
        page.wfile.write(prefix)
        while True:
            page.wfile.write(b"x")
            time.sleep(0.1)

    museum.pages["/body"] = lambda page: drip(page, b"HTTP/1.0 200 OK\r\n\r\n")
    museum.pages["/header"] = lambda page: drip(page, b"HTTP/1.0 200 OK\r\nX-Long: ")
    museum.pages["/silence"] = lambda page: time.sleep(5)
    for path in ("body", "header", "silence"):
        started = time.monotonic()
        assert refused(f"https://museum.example/{path}", museum.network, replace(QUICK, seconds=1))[0] == "fetch"
        assert time.monotonic() - started < 3


def test_content_cut_short_is_not_taken_for_whole(museum):
    def torn(page: Museum) -> None:
        page.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")

    museum.pages["/a.jpg"] = torn
    assert "cut short" in refused("https://museum.example/a.jpg", museum.network)[1]


def test_a_busy_host_is_asked_again_when_it_says_so_and_left_when_that_is_too_long(museum):
    museum.pages["/a.jpg"] = lambda page: (
        page.answer(429, Retry_After="1") if museum.asked.count("/a.jpg") < 2 else page.answer(200, b"content")
    )
    museum.pages["/b.jpg"] = lambda page: page.answer(503, Retry_After="3600")
    assert Fetcher(HOSTS, QUICK, museum.network).fetch("https://museum.example/a.jpg") == b"content"
    assert "asks to wait 3600 s" in refused("https://museum.example/b.jpg", museum.network)[1]


def test_a_list_becomes_a_dataset_and_what_fails_is_told(museum, tmp_path):
    good, same = picture_bytes(1), picture_bytes(2, format="PNG")
    museum.pages |= {"/1.jpg": good, "/2.jpg": same, "/3.jpg": same, "/4.jpg": b"<html>", "/5.jpg": b""}
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    museum.pages["/6.png"] = bomb.getvalue()
    text = "url,caption,artist,year\n" + "\n".join(
        [
            'https://museum.example/1.jpg,"a ""red"" barn,\nby a river",claude-monet,1890',
            *(f"https://museum.example/{n}.jpg,,," for n in (2, 3, 4, 5, 7)),
            "https://museum.example/6.png,,,",
            "https://localhost/8.jpg,,,",
        ]
    )
    fetcher = Fetcher(HOSTS, QUICK, museum.network)

    dataset, report = load_urls(tmp_path, "museum", read_list(text), "JPEG", fetcher)

    first, second = dataset.records()
    assert (first.text, first.artist, first.date) == ('a "red" barn, by a river', "Claude Monet", "1890")
    assert dataset.image_path(first).read_bytes() == good  # nothing to change: byte for byte
    assert second.file_name.endswith(".png")  # by content, not by name
    rules = {refusal.source.rpartition("/")[2]: refusal.rule for refusal in dataset.refusals()}
    assert rules == {
        "3.jpg": "same_bytes",
        "4.jpg": "unreadable",
        "5.jpg": "empty",
        "7.jpg": "fetch",
        "6.png": "too_large",
        "8.jpg": "address",
    }
    assert "8 URLs, 2 pictures stored" in report and "museum.example answers 404" in report
    assert museum.most_at_once <= QUICK.per_host


def test_what_was_fetched_is_not_fetched_again(museum, tmp_path):
    museum.pages |= {f"/{n}.png": picture_bytes(n, format="BMP") for n in range(3)}
    listed = read_list("\n".join(f"https://museum.example/{n}.png" for n in range(4)))

    def load(kind: str = "JPEG"):
        return load_urls(tmp_path, "museum", listed, kind, Fetcher(HOSTS, QUICK, museum.network))[0]

    first = load()
    assert len(museum.asked) == 4
    museum.pages["/3.png"] = picture_bytes(3)
    assert [record.source for record in load().records()][:3] == [record.source for record in first.records()]
    assert museum.asked[4:] == ["/3.png"]
    assert all(record.file_name.endswith(".png") for record in load("PNG").records()[:3])


def test_cancel_ends_slow_downloads_at_once(museum, tmp_path):
    class Cancelled(BaseException):
        pass

    def cancel(done, total, text="", preview=None):
        if time.monotonic() - started > 0.5:
            raise Cancelled

    museum.pages["/slow"] = lambda page: time.sleep(8)
    patient = Limits(seconds=30, silence=30)
    started = time.monotonic()
    fetcher = Fetcher(HOSTS, patient, museum.network)
    with pytest.raises(Cancelled):
        load_urls(tmp_path, "slow", read_list("https://slow.example/slow"), "JPEG", fetcher, cancel)
    assert time.monotonic() - started < 3
    with pytest.raises(PictureRefused, match="stopped"):
        fetcher.fetch("https://slow.example/slow")


def test_nothing_fetched_is_an_error_that_says_why(tmp_path):
    fetcher = Fetcher(HOSTS, QUICK, Network(never, never, never))
    with pytest.raises(DatasetError, match="None of the 1 URLs gave a picture: 1 address.*'evil.example' is not among"):
        load_urls(tmp_path, "museum", read_list("https://evil.example/a.jpg"), "JPEG", fetcher)
    with pytest.raises(NameRefused):
        load_urls(tmp_path, "../museum", read_list("https://museum.example/a.jpg"), "JPEG", fetcher)


def test_lists_are_read_in_three_forms():
    lines = read_list("# mine\nhttps://a.example/1.jpg\n\nhttps://a.example/2.jpg\nhttps://a.example/1.jpg")
    assert [item.url[-5:] for item in lines] == ["1.jpg", "2.jpg"]
    [item] = read_list(json.dumps({"url": "https://a.example/1.jpg", "text": "one\u2028\ntwo", "artist": "Unknown"}))
    assert item.words == {"text": "one two"}
    with pytest.raises(DatasetError, match="Line 2 .* not JSON"):
        read_list('{"url": "https://a.example/1.jpg"}\n{"url": ')
    with pytest.raises(DatasetError, match="empty"):
        read_list("# nothing", "")
    with pytest.raises(DatasetError, match="not CSV"):
        read_list("a" * 200_000)


def test_the_owners_list_of_hosts_takes_the_place_of_the_one_that_ships(tmp_path):
    assert {"upload.wikimedia.org", "images.metmuseum.org"} <= allowed_hosts()
    own = tmp_path / "allowed_hosts.txt"
    assert allowed_hosts(own) == allowed_hosts()
    own.write_text("# ours\nIIIF.Example.org  # the archive\n")
    assert allowed_hosts(own) == {"iiif.example.org"}
    own.write_bytes("\ufeffiiif.example.org\r\n".encode())
    assert allowed_hosts(own) == {"iiif.example.org"}
    own.write_bytes("iiif.example.org".encode("utf-16"))
    with pytest.raises(DatasetError, match="UTF-16.*Save it again as UTF-8"):
        allowed_hosts(own)
    own.write_text("https://iiif.example.org/")
    with pytest.raises(DatasetError, match="one host name a line"):
        allowed_hosts(own)


class Packing(http.server.BaseHTTPRequestHandler):
    """Sends what it is given, packed although it was asked not to."""

    body, encoding = b"", "gzip"

    def do_GET(self):
        assert self.headers["Accept-Encoding"] == "identity"
        self.send_response(200)
        self.send_header("Content-Encoding", self.encoding)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def fetch_packed():
    with serving_https(Packing, ["museum.example"], PUBLIC) as network:

        def fetch(body: bytes, encoding: str = "gzip", limits: Limits = QUICK) -> bytes:
            Packing.body, Packing.encoding = body, encoding
            return Fetcher(frozenset(["museum.example"]), limits, network).fetch("https://museum.example/a.jpg")

        yield fetch


def test_a_server_that_packs_although_asked_not_to_is_understood(fetch_packed):
    picture = picture_bytes(1)
    assert fetch_packed(gzip.compress(picture)) == picture
    assert fetch_packed(gzip.compress(picture[:99]) + gzip.compress(picture[99:])) == picture
    assert fetch_packed(zlib.compress(picture), "deflate") == picture
    assert fetch_packed(picture, "identity") == picture


def test_what_is_packed_is_held_to_the_limits_of_what_is_not(fetch_packed):
    limits = replace(QUICK, size=1_000_000)
    bomb = gzip.compress(bytes(200_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(PictureRefused, match="more than 1 MB"):
            fetch_packed(bomb, limits=limits)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    for body, encoding in ((b"no gzip", "gzip"), (gzip.compress(b"x" * 999)[:-9], "gzip"), (b"x", "br"), (b"", "gzip")):
        with pytest.raises(PictureRefused):
            fetch_packed(body, encoding)
