"""A call whose channels were cut apart goes out as one file of one recording, and comes back to the same shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from jobs.exports import lhotse_cuts
from jobs.exports.export import main as export
from jobs.exports.spoken import SpokenSegment, tracks_of
from model.data.shards import ShardSet
from pipeline.given.textgrid import read_textgrid
from pipeline.source.inventory import list_source
from schemas.given import load_given
from schemas.source import Source
from tests.jobs.corpora.test_corpora import SPOKEN, shards_of
from tests.jobs.small_corpus import DEMO
from tests.synthetic_shards import write_speech_shards

RATE = 16_000
SIDES = ("sense_and_sensibility_0870.flac", "sense_and_sensibility_0880.flac")


def call(folder: Path) -> Path:
    """Two voices on the two channels of one file, in Kaldi's tables, and a CTM of what each says; they speak at once."""
    folder.mkdir()
    sides = [soundfile.read(DEMO / name, dtype="float32")[0] for name in SIDES]
    length = min(map(len, sides))
    soundfile.write(folder / "call.flac", np.stack([side[:length] for side in sides], axis=1), RATE)
    (folder / "wav.scp").write_text("call-A call.flac\ncall-B call.flac\n")
    (folder / "reco2file_and_channel").write_text("call-A call A\ncall-B call B\n")
    rows, texts, spans = [], [], []
    for channel, (letter, name) in enumerate(zip("AB", SIDES, strict=True), start=1):
        words = SPOKEN[name].lower().replace(",", "").replace(".", "").split()[:12]
        edges = np.linspace(1_600 * channel, length - 3_200, 2 * len(words)).astype(int)
        rows += [
            f"call {channel} {start / RATE:.7f} {(end - start) / RATE:.7f} {word}\n"
            for word, start, end in zip(words, edges[::2], edges[1::2], strict=True)
        ]
        texts.append(f"u-{letter} {' '.join(words)}\n")
        spans.append(f"u-{letter} call-{letter} 0.0 {(length - 160) / RATE:.4f}\n")
    (folder / "first.ctm").write_text("".join(rows))
    (folder / "text").write_text("".join(texts))
    (folder / "segments").write_text("".join(spans))
    return folder


def test_channels_are_those_of_one_recording_of_lhotse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the audio each had a recording of its own by the same id, of another length."""
    lhotse = pytest.importorskip("lhotse")
    shards = ShardSet(str(write_speech_shards(tmp_path / "shards", [2], seed=3)))
    (first, *_), (other, *_) = tracks_of(shards)
    tracks = [
        [SpokenSegment(**{**vars(segment), "recording_id": "call", "uri": "call.flac", "channel": channel})]
        for channel, segment in enumerate((first, other))
    ]
    monkeypatch.setattr("jobs.exports.spoken.tracks_of", lambda shards: iter(tracks))
    lhotse_cuts.export(shards, tmp_path / "out", None)
    cuts = lhotse.CutSet.from_file(tmp_path / "out/cuts.jsonl.gz")
    assert [cut.channel for cut in cuts] == [0, 1]
    (recording,) = {(tuple(cut.recording.channel_ids), cut.recording.num_samples) for cut in cuts}
    assert recording == ((0, 1), max(first.end, other.end))


def test_a_mix_of_channels_comes_back_from_lhotse_as_the_mix(tmp_path: Path) -> None:
    """It was a cut of the first channel."""
    pytest.importorskip("lhotse")
    shards = ShardSet(str(write_speech_shards(tmp_path / "shards", [1], seed=3)))
    (track,) = tracks_of(shards)
    assert {segment.channel for segment in track} == {None}
    soundfile.write(tmp_path / track[0].uri, np.zeros((track[-1].end, 2), np.float32), RATE)
    lhotse_cuts.export(shards, tmp_path, tmp_path)
    (item,) = list_source(Source(uri=str(tmp_path), layout="lhotse"))
    came = load_given(item.given)
    assert [(span.channel, span.start, span.end) for span in came.segments] == [(-1, s.start, s.end) for s in track]
    assert {word[3] for word in came.words} == {-1}


@pytest.mark.parametrize("form", ["ctm", "textgrid"])
def test_channels_that_were_cut_apart_come_back_to_the_same_shards(form: str, tmp_path: Path) -> None:
    """The file is named after the recording: `call-c0` is called nothing, and its words belonged to nobody."""
    corpus = call(tmp_path / "corpus")
    first = shards_of(tmp_path / "one", corpus, layout="kaldi", words=["first.ctm"])
    assert len([name for name in first if name.endswith(".json")]) == 2
    index = str(tmp_path / "one/shards/index.json")
    assert export([index, "--format", form, "--out", str(tmp_path / "out")]) == 0
    (corpus / "first.ctm").unlink()
    if form == "ctm":
        lines = [line.split() for line in (tmp_path / "out/words.ctm").read_text().splitlines()]
        assert {(name, channel) for name, channel, *_ in lines} == {("call", "1"), ("call", "2")}
        (tmp_path / "out/words.ctm").rename(corpus / "words.ctm")
        second = shards_of(tmp_path / "two", corpus, layout="kaldi", words=["words.ctm"])
    else:  # utterances and texts come from its own tiers
        for table in ("wav.scp", "segments", "text", "reco2file_and_channel"):
            (corpus / table).unlink()
        (tmp_path / "out/call.TextGrid").rename(corpus / "call.TextGrid")
        words, segments = read_textgrid((corpus / "call.TextGrid").read_bytes(), "call.TextGrid")
        assert {word[3] for word in words} == {segment.channel for segment in segments} == {0, 1}
        second = shards_of(tmp_path / "two", corpus, words=["call.TextGrid"])
    assert second == first
