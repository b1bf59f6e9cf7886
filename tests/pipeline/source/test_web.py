"""A source behind http://, whose listing is a page of links."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.source.inventory import survey
from pipeline.source.known import Known
from schemas.spec import Source
from tests.pipeline.source.test_inventory import make_source


class WithoutLengths(SimpleHTTPRequestHandler):
    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Content-Length":
            super().send_header(keyword, value)


@pytest.mark.parametrize("kind", [SimpleHTTPRequestHandler, WithoutLengths])
def test_a_page_of_links_tells_no_sizes_and_its_files_are_asked(
    kind: type[SimpleHTTPRequestHandler], tmp_path: Path
) -> None:
    """Every file behind http:// was taken for empty, and none was ever taken for changed."""
    pytest.importorskip("aiohttp")
    make_source(tmp_path, "a.flac", "b.flac")
    handler = partial(kind, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = Source(uri=f"http://127.0.0.1:{server.server_port}")
        first = survey(source)
        assert {item.uri: item.bytes for item in first.items} == {
            name: (tmp_path / name).stat().st_size for name in ("a.flac", "b.flac")
        }
        (tmp_path / "a.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:-1] + b"!")
        second = survey(source, Known(first.table))
        server.shutdown()
    assert [one.probe == other.probe for one, other in zip(first.items, second.items, strict=True)] == [False, True]
