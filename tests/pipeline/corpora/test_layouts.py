"""Every layout of a corpus: what comes out of the first stages is what the corpus says, in counts, times and texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpora.base import to_decimal, to_samples
from pipeline.corpora.read import LAYOUTS
from pipeline.given_segments import GivenSegmentsStage
from pipeline.recordings import RecordingsStage
from pipeline.source.audio import SourceAudio
from pipeline.source.folder import SourceFolder
from pipeline.source.inventory import list_source, survey
from pipeline.transcripts import TranscriptsStage
from schemas.config import ConfigError
from schemas.given import load_given
from schemas.spec import GivenSegmentsSpec, RecordingsSpec, Source, TranscriptSpec
from schemas.tables import Recording, Reject, Segment, Transcript
from tests.pipeline.corpora.fixtures import Made, Said, lines, spoken, text, voice, write_tar
from tests.pipeline.corpora.layouts import MAKERS

DEFAULT = "xx"
"""The language where a corpus states none."""


def first_stages(source: Source) -> tuple[list[Recording], list[Segment], list[Transcript], list[Reject]]:
    """The source through recordings, given segments and given transcripts."""
    audio = SourceAudio(source.uri)
    items = list_source(source)
    recorded = RecordingsStage(RecordingsSpec(), source).run({"inventory": items}, audio)
    recordings = cast(list[Recording], list(recorded.rows))
    assert len(recordings) + len({row.id for row in recorded.rejects if not row.part}) == len(items), "nothing vanishes"
    cut = GivenSegmentsStage(GivenSegmentsSpec()).run({"recordings": recordings}, audio)
    segments = sorted(cast(list[Segment], list(cut.rows)), key=lambda row: (row.recording_id, row.channel, row.start))
    written = TranscriptsStage(TranscriptSpec(language=DEFAULT)).run(
        {"segments": segments, "recordings": recordings}, audio
    )
    rejects = [*recorded.rejects, *cut.rejects, *written.rejects]
    return recordings, segments, cast(list[Transcript], list(written.rows)), rejects


def source_of(folder: Path, layout: str, made: Made) -> Source:
    return Source.model_validate({"uri": str(folder), "layout": layout, **made.spec})


def said_of(segment: Segment, transcript: Transcript | None, speaker: str | None) -> Said:
    whole = segment.cut_reason == "whole"
    return Said(
        text=transcript.text if transcript is not None else None,
        language=transcript.language if transcript is not None else "en",
        speaker=speaker,
        start=None if whole else segment.start,
        end=None if whole else segment.end,
    )


def test_every_layout_has_a_fixture() -> None:
    assert set(MAKERS) == set(LAYOUTS)


@pytest.mark.parametrize("layout", sorted(MAKERS))
def test_what_goes_in_comes_out(layout: str, tmp_path: Path) -> None:
    """Recordings, utterances, times to the sample, texts, languages, speakers; and a reject for every row that cannot be used."""
    made = MAKERS[layout](tmp_path / "corpus")
    recordings, segments, transcripts, rejects = first_stages(source_of(tmp_path / "corpus", layout, made))
    assert {row.uri for row in recordings} == set(made.said)
    texts = {row.segment_id: row for row in transcripts}
    for recording in recordings:
        whole = json.loads(recording.extra or "{}").get("speaker")
        speakers = {row.start: row.speaker for row in load_given(recording.given).segments}
        mine = [row for row in segments if row.recording_id == recording.recording_id]
        assert [said_of(row, texts.get(row.segment_id), speakers.get(row.start, whole)) for row in mine] == [
            said if said.text is None else replace(said, language=said.language or DEFAULT)
            for said in made.said[recording.uri]
        ]
    assert {
        reject.part or reject.id: reject.code for reject in rejects if reject.code != "empty_transcript"
    } == made.rejects
    assert all(len(reject.detail.split()) > 3 for reject in rejects)


def test_no_command_of_a_wav_scp_is_run(tmp_path: Path) -> None:
    made = MAKERS["kaldi"](tmp_path / "corpus")
    *_, rejects = first_stages(source_of(tmp_path / "corpus", "kaldi", made))
    assert not (tmp_path / "corpus" / "pwned").exists()
    (refused,) = [reject for reject in rejects if reject.id == "data/train/wav.scp:3"]
    assert "no command is run" in refused.detail


def test_files_outside_of_the_roots_are_never_opened(tmp_path: Path) -> None:
    """`..`, absolute paths and URLs lead nowhere unless the spec's roots say so."""
    voice(tmp_path / "secret/s.wav")
    voice(tmp_path / "corpus/a.wav", 1)
    paths = [
        "../secret/s.wav",
        "a/../../secret/s.wav",
        f"{tmp_path}/secret/s.wav",
        f"{tmp_path}/corpus/../secret/s.wav",
        "http://localhost/s.wav",
    ]
    text(
        tmp_path / "corpus/manifest.jsonl",
        lines([{"file": path, "text": "x"} for path in [*paths, "a.wav", f"{tmp_path}/corpus/a.wav"]]),
    )
    source = Source(uri=str(tmp_path / "corpus"), layout="manifest")
    listed = list_source(source)
    assert [item.uri for item in listed if item.refused is None] == ["a.wav"]
    assert sum(item.refused == "bad_row" for item in listed) == len(paths)
    allowed = list_source(source.with_updates(roots=[str(tmp_path / "secret")]))
    assert [item.uri for item in allowed if item.refused is None] == [f"{tmp_path}/secret/s.wav", "a.wav"]


