"""Recognition of the demo speech: word error rate and speed of our stages with WhisperX, beside faster-whisper on whole files.

The same model (Whisper tiny.en), the same beam, as many threads. `make models` fetches the model.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import jiwer
import numpy as np

from benchmarks.harness import Measurement, main
from pipeline.recordings import RecordingsStage
from pipeline.segments import SegmentsStage
from pipeline.source.audio import SourceAudio
from pipeline.source.inventory import list_source
from pipeline.transcripts import TranscriptsStage
from schemas.audio import SAMPLE_RATE
from schemas.spec import RecordingsSpec, SegmentsSpec, Source, WhisperXSpec
from schemas.tables import Recording, Segment, Transcript

DEMO = Path(__file__).parents[1] / "data" / "demo"
MODEL = Path(__file__).parents[1] / "models" / "whisper-tiny.en"
BEAM = 5
MAX_WER = 8.0


def word_error_rate(references: Mapping[str, str], heard: Mapping[str, str]) -> float:
    """Percent over all words together, after Whisper's own English normaliser (numbers, contractions, titles)."""
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normalise = EnglishTextNormalizer({})
    names = sorted(references)
    said = [normalise(references[name]) for name in names]
    return 100 * float(jiwer.wer(said, [normalise(heard.get(name, "")) for name in names]))


def our_transcripts(recordings: Sequence[Recording], audio: SourceAudio) -> tuple[dict[str, str], float, float]:
    """Text by recording id, seconds of segmenting, seconds of transcribing (models loaded beforehand)."""
    segmenter = SegmentsStage(SegmentsSpec())
    recogniser = TranscriptsStage(WhisperXSpec(model=str(MODEL), language="en", beam_size=BEAM))
    segmenter.open()
    recogniser.open()
    begin = time.perf_counter()
    segments = [row for row in segmenter.run({"recordings": recordings}, audio).rows if isinstance(row, Segment)]
    middle = time.perf_counter()
    result = recogniser.run({"segments": segments, "recordings": recordings}, audio)
    end = time.perf_counter()
    of_recording = {row.segment_id: row.recording_id for row in segments}
    parts: dict[str, list[str]] = defaultdict(list)
    for row in sorted((row for row in result.rows if isinstance(row, Transcript)), key=lambda row: row.segment_id):
        parts[of_recording[row.segment_id]].append(row.text)
    return {name: " ".join(texts) for name, texts in parts.items()}, middle - begin, end - middle


def rival_transcripts(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, str], float]:
    """faster-whisper over whole recordings with its own VAD: text by recording id, and seconds."""
    from faster_whisper import WhisperModel

    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    model = WhisperModel(str(MODEL), device="cpu", compute_type="int8", cpu_threads=threads)
    begin = time.perf_counter()
    texts = {}
    for name, samples in arrays.items():
        found, _ = model.transcribe(samples, language="en", beam_size=BEAM, vad_filter=True)
        texts[name] = " ".join(segment.text.strip() for segment in found)
    return texts, time.perf_counter() - begin


def streaming_seconds(arrays: Mapping[str, np.ndarray]) -> float:
    """Seconds of Silero called frame by frame, as its README does."""
    import torch
    from silero_vad import get_speech_timestamps, load_silero_vad

    model = load_silero_vad(onnx=True)
    begin = time.perf_counter()
    for samples in arrays.values():
        get_speech_timestamps(torch.from_numpy(samples), model)
    return time.perf_counter() - begin


def run() -> list[Measurement]:
    """Both recognisers over data/demo."""
    source = Source(uri=str(DEMO), transcripts="manifest", manifest="manifest.tsv")
    audio = SourceAudio(source.uri)
    found = RecordingsStage(RecordingsSpec(), source).run({"inventory": list_source(source)}, audio)
    recordings = sorted((row for row in found.rows if isinstance(row, Recording)), key=lambda row: row.recording_id)
    references = {row.recording_id: row.transcript or "" for row in recordings}
    arrays = {row.recording_id: audio.read(row).copy() for row in recordings}
    duration = sum(len(samples) for samples in arrays.values()) / SAMPLE_RATE
    ours, segment_seconds, transcribe_seconds = our_transcripts(recordings, audio)
    theirs, rival_seconds = rival_transcripts(arrays)
    wer = word_error_rate(references, ours)
    whole = "faster-whisper, whole files"
    return [
        Measurement(
            name="word error rate of the demo, tiny.en",
            value=wer,
            unit="%",
            rival=whole,
            rival_value=word_error_rate(references, theirs),
            goal=f"< {MAX_WER:g}",
            holds=wer < MAX_WER,
        ),
        Measurement(
            name="transcribing, audio seconds per second",
            value=duration / transcribe_seconds,
            unit="x",
            rival=whole,
            rival_value=duration / rival_seconds,
        ),
        Measurement(
            name="segmenting, audio seconds per second",
            value=duration / segment_seconds,
            unit="x",
            rival="Silero frame by frame",
            rival_value=duration / streaming_seconds(arrays),
        ),
    ]


if __name__ == "__main__":
    main(run, __doc__)
