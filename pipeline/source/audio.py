"""The audio of a recording by its place in the source, decoded once for all its segments."""

from __future__ import annotations

import numpy as np

from pipeline.source.decode import decode_file
from pipeline.source.folder import SourceFolder, hash_stream
from schemas.config import ConfigError
from schemas.tables import Recording


class SourceAudio:
    """Decoded audio by recording (an AudioReader). Keeps the last recording, so ask for segments in recording order."""

    def __init__(self, source_uri: str) -> None:
        self._folder = SourceFolder(source_uri)
        self._key: tuple[str, int] | None = None
        self._samples = np.zeros(0, dtype=np.float32)

    def read(self, recording: Recording, channel: int = -1) -> np.ndarray:
        """float32 [num_samples_16k], mono at 16 kHz; channel -1 is the mean of all channels.

        Raises:
            ConfigError: the file is no longer the one that became this recording.
        """
        key = (recording.recording_id, channel)
        if key != self._key:
            self._samples = self._decode(recording, channel)
            self._key = key
        return self._samples

    def _decode(self, recording: Recording, channel: int) -> np.ndarray:
        with self._folder.open(recording.uri, recording.member) as file:
            if hash_stream(file) != recording.sha256:
                raise ConfigError(
                    f"{recording.uri} has changed since it was listed: leave the source alone during a run; start again"
                )
            samples, _ = decode_file(file, channel)
        assert samples.shape[1] == recording.num_samples_16k, "decoding the same bytes gave another length"
        mono: np.ndarray = samples[0]
        return mono
