"""The units stage: audio of a segment -> features -> the nearest centroid of each frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.codebook.assign import Quantiser
from pipeline.codebook.folder import load_card, load_centroids
from pipeline.encode.base import build_encoder
from pipeline.source.base import AudioReader
from pipeline.stage import StageResult, refuse, rows_of
from schemas.arrow import Row
from schemas.cards import Card
from schemas.config import ConfigError
from schemas.spec import UnitsSpec
from schemas.tables import Recording, Reject, Segment, Units


class UnitsStage:
    """Encodes each segment on its own, so its units do not depend on the rest of the partition."""

    name = "units"
    version = 1
    inputs: tuple[str, ...] = ("segments", "recordings")

    def __init__(self, spec: UnitsSpec):
        self.spec = spec
        self.encoder = build_encoder(spec.encoder)
        self._quantiser: Quantiser | None = None
        self._tokenizer_id = ""

    def cards(self) -> list[Card]:
        """Encoder, centroids, and the unit tokenizer that they make together.

        Raises:
            ConfigError: a model or the centroids are missing, or the centroids were fitted on another encoder's features.
        """
        encoder, kmeans = self.encoder.card(), load_card(self.spec.centroids)
        wanted = kmeans.notes.get("encoder")
        if wanted is not None and wanted != encoder.card_id:
            raise ConfigError(
                f"the centroids in {self.spec.centroids} were fitted on features of {wanted}, but the spec's encoder is "
                f"{encoder.card_id}: fit them again, or name the right encoder"
            )
        return [encoder, kmeans, tokenizer_card(encoder, kmeans)]

    def open(self) -> None:
        """Load the encoder and the centroids."""
        self._tokenizer_id = self.cards()[-1].card_id
        centroids, _ = load_centroids(self.spec.centroids)
        self._quantiser = Quantiser(centroids)
        self.encoder.open()

    def close(self) -> None:
        """Release both."""
        self._quantiser = None
        self.encoder.close()

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """A row of units per segment; a segment shorter than a frame, or cut off by its recording's end, is a reject."""
        recordings = {row.recording_id: row for row in rows_of(tables, "recordings", Recording)}
        rows: list[Units] = []
        rejects: list[Reject] = []
        for segment in rows_of(tables, "segments", Segment):
            samples = audio.read(recordings[segment.recording_id], segment.channel)[segment.start : segment.end]
            outcome = self._units(segment, samples)
            if isinstance(outcome, Units):
                rows.append(outcome)
            else:
                rejects.append(outcome)
        return StageResult(rows=rows, rejects=rejects)

    def _units(self, segment: Segment, samples: np.ndarray) -> Units | Reject:
        assert self._quantiser is not None, "open() comes before run()"
        expected = (segment.end - segment.start) // self.encoder.hop
        if len(samples) != segment.end - segment.start or expected == 0:
            found = f"{len(samples)} samples where {segment.end - segment.start} were promised, at a hop of {self.encoder.hop}"
            detail = f"{found}: the recording changed or the segment is shorter than a frame"
            return refuse(segment, self.name, "frame_mismatch", detail)
        features = self.encoder.encode(samples)
        if len(features) != expected:
            detail = f"the encoder gave {len(features)} frames where {expected} were expected"
            return refuse(segment, self.name, "frame_mismatch", detail)
        if not np.isfinite(features).all():
            return refuse(segment, self.name, "non_finite", "the encoder gave NaN or infinite features")
        units = self._quantiser.assign(features)
        return Units(
            segment_id=segment.segment_id, num_frames=expected, units=units.tolist(), tokenizer=self._tokenizer_id
        )


def tokenizer_card(encoder: Card, kmeans: Card) -> Card:
    """What turns audio into units: an encoder at a hop, and a codebook."""
    facts = {
        "encoder": encoder.facts,
        "kmeans": kmeans.facts,
        "num_units": kmeans.facts["num_units"],
        "hop": encoder.facts["hop"],
    }
    return Card(kind="unit_tokenizer", name=f"{encoder.name}-km{kmeans.facts['num_units']}", facts=facts)
