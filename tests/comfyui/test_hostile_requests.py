"""Requests made from the OpenAPI document by schemathesis, such as fit it and such as do not, against a real server.

schemathesis is a tool of its own (`pip install schemathesis`, into any environment on the PATH); without it this skips.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from impasto.setup.serving import ComfyServer

# Which names, folders and files there are, no schema can say: what fits it may be refused all the same.
NOT_FOR_NAMES = "positive_data_acceptance"
SCHEMATHESIS = shutil.which("schemathesis")
TOO_LARGE_IS_REFUSED = """
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "5xx"]
"""
EXAMPLES = 15  # of each route


@pytest.mark.skipif(SCHEMATHESIS is None, reason="schemathesis is not installed: pip install schemathesis")
def test_every_route_answers_as_the_document_says_whatever_is_asked(own_server: ComfyServer, tmp_path):
    command = [SCHEMATHESIS, "run", f"{own_server.url}/impasto/openapi.json", "--exclude-checks", NOT_FOR_NAMES]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", "1"]
    command += ["--rate-limit", "500/m", "--request-timeout", "60", "--no-color"]
    (tmp_path / "schemathesis.toml").write_text(TOO_LARGE_IS_REFUSED)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    assert not re.findall(r"(?:GET|POST) /impasto\S* failed", own_server.log_text())
