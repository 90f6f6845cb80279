"""A server that answers in another's place."""

import itertools
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from impasto.setup.serving import ComfyServer, ServerFailed

ANSWERS = (
    b'{"system": {"argv": ["main.py", "--base-directory", "/somewhere/else"]}}',
    b'{"system": null}',
    b"{}",
    b"[]",
)


class Other(BaseHTTPRequestHandler):
    def do_GET(self):
        answer = next(self.server.answers)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def test_a_comfyui_that_has_taken_the_port_meanwhile_is_not_taken_for_the_one_that_was_started(tmp_path: Path):
    (tmp_path / "main.py").write_text("import time\nprint('starting', flush=True)\ntime.sleep(60)\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        other.answers = itertools.cycle(ANSWERS)
        threading.Thread(target=other.serve_forever, daemon=True).start()
        server = ComfyServer(tmp_path, tmp_path / "base", tmp_path / "log", other.server_port)
        try:
            with pytest.raises(ServerFailed, match=r"(?s)did not answer within 2 s.*starting"):
                server.start(2)
        finally:
            server.stop()
            other.shutdown()