@pytest.mark.parametrize(
    "layout, name, content, message",
    [
        (
            "manifest",
            "manifest.tsv",
            "sound\twords\na.wav\tx\n",
            "looked for audio_filepath, file, .* it has sound, words",
        ),
        ("nemo", "m_manifest.json", '{"wave": "a.wav"}\n', "it has wave"),
        ("voxpopuli", "asr_train.tsv", "raw_text\nx\n", "looked for id, id_; it has raw_text"),
        ("gigaspeech", "GigaSpeech.json", "{}", "has no list `audios`"),
        ("gigaspeech", "GigaSpeech.json", "[" * 200_000, "nested too deeply"),
        ("gigaspeech", "GigaSpeech.json", '{"audios": [], "title": "\\ud83d"}', "half of a surrogate pair"),
        ("kaldi", "text", "a b\n", "holds no wav.scp"),
        ("mls", "x", "", "holds no transcripts.txt"),
        ("ljspeech", "x", "", "holds no metadata.csv"),
    ],
)
def test_a_corpus_of_another_kind_is_one_sentence(
    layout: str, name: str, content: str, message: str, tmp_path: Path
) -> None:
    voice(tmp_path / "a.wav")
    text(tmp_path / name, content)
    with pytest.raises(ConfigError, match=message):
        list_source(Source.model_validate({"uri": str(tmp_path), "layout": layout}))


def test_a_line_that_cannot_be_read_costs_that_line(tmp_path: Path) -> None:
    """Not JSON, NaN, half a surrogate pair, no object, a time that is none: file and line, and the rest is read."""
    voice(tmp_path / "a.wav", seconds=1.0)
    rows = [
        '{"file": "a.wav", "text": "ok"}',
        "{oops",
        '{"file": "a.wav", "start": NaN}',
        '{"file": "\\ud83d.wav"}',
        "[1]",
        '{"text": "x"}',
    ]
    text(tmp_path / "manifest.jsonl", "\ufeff" + "\r\n".join(rows) + '\n\n{"file": "a.wav", "start": "soon"}\n')
    listed = {item.uri: item for item in list_source(Source(uri=str(tmp_path), layout="manifest")) if item.refused}
    assert sorted(listed) == [f"manifest.jsonl:{number}" for number in (2, 3, 4, 5, 6)]
    assert "NaN" in (listed["manifest.jsonl:3"].detail or "")
    (recording,) = [item for item in list_source(Source(uri=str(tmp_path), layout="manifest")) if item.uri == "a.wav"]
    assert recording.transcript == "ok"
    assert [problem.place for problem in load_given(recording.given).problems] == ["manifest.jsonl:8"]


