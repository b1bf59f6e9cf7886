"""Sources of documents: what a run trains on, and how the i-th sample of a source becomes documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from model.data.compose import Composer, Utterance, segments_of, utterance_of
from model.data.document import Document, bpe_vocabulary
from model.data.draws import generator
from model.data.interleave import InterleaveRule
from model.data.order import Order, held_out
from model.data.shards import Sample, ShardCache, ShardError, ShardSet
from model.data.text_file import TextFile
from model.data.text_tokenizer import TextTokenizer, UntrainedTokenizer, load_tokenizer, train_bpe
from model.network.vocabulary import Vocabulary
from schemas.cards import Card, hash_file
from schemas.config import BY_CONTENT, NO_EFFECT, ConfigError, StrictModel
from schemas.models.unit_bpe import UnitBpe
from schemas.storage.cache import cache_of

if TYPE_CHECKING:
    from model.network.batch import Batch


class _SourceConfig(StrictModel):
    weight: float = Field(gt=0)
    """Share of the training elements (tokens, units and marks), relative to the other sources'."""


class SpokenConfig(_SourceConfig):
    data: Annotated[str, BY_CONTENT]
    """The `index.json` of speech shards: a path or an fsspec URL."""
    unit: Literal["passage", "segment"] = "passage"
    """What becomes one document: a whole sample, or each of its segments."""


class InterleavedSource(SpokenConfig):
    kind: Literal["interleaved"]
    """Spans of text and speech in turns within a document (the paper's data)."""
    spans: InterleaveRule
    """The rule that draws the spans."""
    min_word_score: float = Field(0.0, ge=0, le=1)
    """Text with a word of a lower score is left out and spoken instead; 0 keeps all. Shards made before scores keep all too."""


class SpeechSource(SpokenConfig):
    kind: Literal["speech"]
    """Speech alone."""


class TranscriptionSource(SpokenConfig):
    kind: Literal["asr", "tts"]
    """asr: speech, then its text; tts: text, then its speech."""
    loss_on: Literal["all", "answer"] = "all"
    """all: every element is a target; answer: the second part alone."""


class TextSource(_SourceConfig):
    kind: Literal["text"]
    """Text alone."""
    data: Annotated[str, BY_CONTENT]
    """The `index.json` of any shards (their text is used), or a plain .txt file in UTF-8."""
    document_chars: int = Field(2000, ge=1)
    """A plain file: paragraphs are joined until a document has this many characters; where there are no paragraphs, lines. With 1
    every paragraph is a document."""


SourceConfig = Annotated[
    InterleavedSource | SpeechSource | TranscriptionSource | TextSource, Field(discriminator="kind")
]


class TokenizerConfig(StrictModel):
    path: str
    """A `tokenizer.json`, a SentencePiece model, a directory that holds either, or the hub name of one that was fetched."""
    train_size: int | None = None
    """Where `path` does not exist: train a byte-level BPE of so many tokens on the sources' text and write it there."""


class DataConfig(StrictModel):
    """What a run reads. Everything here but `cache_dir`, `cache_bytes` and `workers` decides the batches."""

    sources: list[SourceConfig] = Field(min_length=1)
    """What documents are drawn from, and how often."""
    tokenizer: Annotated[TokenizerConfig, BY_CONTENT]
    """The text tokenizer."""
    unit_bpe: Annotated[str | None, BY_CONTENT] = None
    """A unit BPE of `jobs/train_unit_bpe.py`: speech is then written in its tokens (the paper's "BPE SpeechLLM")."""
    held_out: float = Field(0.0, ge=0, lt=1)
    """Share of each data set's samples that is kept for validation."""
    shuffle_shards: int = Field(16, ge=1)
    """Samples are mixed within so many shards, which are held open."""
    lanes: int = Field(64, ge=1)
    """Independent streams of documents that the micro-batches take turns on: a multiple of world size x workers."""
    workers: Annotated[int, NO_EFFECT] = Field(1, ge=0)
    """Loader processes per rank; 0 loads in the training process."""
    cache_dir: Annotated[str | None, NO_EFFECT] = None
    """Local copies of remote shards."""
    cache_bytes: Annotated[int, NO_EFFECT] = 50_000_000_000
    """The oldest copies go when there is more."""


def shard_cache(config: DataConfig) -> ShardCache | None:
    """Where a run keeps its copies of remote shards."""
    return ShardCache(config.cache_dir, config.cache_bytes) if config.cache_dir else None


def command_cache(config: DataConfig, index: str) -> ShardCache:
    """Where a command on a trained model keeps copies of remote shards, its own or others: where its run kept them, else under
    LST_CACHE (default: ~/.cache/lst). Nothing is made before there is something to copy."""
    return shard_cache(config) or ShardCache(cache_of("shards", index), config.cache_bytes)


