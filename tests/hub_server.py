"""A hub for tests: serves folders as dataset repositories in the way of huggingface.co, with faults.

python hub_server.py FOLDER     FOLDER/OWNER/NAME/... are the repositories; prints its address, serves until its
                                standard input ends

It knows what `huggingface_hub` and `datasets` ask for: a repository, its tree (in pages), information on paths, and
files by range, over a redirect as the hub's large files are. `faults[path]` is a list of faults, used up by the
requests for that file's bytes, one each; the last one stays if it is "...": "500" and any other status, "cut" (the
connection ends in the middle), "short" (half of the bytes, as if they were all), "html" (a page instead of bytes).
"""

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

REVISION = hashlib.sha1(b"the one commit").hexdigest()
PAGE = 3  # entries of a tree in one answer


class TestServer:
    "An HTTP server on a port of its own from `serve` on; it runs inside `with`, and gives each request to `answer`."

    __test__ = False  # no test of pytest's

    def serve(self) -> None:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_POST = do_PUT = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Hub(TestServer):
    """`with Hub(folder) as hub:` serves at `hub.address`; `hub.asked` lists (path, first byte, bytes sent,
    authorization) of the requests for files."""

    def __init__(self, folder: Path, faults: dict[str, list[str]] | None = None):
        self.folder, self.faults, self.asked, self.calls = Path(folder), faults or {}, [], []
        self.serve()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        sent = request.rfile.read(int(request.headers.get("content-length") or 0))
        self.calls.append(f"{request.command} {unquote(url.path)}")
        parts = unquote(url.path).strip("/").split("/")
        try:
            if parts[:2] == ["api", "datasets"] and len(parts) >= 4:
                return self.api(request, "/".join(parts[2:4]), parts[4:], parse_qs(url.query), sent)
            if parts[0] == "datasets" and parts[3:4] == ["resolve"]:
                return self.file(request, "/".join(parts[1:3]), "/".join(parts[5:]), stored=False)
            if parts[0] == "stored":
                return self.file(request, "/".join(parts[1:3]), "/".join(parts[3:]), stored=True)
        except FileNotFoundError:
            return self.send(request, 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        self.send(request, 404, {"error": "Not found"})

    def api(
        self,
        request: BaseHTTPRequestHandler,
        repository: str,
        rest: list[str],
        query: dict[str, list[str]],
        sent: bytes,
    ) -> None:
        root = self.folder / repository
        if not root.is_dir():
            return self.send(request, 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if not rest or rest[0] == "revision":
            files = [{"rfilename": p.relative_to(root).as_posix()} for p in sorted(root.rglob("*")) if p.is_file()]
            known = {
                "id": repository,
                "sha": REVISION,
                "siblings": files,
                "private": False,
                "gated": False,
                "disabled": False,
            }
            return self.send(request, 200, known | {"downloads": 0, "likes": 0, "tags": []})
        if rest[0] == "paths-info":
            asked = json.loads(sent)["paths"] if sent[:1] == b"{" else parse_qs(sent.decode())["paths"]
            return self.send(request, 200, [self.entry(root, root / p) for p in asked if (root / p).exists()])
        if rest[0] == "tree":
            top, recursive, start = (
                root.joinpath(*rest[2:]),
                query.get("recursive", [""])[0].lower() == "true",
                int(query.get("cursor", ["0"])[0]),
            )
            found = sorted(top.rglob("*") if recursive else top.iterdir())
            after = f"{self.address}{urlsplit(request.path).path}?recursive={recursive}&cursor={start + PAGE}"
            more = {"Link": f'<{after}>; rel="next"'} if start + PAGE < len(found) else {}
            return self.send(request, 200, [self.entry(root, p) for p in found[start : start + PAGE]], more)
        self.send(request, 404, {"error": "Not found"})

    def entry(self, root: Path, path: Path) -> dict:
        "A file or folder as the hub lists it."
        known = {"path": path.relative_to(root).as_posix(), "oid": hashlib.sha1(str(path).encode()).hexdigest()}
        return known | ({"type": "directory"} if path.is_dir() else {"type": "file", "size": path.stat().st_size})

    def file(self, request: BaseHTTPRequestHandler, repository: str, path: str, *, stored: bool) -> None:
        whole = (self.folder / repository / path).read_bytes()
        etag = {"ETag": f'"{hashlib.sha1(whole).hexdigest()}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        if not stored and request.command == "GET":
            return self.send(
                request,
                302,
                None,
                etag | {"Location": f"{self.address}/stored/{repository}/{path}?Signature=secret-signature"},
            )
        if request.command == "HEAD":
            return self.send(
                request, 200, None, etag | {"Content-Length": str(len(whole)), "X-Linked-Size": str(len(whole))}
            )
        first, _, last = (
            (request.headers.get("range") or f"bytes=0-{len(whole) - 1}").removeprefix("bytes=").partition("-")
        )
        first, last = int(first), min(int(last or len(whole) - 1), len(whole) - 1)
        if first >= len(whole):
            return self.send(request, 416, None, {"Content-Range": f"bytes */{len(whole)}"})
        part, waiting = whole[first : last + 1], self.faults.get(path, [])
        fault = (waiting[0] if waiting[1:] == ["..."] else waiting.pop(0)) if waiting else ""
        self.asked.append((path, first, len(part), request.headers.get("authorization")))
        if fault.isdigit():
            return self.send(request, int(fault), {"error": "not now"})
        if fault == "html":
            return self.send(request, 200, "<html>Please log in</html>")
        sent = part if not fault else part[: len(part) // 2]
        request.send_response(206 if request.headers.get("range") else 200)
        for key, value in (
            etag
            | {
                "Content-Range": f"bytes {first}-{last}/{len(whole)}",
                "Content-Length": str(len(part if fault == "cut" else sent)),
            }
        ).items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(sent)
        request.close_connection = request.close_connection or fault == "cut"

    def send(
        self, request: BaseHTTPRequestHandler, status: int, said: object, headers: dict[str, str] | None = None
    ) -> None:
        body = b"" if said is None else said.encode() if isinstance(said, str) else json.dumps(said).encode()
        request.send_response(status)
        for key, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})
        ).items():
            request.send_header(key, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)


if __name__ == "__main__":
    with Hub(Path(sys.argv[1])) as hub:
        print(hub.address, flush=True)
        sys.stdin.read()
