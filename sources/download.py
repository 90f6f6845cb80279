"""Fetching a file from a host that the owner of the server allows, and from nowhere else.

Whoever can queue a graph chooses the URLs, so they are hostile: they may name, redirect to or resolve to machines that
only this server can reach. Each hop is https to an allowed host; every address the name resolves to must be public, and
the connection goes to the address that was checked, not to the name. Proxies are not used, for they would connect.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from ..dataset.pictures import PictureRefused
from ..errors import DatasetError
from ..texts import decoded, megabytes

HTTPS_PORT = 443
REDIRECTS = {301, 302, 303, 307, 308}
BUSY = {429, 503}
CHUNK = 1 << 16  # bytes
LONGEST_URL = 2000  # characters
NO_HEADERS: Mapping[str, str] = {}
AGENT = "Impasto/0.1 (ComfyUI nodes that curate paintings; requests by a person)"
# Not private, but no place of a museum either: documentation, benchmarks, anycast to whoever is nearest, and what packs
# one address into another and may lead anywhere (IANA's special-purpose registries; Python versions differ on some).
_SPECIAL = [
    ipaddress.ip_network(block)
    for block in (
        *("192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24"),  # RFC 7535, 7450, 7526, 7534
        *("100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
        *("5f00::/16", "64:ff9b:1::/48", "fec0::/10"),
    )
]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the IPv4 address is in the last 32 bits
_DECODED = 47  # zlib's window bits: gzip or zlib, whichever the header says

Turn = Callable[[], contextlib.AbstractContextManager[None]]


class Unavailable(PictureRefused):
    """The host does not give it now, but may another time: it is busy, fails, or the connection breaks."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__("fetch", reason)
        self.wait = wait  # seconds that the host asks for; None where it does not say


@dataclass(frozen=True)
class Limits:
    """What one file may cost."""

    seconds: float = 120.0  # in all, redirects and waiting included
    silence: float = 20.0  # seconds without a byte
    size: int = 64_000_000  # bytes
    redirects: int = 5
    attempts: int = 3  # where the host says that it is busy
    longest_wait: float = 60.0  # seconds that a busy host may ask for
    per_host: int = 2  # requests at once, as Wikimedia asks for


