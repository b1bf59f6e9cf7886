"""What goes out is what is in the shards, read back by the tools that own the formats."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.exports import ctm, lhotse_cuts, lst_jsonl, slamkit, textgrid
from jobs.exports import spoken as spoken_room
from jobs.exports.export import main as export
from jobs.exports.print_card import main as card
from jobs.exports.spoken import FileNames, SpokenSegment, SpokenWord, seconds, segments_of_sample
from model.data.shards import Sample, ShardSet
from pipeline.corpora.base import Corpus
from pipeline.given.words import GivenAlignment, Stray, read_alignments
from pipeline.source.folder import SourceFolder
from schemas.config import ConfigError
from schemas.given import Given
from schemas.source import Source
from schemas.tables import segment_id
from tests.pipeline.source.bad_audio import encode_libav
from tests.synthetic_shards import write_speech_shards, write_text_shards

RATE = 16_000


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Two shards of random passages of one to three segments."""
    return ShardSet(str(write_speech_shards(tmp_path_factory.mktemp("shards"), [3, 2], seed=7)))


def samples(shards: ShardSet) -> list[Sample]:
    return [shards.read(shard, number) for shard, count in enumerate(shards.counts) for number in range(count)]


def segments(shards: ShardSet) -> list[SpokenSegment]:
    return [segment for sample in samples(shards) for segment in segments_of_sample(sample)]


def spoken(segment: SpokenSegment) -> list[tuple[str, int, int]]:
    return [(word.text, segment.at(word.start), segment.at(word.end)) for word in segment.words]


def run(shards: ShardSet, form: str, out: Path, *more: str) -> Path:
    assert export([shards.index_url, "--format", form, "--out", str(out), *more]) == 0
    return out


def test_segments_hold_each_word_unit_and_patch_of_their_sample_once(shards: ShardSet) -> None:
    for sample in samples(shards):
        parts = list(segments_of_sample(sample))
        offsets = [span.frame_start for span in sample.meta.segments]
        words = [(w.start + at, w.end + at) for part, at in zip(parts, offsets, strict=True) for w in part.words]
        assert words == [tuple(row) for row in sample.words[:, :2].tolist()]
        assert np.array_equal(np.concatenate([part.units for part in parts]), sample.units)
        bounds = [b + at for part, at in zip(parts, offsets, strict=True) for b in part.bounds[:-1].tolist()]
        assert [*bounds, len(sample.units)] == sample.patch.tolist()
        assert [kind for part in parts for kind in part.kinds] == sample.meta.patch_kind


def test_textgrids_read_by_the_textgrid_library_have_the_words_at_their_frames(
    shards: ShardSet, tmp_path: Path
) -> None:
    textgrid = pytest.importorskip("textgrid")
    out = run(shards, "textgrid", tmp_path)
    for sample in samples(shards):
        grid = textgrid.TextGrid.fromFile(str(out / f"{sample.meta.key}.TextGrid"))
        words = [(i.mark, round(i.minTime * RATE), round(i.maxTime * RATE)) for i in grid[0] if i.mark]
        assert words == [word for segment in segments_of_sample(sample) for word in spoken(segment)]
        texts = [i.mark for i in grid[1] if i.mark]
        assert texts == [segment.text for segment in segments_of_sample(sample) if segment.text]


def test_a_ctm_has_a_line_for_every_word(shards: ShardSet, tmp_path: Path) -> None:
    lines = [line.split() for line in (run(shards, "ctm", tmp_path) / "words.ctm").read_text().splitlines()]
    found = [(name, word, round(float(a) * RATE), round((float(a) + float(b)) * RATE)) for name, _, a, b, word in lines]
    assert found == [(segment.uri[:-4], *word) for segment in segments(shards) for word in spoken(segment)]


def test_lhotse_gives_the_shards_back(shards: ShardSet, tmp_path: Path) -> None:
    """Units, words and segments are equal to the sample after a round trip through lhotse's own reader."""
    lhotse = pytest.importorskip("lhotse")
    cuts = list(lhotse.CutSet.from_file(run(shards, "lhotse", tmp_path) / "cuts.jsonl.gz"))
    for cut, segment in zip(cuts, segments(shards), strict=True):
        (supervision,) = cut.supervisions
        assert (cut.id, round(cut.start * RATE), round(cut.end * RATE)) == (
            segment.segment_id, segment.start, segment.end,
        )  # fmt: skip
        assert supervision.custom["units"] == segment.units.tolist()
        assert supervision.custom["timing"] == [word.timing for word in segment.words]
        assert (supervision.text, supervision.language) == (segment.text, segment.language)
        words = [
            (word.symbol, segment.start + round(word.start * RATE), segment.start + round(word.end * RATE))
            for word in supervision.alignment["word"]
        ]
        assert words == spoken(segment)


