"""Real shards with random contents: the exact format of schemas/shards.py, written with webdataset's own writer.

For property tests, and wherever a test needs more passages, or stranger ones, than recorded speech would give.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
from webdataset.writer import TarWriter

from schemas.cards import Card, fingerprint, hash_file
from schemas.shards import SampleMeta, SegmentSpan, ShardEntry, ShardIndex

HOP = 640
WORDS = tuple("the of and to a in that it is was he for with as his on be at by had not but from have they".split())  # noqa: SIM905


def write_speech_shards(
    folder: Path,
    samples_per_shard: Sequence[int],
    *,
    words: tuple[int, int] = (4, 40),
    num_units: int = 50,
    seed: int = 0,
    audio: bool = False,
) -> Path:
    """Shards with `samples_per_shard[i]` passages each, with noise for `audio`; returns the path of the index."""
    rng = np.random.default_rng(seed)
    entries, number = [], 0
    folder.mkdir(parents=True, exist_ok=True)
    for shard, count in enumerate(samples_per_shard):
        metas: list[SampleMeta] = []
        members: list[Mapping[str, bytes | str]] = []
        for _ in range(count):
            meta, arrays = speech_sample(
                f"sample-{number:06d}", int(rng.integers(*words, endpoint=True)), num_units, rng
            )
            metas.append(meta)
            sound = {"flac": _flac(rng.normal(0, 0.1, meta.num_frames * HOP))} if audio else {}
            members.append({"__key__": meta.key, "json": meta.model_dump_json().encode(), **arrays, **sound})
            number += 1
        entries.append(_write(folder / f"shard-{shard:05d}.tar", metas, members))
    return _write_index(folder, "speech", entries, num_units)


def write_text_shards(
    folder: Path, samples_per_shard: Sequence[int], *, words: tuple[int, int] = (20, 80), seed: int = 0
) -> Path:
    """Text-only shards; returns the path of the index."""
    rng = np.random.default_rng(seed)
    entries, number = [], 0
    folder.mkdir(parents=True, exist_ok=True)
    for shard, count in enumerate(samples_per_shard):
        metas = []
        for _ in range(count):
            text = " ".join(rng.choice(WORDS, int(rng.integers(*words, endpoint=True))))
            metas.append(_meta(f"text-{number:06d}", text, [], [], 0, []))
            number += 1
        members: list[Mapping[str, bytes | str]] = [
            {"__key__": meta.key, "json": meta.model_dump_json().encode()} for meta in metas
        ]
        entries.append(_write(folder / f"shard-{shard:05d}.tar", metas, members))
    return _write_index(folder, "text", entries, 0)


def speech_sample(
    key: str, num_words: int, num_units: int, rng: np.random.Generator, *, word_frames: tuple[int, int] = (2, 10)
) -> tuple[SampleMeta, dict[str, bytes]]:
    """A passage of words with silences between some of them, in one to three segments, and its arrays."""
    lengths = rng.integers(*word_frames, size=num_words, endpoint=True)
    gaps = np.where(rng.random(num_words + 1) < 0.6, rng.integers(0, 8, num_words + 1), 0)
    frame, rows, bounds, kinds = 0, [], [0], []

    def patch(length: int, kind: int) -> None:
        nonlocal frame
        frame += length
        if length:
            bounds.append(frame)
            kinds.append(kind)

    for word in range(num_words):
        patch(int(gaps[word]), 1)
        rows.append((frame, frame + int(lengths[word]), int(rng.integers(0, 3))))
        patch(int(lengths[word]), 0)
    patch(int(gaps[-1]), 1)
    # units hold for a few frames, as real ones do, and lean on the word, so that there is something to learn
    units = np.repeat(rng.integers(0, num_units, frame), rng.integers(1, 4, frame))[:frame].astype(np.uint16)
    text, spans = "", []
    for word in rng.choice(WORDS, num_words):
        start = len(text) + bool(text)
        text = f"{text} {word}".strip()
        spans.append((start, len(text)))
    chars = np.full(len(text), -1, dtype=np.int32)
    for (start, end), (begin, stop, _) in zip(spans, rows, strict=True):
        chars[start:end] = np.minimum(begin + np.arange(end - start), max(stop - 1, begin))
    cuts = sorted({0, frame} | {rows[i][0] for i in rng.integers(0, num_words, 2)})
    meta = _meta(key, text, spans, kinds, frame, cuts)
    arrays = {
        "units.npy": _npy(units),
        "words.npy": _npy(np.asarray(rows, dtype=np.int32).reshape(-1, 3)),
        "patch.npy": _npy(np.asarray(bounds, dtype=np.int32)),
        "chars.npy": _npy(chars),
    }
    return meta, arrays


def _meta(
    key: str, text: str, spans: list[tuple[int, int]], kinds: list[int], frames: int, cuts: list[int]
) -> SampleMeta:
    segments = [
        SegmentSpan(segment_id=f"{key}-{a}", start=a * HOP, end=b * HOP, frame_start=a, frame_end=b)
        for a, b in itertools.pairwise(cuts)
    ]
    return SampleMeta(
        key=key, recording_id=key, uri=f"{key}.wav", segments=segments, language="en", text=text, words=spans,
        patch_kind=kinds, num_frames=frames, hop=HOP, cards={},
    )  # fmt: skip


def _write(path: Path, metas: Sequence[SampleMeta], members: Sequence[Mapping[str, bytes | str]]) -> ShardEntry:
    with TarWriter(str(path), user="lst", group="lst", mtime=0, encoder=False) as writer:
        for member in members:
            writer.write(member)
    frames = sum(meta.num_frames for meta in metas)
    return ShardEntry(
        path=path.name,
        sha256=hash_file(path),
        bytes=path.stat().st_size,
        samples=len(metas),
        frames=frames,
        words=sum(len(meta.words) for meta in metas),
        patches=sum(len(meta.patch_kind) for meta in metas),
        seconds=frames * HOP / 16_000,
    )


def _write_index(folder: Path, kind: str, entries: list[ShardEntry], num_units: int) -> Path:
    card = Card(kind="unit_tokenizer", name="random", facts={"units": num_units})
    names = ("samples", "frames", "words", "patches", "seconds", "bytes")
    index = ShardIndex(
        kind=kind,
        fingerprint=fingerprint("synthetic"),
        num_units=num_units,
        hop=HOP,
        cards={card.card_id: card},
        shards=entries,
        totals={name: sum(getattr(entry, name) for entry in entries) for name in names},
    )
    path = folder / "index.json"
    path.write_text(index.model_dump_json(), encoding="utf-8")
    return path


def _flac(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="FLAC")
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()
