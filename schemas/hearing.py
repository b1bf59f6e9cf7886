"""What the stages that hear are told: recognisers and word aligners, each backend's own fields."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.config import BY_CONTENT, NO_EFFECT, StrictModel

# Fields that several backends share, with what they mean; each backend has defaults of its own, for their scores differ.
Device = Annotated[
    Literal["auto", "cpu", "cuda"], NO_EFFECT, Field(description="auto: a GPU where the worker has one.")
]
MaxCompressionRatio = Annotated[
    float, Field(description="Text that zlib compresses further than this repeats itself: rejected as `repetition`.")
]
MaxWordsPerSecond = Annotated[float, Field(description="Faster text is rejected as `rate_out_of_range`.")]
MinCoverage = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="A segment with a smaller share of directly aligned words is rejected as `align_coverage`.",
    ),
]
MinWordScore = Annotated[float, Field(ge=0, le=1, description="A word with a lower score is `doubtful`.")]
MaxUncovered = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="A segment is rejected as `align_coverage` when a larger share of its speech is covered by no word. "
        "Up to this, such speech becomes filler patches.",
    ),
]


class WhisperXSpec(StrictModel):
    backend: Literal["whisperx"] = "whisperx"
    """WhisperX (faster-whisper)."""
    model: Annotated[str, BY_CONTENT]
    """A CTranslate2 directory or a model name."""
    language: str | None = None
    """None: detected per segment (multilingual models only)."""
    beam_size: int = Field(default=5, ge=1)
    """Hypotheses kept while decoding; 1 is greedy."""
    batch_size: Annotated[int, NO_EFFECT] = Field(default=8, ge=1)
    """Segments decoded together on a GPU."""
    compute_type: Literal["auto", "int8", "int8_float16", "float16", "bfloat16", "float32"] = "auto"
    """CTranslate2's arithmetic; auto is float16 on a GPU and int8 elsewhere."""
    device: Device = "auto"
    min_avg_logprob: float = -1.5
    """Text with a lower mean log probability per token is rejected as `low_logprob`."""
    max_compression_ratio: MaxCompressionRatio = 2.6
    max_words_per_second: MaxWordsPerSecond = 7.0


class ParakeetSpec(StrictModel):
    """Parakeet-CTC: a FastConformer that writes word pieces. Greedy, so its text is what its frames say one by one."""

    backend: Literal["parakeet"] = "parakeet"
    """NVIDIA's Parakeet-CTC, by transformers."""
    model: Annotated[str, BY_CONTENT]
    """A directory or hub name of a ParakeetForCTC, such as nvidia/parakeet-ctc-1.1b."""
    language: str = "en"
    """What the model writes; it detects no language."""
    batch_size: Annotated[int, NO_EFFECT] = Field(default=8, ge=1)
    """Segments heard together on a GPU, padded to the longest."""
    device: Device = "auto"
    min_avg_logprob: float = -1.5
    """Text with a lower mean log probability per piece is rejected as `low_logprob`."""
    max_compression_ratio: MaxCompressionRatio = 2.6
    max_words_per_second: MaxWordsPerSecond = 7.0


class TranscriptSpec(StrictModel):
    """The text that came with the audio. Only recordings that are one segment long keep their whole text."""

    backend: Literal["transcript"] = "transcript"
    """The text that came with the audio (`source.transcripts`)."""
    language: str = "en"
    """Of recordings whose manifest names none."""


class SoundSwallowerSpec(StrictModel):
    backend: Literal["soundswallower"] = "soundswallower"
    """A small English GMM that ships in a wheel."""
    min_coverage: MinCoverage = 0.5
    min_score: float = Field(default=0.015, ge=0, le=1)
    """A segment is rejected as `align_failed` when the geometric mean of its words' scores is lower."""
    min_word_score: MinWordScore = 0.01
    max_uncovered: MaxUncovered = 0.2


