"""A ladder's shards and tasks: twins that share their endings, splits apart, bytes that come again."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from model.data.shards import ShardSet
from pipeline.codebook.assign import Quantiser
from pipeline.codebook.folder import load_centroids
from pipeline.encode.base import build_encoder
from recipes.ladder import speech
from recipes.ladder.make import main, make, story
from recipes.ladder.settings import HOP, LadderConfig
from recipes.ladder.speak import main as speak_main
from recipes.ladder.speech import PAD, words_of
from recipes.ladder.voice import main as voice_main
from recipes.ladder.voice import read_voice
from recipes.stories.cloze import draw_pair
from recipes.voices import flite
from schemas.config import ConfigError, parse_config
from schemas.spec import HubertSpec
from schemas.tasks import TaskHeader, TaskSegment, read_task, write_task

needs_flite = pytest.mark.skipif(not flite.available(), reason="flite is not installed (Debian package libflite1)")


def config(folder: Path, **other: object) -> LadderConfig:
    """A ladder of seconds."""
    document = {
        "output": str(folder), "name": "small", "seed": 3, "events": [2, 3], "rungs": ["person", "place"],
        "probes": ["word", "syntax"], "speech_stories": 12, "text_stories": 5, "voices": ["kal16"],
        "units": {"kind": "phones"}, "tasks": [{"split": "dev", "pairs": 3}], **other,
    }  # fmt: skip
    return parse_config(LadderConfig, document, "ladder")


@needs_flite
def test_shards_and_tasks_say_the_same(tmp_path: Path) -> None:
    """Words lie where the units say so, twins share both endings, and a second making has the same bytes."""
    ladder = config(tmp_path / "a")
    make(ladder)
    shards = ShardSet(str(tmp_path / "a" / "shards" / "index.json"))
    sample = shards.read(0, 0)
    assert sample.meta.text == " ".join(story(ladder, "speech", 0))
    spoken = [sample.meta.text[start:end] for start, end in sample.meta.words]
    assert spoken == [sample.meta.text[start:end] for start, end in words_of(sample.meta.text)]
    assert len(sample.words) == len(spoken)
    assert all(unit == 0 for unit in sample.units[:PAD]), "a sentence begins with silence"
    task = read_task(tmp_path / "a" / "dev.jsonl")
    assert len(task.items) == 2 * 3 * 4
    for first, second in zip(task.items[::2], task.items[1::2], strict=True):
        assert first.cluster == second.cluster
        if first.group in ("person", "place"):
            assert first.endings == second.endings
            assert (first.answer, second.answer) == (0, 1)
            assert first.prompt != second.prompt
    make(config(tmp_path / "b"))
    names = ["shards/index.json", "dev.jsonl", "train.txt"]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


@needs_flite
def test_tasks_are_made_again_beside_their_shards(tmp_path: Path) -> None:
    """The same bytes as with the shards, which are not touched; untrained wordings have no probes and no training sentence."""
    tasks = [{"split": "dev", "pairs": 2}, {"split": "test", "pairs": 3, "wordings": "untrained"}]
    ladder = config(tmp_path / "ladder", tasks=tasks, rungs=["topic", "person", "place"])
    facts = make(ladder)
    assert (facts["dev_items"], facts["test-untrained_items"]) == (2 * 2 * 5, 2 * 3 * 2)
    files = [tmp_path / "ladder" / name for name in ("dev.jsonl", "test-untrained.jsonl")]
    before, shards = [file.read_bytes() for file in files], (tmp_path / "ladder/shards/index.json").stat()
    for file in files:
        file.unlink()
    (tmp_path / "ladder.yaml").write_text(yaml.safe_dump(ladder.model_dump(mode="json")), encoding="utf-8")
    assert main([str(tmp_path / "ladder.yaml"), "--tasks"]) == 0
    assert [file.read_bytes() for file in files] == before
    assert (tmp_path / "ladder/shards/index.json").stat() == shards
    task = read_task(files[1])
    assert task.header.task == "small-test-untrained"
    assert {item.group for item in task.items} == {"person", "place"}
    trained = {sentence for number in range(2000) for sentence in story(ladder, "text", number)}
    assert not {ending.text for item in task.items for ending in item.endings} & trained
    assert not {item.prompt.text.split(".")[0] + "." for item in task.items} & trained


@needs_flite
def test_renditions_bound_how_a_word_sounds(tmp_path: Path) -> None:
    """With one rendition a word has the same units wherever it is said; two voices have their own, and a rung of their own."""
    units = {"kind": "mfcc", "num_units": 20, "renditions": 1, "learn_from": 2}
    make(config(tmp_path, units=units, voices=["kal16", "awb"], probes=["voice"], speech_stories=24))
    heard: dict[tuple[str, int], set[tuple[int, ...]]] = {}
    shards = ShardSet(str(tmp_path / "shards" / "index.json"))
    for number in range(shards.counts[0]):
        sample = shards.read(0, number)
        voice = int(sample.meta.key.rsplit("-", 1)[1]) % 2
        for (start, end), (first, last) in zip(sample.meta.words, sample.words[:, :2].tolist(), strict=True):
            key = sample.meta.text[start:end].lower(), voice
            heard.setdefault(key, set()).add(tuple(sample.units[first:last].tolist()))
    assert max(len(found) for found in heard.values()) == 1
    assert heard["the", 0] != heard["the", 1]
    items = [item for item in read_task(tmp_path / "dev.jsonl").items if item.group == "voice"]
    assert len(items) == 6
    assert all(item.endings[0].text == item.endings[1].text for item in items)
    assert all(item.endings[0].units != item.endings[1].units for item in items)


@needs_flite
@pytest.mark.parametrize("renditions", [None, 1])
def test_a_voice_says_what_its_models_say(
    tmp_path: Path, renditions: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every unit of every story has sound of its own; without renditions a sentence comes back as it was spoken."""
    units = {"kind": "mfcc", "num_units": 20, "renditions": renditions, "learn_from": 2}
    ladder = config(tmp_path / "ladder", units=units)
    make(ladder)
    told = tmp_path / "ladder.yaml"
    told.write_text(ladder.model_dump_json(exclude={"units"}))
    assert voice_main([str(told), f"units={json.dumps(units)}", "--out", str(tmp_path / "voice")]) == 0
    assert " pieces, " in capsys.readouterr().out
    voice = read_voice(tmp_path / "voice", 20)
    sample = ShardSet(str(tmp_path / "ladder" / "shards" / "index.json")).read(0, 0)
    assert set(sample.units.tolist()) <= set(voice.units_F.tolist())
    said = voice(sample.units)
    assert len(said) == len(sample.units) * HOP
    if renditions is None:
        first = story(ladder, "speech", 0)[0]
        (spoken,) = speech.until_heard([(first, "kal16")], 1)
        original = flite.synthesise(*spoken)
        assert original is not None
        lead = original.word_spans()[0][0] - PAD * HOP
        heard, wanted = said[PAD * HOP :][:8000], original.audio[lead + PAD * HOP :][:8000] / 32768
        assert np.corrcoef(heard, wanted)[0, 1] > 0.95


