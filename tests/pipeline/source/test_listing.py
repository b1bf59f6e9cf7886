"""Every file under a source is listed, refused or counted; texts and names find each other whatever wrote them."""

from __future__ import annotations

import errno
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.source.inventory import list_source, survey, unreadable
from pipeline.source.listing import describe, find_files
from schemas.config import ConfigError
from schemas.spec import Source
from schemas.storage import retry
from schemas.tables import InventoryItem
from tests.pipeline.source.bad_audio import encode, speech

VOICE = speech()[:8000]
NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def put_audio(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        put(folder / name, encode(VOICE[: 6000 + number], format="WAV"))


def by_uri(**source: str) -> dict[str, InventoryItem]:
    return {item.uri: item for item in list_source(Source.model_validate(source))}


# what lies in the folder -----------------------------------------------------------------------------------------------


def test_files_that_are_not_listed_are_counted_by_suffix(tmp_path: Path) -> None:
    put_audio(tmp_path, "a.wav", "b.aiff", "deep/c.WAV")
    for name in ("a.txt", "deep/d.VOC", "e.voc", "f.voc", "README", "m.tsv", "deep/c.trans.txt"):
        put(tmp_path / name, "file\ttext\na.wav\thello\n" if name == "m.tsv" else "c hello")
    listing = survey(Source(uri=str(tmp_path), transcripts="sidecar", manifest="m.tsv"))
    assert [item.uri for item in listing.items] == ["a.wav", "b.aiff", "deep/c.WAV"]
    assert describe(listing.not_listed) == "3 .voc, 1 without a suffix"
    narrowed = survey(Source(uri=str(tmp_path), pattern="deep/*"))
    assert describe(narrowed.not_listed) == "7 outside source.pattern, 1 .txt, 1 .voc"


def test_links_are_followed_within_bounds_and_a_dangling_one_is_refused(tmp_path: Path) -> None:
    source, store = tmp_path / "audio", tmp_path / "store"
    put_audio(source, "own.wav")
    put_audio(store, "spk/a.wav", "spk/deeper/b.wav", "c.wav")
    (source / "spk").symlink_to(store / "spk")
    (source / "c.wav").symlink_to(store / "c.wav")
    (source / "loop").symlink_to(source)
    (source / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (source / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    listing = survey(Source(uri=str(source)))
    items = {item.uri: item for item in listing.items}
    assert sorted(items) == ["c.wav", "gone.wav", "own.wav", "spk/a.wav", "spk/deeper/b.wav"]
    assert items["gone.wav"].refused == "missing"
    assert "nowhere.wav, which is not there" in (items["gone.wav"].detail or "")
    assert describe(listing.not_listed) == "1 broken links or odd files, 1 links back to a folder above"


def test_folders_that_link_to_each_other_or_above_the_source_cost_little(tmp_path: Path) -> None:
    """Eight folders with links to each other have 8! ways through them, and a link to the disk would list the disk."""
    source = tmp_path / "disk" / "audio"
    put_audio(tmp_path / "disk", "elsewhere.wav")
    for name in "abcdefgh":
        put_audio(source, f"{name}/{name}.wav")
        for other in set("abcdefgh") - {name}:
            (source / name / other).symlink_to(source / other)
    found = find_files(None, str(source), local=True)
    assert len(found.names) == 8 + 8 * 7 + 8 * 7 * 6 + 8 * 7 * 6 * 5
    (source / "disk").symlink_to(tmp_path / "disk")
    (source / "root").symlink_to("/")
    assert len(find_files(None, str(source), local=True).names) == len(found.names)
    assert "links back to a folder above" in found.passed_over
    assert found.passed_over["links inside 3 linked folders"] == 8 * 7 * 6 * 5 * 4


def test_a_pipe_and_a_file_that_cannot_be_opened_hold_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_audio(tmp_path, "a.wav", "secret.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    honest = open

    def guarded(path: object, *rest: object) -> object:
        if str(path).endswith("secret.wav"):
            raise PermissionError(13, "Permission denied")
        return honest(path, *rest)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", guarded)
    items = by_uri(uri=str(tmp_path))
    assert {name: item.refused for name, item in items.items()} == {
        "a.wav": None,
        "pipe.wav": "missing",
        "secret.wav": "missing",
    }
    assert "Permission denied" in (items["secret.wav"].detail or "")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_folder_that_cannot_be_listed_now_is_not_taken_for_removed(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that may not be read is counted, as ever; what says nothing of the folder ends the listing, or is asked again."""
    for name in ("a/1.wav", "b/c/2.wav"):
        put_audio(tmp_path, name)
    honest, fails = os.scandir, 2

    def scandir(path: Any = ".") -> Any:
        nonlocal fails
        if str(path).endswith("/c") and (fails := fails - 1) >= 0:
            raise OSError(number, os.strerror(number), str(path))
        return honest(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    source = Source.model_validate({"uri": str(tmp_path)})
    if number == errno.EMFILE:
        with pytest.raises(OSError, match="Too many open files"):
            survey(source)
        return
    listing = survey(source)
    listed = ["a/1.wav"] if number == errno.EACCES else ["a/1.wav", "b/c/2.wav"]
    assert [item.uri for item in listing.items] == listed
    assert bool(listing.not_listed["in folders that cannot be read (Permission denied)"]) == (number == errno.EACCES)


def test_files_that_cannot_be_read_are_known_before_anything_is_decoded(tmp_path: Path) -> None:
    put_audio(tmp_path, "a.wav")
    put(tmp_path / "text.wav", "a letter, not a recording")
    put(tmp_path / "empty.flac", b"")
    source = Source(uri=str(tmp_path))
    problems = unreadable(source, list_source(source))
    assert sorted(problems) == ["empty.flac", "text.wav"]
    assert "zero bytes" in problems["empty.flac"]


@pytest.mark.parametrize("format", ["WAV", "RF64", "W64", "AU", "AIFF", "CAF", "NIST"])
def test_samples_that_a_header_promises_and_a_file_lacks_are_known_beforehand(tmp_path: Path, format: str) -> None:
    whole = encode(np.sin(np.arange(320_000)) * 0.1, format=format)
    (tmp_path / "whole.wav").write_bytes(whole)
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    source = Source(uri=str(tmp_path))
    items = list_source(source)
    assert [(item.uri, item.seconds) for item in items] == [("cut.wav", None), ("whole.wav", 20.0)]
    problems = unreadable(source, items)
    assert list(problems) == ["cut.wav"]
    assert "cut short" in problems["cut.wav"]


# manifests -------------------------------------------------------------------------------------------------------------


def test_a_quote_in_a_tsv_is_a_quote(tmp_path: Path) -> None:
    put_audio(tmp_path, "a.wav", "b.wav", "c.wav")
    put(tmp_path / "m.tsv", 'file\ttext\tlanguage\na.wav\t"never closed\ten\nb.wav\tb "said" it\ten\nc.wav\tc"\ten\n')
    items = by_uri(uri=str(tmp_path), manifest="m.tsv", transcripts="manifest")
    assert [item.transcript for item in items.values()] == ['"never closed', 'b "said" it', 'c"']
    assert {item.language_hint for item in items.values()} == {"en"}


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0b", "\x1c"])
def test_jsonl_ends_its_lines_at_newlines_alone(tmp_path: Path, separator: str) -> None:
    put_audio(tmp_path, "a.wav", "b.wav")
    rows = [{"file": "a.wav", "text": f"one{separator}two"}, {"file": "b.wav", "text": "three"}]
    put(tmp_path / "m.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    items = by_uri(uri=str(tmp_path), manifest="m.jsonl", transcripts="manifest")
    assert items["b.wav"].transcript == "three"
    assert (items["a.wav"].transcript or "").split() == ["one", "two"] or separator in (items["a.wav"].transcript or "")


@pytest.mark.parametrize(
    "row, said",
    [
        ('{"file": "b.wav", "text": "x", "snr": NaN}', "NaN is not a JSON number"),
        ('{"file": "b.wav", "text": "half \\ud83d"}', "half of a surrogate pair"),
        ('{"file": "b.wav", "text"', "not JSON"),
        ("[1]", "JSON object"),
        ('{"file": "b.wav", "transcript": "x", "transcript": "y"}', "it has 'transcript' twice"),
        ('{"file": "b.wav", "transcript": ["x"]}', "its transcript is no text but a list"),
        ('{"file": "../b.wav"}', "stay inside the source folder"),
        ('{"file": "a.wav"}', "for the second time, after m.jsonl:1"),
        ('{"file": "nowhere.wav"}', "not among the audio"),
        ('{"file": null}', "names no file"),
        ('{"path": "b.wav", "text": "x"}', "it has none of file; it has path, text"),
        (f'{{"file": "b.wav", "text": {"9" * 5000}}}', "value has 5000 digits"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_with_its_line_and_the_rest_is_read(
    tmp_path: Path, row: str, said: str
) -> None:
    put_audio(tmp_path, "a.wav", "b.wav", "c.wav")
    put(tmp_path / "m.jsonl", '{"file": "a.wav", "text": "one"}\n' + row + '\n\n{"file": "c.wav", "text": "three"}\n')
    items = by_uri(uri=str(tmp_path), manifest="m.jsonl", transcripts="manifest")
    assert (items["a.wav"].transcript, items["c.wav"].transcript) == ("one", "three")
    assert said in (items["m.jsonl:2"].detail or "")
    assert items["m.jsonl:2"].refused in ("bad_row", "missing")


@pytest.mark.parametrize(
    "options",
    [{"manifest": "manifest.json"}, {"manifest": "manifest.json", "layout": "nemo"}],
    ids=["manifest", "nemo"],
)
def test_a_first_row_that_names_no_audio_does_not_speak_for_the_others(tmp_path: Path, options: dict[str, str]) -> None:
    put_audio(tmp_path, "a.wav")
    put(tmp_path / "manifest.json", '{"note": "made by hand"}\n{"file": "a.wav", "text": "one"}\n')
    items = by_uri(uri=str(tmp_path), transcripts="manifest", **options)
    assert items["a.wav"].transcript == "one"
    assert "it has note" in (items["manifest.json:1"].detail or "")


@pytest.mark.parametrize(
    "name, content",
    [
        ("m.tsv", b"file\ttext\na.wav\tone\nb.wav\tcaf\xe9\nc.wav\tthree\n"),
        (
            "m.jsonl",
            b'{"file": "a.wav", "text": "one"}\n\n{"file": "b.wav", "text": "\xff"}\n{"file": "c.wav", "text": "three"}',
        ),
        ("x.trans.txt", b"a one\n\nb caf\xe9\nc three"),
    ],
)
def test_a_line_that_is_not_utf8_costs_itself_alone(tmp_path: Path, name: str, content: bytes) -> None:
    put_audio(tmp_path, "a.wav", "b.wav", "c.wav")
    put(tmp_path / name, content)
    manifest = {"manifest": name, "transcripts": "manifest"} if name != "x.trans.txt" else {"transcripts": "sidecar"}
    items = by_uri(uri=str(tmp_path), **manifest)
    assert [items[f"{stem}.wav"].transcript for stem in "abc"] == ["one", None, "three"]
    assert "it is not UTF-8" in (items[f"{name}:3"].detail or "")


@pytest.mark.parametrize(
    "content, said",
    [
        ("file\ttext\ttext\na.wav\tone\ttwo\n", "has the column 'text' twice"),
        ("file\ttext\n", "holds no row"),
        ("file\ttext\ra.wav\tone\r", "holds no row"),
        ("", "holds no row"),
    ],
)
def test_a_table_of_which_nothing_would_be_used_is_one_sentence(tmp_path: Path, content: str, said: str) -> None:
    put_audio(tmp_path, "a.wav")
    put(tmp_path / "m.tsv", content)
    with pytest.raises(ConfigError, match=said):
        by_uri(uri=str(tmp_path), manifest="m.tsv", transcripts="manifest")


@pytest.mark.parametrize("name", ["m.tsv", "m.jsonl", "m.csv"])
def test_a_byte_order_mark_is_welcome(tmp_path: Path, name: str) -> None:
    put_audio(tmp_path, "a.wav")
    separator = "," if name == "m.csv" else "\t"
    table = '{"file": "a.wav", "text": "one"}' if name == "m.jsonl" else f"file{separator}text\na.wav{separator}one"
    put(tmp_path / name, b"\xef\xbb\xbf" + table.encode())
    assert by_uri(uri=str(tmp_path), manifest=name, transcripts="manifest")["a.wav"].transcript == "one"


def test_a_macs_notes_and_links_to_devices_say_what_they_are(tmp_path: Path) -> None:
    put_audio(tmp_path, "a.wav")
    put(tmp_path / "._a.wav", b"\0\x05\x16\x07" + bytes(4000))
    os.symlink("/dev/null", tmp_path / "device.wav")
    listing = survey(Source(uri=str(tmp_path)))
    said = unreadable(Source(uri=str(tmp_path)), listing.items)
    assert "AppleDouble" in said["._a.wav"]
    assert "a link to /dev/null, which is no file" in said["device.wav"]


# names and sidecars ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("audio, text", [(NFD, NFC), (NFC, NFD)])
def test_names_match_however_their_accents_are_composed(tmp_path: Path, audio: str, text: str) -> None:
    put_audio(tmp_path / "beside", f"{audio}.wav")
    put(tmp_path / f"beside/{text}.txt", "one")
    assert by_uri(uri=str(tmp_path / "beside"), transcripts="sidecar")[f"{audio}.wav"].transcript == "one"
    put_audio(tmp_path / "listed", f"1/{audio}-1.wav")
    put(tmp_path / "listed/1/x.trans.txt", f"{text}-1 two")
    assert by_uri(uri=str(tmp_path / "listed"), transcripts="sidecar")[f"1/{audio}-1.wav"].transcript == "two"
    put_audio(tmp_path / "named", f"{audio}.wav")
    put(tmp_path / "named/m.tsv", f"file\ttext\n{text}.wav\tthree\n")
    named = by_uri(uri=str(tmp_path / "named"), transcripts="manifest", manifest="m.tsv")
    assert named[f"{audio}.wav"].transcript == "three"


def test_an_exact_name_comes_before_one_that_looks_like_it(tmp_path: Path) -> None:
    put_audio(tmp_path, f"{NFC}.wav", f"{NFD}.wav")
    put(tmp_path / f"{NFC}.txt", "composed")
    put(tmp_path / f"{NFD}.txt", "decomposed")
    items = by_uri(uri=str(tmp_path), transcripts="sidecar")
    assert (items[f"{NFC}.wav"].transcript, items[f"{NFD}.wav"].transcript) == ("composed", "decomposed")


@pytest.mark.parametrize(
    "line", ["1-2-0 SAID THIS\n\n", "1-2-0\tSAID THIS\n", "  1-2-0 SAID THIS", "\n1-2-0   SAID THIS\r\n"]
)
def test_a_trans_txt_takes_blank_lines_tabs_and_leading_blanks(tmp_path: Path, line: str) -> None:
    put_audio(tmp_path, "1/1-2-0.wav")
    put(tmp_path / "1/1-2.trans.txt", line)
    assert by_uri(uri=str(tmp_path), transcripts="sidecar")["1/1-2-0.wav"].transcript == "SAID THIS"


def test_a_trans_txt_may_name_files_whole_and_says_one_thing_of_each(tmp_path: Path) -> None:
    put_audio(tmp_path, "1-0.wav", "1-1.wav", "1-2.wav")
    put(tmp_path / "1.trans.txt", "1-0.wav hello\n1-1 one\n1-1 one\n1-1 another\n1-2 two\n")
    items = by_uri(uri=str(tmp_path), transcripts="sidecar")
    assert [items[f"1-{n}.wav"].transcript for n in range(3)] == ["hello", "one", "two"]
    refused = [(uri, item.detail) for uri, item in items.items() if item.refused]
    assert [uri for uri, _ in refused] == ["1.trans.txt:4"]
    assert "1-1 for the second time" in str(refused)


@pytest.mark.parametrize("layout", ["folder", "librispeech"])
@pytest.mark.parametrize(
    "line, said",
    [("1/1-0 one", "lie beside it"), ("..  one", "lie beside it"), ("1-0 one\r1-9 two", "carriage return")],
)
def test_a_line_of_a_trans_txt_that_cannot_be_used_costs_itself_alone(
    tmp_path: Path, layout: str, line: str, said: str
) -> None:
    put_audio(tmp_path, "1/1/1-0.wav", "1/1/1-1.wav")
    put(tmp_path / "1/1/1.trans.txt", f"{line}\n1-1 three\n")
    items = by_uri(uri=str(tmp_path), layout=layout, **({"transcripts": "sidecar"} if layout == "folder" else {}))
    assert (items["1/1/1-0.wav"].transcript, items["1/1/1-1.wav"].transcript) == (None, "three")
    assert said in str(items["1/1/1.trans.txt:1"].detail)


def test_a_sidecar_that_is_not_utf8_is_refused_alone(tmp_path: Path) -> None:
    put_audio(tmp_path, "a.wav", "b.wav")
    put(tmp_path / "a.txt", "gr\u00fcn".encode("latin-1"))
    put(tmp_path / "b.txt", "gr\u00fcn")
    items = by_uri(uri=str(tmp_path), transcripts="sidecar")
    assert items["b.wav"].transcript == "gr\u00fcn"
    assert items["a.txt"].refused == "bad_row"
    assert "a.txt is not UTF-8" in (items["a.txt"].detail or "")