class UnitFacts(StrictModel):
    """What made the units of a run: kept in its checkpoints, so that scoring can refuse units of another making."""

    num_units: int
    """Before a unit BPE."""
    hop: int
    """Samples at 16 kHz per unit."""
    cards: dict[str, Card]
    """Card id -> card, of every speech source."""

    def check_tokenizer(self, cards: Mapping[str, Card], name: str) -> None:
        """Raises ConfigError where the units of `name` were made by another tokenizer than these."""
        theirs, ours = (
            {key for key, card in made.items() if card.kind == "unit_tokenizer"} for made in (cards, self.cards)
        )
        if not theirs <= ours:
            raise ConfigError(
                f"{name} has units of {', '.join(sorted(theirs))}, the model of {', '.join(sorted(ours)) or 'none'}",
                "give shards that were made as its training data was",
            )


class Samples(Protocol):
    """Samples by shard and number: shards, or a text file as one shard of documents."""

    counts: list[int]
    fingerprint: str

    def read(self, shard: int, sample: int) -> Sample | str:
        """A sample, or the text of one."""
        ...


class DocumentStream:
    """One source of a run: samples in an endless order, each made into documents."""

    def __init__(
        self, config: SourceConfig, name: str, samples: Samples, data: DataConfig, seed: int, split: str
    ) -> None:
        """
        Raises:
            ConfigError: the split has no samples.
        """
        self.config, self.name, self.samples, self.seed = config, name, samples, seed
        self._held = held_out(sum(samples.counts), data.held_out, samples.fingerprint)
        self._starts = np.concatenate([[0], np.cumsum(samples.counts)])
        held = np.diff(np.searchsorted(self._held, self._starts))
        self._validating = split == "validation"
        counts = held if self._validating else np.asarray(samples.counts) - held
        self._ahead = -1
        if not counts.sum():
            few = f"source {name!r} has {sum(samples.counts)} samples ({config.data})"
            if self._validating:
                raise ConfigError(
                    f"{few}, and of fewer than two none can be held out",
                    "give more data, or set data.held_out: 0, by which validation reads what training reads",
                )
            raise ConfigError(few, "name data that has some")
        self.order = Order(counts.tolist(), seed, f"{split}/{name}", data.shuffle_shards)

    def sample(self, index: int) -> Sample | str:
        """The index-th sample of the order."""
        _, shard, number = self.order.locate(index)
        if isinstance(self.samples, ShardSet):
            group, shards = self.order.ahead(index)
            if group > self._ahead:
                self._ahead = group
                self.samples.ahead(shards)
        return self.samples.read(shard, self._sample(shard, number))

    def documents(self, index: int, composer: Composer) -> list[Document]:
        """The documents of the index-th sample of the order."""
        epoch, _, number = self.order.locate(index)
        sample = self.sample(index)
        config = self.config
        if isinstance(sample, str):
            return [composer.text(sample, f"{self.name}/{number}")]
        if isinstance(config, TextSource):
            if sample.tokens is not None and self._has_tokens_of(composer):
                return [composer.text_of_tokens(sample.tokens, sample.meta.key)]
            return [composer.text(sample.meta.text, sample.meta.key)]
        if not len(sample.units):
            raise ShardError(
                f"source {self.name!r} wants speech, and sample {sample.meta.key} of {config.data} has no units"
            )
        utterances = [utterance_of(sample)] if config.unit == "passage" else segments_of(sample)
        return [self._spoken(utterance, epoch, composer) for utterance in utterances]

    def _has_tokens_of(self, composer: Composer) -> bool:
        return isinstance(self.samples, ShardSet) and composer.tokenizer.card.card_id in self.samples.index.cards

    def _spoken(self, utterance: Utterance, epoch: int, composer: Composer) -> Document:
        config = self.config
        if isinstance(config, InterleavedSource):
            rng = generator(self.seed, "spans", self.name, epoch, utterance.name)
            return composer.interleaved(utterance, config.spans, rng, config.min_word_score)
        if isinstance(config, TranscriptionSource):
            return composer.transcription(utterance, config.kind, config.loss_on)
        return composer.speech(utterance)

    def _sample(self, shard: int, number: int) -> int:
        """Number within the shard of the number-th sample that belongs to this split."""
        start, end = self._starts[shard], self._starts[shard + 1]
        held = self._held[np.searchsorted(self._held, start) : np.searchsorted(self._held, end)] - start
        if self._validating:
            return int(held[number])
        # the number-th of those that are not held out: each held one at or before it moves it by one
        return number + int(np.searchsorted(held - np.arange(len(held)), number, side="right"))


