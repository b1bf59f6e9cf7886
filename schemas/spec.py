"""The pipeline spec: one YAML file says what is read, how each stage works, on which resources, and where results go."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from schemas.config import BY_CONTENT, NO_EFFECT, StrictModel, essential
from schemas.hearing import CtcSpec as CtcSpec
from schemas.hearing import Device
from schemas.hearing import GivenWordsSpec as GivenWordsSpec
from schemas.hearing import ParakeetSpec as ParakeetSpec
from schemas.hearing import QwenAlignSpec as QwenAlignSpec
from schemas.hearing import SoundSwallowerSpec as SoundSwallowerSpec
from schemas.hearing import TranscriptSpec as TranscriptSpec
from schemas.hearing import WhisperXAlignSpec as WhisperXAlignSpec
from schemas.hearing import WhisperXSpec as WhisperXSpec
from schemas.source import Source as Source


class PartitionsSpec(StrictModel):
    """How the inventory is cut. A partition is what a kill can cost, and the unit of parallel work."""

    minutes: float = Field(default=30.0, gt=0)
    """Audio per partition, about (by the files' headers): from half of it to one and a half, or one longer file."""
    files: int = Field(default=512, gt=0)
    """Files per partition, about, where they are so short that `minutes` would be more."""


class RecordingsSpec(StrictModel):
    min_seconds: float = Field(default=0.1, ge=0)
    """Shorter recordings are rejected as `too_short`."""
    max_seconds: float = Field(default=6 * 3600.0, gt=0, le=37 * 3600.0)
    """Longer recordings are rejected as `too_long`. Tables count samples in 32 bits, which is 37 hours."""
    channels: Literal["mix", "each"] = "mix"
    """each: every channel is segmented on its own, as for telephone calls."""


class SegmentsSpec(StrictModel):
    backend: Literal["silero"] = "silero"
    """Silero's voice activity detector; its weights ship in a wheel."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """A frame is speech when the detector says so with at least this probability."""
    min_speech_ms: int = 250
    """Shorter stretches of speech are dropped."""
    min_silence_ms: int = 300
    """Speech is cut at pauses of at least this length."""
    pad_ms: int = 120
    """Kept of the pause before and after speech."""
    max_seconds: float = Field(default=30.0, gt=1, le=30)
    """No segment is longer: Whisper hears 30 s."""
    max_gap_seconds: float = Field(default=2.0, ge=0)
    """Speech further apart than this is never packed into one segment."""


class GivenSegmentsSpec(StrictModel):
    """The utterances that came with the recordings; a recording that has none is one utterance."""

    backend: Literal["given"] = "given"
    """The times that the corpus states (`source.layout`)."""
    min_seconds: float = Field(default=0.1, ge=0)
    """Shorter utterances are rejected as `too_short`."""
    max_seconds: float = Field(default=60.0, gt=0)
    """Longer utterances are rejected as `too_long`. Whisper hears 30 s at once; aligners and encoders work in windows."""


class MfccSpec(StrictModel):
    """39 MFCC features at 100 Hz, averaged to the hop: HuBERT's own first iteration, no weights needed."""

    backend: Literal["mfcc"] = "mfcc"
    """MFCC features; no weights."""
    hop: Literal[320, 640] = 640
    """Samples per frame: 320 is 50 Hz, 640 is 25 Hz."""


class HubertSpec(StrictModel):
    """HuBERT features of one layer."""

    backend: Literal["hubert"] = "hubert"
    """A HuBERT model."""
    format: Literal["hf", "torchaudio", "fairseq"] = "hf"
    """What `model` is: a Hugging Face directory or hub name (owner/model[@revision]); the name of a torchaudio bundle, such
    as HUBERT_BASE; a fairseq checkpoint (.pt)."""
    model: Annotated[str, BY_CONTENT]
    """See `format`."""
    layer: int = Field(ge=0)
    """1 is the first transformer layer; 0 what enters it. As `output_layer` in fairseq and `hidden_states[layer]` in
    transformers (there the last layer of a large model has one more layer norm, which no codebook was fitted on)."""
    hop: Literal[320, 640] = 320
    """Samples per frame, checked against the model's own convolutions: 320 is 50 Hz, 640 is 25 Hz."""
    window_seconds: float = Field(default=20.0, gt=0)
    """Audio up to window + 2 context goes through whole; longer audio in windows."""
    context_seconds: float = Field(default=5.0, ge=0)
    """Audio on both sides of a window that the model hears and whose frames are dropped."""
    batch_size: Annotated[int, NO_EFFECT] = Field(default=4, ge=1)
    """Segments, or windows of a long one, per step on a GPU."""
    dtype: Annotated[Literal["float32", "float16", "bfloat16"], BY_CONTENT] = "float32"
    """Arithmetic of the network. The halves are faster on a GPU, and change some units: docs/pipeline.md says how many."""
    device: Device = "auto"


class UnitsSpec(StrictModel):
    encoder: Annotated[MfccSpec | HubertSpec, Field(discriminator="backend"), BY_CONTENT]
    """What turns audio into features."""
    centroids: Annotated[str, BY_CONTENT]
    """A folder written by `jobs/fit_kmeans.py`: centroids.npy and card.json."""


class KMeansSpec(StrictModel):
    """How `jobs/fit_kmeans.py` fits the centroids. Every FAISS parameter is here: FAISS's own defaults subsample silently."""

    num_units: int = Field(gt=1, le=65_535)
    """Centroids; the size of the codebook."""
    seed: int
    """Of the sample of frames and of FAISS."""
    iterations: int = 25
    """Of Lloyd's algorithm."""
    redo: int = 1
    """Fits from other starts, of which the best is kept."""
    max_points_per_centroid: int = 4096
    """FAISS trains on at most this many frames per centroid."""
    max_frames_per_recording: int = 20_000
    """Frames drawn from a recording, at most: each recording is a stratum."""
    max_hours: float = Field(default=100.0, gt=0)
    """Recordings are drawn, by a hash of seed and recording, up to this much audio."""


class PatchesSpec(StrictModel):
    silence: Literal["separate", "merged"] = "separate"
    """merged: silence joins the word before it (the first silence joins the first word)."""


class ShardsSpec(StrictModel):
    megabytes: float = Field(default=256.0, gt=0)
    """Size of a shard, about: whole partitions are put together, by what a second of audio usually takes."""
    minutes: float | None = Field(default=None, gt=0)
    """Audio per shard, about, instead of `megabytes`: for small sets that are to have several shards."""
    passage_seconds: float = Field(default=120.0, gt=0)
    """A sample is a passage of consecutive segments, at most this long."""
    max_gap_seconds: float = Field(default=10.0, ge=0)
    """Segments further apart (a song, applause, a long silence) are never of one passage."""
    audio: bool = False
    """Also write each passage's audio as .flac."""


class AudioQualitySpec(StrictModel):
    """Measures of each segment's sound, before it is transcribed. Thresholds are tried in this order; None: measured alone."""

    max_clipping: float | None = Field(default=None, ge=0, le=1)
    """A segment of which a larger share of samples lies on flat tops is rejected as `clipped`; 0.001 is audible."""
    min_bandwidth: float | None = Field(default=None, ge=0, le=8000)
    """In Hz: a segment whose sound reaches less high is rejected as `narrow_band`; 3500 keeps telephone speech out."""
    min_snr: float | None = Field(default=None, ge=0, le=60)
    """In dB: a segment with less speech over noise is rejected as `noisy`. Clean read speech has 20 and more."""
    max_music: float | None = Field(default=None, ge=0, le=1)
    """A segment in a larger share of which steady tones sound is rejected as `music`; 0.5 is a start."""


class TextQualitySpec(StrictModel):
    """Measures of each transcript, before it is aligned. Thresholds are tried in this order; None: measured alone."""

    languages: list[str] | None = Field(default=None, min_length=1)
    """A transcript in none of these languages is rejected as `wrong_language`."""
    as_hinted: bool = False
    """A transcript in another language than the manifest gives for the recording is rejected as `wrong_language`."""
    max_hallucinated: float | None = Field(default=None, ge=0, le=1)
    """A transcript of which a larger share of characters is what Whisper says where nobody speaks ("thanks for watching") is
    rejected as `hallucination`; 0.5 is a start."""
    max_looped: float | None = Field(default=None, ge=0, le=1)
    """A transcript of which a larger share of words stands in a stretch of 1 to 8 words said three times or more on end is
    rejected as `repetition`; 0.3 is a start."""
    min_words_per_second: float | None = Field(default=None, ge=0)
    """A slower transcript is rejected as `rate_out_of_range`: speech was missed. Only of languages that write spaces."""
    max_words_per_second: float | None = Field(default=None, gt=0)
    """A faster transcript is rejected as `rate_out_of_range`."""


def _segments_backend(value: Any) -> str:
    """The backend that a mapping names; silero where it names none, as in every spec before there was another."""
    return str(value.get("backend", "silero") if isinstance(value, dict) else value.backend)


class StagesSpec(StrictModel):
    recordings: RecordingsSpec = RecordingsSpec()
    """Decode, hash and check every file."""
    segments: Annotated[
        Annotated[SegmentsSpec, Tag("silero")] | Annotated[GivenSegmentsSpec, Tag("given")],
        Discriminator(_segments_backend),
    ] = SegmentsSpec()
    """Find speech and cut it."""
    transcripts: Annotated[WhisperXSpec | ParakeetSpec | TranscriptSpec, Field(discriminator="backend")]
    """What is said."""
    words: Annotated[
        SoundSwallowerSpec | CtcSpec | QwenAlignSpec | WhisperXAlignSpec | GivenWordsSpec,
        Field(discriminator="backend"),
    ] = SoundSwallowerSpec()
    """When each word is said."""
    units: UnitsSpec
    """HuBERT (or MFCC) and k-means."""
    patches: PatchesSpec = PatchesSpec()
    """Word-aligned patch bounds."""
    shards: ShardsSpec = ShardsSpec()
    """WebDataset shards for training."""
    audio_quality: AudioQualitySpec | None = None
    """Optional, between segments and what reads them: clipping, bandwidth, noise, music."""
    text_quality: TextQualitySpec | None = None
    """Optional, between transcripts and words: language, hallucinations, loops, pace."""

    @model_validator(mode="after")
    def _whisper_hears_thirty_seconds(self) -> Self:
        if self.transcripts.backend == "whisperx" and self.segments.max_seconds > 30:
            longest = f"segments.max_seconds is {self.segments.max_seconds:g}"
            raise ValueError(f"{longest} and Whisper hears 30 s at once: set stages.segments.max_seconds to 30 or less")
        return self


GATES = {"audio_quality": ("segments", ("transcripts", "units")), "text_quality": ("transcripts", ("words",))}
"""Optional stage -> the stage it measures, and those that read only what it passes."""
STAGES = tuple(name for name in StagesSpec.model_fields if name not in GATES)
"""The stages of every spec, in the order in which their tables are made."""


LINE = "line"
"""The name, among the stages' in `resources`, of the pool that does every stage without an entry of its own."""


class Resources(StrictModel):
    """Of a pool: how many workers, and what each asks of the cluster. Changes nothing in the results."""

    workers: int | None = Field(default=None, ge=1)
    """Processes of the pool, at least. None: one for a stage; for `line` as many as the cluster's other CPUs and memory hold."""
    max_workers: int | None = Field(default=None, ge=1)
    """Processes at most, while partitions wait: a cluster that can grow adds nodes for them. None: as `workers`."""
    cpus: float | None = Field(default=None, gt=0)
    """CPUs that Ray sets aside per worker. None: what the cluster has, shared evenly (at most 1 each)."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs that Ray sets aside per worker; a fraction shares one."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory that Ray sets aside per worker, and that a worker must not pass: the row that makes it do so is found and rejected
    as `out_of_memory`. None: no bound but the machine's."""
    threads: int = Field(default=1, ge=1)
    """Threads of torch, BLAS and ctranslate2 in a worker. More workers beat more threads."""
    timeout_minutes: float = Field(default=5.0, gt=0)
    """Time that a partition, or a row alone, may take at least, whatever its length."""
    timeout_factor: float = Field(default=4.0, ge=0)
    """Added to it, times the length of the audio. A partition that takes longer is gone through row by row, and the row that
    hangs is rejected as `timeout`."""

    @model_validator(mode="after")
    def _most_is_not_less(self) -> Self:
        if self.max_workers is not None and self.max_workers < (self.workers or 1):
            raise ValueError(f"max_workers is {self.max_workers}, less than workers, which is {self.workers or 1}")
        return self

    def limit_seconds(self, seconds: float) -> float:
        """How long work on so much audio may take."""
        return self.timeout_minutes * 60 + self.timeout_factor * seconds


class PipelineSpec(StrictModel):
    """A whole run. Relative paths are relative to the folder the job is started in."""

    source: Source
    """Where the audio is."""
    output: Annotated[str, NO_EFFECT]
    """The folder that receives tables, commits, cards and shards: a path or an fsspec URL."""
    partitions: PartitionsSpec = PartitionsSpec()
    """How the corpus is cut for parallel work."""
    stages: StagesSpec
    """The stages' parameters."""
    kmeans: KMeansSpec
    """How centroids are fitted."""
    resources: Annotated[Literal["auto"] | dict[str, Resources], NO_EFFECT] = "auto"
    """auto: fitted to the cluster. By hand: a pool of workers for each stage that is named, and one for all others, `line`:
    `resources: {units: {workers: 4, gpus: 1}, line: {workers: 8}}`."""
    strict_versions: bool = False
    """The versions of Python and of the packages that compute enter every fingerprint: another version does all anew. Otherwise
    a changed version is only reported."""
    max_reject_rate: Annotated[float, NO_EFFECT] = Field(default=0.05, ge=0, le=1)
    """The run ends in an error where a larger share of rows, or of their audio, is rejected."""

    @field_validator("resources")
    @classmethod
    def _stages_exist(cls, resources: Literal["auto"] | dict[str, Resources]) -> Literal["auto"] | dict[str, Resources]:
        names = (*StagesSpec.model_fields, LINE)
        for name in () if resources == "auto" else resources:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"stages: {', '.join(names)}"
                raise ValueError(f"{name!r} is no stage; {hint}")
        return resources

    def resource(self, stage: str) -> Resources:
        """The resources of a stage: its own, those of the line that does it, or the defaults."""
        if self.resources == "auto":
            return Resources()
        return self.resources.get(stage) or self.resources.get(LINE) or Resources()

    def stage_names(self) -> tuple[str, ...]:
        """The stages of this spec, optional ones that are on among them, in the order in which their tables are made."""
        names = list(STAGES)
        for gate, (measured, _) in GATES.items():
            if getattr(self.stages, gate) is not None:
                names.insert(names.index(measured) + 1, gate)
        return tuple(names)

    def parameters(self, stage: str) -> dict[str, Any]:
        """The parameters of a stage that change its result: without devices, batch sizes and paths of models."""
        return essential(getattr(self.stages, stage))
