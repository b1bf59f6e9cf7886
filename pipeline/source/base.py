"""What a stage sees of the source: decoded audio by recording."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from schemas.tables import Recording


class AudioReader(Protocol):
    """Decoded audio by recording. Keeps only the recordings that were read last, so ask for segments in recording order."""

    def read(self, recording: Recording, channel: int = -1) -> np.ndarray:
        """float32 [num_samples_16k], mono at 16 kHz; channel -1 is the mean of all channels."""
        ...
