"""`lst init` recognises every layout by itself, and its spec reads what was promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.corpora.init import look, main, spec_text
from pipeline.corpora.base import Corpus
from pipeline.corpora.guess import Guess
from pipeline.corpora.read import Entry, read_corpus
from pipeline.source.inventory import list_source, survey
from pipeline.source.listing import describe
from schemas.config import ConfigError, load_config
from schemas.given import load_given
from schemas.source import Source
from schemas.spec import GivenSegmentsSpec, GivenWordsSpec, PipelineSpec, TranscriptSpec, WhisperXSpec
from tests.pipeline.corpora.fixtures import text, voice
from tests.pipeline.corpora.layouts import MAKERS


@pytest.mark.parametrize("layout", sorted(MAKERS.keys() - {"manifest"}))
def test_every_layout_is_recognised(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Layout, recordings and utterances of the spec are those of the corpus; `manifest` has a name that only a user knows."""
    made = MAKERS[layout](tmp_path / "my corpus")
    out = tmp_path / "new/spec.yaml"
    assert main([str(tmp_path / "my corpus"), "--out", str(out)]) == 0
    spec = load_config(PipelineSpec, out)
    assert (spec.source.layout, spec.source.name) == (layout, "my-corpus")
    items = list_source(spec.source.with_updates(**made.spec))
    said = [len(rows) for rows in made.said.values() if any(row.text for row in rows)]
    assert isinstance(spec.stages.transcripts, TranscriptSpec if said else WhisperXSpec)
    found = {item.uri: load_given(item.given).segments for item in items if item.uri in made.said}
    assert found.keys() == made.said.keys()
    timed = any(found.values())
    assert isinstance(spec.stages.segments, GivenSegmentsSpec) == bool(said or timed)
    told = capsys.readouterr().out
    assert f"It looks like layout {layout}, by " in told
    assert ("utterances with times" in told) == timed
    assert ("roots: []" in out.read_text()) == bool(made.spec)


@pytest.mark.parametrize("texts", [0, 1])
def test_norwegian_is_a_language(texts: int, tmp_path: Path) -> None:
    """YAML reads `no` as false: the spec of such a corpus was refused when it had been written."""
    guess = Guess(layout="manifest", sign="m", recordings=1, texts=texts, utterances=0, words=0, languages=("no",))
    text(tmp_path / "spec.yaml", spec_text(str(tmp_path), "n", guess))
    assert load_config(PipelineSpec, tmp_path / "spec.yaml").stages.transcripts.language == "no"


def test_a_line_break_in_a_name_stays_in_the_name(tmp_path: Path) -> None:
    guess = Guess(
        layout="manifest",
        sign="a\nb: 1",
        recordings=1,
        texts=1,
        utterances=0,
        words=0,
        languages=(),
        manifest="a\nb.csv",
    )
    text(tmp_path / "spec.yaml", spec_text(f"{tmp_path}/c\u2028'd", "n", guess))
    source = load_config(PipelineSpec, tmp_path / "spec.yaml").source
    assert (source.uri, source.manifest) == (f"{tmp_path}/c\u2028'd", "a\nb.csv")


def test_a_text_beside_every_recording_is_noticed_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        voice(tmp_path / f"2024/{number}.wav", number, format="WAV")
        text(tmp_path / f"2024/{number}.txt", "so it is")
    text(tmp_path / "2024/0.TextGrid", "x")
    told = describe(survey(Source(uri=str(tmp_path / "2024"))).not_listed)
    assert "3 .txt (3 of 3 recordings have a .txt beside them: set source.transcripts: sidecar)" in told
    assert '1 of 3 recordings have a .TextGrid beside them: list them in source.words: ["**/*.TextGrid"]' in told
    assert (
        "beside"
        not in describe(survey(Source(uri=str(tmp_path / "2024"), transcripts="sidecar")).not_listed).partition(".txt")[
            2
        ]
    )
    assert main([str(tmp_path / "2024"), "--out", str(tmp_path / "s.yaml")]) == 0
    assert "3 of 3 recordings have a text beside them" in capsys.readouterr().out
    spec = load_config(PipelineSpec, tmp_path / "s.yaml")
    assert (spec.source.name, spec.source.layout, spec.source.transcripts) == ("2024", "folder", "sidecar")
    assert spec.source.words == ["**/*.TextGrid"]
    assert isinstance(spec.stages.words, GivenWordsSpec)


