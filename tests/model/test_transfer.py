"""Fine-tuning for recognition and synthesis, their scores, and generation from the command line, on a run of seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from model import generate
from model.data.compose import Composer
from model.data.examples import Example, examples_of_shards
from model.inference.continuation import Generator
from model.inference.trained import Trained, load_trained
from model.training.config import load_train_config
from model.training.loop import train
from model.transfer import evaluate_asr, evaluate_tts, finetune_config, main
from model.voice.recognition import error_rates
from schemas.config import ConfigError
from tests.model.training.training_runs import run_document, write_data, write_run
from tests.model.voice.test_vocoder import CONFIG as VOCODER
from tests.model.voice.test_vocoder import write_vocoder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ and run/: a curriculum run of two steps."""
    folder = tmp_path_factory.mktemp("transfer")
    write_data(folder / "data")
    path = write_run(run_document(folder / "data", folder / "run"), folder / "run.yaml")
    assert train(load_train_config(path, ["budget.steps=2"])) == 0
    return folder


@pytest.fixture(scope="module")
def trained(base: Path) -> Trained:
    return load_trained(base / "run")


@pytest.fixture(scope="module")
def examples(base: Path) -> list[Example]:
    return examples_of_shards(str(base / "data" / "speech" / "index.json"), limit=7)


def test_error_rates_are_those_of_whispers_normaliser() -> None:
    rates = error_rates(["Mr. Brown can't pay $20!", "the end"], ["mister brown can not pay twenty dollars", "end"])
    assert rates.wer == pytest.approx(100 / 8)  # mister brown can not pay $20 | the end: one of eight words is missing
    assert error_rates(["a b c d"], ["x a b c d e"]).wer == pytest.approx(50)
    assert error_rates(["abcd", ""], ["abxd", "noise"]).cer == pytest.approx(25)
    with pytest.raises(ConfigError, match="no reference"):
        error_rates([""], ["a"])


def test_fine_tuning_starts_from_the_run_and_trains_on_the_answer_alone(base: Path, tmp_path: Path) -> None:
    data = str(base / "data" / "speech" / "index.json")
    for kind in ("asr", "tts"):
        config = finetune_config(
            str(base / "run"), kind=kind, data=data, steps=2, output_dir=str(tmp_path / kind), lr=1e-3, seed=1
        )
        assert config.init_from == str(base / "run")
        assert config.patches.policy == "static"  # what the curriculum ends with
        assert train(config) == 0
        row = json.loads((tmp_path / kind / "metrics.jsonl").read_text().splitlines()[0])
        # of the other modality only marks and EOS are targets, which count as text
        assert (row["num_units"] == 0) == (kind == "asr")
        assert row["num_text"] > row["num_units"] if kind == "asr" else row["num_units"] > row["num_text"]
        assert load_trained(tmp_path / kind).step == 2