def test_sentences_are_taken_until_each_word_was_said() -> None:
    said = [("a b", "x"), ("b a", "x"), ("a b", "y"), ("b c", "x"), ("c b a", "x")]
    assert speech.until_heard(said, 1) == [said[0], said[2], said[3]]
    assert speech.until_heard(said, 2) == said


@needs_flite
def test_given_clusters_make_the_same_bytes_and_are_not_fitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one machine fitted, another speaks with: FAISS itself would come out otherwise there."""
    units = {"kind": "mfcc", "num_units": 20, "renditions": 2, "learn_from": 2}
    make(config(tmp_path / "a", units=units))
    monkeypatch.setattr(speech, "fit_kmeans", lambda *_: pytest.fail("fitted again"))
    given = {**units, "centroids": str(tmp_path / "a" / "kmeans")}
    make(config(tmp_path / "b", units=given))
    for name in ("shards/index.json", "dev.jsonl", "kmeans/centroids.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(ConfigError, match=r"holds 20 clusters .* takes 30"):
        make(config(tmp_path / "c", units={**given, "num_units": 30}))
    with pytest.raises(ConfigError, match="holds 100 clusters for encoder-tiny-hubert"):
        make(config(tmp_path / "c", units={**given, "num_units": 100, "centroids": "assets/tiny-kmeans-100"}))


@needs_flite
def test_a_hubert_hears_each_sentence_by_itself(tmp_path: Path) -> None:
    """A sentence has the units of its sound alone, whatever is spoken beside it, by the encoder that the pipeline has."""
    encoder = {"backend": "hubert", "model": "assets/tiny-hubert", "layer": 4, "hop": HOP, "device": "cpu"}
    units = {"kind": "hubert", "encoder": encoder, "num_units": 100, "centroids": "assets/tiny-kmeans-100"}
    said = [("Mary went to the garden.", "kal16"), ("Tom took the red ball.", "kal16"), ("He left it there.", "kal16")]
    speaker = speech.Speaker(config(tmp_path, units=units))
    speaker.learn(said, fit=3)
    together = speaker.speak(said)
    heard = build_encoder(HubertSpec(**encoder))
    heard.open()
    quantiser = Quantiser(load_centroids("assets/tiny-kmeans-100")[0])
    for key in said:
        trimmed = speech._trimmed(*key)
        assert trimmed is not None
        assert together[key].units.tolist() == quantiser.assign(heard.encode(trimmed[0])).tolist()
        assert len(together[key].word_frames) == len(key[0].split())
    assert speaker.cards()[2].name == "tiny-hubert-l4-k100"
    with pytest.raises(ConfigError, match="write hop: 640"):
        config(tmp_path, units={**units, "encoder": {**encoder, "hop": 320}})


def text_alone(ladder: LadderConfig, folder: Path) -> tuple[Path, Path]:
    """The ladder's configuration as a file, and its dev task without units, last item first."""
    config_file, task_file = folder / "ladder.yaml", folder / "own.jsonl"
    config_file.write_text(yaml.safe_dump(ladder.model_dump(mode="json")), encoding="utf-8")
    task = read_task(Path(ladder.output) / "dev.jsonl")
    bare = [
        item.model_copy(
            update={
                "prompt": TaskSegment(text=item.prompt.text),
                "endings": [TaskSegment(text=ending.text) for ending in item.endings],
            }
        )
        for item in task.items[::-1]
    ]
    write_task(task_file, TaskHeader(task="own"), bare)
    return config_file, task_file


