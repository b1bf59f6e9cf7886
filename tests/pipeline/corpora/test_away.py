"""A corpus whose storage does not answer for a while is the same corpus."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import fsspec
import pytest

from pipeline.source.folder import SourceFolder
from pipeline.source.inventory import list_source
from schemas.errors import StorageError
from schemas.spec import Source
from schemas.storage import retry
from tests.pipeline.corpora.fixtures import spoken, write_tar
from tests.pipeline.corpora.layouts import MAKERS
from tests.pipeline.corpora.test_layouts import first_stages, source_of


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
@pytest.mark.parametrize("answers", [True, False])
def test_a_storage_that_is_away_for_a_while_costs_no_recordings(
    layout: str, answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the moment while a container is listed is no damage of it, which would cost all that lies in it."""
    made = MAKERS[layout](tmp_path / "corpus")
    source, honest, fails = source_of(tmp_path / "corpus", layout, made), SourceFolder.open_ranged, 2
    wanted = list_source(source)
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(retry, "RETRY_SECONDS", 60.0 if answers else 0.0)

    def open_ranged(folder: SourceFolder, uri: str) -> BinaryIO:
        nonlocal fails
        folder.is_local = False  # which the source of this test is, for all but the errors
        if (fails := fails - 1) >= 0:
            raise TimeoutError("no answer")
        return honest(folder, uri)

    monkeypatch.setattr(SourceFolder, "open_ranged", open_ranged)
    if answers:
        assert list_source(source) == wanted
    else:
        with pytest.raises(StorageError, match="could not be reached"):
            list_source(source)


def test_an_empty_member_of_a_tar_elsewhere_is_empty_and_costs_no_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 takes `bytes=1536-1535` for no range at all and sends the whole tar; the member was then said to be missing."""
    write_tar(tmp_path / "a.tar", [("1.flac", spoken(1)), ("2.flac", b"")])
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/empty-member/a.tar", (tmp_path / "a.tar").read_bytes())
    honest = type(memory).cat_file

    def cat_file(self: object, path: str, start: int | None = None, end: int | None = None, **options: object) -> bytes:
        content: bytes = honest(self, path, **({} if start == end else {"start": start, "end": end}), **options)
        return content

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    source = Source(uri="memory://empty-member", layout="webdataset")
    try:
        _, _, _, rejects = first_stages(source)
    finally:
        memory.rm("/empty-member", recursive=True)
    assert [(reject.id, reject.code) for reject in rejects if reject.stage == "recordings"] == [
        ("a.tar#2.flac", "empty")
    ]
