"""The local page: on the loopback address, for this machine's own pages, and usable in a real browser."""

import http.client
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import pytest

from jobs.hearing.demo import make_parser
from jobs.hearing.server import HOST, LARGEST, make_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def answer(text: str, recording: bytes | None) -> dict[str, Any]:
    if recording == b"noise":
        raise ValueError("the recording cannot be read: it is noise")
    said = "and then" if recording is None else f"{len(recording)} bytes were heard"
    return {"heard": None, "speech": None, "text": f"{text} {said}", "facts": "3 new units"}


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = make_server(answer, {"name": "a <model>", "expectation": "Expect babble.", "hears": True}, port=0)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def ask(
    server: ThreadingHTTPServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=10)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    kind = reply.getheader("Content-Type", "")
    return reply.status, json.loads(content) if kind == "application/json" else content.decode()


def test_it_listens_on_the_loopback_address(server: ThreadingHTTPServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(
    server: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(["run", "--port", str(server.server_port)])
    assert "Address already in use; --port 0 takes a free one" in capsys.readouterr().err


def test_a_prompt_is_continued(server: ThreadingHTTPServer) -> None:
    assert ask(server, "POST", "/continue?text=Once%20%26")[1]["text"] == "Once & and then"
    assert ask(server, "POST", "/continue?text=", b"12345")[1]["text"] == " 5 bytes were heard"


def test_a_bad_recording_is_a_sentence(server: ThreadingHTTPServer) -> None:
    status, document = ask(server, "POST", "/continue", b"noise")
    assert (status, document) == (400, {"error": "the recording cannot be read: it is noise"})


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_another_name_or_page_is_refused(server: ThreadingHTTPServer, headers: dict[str, str]) -> None:
    assert ask(server, "POST", "/continue?text=a", **headers)[0] == 403
    assert ask(server, "GET", "/facts", **headers)[0] == 403


def test_too_large_a_recording_is_refused_unread(server: ThreadingHTTPServer) -> None:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=10)
    connection.putrequest("POST", "/continue")
    connection.putheader("Content-Length", str(LARGEST + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_what_the_model_says(server: ThreadingHTTPServer, tmp_path: Any) -> None:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--disable-quic", f"--user-data-dir={tmp_path}"]
    command = [str(CHROMIUM), *flags, "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [*command, f"http://{HOST}:{server.server_port}/?text=Once"], capture_output=True, text=True, timeout=90
    )
    assert "Talk to a &lt;model&gt;" in done.stdout
    assert "Once and then" in done.stdout
    assert "Expect babble." in done.stdout


def test_a_length_that_is_none_is_answered(server: ThreadingHTTPServer) -> None:
    assert ask(server, "POST", "/continue?text=a", **{"Content-Length": "many"})[0] == 404
