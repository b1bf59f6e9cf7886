"""What the audio of a corpus is, where another tool cannot say: by our own decoders, from the first byte to the last."""

from __future__ import annotations

from pathlib import Path

from pipeline.containers.base import AudioError
from pipeline.source.decode import AudioInfo, scan_file
from schemas.config import ConfigError


def whole_audio(path: Path) -> AudioInfo:
    """Rate, channels and number of samples of a file of this machine, which is decoded to its end.

    Raises:
        ConfigError: it cannot be, so it is not the file that shards were made of.
    """
    try:
        with path.open("rb") as file:
            return scan_file(file)[1]
    except AudioError as error:
        raise ConfigError(f"{path}: {error.detail}", "--audio must be the source's folder") from error
