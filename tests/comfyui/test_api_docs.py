"""Every line of docs/api.md, run as it stands there against a real server: shell, Python and the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import impasto
import pytest
from impasto.setup.serving import ComfyServer
from PIL import Image
from safetensors import safe_open

from .conftest import new_server
from .loopback_museum import museum

REPOSITORY = Path(impasto.__file__).resolve().parent
PAGE = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
SERVER = "http://127.0.0.1:8188"  # on the page
PATIENCE = 300.0  # seconds

pytestmark = pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")


@dataclass(frozen=True)
class Reader:
    """Somebody who types what the page says, in a folder of their own."""

    server: ComfyServer
    folder: Path

    def shell(self, *sections: str) -> str:
        """What the lines for the shell of these sections say, in one shell."""
        lines = "\n".join(block for section in sections for block in blocks(section, "bash"))
        # `impasto` as pip installs it; the option's default is the port on the page.
        program = f'impasto() {{ "{sys.executable}" "{REPOSITORY}" "$@"; }}\nset -euo pipefail\n'
        served = re.sub(r"impasto (health|job|status latest|queue)", rf"impasto \1 --server {self.server.url}", lines)
        return self.run(["bash", "-c", program + served.replace(SERVER, self.server.url)])

    def python(self, section: str) -> str:
        [block] = blocks(section, "python")
        return self.run([sys.executable, "-c", block.replace(SERVER, self.server.url)])

    def run(self, command: list[str]) -> str:
        environment = os.environ | {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def blocks(section: str, language: str) -> list[str]:
    """The blocks of a language in the section of this heading."""
    [text] = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, tiny_florence: Path) -> Iterator[Reader]:
    base = tmp_path_factory.mktemp("api")
    running = new_server(base)
    running.options = (*running.options, "loopback_museum")  # among the custom nodes that are loaded
    shutil.copytree(tiny_florence, base / "models" / "florence-community" / "Florence-2-base")
    (base / "workflows").symlink_to(REPOSITORY / "workflows")
    shutil.copyfile(REPOSITORY / "client.py", base / "client.py")
    with museum(base) as environment, pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        running.start()
        try:
            yield Reader(running, base)
        finally:
            running.stop()


def answers(said: str) -> list[dict]:
    """The JSON values that stand one after the other in what was said."""
    found, place = [], 0
    while place < len(said):
        if said[place] == "{":
            value, place = json.JSONDecoder().raw_decode(said, place)
            found.append(value)
        else:
            place += 1
    return found


def test_what_the_page_says_over_curl_leads_to_a_lora(reader: Reader):
    said = reader.shell("Five calls", "Follow it, and fetch what it made", "Cancel, resume, train for longer")
    downloaded, captioned, configured, *told = answers(said)
    assert len(downloaded["files"]) == 3 and not [each for each in downloaded["files"].values() if "Error" in each]
    assert all(caption.startswith("mntgrdn, ") for caption in captioned["captions"].values())
    assert Path(configured["path"]).is_file()
    states = [each["state"] for each in told if "state" in each]
    assert states.count("finished") == 2 and told[-1]["total"] == told[-1]["step"] == 8
    assert [each["cancelled"] for each in told if "cancelled" in each] == [True]
    records = json.loads((reader.folder / "metrics.json").read_text())["records"]
    assert [record["step"] for record in records] == list(range(7))
    with safe_open(reader.folder / "museum.safetensors", "pt") as lora:
        assert list(lora.keys())


def test_the_client_on_the_page_has_thirty_lines_and_leads_to_a_lora_by_one_call(reader: Reader):
    [block] = blocks("One call, from Python", "python")
    assert len([line for line in block.splitlines() if line]) <= 30
    said = reader.python("One call, from Python")
    assert re.search(r"^skies/skies-[0-9a-f]{8}-000002\.safetensors 0?\.?\d", said.splitlines()[-1])
    with safe_open(reader.folder / "skies.safetensors", "pt") as lora:
        assert list(lora.keys())


def test_a_graph_from_a_script_gives_a_grid_of_the_latest_run(reader: Reader):
    reader.python("One call, from Python")
    reader.python("A progress grid, and any other graph")
    assert min(Image.open(reader.folder / "grid.png").size) > 128


def test_the_command_line_does_what_the_page_says_of_it(reader: Reader):
    said = reader.shell("The command line")
    told = next(each for each in answers(said) if "seconds_left" in each)
    assert told["state"] == "finished" and told["run"].startswith("dusk-")
    assert "changed-" in said and "step 2 of 2" in said and "report.html" in said
    assert (reader.server.base / "output" / "loras" / "changed" / "changed.safetensors").is_file()
    assert "data:image/jpeg" in (reader.folder / "report.html").read_text()