def _resolve(host: str, port: int) -> list[str]:
    return [str(place[0]) for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _connect(address: str, port: int, timeout: float) -> socket.socket:
    return socket.create_connection((address, port), timeout)


@dataclass(frozen=True)
class Network:
    """How names become addresses and addresses connections; tests put their own in place of the machine's."""

    resolve: Callable[[str, int], Sequence[str]] = _resolve
    connect: Callable[[str, int, float], socket.socket] = _connect
    context: Callable[[], ssl.SSLContext] = field(default=ssl.create_default_context)


def allowed_hosts(file: Path | None = None) -> frozenset[str]:
    """The hosts of the owner's `file`, or of the list that ships with the pack where there is none.

    Raises:
        DatasetError: the file holds something that is no host name, or cannot be read.
    """
    source = file if file is not None and file.exists() else Path(__file__).with_name("allowed_hosts.txt")
    try:
        lines = decoded(source.read_bytes()).splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(f"The list of allowed hosts {source} cannot be read: {error}.") from error
    hosts = {line.partition("#")[0].strip().lower() for line in lines} - {""}
    for host in hosts:
        if not all(part.replace("-", "").isalnum() for part in host.split(".")):
            raise DatasetError(f"The list of allowed hosts {source} has '{host}'. Write one host name a line.")
    return frozenset(hosts)


def public_address(address: str) -> bool:
    """Whether an IP address is one of the public internet, and none that leads to a private one by translation."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        inner = ip.ipv4_mapped
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return public_address(str(inner))
    if any(ip in block for block in _SPECIAL if block.version == ip.version):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class Fetcher:
    """Fetches files politely, several at once from its caller's threads, until it is stopped."""

    def __init__(self, hosts: frozenset[str], limits: Limits | None = None, network: Network | None = None) -> None:
        self._hosts = hosts
        self._limits = limits or Limits()
        self._network = network or Network()
        self._context = functools.cache(self._network.context)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._places = defaultdict(lambda: threading.BoundedSemaphore(self._limits.per_host))
        self._open: set[socket.socket] = set()

    def stop(self) -> None:
        """End every fetch at once: those under way fail, those to come too."""
        self._stopped.set()
        with self._lock:
            for connection in self._open:
                _shut(connection)

    def fetch(self, url: str, headers: Mapping[str, str] = NO_HEADERS, turn: Turn = contextlib.nullcontext) -> bytes:
        """The content behind `url`.

        Args:
            headers: sent beside the usual ones, or in their place.
            turn: entered for each request, redirects included; the time that entering takes does not count.

        Raises:
            PictureRefused: it may not be fetched ("address"), is too large ("too_large"), or does not come ("fetch");
                `Unavailable` where it may come another time.
        """
        deadline = time.monotonic() + self._limits.seconds
        attempts = 1
        hops = 0
        while True:
            host, path = self._checked(url)
            asked = time.monotonic()
            with turn():
                deadline += time.monotonic() - asked
                with self._place(host):
                    status, answered, body = self._request(host, path, headers, deadline)
            if status in REDIRECTS and answered.get("location"):
                hops += 1
                if hops > self._limits.redirects:
                    raise PictureRefused("fetch", f"more than {self._limits.redirects} redirects")
                url = urljoin(url, answered["location"])
            elif status in BUSY and attempts < self._limits.attempts:
                attempts += 1
                self._wait(answered.get("retry-after"), attempts, deadline)
            elif status == 200:
                return body
            else:
                raise _refusal(host, status, answered.get("retry-after"))

    def _checked(self, url: str) -> tuple[str, str]:
        """Host and path of a URL that may be asked for."""
        if len(url) > LONGEST_URL or any(ord(character) <= 32 or character == "\\" for character in url):
            raise PictureRefused("address", "the URL is too long, or has spaces, control characters or backslashes")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise PictureRefused("address", f"no URL ({error})") from None
        if parts.scheme != "https":
            raise PictureRefused("address", f"only https is fetched, not {parts.scheme or 'a URL without a scheme'}")
        if "@" in parts.netloc or port not in (None, HTTPS_PORT):
            raise PictureRefused("address", "a URL with a password or a port of its own is not fetched")
        host = parts.hostname or ""
        if host not in self._hosts:
            raise PictureRefused("address", f"the host '{host}' is not among the allowed hosts")
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        return host, target + (f"?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else "")

    def _addresses(self, host: str) -> Sequence[str]:
        try:
            found = self._network.resolve(host, HTTPS_PORT)
        except OSError as error:
            raise Unavailable(f"{host} is not found ({error.strerror or error})") from error
        hidden = [address for address in found if not public_address(address)]
        if hidden or not found:
            raise PictureRefused("address", f"{host} leads to {', '.join(hidden) or 'no address'}, which is not public")
        return found

    def _request(
        self, host: str, path: str, extra: Mapping[str, str], deadline: float
    ) -> tuple[int, dict[str, str], bytes]:
        with contextlib.ExitStack() as stack:
            try:
                secure = stack.enter_context(self._connected(host, deadline))
                connection = http.client.HTTPSConnection(host, context=self._context())
                connection.sock = secure
                headers = {"User-Agent": AGENT, "Accept": "image/*", "Accept-Encoding": "identity"}
                connection.request("GET", path, headers={**headers, **extra, "Connection": "close"})
                answer = connection.getresponse()
                found = {name.lower(): value for name, value in answer.getheaders()}
                body = self._body(answer, found, deadline) if answer.status == 200 else b""
                return answer.status, found, body
            except (OSError, http.client.HTTPException, ValueError) as error:
                if self._stopped.is_set():
                    raise PictureRefused("fetch", "stopped") from None
                if time.monotonic() >= deadline:
                    raise Unavailable(f"not there after {self._limits.seconds:g} s") from error
                raise Unavailable(f"{host} breaks off ({error or type(error).__name__})") from error

    @contextlib.contextmanager
    def _connected(self, host: str, deadline: float) -> Iterator[ssl.SSLSocket]:
        """A TLS connection to a checked address of the host, which is shut at the deadline, whatever trickles in."""
        plain = self._first_open(self._addresses(host), deadline)
        try:
            secure = self._context().wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
        except BaseException:
            plain.close()
            raise
        alarm = threading.Timer(max(0.0, deadline - time.monotonic()), _shut, [secure])
        alarm.daemon = True
        with secure:
            with self._lock:
                self._open.add(secure)
            alarm.start()
            try:
                if self._stopped.is_set():
                    raise PictureRefused("fetch", "stopped")
                secure.do_handshake()
                yield secure
            finally:
                alarm.cancel()
                with self._lock:
                    self._open.discard(secure)

    def _first_open(self, addresses: Sequence[str], deadline: float) -> socket.socket:
        failure: OSError = OSError("no address answers")
        for address in addresses:
            seconds = min(self._limits.silence, deadline - time.monotonic())
            if seconds <= 0 or self._stopped.is_set():
                break
            try:
                return self._network.connect(address, HTTPS_PORT, seconds)
            except OSError as error:
                failure = error
        raise failure

    def _body(self, answer: http.client.HTTPResponse, headers: dict[str, str], deadline: float) -> bytes:
        announced = headers.get("content-length", "")
        decoded = _Decoded(headers.get("content-encoding", ""), self._limits.size)
        size = int(announced) if announced.isdigit() else 0
        received = 0
        while size <= self._limits.size:
            part = answer.read1(CHUNK)
            if not part:
                # read1 tells neither a body cut short nor a socket that the deadline shut from the end
                if time.monotonic() >= deadline or self._stopped.is_set() or (announced and received < size):
                    raise OSError("the content is cut short")
                return decoded.whole()
            decoded.add(part)
            received += len(part)
            size = max(size, received)
        raise _too_large(self._limits.size)

    @contextlib.contextmanager
    def _place(self, host: str) -> Iterator[None]:
        with self._lock:
            place = self._places[host]
        while not place.acquire(timeout=0.2):
            if self._stopped.is_set():
                raise PictureRefused("fetch", "stopped")
        try:
            yield
        finally:
            place.release()

    def _wait(self, asked: str | None, attempt: int, deadline: float) -> None:
        seconds = _seconds(asked) or 2.0**attempt
        if seconds > self._limits.longest_wait or time.monotonic() + seconds > deadline:
            raise Unavailable(f"the host is busy and asks to wait {seconds:g} s", seconds)
        if self._stopped.wait(seconds):
            raise PictureRefused("fetch", "stopped")


def _too_large(limit: int) -> PictureRefused:
    return PictureRefused("too_large", f"more than {megabytes(limit, 0)}")


class _Decoded:
    """A body as it comes in, decoded where the server packs it although it was asked not to."""

    def __init__(self, encoding: str, limit: int) -> None:
        names = [name for name in encoding.lower().replace(" ", "").split(",") if name not in ("", "identity")]
        if names and (len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate")):
            raise PictureRefused("fetch", f"the content comes packed as '{encoding[:40]}', which was not asked for")
        self._packed = bool(names)
        self._unpacker = zlib.decompressobj(_DECODED)
        self._parts: list[bytes] = []
        self._size, self._limit = 0, limit

    def add(self, part: bytes) -> None:
        """Take in what has come; raises `PictureRefused` once it unfolds beyond the limit, OSError where it cannot."""
        while part:
            out = part
            if self._packed:
                if self._unpacker.eof:  # gzip may have several members
                    self._unpacker = zlib.decompressobj(_DECODED)
                try:
                    out = self._unpacker.decompress(part, self._limit - self._size + 1)
                except zlib.error as error:
                    raise OSError(f"the content cannot be unpacked: {error}") from None
            self._size += len(out)
            if self._size > self._limit:
                raise _too_large(self._limit)
            self._parts.append(out)
            part = (self._unpacker.unconsumed_tail or self._unpacker.unused_data) if self._packed else b""

    def whole(self) -> bytes:
        if self._packed and not self._unpacker.eof:
            raise OSError("the content is cut short")
        return b"".join(self._parts)


def _refusal(host: str, status: int, asked: str | None) -> PictureRefused:
    reason = f"{host} answers {status} {http.client.responses.get(status, '')}".strip()
    return Unavailable(reason, _seconds(asked)) if status in BUSY or status >= 500 else PictureRefused("fetch", reason)


def _seconds(asked: str | None) -> float | None:
    """What a Retry-After says, where it is a number as hosts send it; dates are too rare to be read."""
    return float(asked) if asked and asked.isascii() and asked.isdigit() else None


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # not SSLSocket's own, which would let a read under way go on without decrypting
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