def test_what_cannot_be_looked_at_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    voice(tmp_path / "audio/a.wav")
    assert main([str(tmp_path / "empty")]) == 2
    assert main([str(tmp_path / "nowhere")]) == 2
    text(tmp_path / "s.yaml", "mine")
    assert main([str(tmp_path / "audio"), "--out", str(tmp_path / "s.yaml")]) == 2
    told = capsys.readouterr().err
    for sentence in ("holds no audio and no corpus that is known", "is not a folder", "is there already"):
        assert sentence in told
    assert (tmp_path / "s.yaml").read_text() == "mine"


def test_utterances_without_texts_are_as_long_as_whisper_hears(tmp_path: Path) -> None:
    voice(tmp_path / "c/x.wav", seconds=1.0, format="WAV")
    text(tmp_path / "c/wav.scp", "x x.wav\n")
    text(tmp_path / "c/segments", "u x 0 0.5\n")
    assert main([str(tmp_path / "c"), "--out", str(tmp_path / "s.yaml")]) == 0
    spec = load_config(PipelineSpec, tmp_path / "s.yaml")
    assert isinstance(spec.stages.segments, GivenSegmentsSpec)
    assert isinstance(spec.stages.transcripts, WhisperXSpec)
    with pytest.raises(ConfigError, match="Whisper hears 30 s at once"):
        load_config(PipelineSpec, tmp_path / "s.yaml", ["stages.segments.max_seconds=31"])


def test_a_table_of_any_name_that_names_the_recordings_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts in transcripts.tsv are not passed over for its name; what the table leaves out is said; a table of else is none."""
    for number in range(3):
        voice(tmp_path / f"corpus/some where/{number}.wav", number, format="WAV")
    text(tmp_path / "corpus/a list.csv", "date,weather\n1,fine\n")
    spec_path = tmp_path / "plain.yaml"
    assert main([str(tmp_path / "corpus"), "--out", str(spec_path)]) == 0
    assert load_config(PipelineSpec, spec_path).source.layout == "folder"
    rows = "".join(f"some where/{number}.wav\tso it is\tann\n" for number in range(2))
    text(tmp_path / "corpus/transcripts.tsv", f"path\tsentence\tspeaker\n{rows}")
    capsys.readouterr()
    assert main([str(tmp_path / "corpus"), "--out", str(tmp_path / "s.yaml")]) == 0
    told = capsys.readouterr().out
    assert "layout manifest, by transcripts.tsv: 2 recordings, 2 texts" in told
    assert "1 audio files are not named in transcripts.tsv and would be left out" in told
    spec = load_config(PipelineSpec, tmp_path / "s.yaml")
    assert isinstance(spec.stages.transcripts, TranscriptSpec)
    assert [(item.uri, item.transcript) for item in list_source(spec.source)] == [
        (f"some where/{number}.wav", "so it is") for number in range(2)
    ]


def test_texts_in_capitals_are_texts(tmp_path: Path) -> None:
    """TIMIT's and Windows's: A.TXT beside A.WAV was passed over, as alignments by .TEXTGRID were."""
    corpus = tmp_path / "corpus"
    for number, suffix in enumerate((".TXT", ".LAB", ".txt")):
        voice(corpus / f"{number}.WAV", number, format="WAV")
        text(corpus / f"{number}{suffix}", f"so it is {number}")
        text(corpus / f"{number}.TEXTGRID", "x")
    told = describe(survey(Source(uri=str(corpus))).not_listed)
    assert "1 of 3 recordings have a .LAB beside them: set source.transcripts: sidecar" in told
    assert '3 of 3 recordings have a .TEXTGRID beside them: list them in source.words: ["**/*.TEXTGRID"]' in told
    guess = look(str(corpus))
    assert (guess.transcripts, guess.texts, guess.patterns) == ("sidecar", 3, ("**/*.TEXTGRID",))
    listed = list_source(Source(uri=str(corpus), transcripts="sidecar"))
    assert [item.transcript for item in listed] == [f"so it is {number}" for number in range(3)]


def test_tables_that_are_called_like_recordings_are_not_each_tried_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .json beside each of 20,000 recordings (and one without) would have been looked at for an hour."""
    tried: list[Corpus] = []

    def counted(corpus: Corpus) -> list[Entry]:
        tried.append(corpus)
        return read_corpus(corpus)

    monkeypatch.setattr("pipeline.corpora.guess.read_corpus", counted)
    numbers = []
    for count in (3, 9):
        corpus = tmp_path / str(count)
        for number in range(count):
            (corpus / f"{number}.wav").parent.mkdir(exist_ok=True)
            (corpus / f"{number}.wav").write_bytes(b"x")
            text(corpus / (f"{number}.json" if number else "else.json"), '{"speaker": 1}')
        tried.clear()
        assert look(str(corpus)).layout == "folder"
        numbers.append(len(tried))
    assert numbers[0] == numbers[1]