class TrainingData:
    """Everything that is opened once: the data sets, the tokenizer, the joint vocabulary, the fingerprint of it all."""

    def __init__(self, config: DataConfig, *, planned: bool = False) -> None:
        """`planned`: for a look ahead. A tokenizer that is to be trained is an `UntrainedTokenizer`, and nothing is written.

        Raises:
            ShardError, ConfigError: something is missing, damaged, or does not fit together.
        """
        self.config = config
        cache = shard_cache(config)
        opened: dict[tuple[str, int], Samples] = {}
        keys = [(source.data, getattr(source, "document_chars", 0)) for source in config.sources]
        for key, source in zip(keys, config.sources, strict=True):
            if key not in opened:
                opened[key] = _open(source, cache, config.shuffle_shards)
        self.samples = [opened[key] for key in keys]
        self.names = _names(config.sources)
        self.tokenizer = _tokenizer(config.tokenizer, list(opened.values()), planned)
        self.num_units, self.seconds_per_unit = _unit_facts(config.sources, self.samples)
        self.unit_bpe = UnitBpe.load(config.unit_bpe) if config.unit_bpe else None
        self.vocabulary = Vocabulary(num_text=self.tokenizer.size, num_units=self.num_units)
        if self.unit_bpe is not None:
            if self.num_units not in (0, self.unit_bpe.num_units):
                raise ConfigError(
                    f"the unit BPE {config.unit_bpe} was learned over {self.unit_bpe.num_units} units, and the speech here has "
                    f"{self.num_units}",
                    "learn one on these shards with jobs/train_unit_bpe.py",
                )
            self.vocabulary = bpe_vocabulary(self.vocabulary, self.unit_bpe)

    def unit_facts(self) -> UnitFacts | None:
        """What made the units; None where there is no speech."""
        indexes = [
            samples.index
            for samples, source in zip(self.samples, self.config.sources, strict=True)
            if isinstance(samples, ShardSet) and not isinstance(source, TextSource)
        ]
        if not indexes:
            return None
        cards = {name: card for index in indexes for name, card in index.cards.items()}
        return UnitFacts(num_units=indexes[0].num_units, hop=indexes[0].hop, cards=cards)

    def speech_seconds(self, batch: Batch) -> float:
        """Seconds of the speech in a batch: a token of the unit BPE lasts as long as its units."""
        if self.unit_bpe is None:
            return float(batch.is_unit_N.sum()) * self.seconds_per_unit
        tokens = batch.ids_N[batch.is_unit_N].numpy() - self.vocabulary.unit_offset
        return float(self.unit_bpe.lengths[tokens].sum()) * self.seconds_per_unit

    def sources(self, seed: int, split: Literal["train", "validation"]) -> list[DocumentStream]:
        """The sources of one split."""
        return [
            DocumentStream(config, name, samples, self.config, seed, split)
            for config, name, samples in zip(self.config.sources, self.names, self.samples, strict=True)
        ]

    def fingerprint(self) -> dict[str, Any]:
        """What must not change within a run: a content hash per source, and the tokenizer's card."""
        contents = {name: samples.fingerprint for name, samples in zip(self.names, self.samples, strict=True)}
        facts = {"sources": contents, "tokenizer": self.tokenizer.card.card_id, "num_units": self.num_units}
        return facts if self.config.unit_bpe is None else {**facts, "unit_bpe": hash_file(self.config.unit_bpe)}


def _open(source: SourceConfig, cache: ShardCache | None, keep_open: int) -> Samples:
    if isinstance(source, TextSource) and source.data.endswith(".txt"):
        return TextFile(source.data, source.document_chars)
    shards = ShardSet(source.data, cache, keep_open)
    if shards.index.kind == "text" and not isinstance(source, TextSource):
        raise ConfigError(f"source kind {source.kind!r} needs speech shards, and {source.data} is a text-only set")
    return shards


def _names(sources: Sequence[SourceConfig]) -> list[str]:
    """The kind of each source, numbered where there are several of a kind."""
    kinds = [source.kind for source in sources]
    return [kind if kinds.count(kind) == 1 else f"{kind}-{kinds[:i].count(kind) + 1}" for i, kind in enumerate(kinds)]


def _unit_facts(sources: Sequence[SourceConfig], samples: Sequence[Samples]) -> tuple[int, float]:
    """Size of the unit vocabulary and seconds per unit, on which all speech sources must agree."""
    facts = {
        config.data: (shards.index.num_units, shards.index.hop / shards.index.sample_rate)
        for config, shards in zip(sources, samples, strict=True)
        if isinstance(shards, ShardSet) and not isinstance(config, TextSource)
    }
    if len(set(facts.values())) > 1:
        lines = ", ".join(f"{data}: {units} units of {seconds} s" for data, (units, seconds) in facts.items())
        raise ConfigError(f"the speech sources were made with different unit tokenizers ({lines})")
    return next(iter(facts.values()), (0, 0.0))


def _tokenizer(config: TokenizerConfig, samples: Sequence[Samples], planned: bool) -> TextTokenizer:
    """The tokenizer, after training it where it is missing and the configuration says how large it should be."""
    if config.train_size is not None and not Path(config.path).exists():
        if planned:
            return UntrainedTokenizer(config.train_size)
        train_bpe(all_texts(samples), config.train_size, config.path)
    return load_tokenizer(config.path)


def all_texts(samples: Sequence[Samples]) -> Iterator[str]:
    """The text of every sample, for training a tokenizer."""
    for data in samples:
        for shard, count in enumerate(data.counts):
            for number in range(count):
                sample = data.read(shard, number)
                yield sample if isinstance(sample, str) else sample.meta.text
