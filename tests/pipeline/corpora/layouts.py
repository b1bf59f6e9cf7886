"""All corpora of the fixtures, by layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.pipeline.corpora import containers, fixtures
from tests.pipeline.corpora.fixtures import Made

MAKERS: dict[str, Callable[[Path], Made]] = {
    maker.__name__: maker
    for maker in (
        fixtures.librispeech, fixtures.librilight, fixtures.mls, fixtures.common_voice, fixtures.voxpopuli,
        fixtures.gigaspeech, fixtures.peoples_speech, fixtures.ljspeech, fixtures.audiofolder, fixtures.nemo,
        fixtures.kaldi, fixtures.manifest, containers.lhotse, containers.webdataset, containers.parquet,
    )
}  # fmt: skip
