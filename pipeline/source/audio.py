"""The audio of a recording by its place in the source, decoded once for all its segments and all stages that a worker does."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from pipeline.source.decode import decode_file
from pipeline.source.folder import LEFT_ALONE, SourceFolder, hash_stream
from pipeline.source.node_cache import NodeCache
from schemas.errors import StorageError
from schemas.tables import Recording

KEEP_BYTES = 1 << 28
"""Decoded audio that is kept: 70 minutes at 16 kHz, two partitions of the default size."""


class SourceAudio:
    """Decoded audio by recording (an AudioReader). Keeps the recordings that were read last, up to `keep_bytes`, at least one."""

    def __init__(self, source_uri: str, keep_bytes: int = KEEP_BYTES, node: NodeCache | None = None) -> None:
        """`node`: what the other processes of this machine have decoded."""
        self._folder = SourceFolder(source_uri)
        self._keep_bytes, self._node = keep_bytes, node
        self._kept: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, recording: Recording, channel: int = -1) -> np.ndarray:
        """float32 [num_samples_16k], mono at 16 kHz; channel -1 is the mean of all channels.

        Raises:
            StorageError: the file is no longer the one that became this recording.
        """
        key = (recording.recording_id, channel)
        with self._lock:  # who asks for the same recording at the same time waits for the one decoding of it
            if key not in self._kept:
                room = self._keep_bytes - 4 * recording.num_samples_16k
                while self._kept and sum(samples.nbytes for samples in self._kept.values()) > room:
                    self._kept.popitem(last=False)
                self._kept[key] = self._fetch(recording, channel)
            self._kept.move_to_end(key)
            return self._kept[key]

    def _fetch(self, recording: Recording, channel: int) -> np.ndarray:
        if self._node is None:
            return self._decode(recording, channel)
        samples = self._node.get(recording.recording_id, channel)
        if samples is None or len(samples) != recording.num_samples_16k:
            samples = self._decode(recording, channel)
            self._node.put(recording.recording_id, channel, samples)
        return samples

    def _decode(self, recording: Recording, channel: int) -> np.ndarray:
        with self._folder.open_listed(recording.uri, recording.member) as file:
            if hash_stream(file) != recording.sha256:
                raise StorageError(f"{recording.uri} has changed since it was listed: {LEFT_ALONE}")
            samples, _ = decode_file(file, channel)
        assert samples.shape[1] == recording.num_samples_16k, "decoding the same bytes gave another length"
        mono: np.ndarray = samples[0]
        return mono
