"""The units stage: audio of a segment -> features -> the nearest centroid of each frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.codebook.assign import Quantiser
from pipeline.codebook.folder import load_card, load_centroids
from pipeline.encode.base import build_encoder
from pipeline.networks.ahead import made_ahead
from pipeline.source.base import AudioReader
from pipeline.stage import StageResult, refuse, rows_of
from schemas.arrow import Row
from schemas.cards import Card
from schemas.config import ConfigError
from schemas.spec import UnitsSpec
from schemas.tables import Recording, Reject, Segment, Units

CHUNK_BATCHES = 8
"""Batches that are read at once, to be sorted by length."""


class UnitsStage:
    """Encodes each segment on its own, so its units do not depend on the rest of the partition."""

    name = Units.TABLE
    version = 1
    inputs: tuple[str, ...] = (Segment.TABLE, Recording.TABLE)

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
        return [encoder, kmeans, tokenizer_card(encoder, kmeans, getattr(self.spec.encoder, "dtype", "float32"))]

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

    def halve_batch(self) -> bool:
        """See `pipeline.stage.Batched`."""
        self.encoder.batch_size, before = max(self.encoder.batch_size // 2, 1), self.encoder.batch_size
        return self.encoder.batch_size < before

    def run(self, tables: Mapping[str, Sequence[Row]], audio: AudioReader) -> StageResult:
        """A row of units per segment; a segment shorter than a frame, or cut off by its recording's end, is a reject."""
        recordings = {row.recording_id: row for row in rows_of(tables, Recording)}
        segments = rows_of(tables, Segment)
        size = self.encoder.batch_size
        chunks = [
            segments[first : first + size * CHUNK_BATCHES] for first in range(0, len(segments), size * CHUNK_BATCHES)
        ]

        def read(chunk: Sequence[Segment]) -> list[tuple[Segment, np.ndarray]]:
            # Copies: a view of a few seconds would keep the whole recording in memory for as long as its chunk waits.
            return [
                (row, audio.read(recordings[row.recording_id], row.channel)[row.start : row.end].copy())
                for row in chunk
            ]

        rows: list[Units] = []
        rejects: list[Reject] = []
        for cuts in made_ahead(read, chunks, ahead=size > 1):
            for outcome in self._chunk(cuts, size):
                if isinstance(outcome, Units):
                    rows.append(outcome)
                else:
                    rejects.append(outcome)
        return StageResult(rows=rows, rejects=rejects)

    def _chunk(self, cuts: Sequence[tuple[Segment, np.ndarray]], size: int) -> list[Units | Reject]:
        """The outcome of each segment; clips of like length go through the encoder together, so that little is padding."""
        outcomes: dict[int, Units | Reject] = {}
        usable: list[int] = []
        for place, (segment, samples) in enumerate(cuts):
            problem = self._problem(segment, samples)
            if problem is None:
                usable.append(place)
            else:
                outcomes[place] = problem
        usable.sort(key=lambda place: len(cuts[place][1]))
        for first in range(0, len(usable), size):
            places = usable[first : first + size]
            clips = [cuts[place][1] for place in places]
            features = self.encoder.encode_batch(clips) if size > 1 else [self.encoder.encode(clip) for clip in clips]
            for place, frames in zip(places, features, strict=True):
                outcomes[place] = self._units(cuts[place][0], frames)
        return [outcomes[place] for place in range(len(cuts))]

    def _problem(self, segment: Segment, samples: np.ndarray) -> Reject | None:
        expected = (segment.end - segment.start) // self.encoder.hop
        if len(samples) != segment.end - segment.start or expected == 0:
            found = f"{len(samples)} samples where {segment.end - segment.start} were promised, at a hop of {self.encoder.hop}"
            detail = f"{found}: the recording changed or the segment is shorter than a frame"
            return refuse(segment, self.name, "frame_mismatch", detail)
        return None

    def _units(self, segment: Segment, features: np.ndarray) -> Units | Reject:
        assert self._quantiser is not None, "open() comes before run()"
        expected = (segment.end - segment.start) // self.encoder.hop
        if len(features) != expected:
            detail = f"the encoder gave {len(features)} frames where {expected} were expected"
            return refuse(segment, self.name, "frame_mismatch", detail)
        if not np.isfinite(features).all():
            return refuse(segment, self.name, "non_finite", "the encoder gave NaN or infinite features")
        units = self._quantiser.assign(features)
        return Units(
            segment_id=segment.segment_id, num_frames=expected, units=units.tolist(), tokenizer=self._tokenizer_id
        )


def tokenizer_card(encoder: Card, kmeans: Card, dtype: str = "float32") -> Card:
    """What turns audio into units: an encoder at a hop and in an arithmetic, and a codebook.

    The encoder's own card does not name its arithmetic: a codebook that was fitted in one serves the others.
    """
    facts = {
        "encoder": encoder.facts,
        "kmeans": kmeans.facts,
        "num_units": kmeans.facts["num_units"],
        "hop": encoder.facts["hop"],
        **({} if dtype == "float32" else {"dtype": dtype}),
    }
    licences = {str(card.notes["license"]) for card in (encoder, kmeans) if "license" in card.notes}
    notes = {"license": " and ".join(sorted(licences))} if licences else {}
    return Card(kind="unit_tokenizer", name=f"{encoder.name}-km{kmeans.facts['num_units']}", facts=facts, notes=notes)
