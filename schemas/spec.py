"""The pipeline spec: one YAML file says what is read, how each stage works, on which resources, and where results go."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from schemas.config import StrictModel


class Source(StrictModel):
    """Where the audio is."""

    uri: str
    """A folder: a path or any fsspec URL (s3://bucket/corpus)."""
    pattern: str = "**/*"
    suffixes: list[str] = [".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".mp4"]
    """Files with other suffixes are not audio and are ignored (transcripts live beside the audio)."""
    transcripts: Literal["none", "sidecar", "manifest"] = "none"
    """sidecar: X.txt or X.lab beside X.flac, or LibriSpeech's *.trans.txt. manifest: `manifest` below."""
    manifest: str | None = None
    """A .tsv, .jsonl or .parquet inside the folder: a column `file` and any of transcript, language, license."""
    name: str = "corpus"


class Partitions(StrictModel):
    """How the inventory is cut. A partition is what a kill can cost, and the unit of parallel work."""

    minutes: float = Field(default=30.0, gt=0)
    files: int = Field(default=512, gt=0)


class RecordingsSpec(StrictModel):
    min_seconds: float = Field(default=0.1, ge=0)
    max_seconds: float = Field(default=6 * 3600.0, gt=0)
    channels: Literal["mix", "each"] = "mix"
    """each: every channel is segmented on its own, as for telephone calls."""


class SegmentsSpec(StrictModel):
    backend: Literal["silero"] = "silero"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    min_speech_ms: int = 250
    min_silence_ms: int = 300
    pad_ms: int = 120
    max_seconds: float = Field(default=30.0, gt=1, le=30)
    max_gap_seconds: float = Field(default=2.0, ge=0)
    """Speech further apart than this is never packed into one segment."""


class WhisperXSpec(StrictModel):
    backend: Literal["whisperx"] = "whisperx"
    model: str
    """A CTranslate2 directory or a model name."""
    language: str | None = None
    """None: detected per segment (multilingual models only)."""
    beam_size: int = Field(default=5, ge=1)
    batch_size: int = Field(default=8, ge=1)
    compute_type: Literal["auto", "int8", "float16", "float32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    min_avg_logprob: float = -1.5
    max_compression_ratio: float = 2.6
    """Text that zlib compresses further than this repeats itself: rejected as `repetition`."""
    max_words_per_second: float = 7.0


class TranscriptSpec(StrictModel):
    """The text that came with the audio. Only recordings that are one segment long keep their whole text."""

    backend: Literal["transcript"] = "transcript"
    language: str = "en"


class SoundSwallowerSpec(StrictModel):
    backend: Literal["soundswallower"] = "soundswallower"
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    """A segment with a smaller share of directly aligned words is rejected as `align_coverage`."""


class CtcSpec(StrictModel):
    """Forced alignment over the emissions of a letter CTC model of the wav2vec2 family."""

    backend: Literal["ctc"] = "ctc"
    format: Literal["hf", "torchaudio"] = "hf"
    """What `model` is: a directory or hub name of a Wav2Vec2ForCTC or HubertForCTC, or the name of a torchaudio bundle, such
    as WAV2VEC2_ASR_BASE_960H or MMS_FA."""
    model: str
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    """A segment with a smaller share of directly aligned words is rejected as `align_coverage`."""
    min_score: float = Field(default=0.2, ge=0, le=1)
    """A segment is rejected as `align_failed` when its letters are on average less than this times as probable as the likeliest
    label in their frames (geometric mean over letters)."""
    window_seconds: float = Field(default=20.0, gt=0)
    """Segments up to window + 2 context go through whole; longer ones in windows."""
    context_seconds: float = Field(default=5.0, ge=0)
    batch_size: int = Field(default=4, ge=1)
    """Windows of one segment per step on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


class WhisperXAlignSpec(StrictModel):
    """WhisperX's own aligner over the same models, for comparison."""

    backend: Literal["whisperx"] = "whisperx"
    model: str
    """A directory of a Wav2Vec2ForCTC."""
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    min_score: float = Field(default=0.1, ge=0, le=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"


class MfccSpec(StrictModel):
    """39 MFCC features at 100 Hz, averaged to the hop: HuBERT's own first iteration, no weights needed."""

    backend: Literal["mfcc"] = "mfcc"
    hop: Literal[320, 640] = 640


class HubertSpec(StrictModel):
    """HuBERT features of one layer."""

    backend: Literal["hubert"] = "hubert"
    format: Literal["hf", "torchaudio", "fairseq"] = "hf"
    """What `model` is: a Hugging Face directory or hub name (owner/model[@revision]); the name of a torchaudio bundle, such
    as HUBERT_BASE; a fairseq checkpoint (.pt)."""
    model: str
    layer: int = Field(ge=0)
    """1 is the first transformer layer; 0 what enters it. As `output_layer` in fairseq and `hidden_states[layer]` in
    transformers (there the last layer of a large model has one more layer norm, which no codebook was fitted on)."""
    hop: Literal[320, 640] = 320
    """Samples per frame, checked against the model's own convolutions: 320 is 50 Hz, 640 is 25 Hz."""
    window_seconds: float = Field(default=20.0, gt=0)
    """Audio up to window + 2 context goes through whole; longer audio in windows."""
    context_seconds: float = Field(default=5.0, ge=0)
    batch_size: int = Field(default=4, ge=1)
    """Windows of one segment per step on a GPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


class UnitsSpec(StrictModel):
    encoder: Annotated[MfccSpec | HubertSpec, Field(discriminator="backend")]
    centroids: str
    """A folder written by `jobs/fit_kmeans.py`: centroids.npy and card.json."""


class KMeansSpec(StrictModel):
    """How `jobs/fit_kmeans.py` fits the centroids. Every FAISS parameter is here: FAISS's own defaults subsample silently."""

    num_units: int = Field(gt=1, le=65_535)
    seed: int
    iterations: int = 25
    redo: int = 1
    max_points_per_centroid: int = 4096
    max_frames_per_recording: int = 20_000
    max_hours: float = Field(default=100.0, gt=0)
    """Recordings are drawn, by a hash of seed and recording, up to this much audio."""


class PatchesSpec(StrictModel):
    silence: Literal["separate", "merged"] = "separate"
    """merged: silence joins the word before it (the first silence joins the first word)."""


class ShardsSpec(StrictModel):
    minutes: float = Field(default=240.0, gt=0)
    """Audio per shard: whole partitions are put together up to this."""
    passage_seconds: float = Field(default=120.0, gt=0)
    audio: bool = False
    """Also write each passage's audio as .flac."""


class Stages(StrictModel):
    recordings: RecordingsSpec = RecordingsSpec()
    segments: SegmentsSpec = SegmentsSpec()
    transcripts: Annotated[WhisperXSpec | TranscriptSpec, Field(discriminator="backend")]
    words: Annotated[SoundSwallowerSpec | CtcSpec | WhisperXAlignSpec, Field(discriminator="backend")] = (
        SoundSwallowerSpec()
    )
    units: UnitsSpec
    patches: PatchesSpec = PatchesSpec()
    shards: ShardsSpec = ShardsSpec()


class Resources(StrictModel):
    """Per stage: how many workers, and what each asks of the cluster. Changes nothing in the results."""

    workers: int = Field(default=1, ge=1)
    cpus: float | None = Field(default=None, gt=0)
    """CPUs that Ray sets aside per worker. None: the cluster less one CPU, shared evenly (at most 1 each)."""
    gpus: float = Field(default=0.0, ge=0)
    threads: int = Field(default=1, ge=1)
    """Threads of torch, BLAS and ctranslate2 in a worker. More workers beat more threads."""
    timeout_minutes: float = Field(default=120.0, gt=0)
    """A partition that takes longer is taken apart to find the row that hangs; that row is rejected as `timeout`."""


class PipelineSpec(StrictModel):
    """A whole run. Relative paths are relative to the folder the job is started in."""

    source: Source
    output: str
    partitions: Partitions = Partitions()
    stages: Stages
    kmeans: KMeansSpec
    resources: dict[str, Resources] = {}
    max_reject_rate: float = Field(default=0.05, ge=0, le=1)

    @field_validator("resources")
    @classmethod
    def _stages_exist(cls, resources: dict[str, Resources]) -> dict[str, Resources]:
        for name in resources:
            if name not in Stages.model_fields:
                near = difflib.get_close_matches(name, Stages.model_fields, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"stages: {', '.join(Stages.model_fields)}"
                raise ValueError(f"{name!r} is no stage; {hint}")
        return resources

    def resource(self, stage: str) -> Resources:
        """The resources of a stage, or the defaults."""
        return self.resources.get(stage, Resources())

    def parameters(self, stage: str) -> dict[str, Any]:
        """The parameters of a stage that change its result: without devices, batch sizes and paths of models."""
        fields: dict[str, Any] = getattr(self.stages, stage).model_dump(mode="json")
        return {key: value for key, value in fields.items() if key not in NOT_IN_FINGERPRINT}


NOT_IN_FINGERPRINT = frozenset({"device", "batch_size", "model", "centroids", "encoder"})
"""Models, encoders and centroids enter a fingerprint through their cards, not their paths."""
