"""lhotse cuts (`cuts.jsonl.gz`), one per segment: a supervision with the word alignment, the units as a custom field.

With the folder of the audio the cuts point into its recordings, and `lhotse kaldi export` makes a Kaldi folder of them; without
it their recordings have no source and end with their last segment. Written by lhotse itself (extra `lhotse`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jobs.exports.source_audio import whole_audio
from jobs.exports.spoken import SpokenSegment, recordings_of
from model.data.shards import ShardSet
from schemas.audio import SAMPLE_RATE
from schemas.config import ConfigError

NO_LENGTH = 1 << 62
"""Where libsndfile's count of samples begins to mean that a header states none, as in a FLAC that was written to a pipe."""


def export(shards: ShardSet, out: Path, audio: Path | None) -> str:
    """Write `out/cuts.jsonl.gz`; returns a sentence about it.

    Raises:
        ConfigError: a file of the audio is not under `audio`.
    """
    from lhotse import CutSet

    out.mkdir(parents=True, exist_ok=True)
    partial, number = out / ".cuts.part.jsonl.gz", 0
    with CutSet.open_writer(partial, overwrite=True) as writer:
        for cut in _cuts(shards, audio):
            writer.write(cut)
            number += 1
    partial.replace(out / "cuts.jsonl.gz")
    return f"{number} cuts in cuts.jsonl.gz" + ("" if audio else " (without audio: --audio FOLDER points to it)")


def _cuts(shards: ShardSet, audio: Path | None) -> Iterator[Any]:
    for tracks in recordings_of(shards):
        segments = [segment for track in tracks for segment in track]
        recording = _recording(segments, audio)
        yield from (cut_of(segment, recording) for segment in segments)


def cut_of(segment: SpokenSegment, recording: Any) -> Any:
    """A `MonoCut`, or of the mix of several channels a `MultiCut`. `units`, `hop` and `timing` (one per word) are custom fields
    of the supervision."""
    from lhotse import MonoCut, MultiCut, SupervisionSegment
    from lhotse.supervision import AlignmentItem

    is_mix = segment.channel is None and recording.num_channels > 1
    channel: int | list[int] = list(recording.channel_ids) if is_mix else segment.channel or 0
    hop = segment.hop
    words = [
        AlignmentItem(
            symbol=word.text,
            start=word.start * hop / SAMPLE_RATE,
            duration=(word.end - word.start) * hop / SAMPLE_RATE,
        )
        for word in segment.words
    ]
    duration = (segment.end - segment.start) / SAMPLE_RATE
    supervision = SupervisionSegment(
        id=segment.segment_id,
        recording_id=segment.recording_id,
        start=0.0,
        duration=duration,
        channel=channel,
        text=segment.text,
        language=segment.language,
        speaker=segment.speaker,
        alignment={"word": words},
        custom={
            "units": segment.units.tolist(),
            "hop": hop,
            "timing": [word.timing for word in segment.words],
            "uri": segment.uri,
        },
    )
    return (MultiCut if is_mix else MonoCut)(
        id=segment.segment_id,
        start=segment.start / SAMPLE_RATE,
        duration=duration,
        channel=channel,
        supervisions=[supervision],
        recording=recording,
    )


def _recording(segments: Sequence[SpokenSegment], audio: Path | None) -> Any:
    """The recording of these segments. Without the audio it has no source, and ends where its last segment does."""
    from lhotse import Recording
    from lhotse.audio.utils import AudioLoadingError

    first, end = segments[0], max(segment.end for segment in segments)
    if audio is None:
        return Recording(
            id=first.recording_id,
            sources=[],
            sampling_rate=SAMPLE_RATE,
            num_samples=end,
            duration=end / SAMPLE_RATE,
            channel_ids=sorted({segment.channel or 0 for segment in segments}),
        )
    path = audio / first.uri
    if not path.is_file():
        raise _not_there(audio, first.uri)
    try:
        recording = Recording.from_file(path, recording_id=first.recording_id)
    except AudioLoadingError:  # without ffmpeg's and sph2pipe's programs lhotse reads no M4A, WebM or SPHERE
        return _decoded(path, first.recording_id)
    return recording if recording.num_samples < NO_LENGTH else _decoded(path, first.recording_id)


def _not_there(audio: Path, uri: str) -> ConfigError:
    holders = (audio / uri[:at] for at, sign in enumerate(uri) if sign == "#")
    if (holder := next(filter(Path.is_file, holders), None)) is not None:
        return ConfigError(f"{uri} lies inside of {holder}, where lhotse finds no recording", "export without --audio")
    return ConfigError(f"{audio / uri} is missing, and the shards name {uri}: --audio must be the source's folder")


def _decoded(path: Path, recording_id: str) -> Any:
    """The recording as our own decoders read it."""
    from lhotse import AudioSource, Recording

    info = whole_audio(path)
    return Recording(
        id=recording_id,
        sources=[AudioSource(type="file", channels=list(range(info.channels)), source=str(path))],
        sampling_rate=info.sample_rate,
        num_samples=info.num_samples,
        duration=info.num_samples / info.sample_rate,
    )
