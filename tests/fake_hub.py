"""A model hub on this machine: as much of the Hugging Face hub's HTTP as its client asks for, over a folder of repositories."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "c" * 40


class FakeHub:
    """`url` for HF_ENDPOINT; repositories are folders `root/owner/name`; `asked` has the paths that were asked for."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked, self.url = root, list[str](), ""

    def environment(self, home: Path) -> dict[str, str]:
        """What a process needs to see this hub and no other, with a cache of its own."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


@contextmanager
def fake_hub(root: Path) -> Iterator[FakeHub]:
    """A hub that serves `root` until the body ends."""
    hub = FakeHub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        """Silence."""

    def _json(self, value: Any, code: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(data)

    def do_HEAD(self) -> None:
        self._get(body=False)

    def do_GET(self) -> None:
        self._get(body=True)

    def _get(self, body: bool) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.asked.append(path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/.*)?", path):
            folder = self.hub.root / match.group(1)
            if not folder.is_dir():
                return self._json({"error": "Repository not found"}, 404)
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            names = [str(file.relative_to(folder)) for file in files]
            if match.group(2) == "tree":
                entries = [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": _digest(file)}
                    for name, file in zip(names, files, strict=True)
                ]
                return self._json(entries)
            return self._json(
                {"id": match.group(1), "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            )
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            file = self.hub.root / match.group(1) / match.group(2)
            if not file.is_file():
                return self._json({"error": "Entry not found"}, 404)
            self.send_response(200)
            self.send_header("ETag", f'"{_digest(file)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(file.stat().st_size))
            self.end_headers()
            if body:
                self.wfile.write(file.read_bytes())
            return None
        return self._json({"error": "not found"}, 404)

    def do_POST(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.asked.append(path)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            (self.hub.root / name).mkdir(parents=True, exist_ok=True)
            return self._json({"url": f"{self.hub.url}/{name}", "id": name})
        if path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(data)["files"]
            ]
            return self._json({"files": files})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            for line in data.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    file = self.hub.root / match.group(1) / entry["value"]["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(entry["value"]["content"]))
            return self._json({"commitUrl": f"{self.hub.url}/{match.group(1)}/commit/{COMMIT}", "commitOid": COMMIT})
        return self._json({"errors": [], "warnings": []})


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
