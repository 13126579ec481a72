"""A server on this machine that answers as Hugging Face's hub does about one data set, or one model."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

NAME = "owner/texts"


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class Hub:
    """What it holds, by commit; the last commit is the newest."""

    def __init__(self) -> None:
        self.commits: dict[str, Mapping[str, bytes]] = {}
        self.asked: list[str] = []
        """The paths of all requests."""

    def commit(self, files: Mapping[str, bytes]) -> str:
        name = digest(repr(sorted(files.items())).encode())
        self.commits[name] = files
        return name

    def find(self, revision: str) -> str | None:
        """The commit that a revision names."""
        if revision in ("", "main"):
            return [*self.commits][-1]
        return revision if revision in self.commits else None


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve while the block runs; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            hub.asked.append(self.path)

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlparse(self.path).path)
            if found := re.fullmatch(rf"/api/(?:datasets|models)/{NAME}(?:/revision/(.+))?", path):
                if commit := hub.find(found[1] or ""):
                    files = [{"rfilename": name} for name in hub.commits[commit]]
                    return self.send(json.dumps({"id": NAME, "sha": commit, "siblings": files}).encode())
            elif found := re.fullmatch(rf"/api/(?:datasets|models)/{NAME}/tree/([^/]+)", path):
                if commit := hub.find(found[1]):
                    entries = [
                        {"type": "file", "path": name, "size": len(content), "oid": digest(content)}
                        for name, content in hub.commits[commit].items()
                    ]
                    return self.send(json.dumps(entries).encode())
            elif found := re.fullmatch(rf"(?:/datasets)?/{NAME}/resolve/([^/]+)/(.+)", path):
                commit = hub.find(found[1])
                if commit and found[2] in hub.commits[commit]:
                    return self.send(hub.commits[commit][found[2]], commit)
            self.send(b"{}", code=404, error="EntryNotFound" if NAME in path else "RepoNotFound")

        def send(self, content: bytes, commit: str = "", code: int = 200, error: str = "") -> None:
            self.send_response(code)
            headers = {"Content-Length": str(len(content)), "ETag": f'"{digest(content)}"'}
            for key, value in (headers | {"X-Repo-Commit": commit, "X-Error-Code": error}).items():
                if value:
                    self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = answer

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
