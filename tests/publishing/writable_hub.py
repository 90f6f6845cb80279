"""A Hugging Face Hub on loopback that repositories are made on and committed to, by huggingface_hub's endpoints.

Large files go by git-lfs (https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md), small ones in the commit,
which is lines of JSON. A commit that names another parent than the newest is refused, as the real one does with 412.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import yaml
from aiohttp import web

from .. import loopback

NAME = "{owner:[^/]+}/{name:[^/]+}"
LARGE = (".safetensors", ".jpg", ".png", ".parquet")  # what a new repository's .gitattributes gives to LFS


@dataclass
class Repository:
    """Path -> content of the newest commit."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])


class WritableHub:
    """Repositories in memory, by kind and name."""

    def __init__(self, token: str) -> None:
        self.endpoint = ""
        self.token = token
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # of LFS, by SHA-256
        self.put: list[str] = []  # objects that were sent
        self.faults: deque[str] = deque()  # one per object: "drop", "" for none
        self.written_meanwhile = False  # by somebody else, between looking and committing

    def application(self) -> web.Application:
        application = web.Application(client_max_size=2**28)
        application.router.add_post("/api/repos/create", self._create)
        application.router.add_post("/api/validate-yaml", self._validate)
        application.router.add_get(f"/api/{{kind:models|datasets|spaces}}/{NAME}", self._info)
        application.router.add_get(f"/api/{{kind:models|datasets|spaces}}/{NAME}/revision/{{revision}}", self._info)
        application.router.add_post(f"/api/{{kind:models|datasets|spaces}}/{NAME}/preupload/main", self._preupload)
        application.router.add_post(f"/api/{{kind:models|datasets|spaces}}/{NAME}/commit/main", self._commit)
        application.router.add_post(f"/{NAME}.git/info/lfs/objects/batch", self._batch)
        application.router.add_post(f"/{{kind:datasets|spaces}}/{NAME}.git/info/lfs/objects/batch", self._batch)
        application.router.add_put("/objects/{oid}", self._put)
        application.router.add_post("/verify/{oid}", self._verify)
        return application

    def _check(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            raise web.HTTPUnauthorized(text=json.dumps({"error": "Invalid credentials"}))

    def _found(self, request: web.Request) -> Repository:
        self._check(request)
        kind = request.match_info["kind"].removesuffix("s")
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        if (kind, name) not in self.repositories:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound"})
        return self.repositories[kind, name]

    def _page(self, request: web.Request) -> str:
        kind = "" if request.match_info["kind"] == "models" else f"{request.match_info['kind']}/"
        return f"{self.endpoint}/{kind}{request.match_info['owner']}/{request.match_info['name']}"

    async def _create(self, request: web.Request) -> web.Response:
        self._check(request)
        asked = await request.json()
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        kind = asked.get("type") or "model"
        if asked.get("organization") == "forbidden":
            raise web.HTTPForbidden(
                text=json.dumps({"error": "You don't have the rights to create a model under this namespace"})
            )
        if (kind, name) in self.repositories:
            raise web.HTTPConflict(
                text=json.dumps({"url": f"{self.endpoint}/{name}", "error": "You already created it"})
            )
        private = asked.get("private", asked.get("visibility") == "private")
        self.repositories[kind, name] = Repository(bool(private), {".gitattributes": b"*.safetensors filter=lfs\n"})
        page = f"{self.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{name}"
        return web.json_response({"url": page, "name": name, "id": name})

    async def _validate(self, request: web.Request) -> web.Response:
        """Of a card, before it is committed: its head must be YAML that the Hub can read."""
        asked = await request.json()
        head = asked["content"].split("---\n")[1] if asked["content"].startswith("---\n") else "{}"
        try:
            errors = [] if isinstance(yaml.safe_load(head), dict) else [{"message": "the head is no mapping"}]
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        return web.json_response({"errors": errors, "warnings": []}, status=400 if errors else 200)

    async def _info(self, request: web.Request) -> web.Response:
        found = self._found(request)
        siblings = []
        for path, content in found.files.items():
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            told = {"rfilename": path, "size": len(content), "blobId": git}
            if path.endswith(LARGE):
                sha = hashlib.sha256(content).hexdigest()
                told |= {"blobId": "f" * 40, "lfs": {"sha256": sha, "size": len(content), "pointerSize": 130}}
            siblings.append(told)
        sha = found.commits[-1]
        if self.written_meanwhile:
            found.commits.append("1" * 40)
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        about = {"private": found.private, "tags": [], "downloads": 0, "likes": 0}
        return web.json_response({"id": name, "_id": "1", "modelId": name, "sha": sha, "siblings": siblings} | about)

    async def _preupload(self, request: web.Request) -> web.Response:
        self._found(request)
        files = (await request.json())["files"]
        modes = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular"} for file in files
        ]
        return web.json_response({"files": [mode | {"shouldIgnore": False} for mode in modes], "commitOid": "0" * 40})

    async def _batch(self, request: web.Request) -> web.Response:
        self._check(request)
        told = []
        for wanted in (await request.json())["objects"]:
            known = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.objects:
                upload = {"href": f"{self.endpoint}/objects/{wanted['oid']}"}
                verify = {"href": f"{self.endpoint}/verify/{wanted['oid']}"}
                known["actions"] = {"upload": upload, "verify": verify}
            told.append(known)
        return web.json_response({"transfer": "basic", "objects": told}, content_type="application/vnd.git-lfs+json")

    async def _put(self, request: web.Request) -> web.Response:
        content = await request.read()
        if self.faults and self.faults.popleft() == "drop":
            raise web.HTTPBadRequest(text="the connection to the store was lost")
        assert hashlib.sha256(content).hexdigest() == request.match_info["oid"]
        self.objects[request.match_info["oid"]] = content
        self.put.append(request.match_info["oid"])
        return web.Response()

    async def _verify(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response({"ok": (await request.json())["oid"] in self.objects})

    async def _commit(self, request: web.Request) -> web.Response:
        found = self._found(request)
        lines = [json.loads(line) for line in (await request.read()).splitlines() if line.strip()]
        header = lines[0]["value"]
        if header.get("parentCommit", found.commits[-1]) != found.commits[-1]:
            text = json.dumps({"error": "A commit has happened since. Please refresh and try again."})
            raise web.HTTPPreconditionFailed(text=text)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found.files[value["path"]] = self.objects[value["oid"]]
        oid = hashlib.sha1(json.dumps(lines).encode()).hexdigest()
        found.commits.append(oid)
        return web.json_response(
            {"success": True, "commitOid": oid, "commitUrl": f"{self._page(request)}/commit/{oid}"}
        )


@contextmanager
def serving(token: str) -> Iterator[WritableHub]:
    """The hub on a free port of loopback."""
    hub = WritableHub(token)
    with loopback.serving(hub.application(), shutdown_timeout=1) as hub.endpoint:
        yield hub


@contextmanager
def reached(token: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    """The hub with huggingface_hub set to it in this process; Xet, which would send by another protocol, is off."""
    from huggingface_hub import constants

    with serving(token) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", token)
        yield running