@pytest.mark.parametrize(
    "layout, files, said, reject",
    [
        (
            "kaldi",
            {
                "wav.scp": b"a a.wav\na a.wav\nb a.wav\n",
                "segments": b"u a 0 0.5\nu a 0.5 1\nv a 0.5 0.75\n",
                "text": b"u one\nv two\nu once more\n",
            },
            {"one": 0, "two": 8000},
            {"segments:2": "u stands in segments:1 already", "text:3": "u stands in text:1 already"},
        ),
        (
            "kaldi",
            {"wav.scp": b"a a.wav\n", "text": b"a one\n", "utt2lang": b"\xe9t\xe9 fr\n"},
            {"one": 0},
            {"utt2lang:1": "it is not UTF-8"},
        ),
        (
            "manifest",
            {"manifest.csv": b"file,text\na.wav,one\na.wav,one\n"},
            {"one": 0},
            {"a.wav": "a.wav has been described by manifest.csv:2 already"},
        ),
        (
            "ljspeech",
            {"metadata.csv": b"a|one\n\xe9|x\n", "wavs/a.wav": b"voice"},
            {"one": 0},
            {"metadata.csv:2": "it is not UTF-8"},
        ),
        (
            "librispeech",
            {"1-2.trans.txt": b"a one\na two\n\xe9 x\n"},
            {"one": 0},
            {"1-2.trans.txt:2": "a stands in 1-2.trans.txt:1 already", "1-2.trans.txt:3": "it is not UTF-8"},
        ),
    ],
)
def test_what_is_said_twice_or_in_other_letters_costs_that_line(
    layout: str, files: dict[str, bytes], said: dict[str, int], reject: dict[str, str], tmp_path: Path
) -> None:
    """The first statement stands, and each later one is a reject with its place."""
    where = "wavs/a.wav" if "wavs/a.wav" in files else "a.wav"
    voice(tmp_path / where, seconds=1.0, format="WAV")
    for name, content in files.items():
        if name != where:
            (tmp_path / name).write_bytes(content)
    _, segments, transcripts, rejects = first_stages(Source.model_validate({"uri": str(tmp_path), "layout": layout}))
    starts = {row.segment_id: row.start for row in segments}
    assert {row.text: starts[row.segment_id] for row in transcripts} == said
    assert {row.id for row in rejects} == reject.keys()
    for row in rejects:
        assert reject[row.id] in row.detail


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_times_in_milliseconds_are_exact_samples(offset: int, duration: int) -> None:
    """16 samples a millisecond, however the sum of offset and duration would round in binary."""
    if (offset + duration) * 16 >= 1 << 31:
        return
    start, length = f"{offset // 1000}.{offset % 1000:03d}", f"{duration // 1000}.{duration % 1000:03d}"
    assert to_samples(start) == to_samples(float(start)) == offset * 16
    assert to_samples(to_decimal(float(start)) + to_decimal(float(length))) == (offset + duration) * 16


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_containers_on_another_filesystem_give_the_same_recordings(layout: str, tmp_path: Path) -> None:
    """Members are read by offset there too: the same hashes, and not one GET of a whole tar."""
    import fsspec

    made = MAKERS[layout](tmp_path / "corpus")
    memory = fsspec.filesystem("memory")
    for path in (tmp_path / "corpus").rglob("*.*"):
        memory.pipe_file(f"/{layout}/{path.relative_to(tmp_path / 'corpus')}", path.read_bytes())
    try:
        there = first_stages(source_of(tmp_path, layout, made).with_updates(uri=f"memory://{layout}"))
    finally:
        memory.rm(f"/{layout}", recursive=True)
    here = first_stages(source_of(tmp_path / "corpus", layout, made))
    assert [row.sha256 for row in there[0]] == [row.sha256 for row in here[0]]
    assert there[1:3] == here[1:3]


def test_a_member_is_hashed_and_decoded_as_if_it_were_a_file(tmp_path: Path) -> None:
    """The recording's id is that of the bytes, and reading a stretch of it needs no other byte of the tar."""
    write_tar(tmp_path / "tars/a.tar", [("x/1.flac", spoken(1)), ("x/2.flac", spoken(2)), ("x/3.flac", spoken(1))])
    (tmp_path / "files").mkdir()
    for number in (1, 2):
        (tmp_path / f"files/{number}.flac").write_bytes(spoken(number))
    inside, _, _, rejects = first_stages(Source(uri=str(tmp_path / "tars"), layout="webdataset"))
    outside, *_ = first_stages(Source(uri=str(tmp_path / "files"), layout="folder"))
    assert [row.sha256 for row in inside] == [row.sha256 for row in outside]
    assert [reject.id for reject in rejects if reject.code == "duplicate"] == ["a.tar#x/3.flac"]
    one, other = SourceAudio(str(tmp_path / "tars")), SourceAudio(str(tmp_path / "files"))
    for row, same in zip(inside, outside, strict=True):
        np.testing.assert_array_equal(one.read(row), other.read(same))