@needs_flite
@pytest.mark.parametrize(
    "units", [{"kind": "phones"}, {"kind": "mfcc", "num_units": 20, "renditions": 2, "learn_from": 2}]
)
def test_a_task_of_ones_own_is_spoken_as_the_ladder_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], units: dict[str, object]
) -> None:
    """The text of a ladder's own task comes back with the units, words and cards that the ladder gave it."""
    ladder = config(tmp_path, units=units)
    make(ladder)
    paths = [str(path) for path in (*text_alone(ladder, tmp_path), tmp_path / "out.jsonl")]
    assert speak_main(paths) == 0
    made, spoken = (read_task(tmp_path / name) for name in ("dev.jsonl", "out.jsonl"))
    assert spoken.items == made.items[::-1]
    assert (spoken.header.cards, spoken.header.num_units, spoken.header.hop) == (
        made.header.cards, made.header.num_units, made.header.hop,
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "words that no training story says" in said, "pseudo-words are among them"


@needs_flite
def test_what_cannot_be_spoken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ladder = config(tmp_path)
    make(ladder)
    config_file, task_file = text_alone(ladder, tmp_path)
    out = str(tmp_path / "out.jsonl")
    assert speak_main([str(config_file), str(tmp_path / "dev.jsonl"), out]) == 2
    assert "has units or audio already" in capsys.readouterr().err
    assert speak_main([str(config_file), str(task_file), out, "--voice", "slt"]) == 2
    assert "this ladder is spoken by kal16" in capsys.readouterr().err
    text = task_file.read_text(encoding="utf-8").replace("said goodbye.", "said goodbye. It was 12.5 degrees.")
    task_file.write_text(text.replace(" home.", " home. It was 3."), encoding="utf-8")
    assert speak_main([str(config_file), str(task_file), out]) == 2
    assert "as it is written; write numbers" in capsys.readouterr().err
    assert not Path(out).exists()


@pytest.mark.parametrize(
    "other, says",
    [
        ({"rungs": ["peson"]}, "no rung peson"),
        ({"rungs": ["holder"]}, "need 4 events"),
        ({"voices": ["bdl"]}, "no voice bdl"),
        ({"probes": ["voice"]}, "second voice"),
        (
            {"rungs": ["topic"], "tasks": [{"split": "dev", "pairs": 3, "wordings": "untrained"}]},
            "need a rung of place",
        ),
    ],
)
def test_what_cannot_be_told_is_refused(tmp_path: Path, other: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config(tmp_path, **other)


def test_a_story_too_short_for_its_rung_is_refused() -> None:
    import numpy as np

    with pytest.raises(ValueError, match="at least 4 events"):
        draw_pair("binding", np.random.default_rng(0), 2)


def test_an_unknown_config_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.yaml")]) == 2
    assert "cannot read the configuration" in capsys.readouterr().err


@needs_flite
@pytest.mark.parametrize("sentence", ["Anna took the ball.", "anna took the ball", "At last Tom, Anna and Carl left."])
def test_flite_speaks_capitals_and_periods(sentence: str) -> None:
    """Capitals and a final period change neither the words nor the audio."""
    spoken, plain = (flite.synthesise(s, "kal16") for s in (sentence, sentence.lower().rstrip(".")))
    assert spoken is not None
    assert plain is not None
    assert spoken.words == plain.words
    assert (spoken.audio == plain.audio).all()


@needs_flite
@pytest.mark.parametrize("sentence", ["", ".", "It\u2019s late.", "Zo\u00eb left."])
def test_what_flite_cannot_say_is_left_out(sentence: str) -> None:
    """No words, and letters beyond ASCII: as with numbers, there is nothing to align."""
    assert flite.synthesise(sentence, "kal16") is None
