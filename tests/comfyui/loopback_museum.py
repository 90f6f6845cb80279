"""A museum of plain pictures on loopback, which a server takes for a public host, and nothing else of the network.

A custom node of the test's own turns names and addresses in the server's process; what the pack checks stays as it is.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import trustme
from PIL import Image

HOST, PUBLIC = "museum.example", "93.184.215.14"
NETWORK = """
import socket
NODE_CLASS_MAPPINGS = {}
_resolve, _connect = socket.getaddrinfo, socket.create_connection

def getaddrinfo(host, port, *rest, **options):
    if host == HOST:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, port))]
    return _resolve(host, port, *rest, **options)

def create_connection(address, *rest, **options):
    return _connect(("127.0.0.1", PORT) if tuple(address[:2]) == (PUBLIC, 443) else address, *rest, **options)

socket.getaddrinfo, socket.create_connection = getaddrinfo, create_connection
"""


class Museum(http.server.BaseHTTPRequestHandler):
    """`/red.png` is a red picture, by any name of a colour; `/gone.png` is not there."""

    def do_GET(self) -> None:
        colour = Path(self.path).stem
        buffer = io.BytesIO()
        if found := colour != "gone":
            Image.new("RGB", (160, 128), colour).save(buffer, "PNG")
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(buffer.tell()))
        self.end_headers()
        self.wfile.write(buffer.getvalue())

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def museum(base: Path) -> Iterator[dict[str, str]]:
    """Open the museum to the server of this base directory, before it starts; yields its environment."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Museum)
    server.daemon_threads = True
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    trusted = base / "museum.pem"
    authority.cert_pem.write_to_path(str(trusted))
    package = base / "custom_nodes" / "loopback_museum"
    package.mkdir()
    known = f"HOST, PUBLIC, PORT = {HOST!r}, {PUBLIC!r}, {server.server_port}\n"
    (package / "__init__.py").write_text(known + NETWORK)
    hosts = base / "user" / "impasto" / "allowed_hosts.txt"
    hosts.parent.mkdir(parents=True, exist_ok=True)
    hosts.write_text(f"{HOST}\n")
    try:
        yield {"SSL_CERT_FILE": str(trusted)}
    finally:
        server.shutdown()
        server.server_close()