def test_a_tar_that_is_cut_after_it_was_listed_is_an_error_and_no_endless_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("1.flac", spoken(1)), ("2.flac", spoken(2))])
    one, other = list_source(Source(uri=str(tmp_path), layout="webdataset"))
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:12_000])
    folder = SourceFolder(str(tmp_path))
    assert len(folder.open(one.uri, one.member).read()) == one.bytes
    with pytest.raises(OSError, match="has become shorter"):
        folder.open(other.uri, other.member)


def test_a_parquet_file_without_audio_is_one_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"file": ["a.wav"], "text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(
        ConfigError, match=r"looked for a struct with `bytes` .* it has file \(string\), text \(string\)"
    ):
        list_source(Source(uri=str(tmp_path), layout="parquet"))


def test_a_table_without_audio_beside_tables_with_it_is_counted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"audio": [spoken(1)], "text": ["x"]}), tmp_path / "b.parquet")
    for name in ("a.parquet", "speakers.parquet"):
        pq.write_table(pa.table({"speaker": ["ann"]}), tmp_path / name)
    listing = survey(Source(uri=str(tmp_path), layout="parquet"))
    assert [(item.uri, item.transcript) for item in listing.items] == [("b.parquet#00000000", "x")]
    assert listing.not_listed == {".parquet without a column of audio": 2}


def test_nemos_tarred_data_are_read_by_their_manifest(tmp_path: Path) -> None:
    """A row names a member of the tar of its shard; what the manifest does not name is not read; a lost tar costs its rows."""
    write_tar(tmp_path / "audio_0.tar", [("a_b.wav", spoken(0, seconds=1.0)), ("unnamed.wav", spoken(1))])
    write_tar(tmp_path / "audio_1.tar", [("c.wav", spoken(2))])
    rows: list[dict[str, object]] = [
        {"audio_filepath": "c.wav", "duration": 0.5, "text": "third", "shard_id": 1},
        {"audio_filepath": "a_b.wav", "offset": 0.5, "duration": 0.25, "text": "second", "shard_id": 0},
        {"audio_filepath": "a_b.wav", "offset": 0.0, "duration": 0.25, "text": "first", "shard_id": 0},
        {"audio_filepath": "d.wav", "duration": 0.25, "text": "lost", "shard_id": 0},
        {"audio_filepath": "e.wav", "duration": 0.25, "text": "lost", "shard_id": 2},
    ]
    text(tmp_path / "tarred_audio_manifest.json", lines(rows))
    recordings, segments, transcripts, rejects = first_stages(Source(uri=str(tmp_path), layout="nemo"))
    uris = {row.recording_id: row.uri for row in recordings}
    said = {row.segment_id: row.text for row in transcripts}
    assert {(uris[row.recording_id], row.start, said[row.segment_id]) for row in segments} == {
        ("audio_0.tar#a_b.wav", 0, "first"), ("audio_0.tar#a_b.wav", 8000, "second"), ("audio_1.tar#c.wav", 0, "third")
    }  # fmt: skip
    places = {f"tarred_audio_manifest.json:{number}": "missing" for number in (4, 5)}
    assert {reject.id: reject.code for reject in rejects} == places


def test_parquet_that_names_files_instead_of_holding_them(tmp_path: Path) -> None:
    """As `datasets` saves a column of local files: their paths are read where the spec allows, else each is a reject."""
    voice(tmp_path / "audio/a.flac")
    (tmp_path / "corpus").mkdir()
    rows = [
        {"bytes": None, "path": f"{tmp_path}/audio/a.flac"},
        {"bytes": None, "path": "/etc/passwd"},
        {"bytes": None, "path": None},
    ]
    column = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"audio": column, "text": ["so", "no", "no"]}), tmp_path / "corpus/a.parquet")
    source = Source(uri=str(tmp_path / "corpus"), layout="parquet", roots=[str(tmp_path / "audio")])
    recordings, _, transcripts, rejects = first_stages(source)
    assert [row.uri for row in recordings] == [f"{tmp_path}/audio/a.flac"]
    assert [row.text for row in transcripts] == ["so"]
    assert {reject.id: reject.code for reject in rejects} == {f"a.parquet#{row:08d}": "missing" for row in (1, 2)}
