"""A corpus whose storage does not answer for a while is the same corpus."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest

from pipeline.source.folder import SourceFolder
from pipeline.source.inventory import list_source
from schemas.errors import StorageError
from schemas.storage import retry
from tests.pipeline.corpora.layouts import MAKERS
from tests.pipeline.corpora.test_layouts import source_of


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