def test_lhotse_makes_a_kaldi_folder_where_the_audio_is_named(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    import soundfile

    shards = ShardSet(str(write_speech_shards(tmp_path / "shards", [2], seed=3)))
    for sample in samples(shards):
        soundfile.write(tmp_path / sample.meta.uri, np.zeros(sample.meta.num_frames * 640, np.float32), RATE)
    out = run(shards, "lhotse", tmp_path / "out", "--audio", str(tmp_path))
    recordings, supervisions, _ = lhotse.CutSet.from_file(out / "cuts.jsonl.gz").decompose()
    lhotse.kaldi.export_to_kaldi(recordings, supervisions, tmp_path / "kaldi")
    assert len((tmp_path / "kaldi" / "segments").read_text().splitlines()) == len(segments(shards))


@pytest.mark.parametrize("kind", ["m4a", "piped"])
def test_lhotse_gets_lengths_that_it_cannot_read(kind: str, tmp_path: Path) -> None:
    """Without ffmpeg's program lhotse opens no M4A; of a FLAC that was written to a pipe it believes a length of 10^14 s."""
    lhotse = pytest.importorskip("lhotse")
    shards = ShardSet(str(write_speech_shards(tmp_path / "shards", [1], seed=3)))
    sound = np.zeros(20 * RATE, np.float32)
    content = encode_libav(sound, "ipod", "aac") if kind == "m4a" else encode_libav(sound, "flac", "flac", piped=True)
    for sample in samples(shards):
        (tmp_path / sample.meta.uri).write_bytes(content)
    out = run(shards, "lhotse", tmp_path / "out", "--audio", str(tmp_path))
    lengths = {cut.recording.duration for cut in lhotse.CutSet.from_file(out / "cuts.jsonl.gz")}
    assert all(20 <= length < 20.1 for length in lengths)


def test_lhotse_names_audio_that_is_not_there(
    shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lhotse")
    words = ["--format", "lhotse", "--out", str(tmp_path), "--audio", str(tmp_path / "nowhere")]
    assert export([shards.index_url, *words]) == 2
    assert "sample-000000.wav is missing" in capsys.readouterr().err


def test_lhotse_cannot_point_into_a_container(shards: ShardSet, tmp_path: Path) -> None:
    """The tar was there, and the sentence said that the folder was wrong."""
    pytest.importorskip("lhotse")
    (tmp_path / "a#b.tar").touch()
    part = renamed(segments(shards)[0], "a#b.tar#u1.flac", f"{1:016x}")
    with pytest.raises(ConfigError, match=r"lies inside of .*a#b\.tar, where lhotse finds no recording"):
        lhotse_cuts._recording([part], tmp_path)


def read_official(line: str) -> tuple[list[int], list[tuple[str, int, int]]]:
    """A row of the official data: all units, and each word with its frames. Written from the format's description."""
    units: list[int] = []
    words = []
    for piece in filter(None, json.loads(line)["interleaved"].split("<LST MODE SEP>")):
        head, _, payload = piece.strip().partition(" ")
        if head == "TEXT":
            word = payload
        else:
            assert head == "HUBERT"
            start = len(units)
            units += [int(unit) for unit in payload.split()]
            if word != "[SIL]":
                words.append((word, start, len(units)))
    return units, words


def test_official_rows_hold_every_unit_and_every_word_with_its_frames(shards: ShardSet, tmp_path: Path) -> None:
    out = run(shards, "lst-jsonl", tmp_path / "corpus")
    files = sorted(out.glob("*.on_the_fly"))
    assert [file.name for file in files] == ["corpus.chunk.00.on_the_fly", "corpus.chunk.01.on_the_fly"]
    lines = [line for file in files for line in file.read_text().splitlines()]
    for line, segment in zip(lines, segments(shards), strict=True):
        assert set(json.loads(line)) == {"file_id", "interleaved"}, (
            "its loader prefers a field `text` where there is one"
        )
        units, words = read_official(line)
        assert units == segment.units.tolist()
        assert words == [(word.text, word.start, word.end) for word in segment.words]


def test_slamkit_rows_cut_to_a_word_by_its_times_give_its_units(shards: ShardSet, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (run(shards, "slamkit", tmp_path) / "features.jsonl").read_text().splitlines()]
    for row, segment in zip(rows, segments(shards), strict=True):
        assert np.array_equal(np.repeat(row["units"], row["duration"]), segment.units)
        assert all(a != b for a, b in zip(row["units"], row["units"][1:], strict=False))
        found = [(word[1:], round(start / 0.04), round(end / 0.04)) for word, start, end in row["aligned_text"]]
        assert found == [(word.text, word.start, word.end) for word in segment.words]


def hugging_face(tmp_path: Path, form: str, pattern: Path) -> list[dict[str, Any]]:
    datasets = pytest.importorskip("datasets")
    return list(datasets.load_dataset(form, data_files={"train": str(pattern)}, split="train", cache_dir=str(tmp_path)))


def test_hugging_face_opens_the_parquet_with_its_types(shards: ShardSet, tmp_path: Path) -> None:
    run(shards, "hf", tmp_path / "out")
    rows = hugging_face(tmp_path / "cache", "parquet", tmp_path / "out" / "data" / "*.parquet")
    for row, sample in zip(rows, samples(shards), strict=True):
        meta = sample.meta
        assert (row["key"], row["text"], row["units"]) == (meta.key, meta.text, sample.units.tolist())
        assert row["patch_bounds"] == sample.patch.tolist()
        assert [(w["text"], w["start"], w["end"]) for w in row["words"]] == [
            (meta.text[a:b], start, end)
            for (a, b), (start, end, _) in zip(meta.words, sample.words.tolist(), strict=True)
        ]


def test_hugging_face_opens_the_shards_as_they_are(shards: ShardSet, tmp_path: Path) -> None:
    rows = hugging_face(tmp_path / "cache", "webdataset", Path(shards.index_url).parent / "*.tar")
    assert len(rows) == sum(shards.counts)
    for row, sample in zip(rows, samples(shards), strict=True):
        assert row["__key__"] == sample.meta.key
        assert np.array_equal(row["units.npy"], sample.units)
        assert np.array_equal(row["words.npy"], sample.words)
        assert row["json"]["text"] == sample.meta.text


def test_text_shards_become_text_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = ShardSet(str(write_text_shards(tmp_path / "shards", [3])))
    out = run(shards, "lst-jsonl", tmp_path / "web")
    texts = [json.loads(line)["text"] for line in (out / "web.chunk.00.jsonl").read_text().splitlines()]
    assert texts == [sample.meta.text for sample in samples(shards)]
    assert export([shards.index_url, "--format", "ctm", "--out", str(tmp_path / "no")]) == 2
    assert "needs speech" in capsys.readouterr().err


def test_the_card_says_what_is_in_the_shards(shards: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert card([shards.index_url]) == 0
    told = capsys.readouterr().out
    totals = shards.index.totals
    assert f"| words | {totals['words']:,} |" in told
    assert re.search(r"\| languages \| en \(\d\.\d\d h\) \|", told)
    assert "| unit_tokenizer | random |" in told


@pytest.mark.parametrize("samples_16k", [0, 1, 8, 16_000, 639, 123_456_789])
def test_seconds_are_exact(samples_16k: int) -> None:
    assert float(seconds(samples_16k)) * RATE == pytest.approx(samples_16k, abs=1e-6)
    assert "e" not in seconds(samples_16k)


def renamed(segment: SpokenSegment, uri: str, recording: str, channel: int | None = None) -> SpokenSegment:
    return SpokenSegment(**{**vars(segment), "uri": uri, "recording_id": recording, "channel": channel})


def test_files_stay_in_the_folder_and_apart(shards: ShardSet) -> None:
    """Neither a URL nor `..` nor an equal stem makes a file about one recording overwrite another's."""
    first = segments(shards)[0]
    expected = {
        "a/b.flac": "a/b.flac", "a/b.wav": "a/b.wav", "a/c.wav": "a/c", "shard-000.tar#utt1.flac": "shard-000.tar/utt1",
        "d/" + "\u00e9" * 121 + ".wav": "id", "s3://b/x.wav": "id", "/x.wav": "id", "/deep/../y.wav": "y", "../z.wav": "z",
        "e/z2.wav": "e/z2", "/z2.wav": "id", "s3://b/": "id", "/..": "id",
    }  # fmt: skip
    names = FileNames(expected)
    assert {uri: names.of(renamed(first, uri, "id", channel)) for uri in expected for channel in (None, 1)} == expected


def words_in(folder: Path, uris: list[str]) -> tuple[dict[str, GivenAlignment], list[Stray]]:
    """What the exports in a folder say of these recordings, by uri."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    source = Source(uri=str(folder), words=[name for name in names if not name.endswith("README.md")])
    corpus = Corpus(files=SourceFolder(source.uri), names=names, source=source)
    return read_alignments(corpus, {uri: Given() for uri in uris})


@pytest.mark.parametrize("form", ["ctm", "textgrid"])
@pytest.mark.parametrize("folder", ["", "exports/of today/"])
def test_each_recording_gets_its_own_words_back(
    form: str, folder: str, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever names they go: of white space, of one stem, of one name in several folders, in containers, elsewhere."""
    uris = [
        "my talk.flac", "a  b/c\u00a0d.wav", "50%.wav", ";;no comment.wav", "a/b.flac", "a/b.wav", "c/b.flac",
        "d/x.flac", "e/x.flac", "part one.tar#u 1.flac", "two.tar#u 1.flac", "t.parquet#00000007", "/data/audio/elsewhere.wav",
    ]  # fmt: skip
    word = SpokenWord(text="w", start=2, end=5, timing="aligned")
    parts = [renamed(segments(shards)[0], uri, f"{number:016x}") for number, uri in enumerate(uris)]
    tracks = [[SpokenSegment(**{**vars(part), "words": [replace(word, text=part.recording_id)]})] for part in parts]
    for room in (ctm, spoken_room):
        monkeypatch.setattr(room, "tracks_of", lambda shards: iter(tracks))
    monkeypatch.setattr(textgrid, "uris_of", lambda shards: set(uris))
    run(shards, form, tmp_path / folder)
    found, strays = words_in(tmp_path, uris)
    assert not strays
    assert {uri: [word[0] for word in given.words] for uri, given in found.items()} == {
        part.uri: [part.recording_id] for part in parts
    }


@pytest.mark.parametrize("form", ["slamkit", "lst-jsonl"])
def test_rows_of_units_give_words_back_on_the_clock_of_their_recording(
    form: str, shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their times count from the segment, whose id says where it begins, on which channel, and whether its units are of 20 ms."""
    uris = ["my talk#2.flac", "a/b.flac", "a/b.wav", "one.tar#u1.flac", "two.tar#u1.flac", "t.parquet#00000007"]
    parts = [
        SpokenSegment(
            **{
                **vars(renamed(segments(shards)[0], uri, f"{number:016x}", channel)),
                "segment_id": segment_id(f"{number:016x}", start, start + 6_500, -1 if channel is None else channel),
                "start": start, "end": start + 6_500, "hop": hop, "units": np.arange(6_500 // hop) % 3,
                "words": [SpokenWord(text=f"w{number}", start=1, end=3, timing="aligned")],
            }
        )
        for number, uri in enumerate(uris)
        for start, channel, hop in ((0, None, 640), (99_320, 1, 640), (200_000, None, 320))
    ]  # fmt: skip
    for room in (slamkit, lst_jsonl):
        monkeypatch.setattr(room, "samples_of_shard", lambda shards, shard: () if shard else parts)
        monkeypatch.setattr(room, "segments_of_sample", lambda part: [part])
    found, strays = words_in(run(shards, form, tmp_path / "exports"), uris)
    assert not strays
    spoken_words = {uri: [part for part in parts if part.uri == uri] for uri in uris}
    assert {uri: given.words for uri, given in found.items()} == {
        uri: [
            (word.text, part.at(word.start), part.at(word.end), -1 if part.channel is None else part.channel)
            for part in of_it
            for word in part.words
        ]
        for uri, of_it in spoken_words.items()
    }
