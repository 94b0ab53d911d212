"""A hub to push to, for tests: repositories in memory, and faults.

It knows what `huggingface_hub` asks for when it makes a repository, looks into it and commits to it: large files by
LFS, small ones in the commit. `faults[step]` is a list of faults, used up by the requests of that step, one each.
Steps: create, info, tree, yaml, preupload, batch, put, commit. Faults: "500" and any other status before anything is
done, "cut" (the connection ends in the middle of the request), "lost" (it is done, and the answer does not arrive).
"""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from hub_server import TestServer


class Repository:
    "A repository: its files by revision, and who may see it."

    def __init__(self, private: bool, url: str):
        self.private, self.url, self.files, self.commits = private, url, {"main": {}}, []


class PushHub(TestServer):
    """`with PushHub() as hub:` serves at `hub.address`. `hub.arrived` has the SHA-256 of each large file that came
    whole, in order; `hub.calls` the requests; `hub.keys` the authorizations."""

    def __init__(self, faults: dict[str, list[str]] | None = None):
        self.faults, self.calls, self.keys, self.arrived = faults or {}, [], [], []
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.serve()

    def repository(self, name: str, kind: str = "dataset") -> Repository:
        return self.repositories[kind, name]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path).strip("/")
        step, act = self.step(path.split("/"), request.command)
        self.calls.append(step)
        self.keys.append(request.headers.get("authorization"))
        fault = self.faults[step].pop(0) if self.faults.get(step) else ""
        size = int(request.headers.get("content-length") or 0)
        if fault == "cut":
            request.rfile.read(size // 2)
            request.close_connection = True
            request.connection.close()
            return
        sent = request.rfile.read(size)
        if "chunked" in request.headers.get("transfer-encoding", ""):
            sent = self.chunks(request)
        status, body = (int(fault), {"error": "not now"}) if fault.isdigit() else act(sent)
        if fault == "lost":
            request.close_connection = True
            request.connection.close()
            return
        self.send(request, status, body)

    def chunks(self, request: BaseHTTPRequestHandler) -> bytes:
        parts = []
        while size := int(request.rfile.readline(), 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        return b"".join(parts)

    def step(self, parts: list[str], command: str) -> tuple[str, "Callable[[bytes], tuple[int, object]]"]:  # noqa: F821
        "The step that a request is, and what does it."
        if parts == ["api", "repos", "create"]:
            return "create", self.create
        if parts == ["api", "validate-yaml"]:
            return "yaml", self.validate
        if parts[0] == "lfs":
            return "put", lambda sent: self.put(parts[1], sent)
        if parts[-3:] == ["lfs", "objects", "batch"]:
            return "batch", self.batch
        if parts[0] == "api" and parts[1] in ("datasets", "models"):
            kind, name, rest = parts[1][:-1], "/".join(parts[2:4]), parts[4:]
            repository = self.repositories.get((kind, name))
            acts = {"tree": self.tree, "preupload": self.preupload, "commit": self.commit, "branch": self.branch}
            if repository is None:
                return "info", lambda sent: (404, {"error": "Repository not found"})
            if not rest or rest[0] == "revision":
                return "info", lambda sent: (200, {"id": name, "sha": "0" * 40, "private": repository.private})
            return rest[0], lambda sent: acts[rest[0]](repository, rest[1], sent)
        return "/".join(parts), lambda sent: (404, {"error": f"unknown {command} {parts}"})

    def create(self, sent: bytes) -> tuple[int, object]:
        wanted = json.loads(sent)
        kind, name = wanted.get("type", "model"), f"{wanted['organization']}/{wanted['name']}"
        known = (kind, name) in self.repositories
        url = f"{self.address}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if not known:
            private = wanted.get("private") is True or wanted.get("visibility") == "private"
            self.repositories[kind, name] = Repository(private, url)
        return (409, {"error": "You already created this", "url": url}) if known else (200, {"url": url, "name": name})

    def validate(self, sent: bytes) -> tuple[int, object]:
        wrong = "license: nonsense" in json.loads(sent)["content"]
        return (400 if wrong else 200), {"errors": [{"message": "license must be one of"}] * wrong, "warnings": []}

    def branch(self, repository: Repository, revision: str, sent: bytes) -> tuple[int, object]:
        known = revision in repository.files
        repository.files.setdefault(revision, dict(repository.files["main"]))
        return (409, {"error": "exists"}) if known else (200, {})

    def tree(self, repository: Repository, revision: str, sent: bytes) -> tuple[int, object]:
        return 200, [self.entry(name, *file) for name, file in sorted(repository.files[revision].items())]

    def entry(self, name: str, content: bytes, large: bool) -> dict:
        entry = {"type": "file", "path": name, "size": len(content), "oid": self.oid(content, large)}
        sha256 = hashlib.sha256(content).hexdigest()
        return entry | ({"lfs": {"oid": sha256, "size": len(content), "pointerSize": 130}} if large else {})

    def oid(self, content: bytes, large: bool) -> str:
        if large:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def preupload(self, repository: Repository, revision: str, sent: bytes) -> tuple[int, object]:
        answers, files = [], repository.files[revision]
        for file in json.loads(sent)["files"]:
            large = file["path"].endswith((".parquet", ".safetensors"))
            answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            there = files.get(file["path"])
            answers.append(answer | ({"oid": self.oid(*there)} if there else {}))
        return 200, {"files": answers}

    def batch(self, sent: bytes) -> tuple[int, object]:
        objects = []
        for wanted in json.loads(sent)["objects"]:
            signed = f"{self.address}/lfs/{wanted['oid']}?Signature=secret-signature"
            upload = {"upload": {"href": signed, "header": {}}}
            objects.append(wanted | ({} if wanted["oid"] in self.stored else {"actions": upload}))
        return 200, {"transfer": "basic", "objects": objects}

    def put(self, oid: str, sent: bytes) -> tuple[int, object]:
        if hashlib.sha256(sent).hexdigest() != oid:
            return 400, {"error": "not the bytes that were announced"}
        self.stored[oid] = sent
        self.arrived.append(oid)
        return 200, {}

    def commit(self, repository: Repository, revision: str, sent: bytes) -> tuple[int, object]:
        lines = [json.loads(line) for line in sent.splitlines()]
        for line in lines[1:]:
            value = line["value"]
            large = line["key"] == "lfsFile"
            content = self.stored[value["oid"]] if large else base64.b64decode(value["content"])
            repository.files[revision][value["path"]] = content, large
        repository.commits.append(lines[0]["value"]["summary"])
        oid = f"{len(repository.commits):040}"
        return 200, {"commitUrl": f"{repository.url}/commit/{oid}", "commitOid": oid, "pullRequestUrl": None}

    def send(self, request: BaseHTTPRequestHandler, status: int, said: object) -> None:
        body = json.dumps(said).encode()
        request.send_response(status)
        lack = {"X-Error-Code": "RepoNotFound"} if status == 404 else {}
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | lack
        for key, value in headers.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
