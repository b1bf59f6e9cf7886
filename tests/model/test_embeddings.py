"""Embeddings of words: the right patches, the same alone as in a batch, and figures that are known for known vectors."""

from pathlib import Path

import fsspec
import numpy as np
import pytest

from model import embeddings
from model.data.shards import ShardSet
from model.embeddings import WordVectors, choose, cosines, embed_words, figures, spoken_words
from model.inference.trained import load_trained
from model.network.lst import LST
from model.train import main as train
from schemas.config import ConfigError
from tests.model.training.training_runs import run_document, write_data, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("embeddings")
    write_data(folder)
    document = {**run_document(folder, folder / "run"), "budget": {"steps": 2}}
    assert train([str(write_run(document, folder / "run.yaml"))]) == 0
    return folder


def test_words_are_found_where_the_shard_says(run: Path) -> None:
    """The units of a found patch are the word's frames, and its text is the word's."""
    trained, shards = load_trained(run / "run"), ShardSet(str(run / "speech" / "index.json"))
    composer = trained.composer()
    sample = shards.read(0, 0)
    whole = {sample.meta.text[a:b].lower() for a, b in sample.meta.words}
    documents = list(spoken_words(shards, composer))
    assert sum(len(starts) for _, starts in documents) > 50
    assert set(documents[0][1].values()) <= whole
    for document, starts in documents:
        for element in starts:
            assert document.is_unit[element]
            assert document.patch_start[element]
            assert document.patch_kind[element] == 0


def test_a_voice_is_the_samples_that_name_it(run: Path) -> None:
    trained, shards = load_trained(run / "run"), ShardSet(str(run / "speech" / "index.json"))
    key = shards.read(0, 1).meta.key
    everyone = list(spoken_words(shards, trained.composer()))
    one = list(spoken_words(shards, trained.composer(), key))
    assert 0 < len(one) < len(everyone)
    assert one[0][0].ids.tolist() in [document.ids.tolist() for document, _ in everyone]
    assert not list(spoken_words(shards, trained.composer(), "nobody"))


def test_a_word_is_the_same_alone_as_in_a_batch(run: Path) -> None:
    trained, shards = load_trained(run / "run"), ShardSet(str(run / "speech" / "index.json"))
    assert isinstance(trained.module, LST)
    documents = list(spoken_words(shards, trained.composer()))[:6]
    together = embed_words(trained.module, documents)
    alone = [embed_words(trained.module, [document]) for document in documents]
    assert together.texts == [text for words in alone for text in words.texts]
    np.testing.assert_allclose(together.vectors, np.concatenate([w.vectors for w in alone if w.texts]), atol=1e-5)


def test_known_vectors_have_known_figures() -> None:
    """Two words along two axes: 1 within, 0 between, silhouette 1; mixed up at random there is nothing to see."""
    axes = np.repeat(np.eye(4, dtype=np.float32)[:2], 6, axis=0) * np.arange(1, 13, dtype=np.float32)[:, None]
    texts = ["lamp"] * 6 + ["door"] * 6
    found = figures(WordVectors(texts=texts, vectors=axes))
    assert found == pytest.approx({"within": 1.0, "between": 0.0, "silhouette": 1.0}, abs=1e-6)
    rng = np.random.default_rng(0)
    within, between = cosines(
        WordVectors(texts=["lamp", "door"] * 200, vectors=rng.normal(size=(400, 8)).astype(np.float32))
    )
    assert within == pytest.approx(between, abs=0.02)


def test_frequent_long_words_are_chosen() -> None:
    texts = ["the"] * 9 + ["lamp"] * 5 + ["door"] * 7 + ["rare"] * 2
    words = WordVectors(texts=texts, vectors=np.arange(len(texts), dtype=np.float32)[:, None])
    chosen = choose(words, num_words=9, occurrences=4, min_letters=4)
    assert chosen.texts == ["door"] * 4 + ["lamp"] * 4
    assert len(set(chosen.vectors[:, 0].tolist())) == 8
    with pytest.raises(ConfigError, match="lower --occurrences"):
        choose(words, num_words=9, occurrences=6, min_letters=4)


def test_the_command_writes_figures_and_a_picture(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = str(run / "speech" / "index.json")
    command = ["--checkpoint", str(run / "run"), "--shards", shards, "--out", str(run / "out"), "--occurrences", "3"]
    assert embeddings.main([*command, "--letters", "3"]) == 0
    assert (run / "out" / "embeddings.png").stat().st_size > 1000
    assert "untrained" in capsys.readouterr().out
    assert embeddings.main([*command, "--occurrences", "5000"]) == 2


def test_one_patch_of_a_word_is_not_compared() -> None:
    words = WordVectors(texts=["alpha", "beta", "gamma"], vectors=np.eye(3, dtype=np.float32))
    with pytest.raises(ConfigError, match="--occurrences 1 leaves nothing"):
        choose(words, 25, 1, 4)


def test_words_of_remote_shards(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LST_CACHE", str(tmp_path))
    fsspec.filesystem("memory").put(str(run / "speech"), "/embeddings", recursive=True)
    command = ["--checkpoint", str(run / "run"), "--out", str(run / "out"), "--occurrences", "5000"]
    said = []
    for index in (str(run / "speech" / "index.json"), "memory://embeddings/index.json"):
        assert embeddings.main([*command, "--shards", index]) == 2
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert "two are needed: lower --occurrences to" in said[0]
    assert said[0] == said[1], "the same words, as often"
