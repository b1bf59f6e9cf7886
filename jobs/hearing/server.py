"""The local page on which a model is talked to: a server for one person on one machine.

It listens on the loopback address alone, answers only requests that name it so (a page elsewhere cannot reach it through the
reader's browser by another name), and takes nothing but prompts: a text, or a recording of bounded size.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

HOST = "127.0.0.1"
LARGEST = 20_000_000
"""Bytes of a recording: a minute from any browser."""

Answer = Callable[[str, bytes | None], dict[str, Any]]
"""(text of the prompt, a recording instead of it) -> what the page shows.

Raises:
    ValueError: with a sentence for the reader.
"""


def make_server(answer: Answer, facts: dict[str, Any], port: int) -> ThreadingHTTPServer:
    """A server on the loopback address; port 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    page = files("jobs.hearing").joinpath("demo.html").read_text(encoding="utf-8")
    busy = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        server_version = "lst-demo"

        def do_GET(self) -> None:
            """The page, or the facts of the model."""
            if not self._is_local():
                return
            path = urlsplit(self.path).path
            if path == "/":
                self._send(200, page.encode(), "text/html; charset=utf-8")
            elif path == "/facts":
                self._send_json(200, facts)
            else:
                self._send_json(404, {"error": "there is no such page"})

        def do_POST(self) -> None:
            """A prompt: what the model makes of it."""
            if not self._is_local():
                return
            url = urlsplit(self.path)
            said = self.headers.get("Content-Length") or "0"
            length = int(said) if said.isdecimal() else -1
            if url.path != "/continue" or not 0 <= length <= LARGEST:
                self._send_json(
                    413 if length > LARGEST else 404, {"error": f"at most {LARGEST // 1_000_000} MB are heard"}
                )
                self.close_connection = True
                return
            body = self.rfile.read(length)
            text = parse_qs(url.query).get("text", [""])[0]
            try:
                with busy:  # one model, one thought at a time
                    self._send_json(200, answer(text, body or None))
            except ValueError as error:
                self._send_json(400, {"error": str(error)})

        def _is_local(self) -> bool:
            port = self.server.server_port  # type: ignore[attr-defined]
            names = {f"{name}:{port}" if port != 80 else name for name in (HOST, "localhost")}  # as browsers write it
            origin = self.headers.get("Origin")
            if self.headers.get("Host") in names and (origin is None or urlsplit(origin).netloc in names):
                return True
            self._send_json(403, {"error": "this page answers on this machine alone"})
            return False

        def _send_json(self, status: int, document: dict[str, Any]) -> None:
            self._send(status, json.dumps(document).encode(), "application/json")

        def _send(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing: the terminal belongs to the person who started it."""

    return ThreadingHTTPServer((HOST, port), Handler)
