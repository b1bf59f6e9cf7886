"""Documents of a plain text file: paragraphs, else lines, else white space; the same however the file is read."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import text_file
from model.data.shards import ShardError
from model.data.text_file import TextFile, document_ends


def documents(path: Path, size: int) -> list[str]:
    file = TextFile(str(path), size)
    return [file.read(0, number) for number in range(file.counts[0])]


@given(text=st.text("ab é\n\t", max_size=300), size=st.integers(1, 40), block=st.integers(1, 50))
@settings(deadline=None)
def test_documents_do_not_depend_on_how_the_file_is_read(text: str, size: int, block: int) -> None:
    data = text.encode()
    pieces = (data[at : at + block] for at in range(0, len(data), block))
    assert list(document_ends(pieces, size)) == list(document_ends(iter([data]), size))


def test_one_sentence_per_line_is_many_documents_of_whole_lines(tmp_path: Path) -> None:
    lines = [f"Sentence number {number} of a language model's corpus." for number in range(500)]
    (tmp_path / "lm.txt").write_text("\n".join(lines) + "\n")
    found = documents(tmp_path / "lm.txt", 1000)
    assert "\n".join(found).split("\n") == lines
    assert all(1990 <= len(document) <= 2100 for document in found[:-1])


def test_text_without_lines_is_cut_at_white_space(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(3000)]
    (tmp_path / "line.txt").write_text(" ".join(words))
    found = documents(tmp_path / "line.txt", 500)
    assert " ".join(found).split() == words
    assert all(1990 <= len(document) <= 2010 for document in found[:-1])


def test_a_file_of_paragraphs_keeps_its_fingerprint(tmp_path: Path) -> None:
    """Runs that were begun when only blank lines were cut at go on; where lines are cut at too, the data is another."""
    text = "\n\n".join("word " * 30 for _ in range(20))
    (tmp_path / "a.txt").write_text(text)
    assert TextFile(str(tmp_path / "a.txt"), 100).fingerprint == hashlib.sha256(b"100" + text.encode()).hexdigest()
    (tmp_path / "b.txt").write_text(text.replace("\n\n", "\n"))
    other = hashlib.sha256(b"100" + text.replace("\n\n", "\n").encode()).hexdigest()
    assert TextFile(str(tmp_path / "b.txt"), 100).fingerprint != other


def test_a_file_too_large_for_every_rank_to_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "web.txt").write_text("a line\n" * 100)
    monkeypatch.setattr(text_file, "MOST_BYTES", 100)
    with pytest.raises(ShardError, match=r"web\.txt has .* GB.*lst text-shards"):
        TextFile(str(tmp_path / "web.txt"), 100)


def test_one_character_means_every_paragraph(tmp_path: Path) -> None:
    """`document_chars: 1` gives a document for each paragraph, whole, with the fingerprint that it always had."""
    stories = [f"Story {n} is told in some forty characters.\nIts second line." for n in range(50)]
    text = "\n\n".join(stories) + "\n\n"
    (tmp_path / "stories.txt").write_text(text)
    found = TextFile(str(tmp_path / "stories.txt"), 1)
    assert [found.read(0, n) for n in range(found.counts[0])] == stories
    assert found.fingerprint == hashlib.sha256(b"1" + text.encode()).hexdigest()
