"""The `source` of a pipeline spec: where the corpus is, and how it lies there."""

from __future__ import annotations

from typing import Annotated, Literal

from schemas.config import BY_CONTENT, StrictModel

Layout = Literal[
    "folder",
    "manifest",
    "nemo",
    "common_voice",
    "voxpopuli",
    "audiofolder",
    "ljspeech",
    "peoples_speech",
    "librispeech",
    "librilight",
    "mls",
    "gigaspeech",
    "kaldi",
    "lhotse",
    "webdataset",
    "parquet",
]


class Source(StrictModel):
    """Where the audio is."""

    uri: Annotated[str, BY_CONTENT]
    """A folder: a path or any fsspec URL (s3://bucket/corpus)."""
    pattern: str = "**/*"
    """A glob below `uri`: which of its files belong to the corpus."""
    suffixes: list[str] = [
        ".wav", ".wave", ".flac", ".mp3", ".mp2", ".ogg", ".oga", ".opus", ".spx", ".aif", ".aiff", ".aifc", ".au", ".snd",
        ".w64", ".rf64", ".caf", ".sph", ".nist", ".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".aac", ".amr", ".awb", ".wma",
        ".asf", ".webm", ".weba", ".mka", ".mkv", ".avi",
    ]  # fmt: skip
    """Files with other suffixes are not audio (transcripts live beside it); how many there are of each is said."""
    transcripts: Literal["none", "sidecar", "manifest"] = "none"
    """sidecar: X.txt or X.lab beside X.flac, or LibriSpeech's *.trans.txt. manifest: `manifest` below."""
    manifest: str | None = None
    """A .tsv, .csv, .jsonl or .parquet inside the folder: a column `file` and any of transcript, language, license. With a
    `layout`: the name of the corpus's table, or a pattern (train*.jsonl), where it is not the usual one."""
    name: str = "corpus"
    """The corpus's name, kept with every recording."""
    layout: Layout = "folder"
    """How the corpus lies on disk (docs/corpora.md). folder: every audio file; the others read the corpus's own tables."""
    roots: Annotated[list[str], BY_CONTENT] = []
    """Other folders and URLs that a corpus's tables may name audio in; whatever else lies outside of `uri` is refused."""
    words: list[str] = []
    """Patterns of alignment files in the folder, for `words: {backend: given}`: .TextGrid, .ctm, JSON lines of official LST
    (.on_the_fly) or slamkit."""
