"""A real S3 server process on loopback (moto), which counts requests and fails as it is told: started and ended by the tests.

As a program: `python -m tests.s3_server FOLDER` writes FOLDER/port once it listens. FOLDER/fail.json, read at every request, says
what fails: [{"method", "contains", "status", "code"}, ...]; FOLDER/log has a line per request.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
}


class Server:
    """A running server, as a test sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{(folder / 'port').read_text()}"
        self._read = 0

    def fail(self, *rules: dict[str, Any]) -> None:
        """Let requests fail from now on; without rules none do."""
        partial = self.folder / "fail.part"
        partial.write_text(json.dumps(rules))
        partial.rename(self.folder / "fail.json")

    def requests(self) -> list[tuple[str, str, int, int]]:
        """(kind, key, status, bytes sent) of each request since the last call; a kind is GET, HEAD, PUT, DELETE, POST or LIST."""
        lines = (self.folder / "log").read_text().splitlines()
        new, self._read = lines[self._read :], len(lines)
        return [tuple(json.loads(line)) for line in new]

    def counts(self) -> Counter[str]:
        """Requests by kind since the last call."""
        return Counter(kind for kind, *_ in self.requests())


@contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """Start a server, and end it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.s3_server", str(folder)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **CREDENTIALS},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not (folder / "port").exists():
            assert process.poll() is None, "the server did not start"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield Server(folder)
    finally:
        process.kill()
        process.wait()


def serve(folder: Path) -> None:
    """Serve until killed."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    inner = DomainDispatcherApplication(create_backend_app)
    log = open(folder / "log", "a", buffering=1)  # noqa: SIM115

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        kind, key = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if kind == "GET" and "list-type=2" in environ.get("QUERY_STRING", ""):
            kind = "LIST"
        sent: dict[str, Any] = {}

        def watched(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            sent["status"], sent["headers"] = status, headers
            return start(status, headers, *rest)

        rule = _rule(folder, kind, key, environ)
        if rule is not None:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = f"<?xml version='1.0'?><Error><Code>{rule['code']}</Code><Message>as told</Message></Error>".encode()
            watched(
                f"{rule['status']} as told", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
            )
            answer: Iterable[bytes] = [body]
        else:
            answer = inner(environ, watched)
        headers = {name.lower(): value for name, value in sent["headers"]}
        length = int(headers.get("content-length", 0)) if kind == "GET" else 0
        log.write(json.dumps([kind, key, int(sent["status"][:3]), length]) + "\n")
        return answer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, application, threaded=True)
    (folder / "port.part").write_text(str(server.server_port))
    (folder / "port.part").rename(folder / "port")
    server.serve_forever()


def _rule(folder: Path, kind: str, key: str, environ: dict[str, Any]) -> dict[str, Any] | None:
    try:
        rules = json.loads((folder / "fail.json").read_text())
    except FileNotFoundError:
        return None
    for rule in rules:
        conditional = not rule.get("conditional") or "HTTP_IF_NONE_MATCH" in environ
        if rule["method"] == kind and rule["contains"] in key and conditional:
            return rule  # type: ignore[no-any-return]
    return None


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
