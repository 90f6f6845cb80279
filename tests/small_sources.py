"""Small sources of paintings in the schema of huggan/wikiart, written with pyarrow, and an https server on loopback."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import pyarrow
import pytest
import trustme
from impasto.dataset.wikiart_labels import GENRES, STYLES
from impasto.sources.download import Network
from PIL import Image
from pyarrow import parquet

ARTISTS = ("Unknown Artist", "claude-monet", "vincent-van-gogh", "joaqu\u00e3\u00adn-sorolla")


@dataclass(frozen=True)
class Painting:
    """One row of a source."""

    data: bytes
    artist: str = "claude-monet"
    genre: str = "landscape"
    style: str = "Impressionism"


def picture_bytes(seed: int = 0, width: int = 96, height: int = 64, format: str = "JPEG", **options: object) -> bytes:
    """A noisy picture, another one for each seed."""
    pixels = numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), numpy.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def heavier(picture: bytes, ballast: bytes) -> bytes:
    """A JPEG with so many bytes more that are no private data: in segments for a colour profile, up to 64 KB each."""
    parts = [ballast[start : start + 65_000] for start in range(0, len(ballast), 65_000)]
    segments = [struct.pack(">HH", 0xFFE2, len(part) + 14) + b"ICC_PROFILE\0" + part for part in parts]
    return picture[:2] + b"".join(segments) + picture[2:]


def write_shard(
    path: Path, paintings: Sequence[Painting], rows_per_group: int = 3, labels_as: str = "ClassLabel"
) -> None:
    """Write rows as the Hub does: image as bytes and path, labels as ClassLabel numbers or as strings."""
    names = {"artist": ARTISTS, "genre": GENRES, "style": STYLES}
    features: dict[str, object] = {"image": {"_type": "Image"}}
    columns: dict[str, pyarrow.Array] = {
        "image": pyarrow.array(
            [{"bytes": painting.data, "path": None} for painting in paintings],
            pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
        )
    }
    for column, known in names.items():
        values = [getattr(painting, column) for painting in paintings]
        if labels_as == "ClassLabel":
            features[column] = {"names": list(known), "_type": "ClassLabel"}
            columns[column] = pyarrow.array([known.index(value) for value in values], pyarrow.int64())
        else:
            features[column] = {"dtype": "string", "_type": "Value"}
            columns[column] = pyarrow.array(values, pyarrow.string())
    table = pyarrow.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=rows_per_group)


@contextlib.contextmanager
def serving_https(
    handler: type[http.server.BaseHTTPRequestHandler], hosts: Iterable[str], address: str
) -> Iterator[Network]:
    """An https server on loopback with a certificate for `hosts`, and the network in which they are at `address`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = trustme.CA()
    authority.issue_cert(*hosts).configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def connect(asked: str, port: int, timeout: float) -> socket.socket:
        assert (asked, port) == (address, 443), f"connected to {asked}:{port}"
        return socket.create_connection(("127.0.0.1", server.server_port), timeout)

    def trusting() -> ssl.SSLContext:
        client = ssl.create_default_context()
        authority.configure_trust(client)
        return client

    try:
        yield Network(lambda host, port: [address], connect, trusting)
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def datasets_root(tmp_path: Path) -> Path:
    root = tmp_path / "datasets"
    root.mkdir()
    return root


@pytest.fixture
def make_source(datasets_root: Path) -> Callable[..., Path]:
    """Writes a source of the given paintings, spread over two shards under `<name>/data/`."""

    def make(paintings: Sequence[Painting], name: str = "museum", **options: object) -> Path:
        half = -(-len(paintings) // 2)
        for index, part in enumerate((paintings[:half], paintings[half:])):
            write_shard(datasets_root / name / "data" / f"train-{index:05d}-of-00002.parquet", part, **options)
        return datasets_root / name

    return make


@pytest.fixture
def mixed_source(make_source: Callable[..., Path]) -> Path:
    """24 paintings: 12 by Monet, 6 by van Gogh, 6 by nobody known; landscapes and portraits in turn."""
    artists = ["claude-monet"] * 12 + ["vincent-van-gogh"] * 6 + ["Unknown Artist"] * 6
    genres = ["landscape", "portrait"] * 12
    return make_source(
        [
            Painting(picture_bytes(seed), artist, genre)
            for seed, (artist, genre) in enumerate(zip(artists, genres, strict=True))
        ]
    )
