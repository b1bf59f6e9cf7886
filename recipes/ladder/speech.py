"""Sentences to units with the frames of their words: flite speaks, its own times say where the words are.

Every sentence begins and ends with PAD frames of silence, in stories and in the prompts and endings of tasks alike, so that the
seam between a prompt and its ending sounds as every other seam.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.codebook.assign import Quantiser
from pipeline.codebook.fit import fit_kmeans
from pipeline.codebook.folder import kmeans_card, load_centroids, write_centroids
from pipeline.encode.base import Encoder, build_encoder
from pipeline.patches import word_frames
from recipes.ladder.settings import HOP, ClusterUnits, HubertUnits, LadderConfig
from recipes.voices import flite
from recipes.voices.store import VoicedSentence
from schemas.cards import Card
from schemas.config import ConfigError
from schemas.spec import KMeansSpec

PAD = 2
GAP = 3
"""Frames of silence between sentences that are encoded together: an MFCC frame's deltas reach that far."""
BATCH_FRAMES = 6_000
TAKES = 6
"""How often a voice of whole sentences says each word: several neighbours of each for unit selection to choose from."""
PHONES = (
    "sil", "aa", "ae", "ah", "ao", "aw", "ax", "ay", "b", "ch", "d", "dh", "eh", "er", "ey", "f", "g", "hh", "ih", "iy", "jh",
    "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y", "z", "zh",
)  # fmt: skip
"""flite's phones; the index is the unit."""


Key = tuple[str, str]
"""A sentence and the voice that says it."""
Frames = list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """One sentence by one voice."""

    units: np.ndarray
    """uint16 [T]."""
    word_frames: Frames


def words_of(sentence: str) -> list[tuple[int, int]]:
    """[start, end) in the sentence of each word, punctuation left out."""
    return [(m.start(), m.start() + len(m.group().rstrip(".,"))) for m in re.finditer(r"\S+", sentence)]


def forms(sentence: str) -> list[str]:
    """The sentence's words in lower case."""
    return [sentence[start:end].lower() for start, end in words_of(sentence)]


