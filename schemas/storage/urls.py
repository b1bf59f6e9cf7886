"""What can be said of a path or a URL before anything that opens it is imported."""

from __future__ import annotations

import re
from pathlib import Path

from schemas.config import ConfigError

NO_BUCKET = re.compile(r"(s3a?|gcs|gs|az|abfss?|oss|https?):(?!//[^/]|:)")
"""A URL whose bucket was forgotten (s3://, s3:///x, s3:/bucket): fsspec takes some for folders of this machine."""


def from_home(path: str) -> str:
    """The path, with the home folder for a `~/` at its beginning, which no shell sees in a file."""
    return str(Path(path).expanduser()) if path == "~" or path.startswith("~/") else path


def check_bucket(url: str) -> None:
    """Raises ConfigError where a URL names no bucket or host."""
    if (scheme := NO_BUCKET.match(url)) is not None:
        missing = "host" if scheme[1].startswith("http") else "bucket"
        raise ConfigError(f"{url} names no {missing}", f"write {scheme[1]}://NAME/folder")