class CtcSpec(StrictModel):
    """Forced alignment over the emissions of a CTC model: letters (wav2vec2 family, Whisper with a head) or pieces (Parakeet)."""

    backend: Literal["ctc"] = "ctc"
    """Our Viterbi over the emissions of a CTC model."""
    format: Literal["hf", "torchaudio", "whisper", "parakeet"] = "hf"
    """What `model` is: a directory or hub name of a Wav2Vec2ForCTC or HubertForCTC; the name of a torchaudio bundle, such
    as WAV2VEC2_ASR_BASE_960H or MMS_FA; a directory with a letter head for the encoder of a Whisper model; a directory or hub
    name of a ParakeetForCTC, whose labels are pieces of words."""
    model: Annotated[str, BY_CONTENT]
    """See `format`."""
    encoder: Annotated[str | None, BY_CONTENT] = None
    """With `format: whisper`: the Whisper directory whose encoder the head reads, mostly that of `transcripts`."""
    ask_decoder: bool = True
    """With `format: whisper` on an English Whisper: its decoder, told the text, is a second witness of each word, in the word's
    score. Others have letters alone, and so has English speech with `false`."""
    min_coverage: MinCoverage = 0.5
    min_score: float = Field(default=0.2, ge=0, le=1)
    """A segment is rejected as `align_failed` when its letters are on average less than this times as probable as the likeliest
    label in their frames (geometric mean over letters). With a second witness (`ask_decoder`) by both together."""
    min_word_score: MinWordScore = 0.15
    max_uncovered: MaxUncovered = 0.2
    window_seconds: float = Field(default=20.0, gt=0)
    """Segments up to window + 2 context go through whole; longer ones in windows."""
    context_seconds: float = Field(default=5.0, ge=0)
    """Audio on both sides of a window that the model hears and whose frames are dropped."""
    batch_size: Annotated[int, NO_EFFECT] = Field(default=4, ge=1)
    """Segments, or windows of a long one, per step on a GPU."""
    dtype: Annotated[Literal["float32", "float16", "bfloat16"], BY_CONTENT] = "float32"
    """Arithmetic of the network. The halves are faster on a GPU, and move a word\'s times by a frame here and there."""
    device: Device = "auto"

    @model_validator(mode="after")
    def _encoder_where_needed(self) -> Self:
        if (self.encoder is not None) != (self.format == "whisper"):
            raise ValueError("`encoder` belongs to `format: whisper`, which needs it: the directory of a Whisper model")
        return self


class QwenAlignSpec(StrictModel):
    """Qwen3's forced aligner: a language model that hears the segment and says in which 80 ms each word begins and ends."""

    backend: Literal["qwen3"] = "qwen3"
    """Qwen3-ForcedAligner, by transformers."""
    model: Annotated[str, BY_CONTENT]
    """A directory or hub name of a Qwen3ASRForTokenClassification, as transformers reads it."""
    min_coverage: MinCoverage = 0.5
    min_score: float = Field(default=0.1, ge=0, le=1)
    """A segment is rejected as `align_failed` when the probabilities of its words' times have a lower geometric mean."""
    min_word_score: MinWordScore = 0.05
    max_uncovered: MaxUncovered = 0.2
    device: Device = "auto"


class GivenWordsSpec(StrictModel):
    """The words and times that came with the recordings (`source.words`, or the corpus's own)."""

    backend: Literal["given"] = "given"
    """Alignments made elsewhere: the Montreal Forced Aligner, Kaldi, lhotse, slamkit, official LST."""
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    """A segment is rejected as `align_coverage` when a smaller share of its transcript's words has a given time."""


class WhisperXAlignSpec(StrictModel):
    """WhisperX's own aligner over the same models, for comparison."""

    backend: Literal["whisperx"] = "whisperx"
    """WhisperX's own aligner."""
    model: Annotated[str, BY_CONTENT]
    """A directory of a Wav2Vec2ForCTC."""
    min_coverage: MinCoverage = 0.5
    min_score: float = Field(default=0.1, ge=0, le=1)
    """A segment with a lower mean score is rejected as `align_failed`."""
    min_word_score: MinWordScore = 0.0
    max_uncovered: MaxUncovered = 0.2
    device: Device = "auto"
