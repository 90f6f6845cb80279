"""Requests made from the OpenAPI document by schemathesis, such as fit it and such as do not, against a real server.

A few of each route, within a minute; ./test.sh --long asks for as many as there is a reason for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from impasto.setup.serving import ComfyServer

# Which names, folders and files there are, no schema can say: what fits it may be refused all the same.
NOT_FOR_NAMES = "positive_data_acceptance"
# Among the test packages, or in any environment on the PATH.
PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
SCHEMATHESIS = shutil.which("schemathesis", path=PLACES)
TOO_LARGE_IS_REFUSED = """
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "5xx"]
"""
LONG = "IMPASTO_LONG" in os.environ
PHASES, EXAMPLES = ("examples,coverage,fuzzing", "15") if LONG else ("fuzzing", "3")  # made up of each route


@pytest.mark.skipif(SCHEMATHESIS is None, reason="schemathesis is not installed: pip install schemathesis")
def test_every_route_answers_as_the_document_says_whatever_is_asked(own_server: ComfyServer, tmp_path):
    command = [SCHEMATHESIS, "run", f"{own_server.url}/impasto/openapi.json", "--exclude-checks", NOT_FOR_NAMES]
    command += ["--phases", PHASES, "--max-examples", EXAMPLES, "--seed", "1"]
    command += ["--rate-limit", "500/m", "--request-timeout", "60", "--no-color"]
    (tmp_path / "schemathesis.toml").write_text(TOO_LARGE_IS_REFUSED)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    assert not re.findall(r"(?:GET|POST) /impasto\S* failed", own_server.log_text())
