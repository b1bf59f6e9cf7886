"""Names and texts as disks hold them: accents in two ways, brackets, paths of Windows, marks, copies, columns left empty."""

from __future__ import annotations

import gzip
import unicodedata
from pathlib import Path

import pytest

from pipeline.source.inventory import list_source
from schemas.spec import Source
from schemas.tables import InventoryItem
from tests.pipeline.corpora.fixtures import text, voice


def listed(folder: Path, layout: str, **source: str) -> dict[str, InventoryItem]:
    """The items of a corpus by uri."""
    items = list_source(Source.model_validate({"uri": str(folder), "layout": layout} | source))
    return {item.uri: item for item in items}


@pytest.mark.parametrize(
    "layout,table,rows,audio",
    [
        ("kaldi", "wav.scp", "r café.flac\n", "café.flac"),
        ("common_voice", "validated.tsv", "path\tsentence\ncafé.flac\tyes\n", "clips/café.flac"),
        ("nemo", "manifest.json", '{"audio_filepath": "café.flac", "text": "yes"}\n', "café.flac"),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_table_finds_a_file_whose_name_looks_the_same(
    layout: str, table: str, rows: str, audio: str, form: str, tmp_path: Path
) -> None:
    """A Mac decomposes accents, tables compose them: "No such file", and the sentence showed the name of the file."""
    other = "NFD" if form == "NFC" else "NFC"
    name = unicodedata.normalize(form, audio)
    voice(tmp_path / name)
    text(tmp_path / table, unicodedata.normalize(other, rows))
    text(tmp_path / "text", "r yes\n")
    (item,) = listed(tmp_path, layout).values()
    assert (item.uri, item.refused, item.transcript) == (name, None, "yes")


def test_two_files_that_look_the_same_are_told_apart(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "café.flac") for form in ("NFC", "NFD")]
    for number, name in enumerate(names):
        voice(tmp_path / name, number)
    text(tmp_path / "manifest.tsv", "file\ttext\n" + "".join(f"{name}\t{len(name)}\n" for name in names))
    assert {uri: item.transcript for uri, item in listed(tmp_path, "manifest").items()} == {
        name: str(len(name)) for name in names
    }


@pytest.mark.parametrize("name", ["data [1].tsv", "sub/a[x].tsv"])
def test_a_table_whose_name_is_there_is_no_pattern(name: str, tmp_path: Path) -> None:
    """The folder "holds no data [1].tsv", said the sentence, of a file that lay there."""
    voice(tmp_path / "a.flac")
    text(tmp_path / name, "file\ttext\na.flac\tyes\n")
    assert listed(tmp_path, "manifest", manifest=name)["a.flac"].transcript == "yes"


def test_an_alignment_file_whose_name_is_there_is_no_pattern(tmp_path: Path) -> None:
    voice(tmp_path / "a.flac")
    text(tmp_path / "take [2].ctm", "a 1 0.1 0.2 yes\n")
    (item,) = list_source(Source(uri=str(tmp_path), words=["take [2].ctm"]))
    assert "yes" in (item.given or "")


@pytest.mark.parametrize("path", ["clips\\a.flac", "C:\\audio\\a.flac", "..\\a.flac"])
def test_a_path_of_windows_is_called_one(path: str, tmp_path: Path) -> None:
    voice(tmp_path / "b.flac")
    text(tmp_path / "manifest.tsv", f"file\ttext\nb.flac\tyes\n{path}\tno\n")
    assert "as on Windows: write it with /" in (listed(tmp_path, "manifest")["manifest.tsv:3"].detail or "")


def test_ljspeech_without_a_normalised_text_has_the_other(tmp_path: Path) -> None:
    """Sets in its form often leave the last column empty: they had no text."""
    for number, name in enumerate("abc"):
        voice(tmp_path / f"wavs/{name}.wav", number, format="WAV")
    text(tmp_path / "metadata.csv", "a|Dr. B|doctor b\nb|Dr. B|\nc|  |\n")
    texts = [item.transcript for item in listed(tmp_path, "ljspeech").values()]
    assert texts == ["doctor b", "Dr. B", None]


def test_each_copy_of_an_utterance_in_librispeech_has_its_text(tmp_path: Path) -> None:
    """Converted to WAV beside its FLAC: the second had none."""
    voice(tmp_path / "1/2/1-2-0001.flac")
    voice(tmp_path / "1/2/1-2-0001.wav", format="WAV")
    text(tmp_path / "1/2/1-2.trans.txt", "1-2-0001 YES\n1-2-0002 NOBODY\n")
    items = listed(tmp_path, "librispeech")
    assert [items[f"1/2/1-2-0001.{suffix}"].transcript for suffix in ("flac", "wav")] == ["YES", "YES"]
    assert items["1/2/1-2.trans.txt:2"].refused == "missing"


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """As tables and texts are; a GigaSpeech.json was refused as a whole, facts beside a chapter were lost."""
    voice(tmp_path / "a.opus", format="OGG", subtype="OPUS")
    document = '{"audios": [{"path": "a.opus", "segments": []}]}'
    (tmp_path / "GigaSpeech.json.gz").write_bytes(gzip.compress(document.encode("utf-8-sig")))
    assert listed(tmp_path, "gigaspeech").keys() == {"a.opus"}
    (tmp_path / "a.json").write_bytes('{"speaker": 7}'.encode("utf-8-sig"))
    assert listed(tmp_path, "librilight")["a.opus"].extra == '{"speaker": "7"}'