def test_recognition_counts_what_was_read_and_written(trained: Trained, examples: list[Example]) -> None:
    result = evaluate_asr(trained, examples, batch=3, max_tokens=5)
    again = evaluate_asr(trained, examples, batch=7, max_tokens=5)
    assert [text for _, _, text in result.heard] == [text for _, _, text in again.heard]
    assert [name for name, _, _ in result.heard] == [example.name for example in examples]
    assert result.context_units == sum(len(example.units) for example in examples)
    assert result.context_latents == sum(2 + -(-len(example.units) // 4) for example in examples)
    assert result.generated_elements <= 5 * len(examples)
    rates = error_rates([e.text for e in examples], [text for _, _, text in result.heard])
    assert (result.wer, result.cer) == (rates.wer, rates.cer)


def test_a_model_that_knows_the_text_makes_no_error(
    trained: Trained, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores against a generator that answers each prompt rightly, in both directions."""
    real = Generator.generate

    def answer(self: Generator, prompts: list[list[int]], to: str, *_: object, **settings: object) -> list[object]:
        found = real(self, prompts, to, max_units=1, max_tokens=1)  # type: ignore[arg-type]
        by_prompt = {tuple(self.speech_prompt(e.units)): e for e in examples} | {
            tuple(self.text_prompt(e.text)): e for e in examples
        }
        right = [by_prompt[tuple(prompt)] for prompt in prompts]
        return [
            replace(r, text=e.text if to == "text" else "", units=e.units) for r, e in zip(found, right, strict=True)
        ]

    monkeypatch.setattr(Generator, "generate", answer)
    assert evaluate_asr(trained, examples, batch=3).wer == 0

    class Voice:
        hop, sample_rate = 640, 16_000

        def __call__(self, units: np.ndarray) -> np.ndarray:
            return np.repeat(np.asarray(units, dtype=np.float32), self.hop)

    by_units = {tuple(e.units.tolist()): e.text for e in examples}
    kept: list[str] = []
    result = evaluate_tts(
        trained,
        examples,
        Voice(),
        lambda wave, rate: by_units[tuple(wave[::640].astype(int).tolist())],
        keep=lambda example, wave: kept.append(example.name),
    )
    assert result.cer == 0
    assert kept == [example.name for example in examples]


def test_the_transfer_command(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, out = str(base / "data" / "speech" / "index.json"), tmp_path / "out.json"
    arguments = ["asr", "--checkpoint", str(base / "run"), "--shards", index, "--limit", "3", "--json", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "WER" in printed
    assert len(json.loads(out.read_text())["heard"]) == 3
    assert main(["tts", "--checkpoint", str(base / "run"), "--shards", index, "--limit", "1"]) == 2
    assert "carries no audio" in capsys.readouterr().err
    assert main(["asr", "--checkpoint", str(tmp_path), "--shards", index]) == 2


def test_the_generate_command(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, shard and array prompts in one batch; every row's sound is exactly as long as its units."""
    index = str(base / "data" / "speech" / "index.json")
    np.save(tmp_path / "clip.units.npy", np.asarray([3, 3, 7, 1, 0, 2], dtype=np.uint16))
    write_vocoder(tmp_path / "vocoder", {**VOCODER, "num_embeddings": 40})
    common = ["--checkpoint", str(base / "run"), "--max-units", "9", "--max-tokens", "4", "--threads", "1"]
    sources = [
        "--prompt",
        "the and of",
        "--speech",
        f"{index}#sample-000003",
        "--speech",
        str(tmp_path / "clip.units.npy"),
    ]
    voice = ["--wav", str(tmp_path / "o.wav"), "--vocoder", str(tmp_path / "vocoder")]
    json_file = tmp_path / "out.json"
    arguments = [*common, *sources, "--prompt-seconds", "0.12", "--to", "speech", *voice, "--json", str(json_file)]
    assert generate.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "units/s" in printed
    rows = json.loads(json_file.read_text())["rows"]
    assert [len(row["prompt_units"] or []) for row in rows] == [0, 3, 3]
    for number, row in enumerate(rows):
        units = len(row["prompt_units"] or []) + len(row["units"])
        if units:
            assert soundfile.info(tmp_path / f"o-{number}.wav").frames == units * 640
        assert row["text"] == ""
        assert 0 <= row["latents"] - row["global_steps"] <= 1
    for bad, message in (
        (["--speech", f"{index}#nobody"], "no speech sample"), (["--patching", "aligned"], "needs words"),
        (["--wav", "o.wav"], "carries no audio"),
    ):  # fmt: skip
        assert generate.main([*common, *bad]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        generate.main([*common, "--top-p", "2"])
    assert "--top-p: 2 is not a number between 0 and 1" in capsys.readouterr().err


def test_a_prompt_of_text_is_what_training_saw(trained: Trained) -> None:
    """Prompts are the beginnings of the documents that a composer makes."""
    composer: Composer = trained.composer()
    generator = Generator.of(trained)
    assert composer.text("the and of", "x").ids.tolist()[:-1] == generator.text_prompt("the and of")


def test_a_file_of_units_that_is_none_is_a_sentence(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", a=np.arange(3))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "several.npy").read_bytes()[:100])
    for name in ("empty.npy", "several.npy", "cut.npy"):
        given = generate.make_parser().parse_args(["--checkpoint", "x", "--speech", str(tmp_path / name)])
        with pytest.raises(ConfigError, match=name):
            generate.read_prompts(given, 25.0, trained)


def test_a_run_that_was_evaluated_while_it_trained_is_fine_tuned(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`finetune` does not evaluate, and refused every run that did."""
    evaluated = trained.config.with_updates(evaluation={"every_steps": 5})
    monkeypatch.setattr("model.inference.trained.load_trained", lambda _: replace(trained, config=evaluated))
    config = finetune_config("run", kind="asr", data="index.json", steps=2, output_dir="out", lr=1e-3, seed=1)
    assert config.evaluation is None


def test_remote_shards_are_spoken_from_and_recognised(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`generate --speech` and `asr --shards` of a URL wanted data.cache_dir, which a command line cannot set."""
    monkeypatch.setenv("LST_CACHE", str(tmp_path))
    fsspec.filesystem("memory").put(str(base / "data" / "speech"), "/transfer", recursive=True)
    common = ["--checkpoint", str(base / "run"), "--max-units", "3", "--max-tokens", "3"]
    for name, index in (
        ("here", str(base / "data" / "speech" / "index.json")),
        ("away", "memory://transfer/index.json"),
    ):
        assert generate.main([*common, "--speech", f"{index}#sample-000003", "--json", str(tmp_path / name)]) == 0
        assert main(["asr", "--checkpoint", str(base / "run"), "--shards", index, "--limit", "1"]) == 0
    here, away = (json.loads((tmp_path / name).read_text())["rows"] for name in ("here", "away"))
    assert here == away
    assert len(list(tmp_path.rglob("*.tar"))) == 1, "the shard was copied once"