class Speaker:
    """Sentences to units. `learn` must have seen the sentences of training before any is asked for."""

    def __init__(self, config: LadderConfig) -> None:
        self.config, self.units = config, config.units
        self._spoken: dict[Key, Spoken | None] = {}
        self._lexicon: dict[tuple[str, str], list[np.ndarray]] = {}
        self._silence: dict[str, np.ndarray] = {}
        self._quantiser: Quantiser | None = None
        self._encoder: Encoder | None = None

    @property
    def num_units(self) -> int:
        return self.units.num_units if isinstance(self.units, ClusterUnits) else len(PHONES)

    @property
    def _renditions(self) -> int | None:
        return self.units.renditions if isinstance(self.units, ClusterUnits) else None

    def cards(self) -> list[Card]:
        """The cards of encoder, clusters and lexicon, as the shards record them."""
        if self._quantiser is None or self._encoder is None:
            return [Card(kind="unit_tokenizer", name="flite-phones", facts={"phones": list(PHONES), "hop": HOP})]
        encoder = self._encoder.card()
        kmeans = kmeans_card(f"k{self.num_units}", self._quantiser.centroids, {"encoder": encoder.card_id})
        facts = {"encoder": encoder.card_id, "kmeans": kmeans.card_id, "hop": HOP, "renditions": self._renditions}
        if self._renditions:
            facts["lexicon"] = self._lexicon_hash()
        name = f"{encoder.name}-k{self.num_units}" + (f"-lex{self._renditions}" if self._renditions else "")
        return [encoder, kmeans, Card(kind="unit_tokenizer", name=name, facts=facts)]

    def _lexicon_hash(self) -> str:
        digest = hashlib.sha256()
        for key in sorted(self._lexicon):
            digest.update(repr((key, [rendition.tolist() for rendition in self._lexicon[key]])).encode())
        return digest.hexdigest()

    def learn(self, sentences: Sequence[Key], fit: int) -> None:
        """Fit the units on the first `fit` of (sentence, voice), and count the renditions of all words."""
        distinct = list(dict.fromkeys(sentences))
        if isinstance(self.units, ClusterUnits):
            self._encoder = build_encoder(self.units.encoder)
            self._encoder.open()
            self._quantiser = Quantiser(self._clusters(self.units, self._encoder, distinct[:fit]))
        if self._renditions:
            self._learn_renditions(distinct)

    def _clusters(self, units: ClusterUnits, encoder: Encoder, sentences: Sequence[Key]) -> np.ndarray:
        """Centroids float32 [num_units, D].

        Raises:
            ConfigError: those that are given are missing, broken, of another number or another encoder.
        """
        if units.centroids is None:
            features = [found for found, _ in self._features(sentences).values()]
            spec = KMeansSpec(num_units=units.num_units, seed=self.config.seed)
            return fit_kmeans(np.concatenate(features), spec).centroids
        centroids, card = load_centroids(units.centroids)
        wanted = encoder.card().card_id
        if len(centroids) != units.num_units or card.notes.get("encoder") != wanted:
            raise ConfigError(
                f"units.centroids: {units.centroids} holds {len(centroids)} clusters for {card.notes.get('encoder')}, and this "
                f"ladder takes {units.num_units} for {wanted}; leave it out to fit them on the ladder's speech"
            )
        return centroids

    def write_clusters(self, folder: str | Path) -> None:
        """The clusters, where there are any, for another ladder's `units.centroids`."""
        if self._quantiser is not None:
            write_centroids(folder, self._quantiser.centroids, self.cards()[1])

    def _learn_renditions(self, distinct: Sequence[Key]) -> None:
        """Sentences are spoken until each of their words was heard `learn_from` times."""
        assert isinstance(self.units, ClusterUnits)
        wanted = until_heard(distinct, self.units.learn_from)
        counts: dict[tuple[str, str], Counter[tuple[int, ...]]] = {}
        silences: dict[str, Counter[tuple[int, ...]]] = {}
        for (sentence, voice), spoken in self._natural(wanted).items():
            units = spoken.units.tolist()
            silences.setdefault(voice, Counter())[tuple(units[:PAD])] += 1
            for form, (start, end) in zip(forms(sentence), spoken.word_frames, strict=True):
                counts.setdefault((form, voice), Counter())[tuple(units[start:end])] += 1
        for key, found in counts.items():
            self._lexicon[key] = [np.asarray(r, np.uint16) for r, _ in found.most_common(self._renditions)]
        self._silence = {v: np.asarray(c.most_common(1)[0][0], np.uint16) for v, c in silences.items()}

    def pieces(self, sentences: Iterable[Key]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each rendition of each word, and the silence before a sentence, once as it was spoken: units [T], audio [T * HOP].
        Where words have no renditions, whole sentences, until each word was said `TAKES` times."""
        if not self._lexicon:
            yield from self._whole(until_heard(dict.fromkeys(sentences), TAKES))
            return
        missing = {(*key, tuple(r.tolist())) for key, found in self._lexicon.items() for r in found}
        missing |= {("", voice, tuple(silence.tolist())) for voice, silence in self._silence.items()}
        open_of = Counter((form, voice) for form, voice, _ in missing)
        for sentence, voice in dict.fromkeys(sentences):
            if not missing:
                return
            forms_of = forms(sentence)
            if not any(open_of[form, voice] for form in ("", *forms_of)):
                continue
            trimmed, spoken = _trimmed(sentence, voice), self._natural([(sentence, voice)]).get((sentence, voice))
            if trimmed is None or spoken is None:
                continue
            for form, (start, end) in [("", (0, PAD)), *zip(forms_of, spoken.word_frames, strict=True)]:
                key = (form, voice, tuple(spoken.units[start:end].tolist()))
                if key in missing:
                    missing.remove(key)
                    open_of[form, voice] -= 1
                    yield spoken.units[start:end], trimmed[0][start * HOP : end * HOP]

    def _whole(self, sentences: Sequence[Key]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for key, spoken in self._natural(sentences).items():
            trimmed = _trimmed(*key)
            assert trimmed is not None, "what was encoded was spoken"
            yield spoken.units, trimmed[0]

    def speak(self, sentences: Iterable[Key]) -> dict[Key, Spoken]:
        """(sentence, voice) -> its units; those that flite reads in its own way are left out."""
        wanted = list(dict.fromkeys(sentences))
        todo = [key for key in wanted if key not in self._spoken]
        if self._renditions:
            self._spoken.update({key: self._composed(*key) for key in todo})
        else:
            found = self._natural(todo)
            self._spoken.update({key: found.get(key) for key in todo})
        return {key: spoken for key in wanted if (spoken := self._spoken[key]) is not None}

    def _composed(self, sentence: str, voice: str) -> Spoken | None:
        """A sentence out of its words' renditions; which one of each, its own hash decides. A word that training never says
        (a pseudo-word) is spoken in its sentence."""
        pieces, spans, position = [self._silence[voice]], [], PAD
        draw = int(hashlib.sha256(f"{voice} {sentence}".encode()).hexdigest(), 16)
        natural: Spoken | None = None
        for number, form in enumerate(forms(sentence)):
            known = self._lexicon.get((form, voice))
            if known is None:
                natural = natural or self._natural([(sentence, voice)]).get((sentence, voice))
                if natural is None:
                    return None
                start, end = natural.word_frames[number]
                known = [natural.units[start:end]]
            draw, choice = divmod(draw, len(known))
            pieces.append(known[choice])
            spans.append((position, position + len(known[choice])))
            position += len(known[choice])
        return Spoken(units=np.concatenate([*pieces, self._silence[voice]]), word_frames=spans)

    def _natural(self, keys: Sequence[Key]) -> dict[Key, Spoken]:
        if self._quantiser is None:
            return {key: spoken for key in keys if (spoken := _phone_units(*key)) is not None}
        return {
            key: Spoken(units=self._quantiser.assign(features), word_frames=frames)
            for key, (features, frames) in self._features(keys).items()
        }

    def _features(self, keys: Sequence[Key]) -> dict[Key, tuple[np.ndarray, Frames]]:
        """(sentence, voice) -> float32 [T, 39] and word frames, encoded many at a time."""
        found: dict[Key, tuple[np.ndarray, Frames]] = {}
        batch: list[tuple[Key, np.ndarray, Frames]] = []
        size = 0
        for key in keys:
            trimmed = _trimmed(*key)
            if trimmed is None:
                continue
            batch.append((key, *trimmed))
            size += len(trimmed[0]) // HOP
            if size > BATCH_FRAMES:
                self._encode(batch, found)
                batch, size = [], 0
        if batch:
            self._encode(batch, found)
        return found

    def _encode(
        self, batch: Sequence[tuple[Key, np.ndarray, Frames]], found: dict[Key, tuple[np.ndarray, Frames]]
    ) -> None:
        assert self._encoder is not None
        if isinstance(self.units, HubertUnits):
            # It hears a second on either side, and no sentence is another's context.
            for key, audio, spans in batch:
                found[key] = self._encoder.encode(audio), word_frames(spans, len(audio) // HOP, HOP)
            return
        silence = np.zeros(GAP * HOP, np.float32)
        features = self._encoder.encode(np.concatenate([x for _, audio, _ in batch for x in (audio, silence)]))
        position = 0
        for key, audio, spans in batch:
            frames = len(audio) // HOP
            found[key] = features[position : position + frames], word_frames(spans, frames, HOP)
            position += frames + GAP


def until_heard(sentences: Iterable[Key], times: int) -> list[Key]:
    """Of distinct sentences, in their order, those with a word that was not yet said so often by its voice."""
    heard: Counter[tuple[str, str]] = Counter()
    wanted = []
    for sentence, voice in sentences:
        keys = [(form, voice) for form in forms(sentence)]
        if any(heard[key] < times for key in keys):
            wanted.append((sentence, voice))
            heard.update(keys)
    return wanted


def _trimmed(sentence: str, voice: str) -> tuple[np.ndarray, Frames] | None:
    """float32 audio of whole frames from PAD before the first word to PAD after the last, and the words' samples in it."""
    utterance = flite.synthesise(sentence, voice)
    if utterance is None:
        return None
    spans = utterance.word_spans()
    start = max(0, spans[0][0] - PAD * HOP)
    frames = -(-(spans[-1][1] - start) // HOP) + PAD
    audio = np.zeros(frames * HOP, np.float32)
    piece = utterance.audio[start : start + frames * HOP].astype(np.float32) / 32768
    audio[: len(piece)] = piece
    return audio, [(a - start, b - start) for a, b in spans]


def _phone_units(sentence: str, voice: str) -> Spoken | None:
    """The phone at the middle of each frame."""
    utterance = flite.synthesise(sentence, voice)
    if utterance is None:
        return None
    spans = utterance.word_spans()
    start = max(0, spans[0][0] - PAD * HOP)
    frames = -(-(spans[-1][1] - start) // HOP) + PAD
    middles = start + HOP * np.arange(frames) + HOP // 2
    return Spoken(
        units=_phones_at(utterance, middles),
        word_frames=word_frames([(a - start, b - start) for a, b in spans], frames, HOP),
    )


def _phones_at(utterance: VoicedSentence, samples: np.ndarray) -> np.ndarray:
    starts = [phone.start for phone in utterance.phones]
    names = [PHONES.index(phone.name) for phone in utterance.phones]
    inside = samples < utterance.phones[-1].end
    return np.where(inside, np.asarray(names)[np.searchsorted(starts, samples, "right") - 1], 0).astype(np.uint16)
