"""A hub on 127.0.0.1 that serves folders as repositories to the real client, and fails as it is told."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Repositories by id, revisions by name, and faults.

    Args:
        faults: {pattern of a path: (status, headers)} answered in place of the right response.
        cut: pattern of files whose body ends after half of it.
        seconds: delay before every answer.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.revisions = {"main": "0" * 40, "v1": "1" * 40}
        self.faults: dict[str, tuple[int, dict[str, str]]] = {}
        self.cut = "(?!)"
        self.seconds = 0.0
        self.downloaded: list[str] = []
        self.tokens: set[str | None] = set()
        self.url = ""

    def files(self, repo: str) -> dict[str, Path]:
        folder = self.repositories[repo]
        return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """No access log."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        time.sleep(hub.seconds)
        hub.tokens.add(self.headers.get("Authorization"))
        for pattern, (status, headers) in hub.faults.items():
            if re.search(pattern, path):
                self.reply(status, b'{"error": "as told"}', headers)
                return
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(refs/\w+/\w+|[^/]+)/(.+)", path)
        match = api or file
        if not match or match[1] not in hub.repositories:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        revision = (api[3] if api else file[2] if file else None) or "main"
        sha = hub.revisions.get(revision, revision)
        if sha not in hub.revisions.values():
            self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        files = hub.files(match[1])
        if file:
            self.send_file(file[3], files, sha)
        elif api and api[2] == "tree":
            entries = [
                {"type": "file", "path": name, "size": p.stat().st_size, "oid": "a" * 40} for name, p in files.items()
            ]
            self.reply(200, json.dumps(entries).encode())
        else:
            siblings = [{"rfilename": name} for name in files]
            self.reply(200, json.dumps({"id": match[1], "sha": sha, "siblings": siblings}).encode())

    def send_file(self, name: str, files: dict[str, Path], sha: str) -> None:
        if name not in files:
            self.reply(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        body = files[name].read_bytes()
        if self.command == "GET":
            self.hub.downloaded.append(name)
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": sha}
        self.reply(200, body, headers, cut=bool(re.search(self.hub.cut, name)))

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A running hub."""
    hub = FakeHub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield hub
        server.shutdown()
