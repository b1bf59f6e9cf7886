"""The baselines: the plain transformer, LST without patches, and BPE units."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE

from model.data.compose import Composer
from model.data.document import bpe_vocabulary, to_bpe
from model.data.sources import TrainingData
from model.network.baseline import BaseSpeechLM
from model.network.lst import build_model
from schemas.config import ConfigError
from schemas.models.unit_bpe import UnitBpe
from schemas.reading.shard_reader import read_index, unit_sequences
from tests.model.network.cases import VOCABULARY, make_batch, make_document, plain_config, small_config
from tests.model.training.training_runs import parsed, run_document, write_data
from tests.synthetic_shards import write_speech_shards

ROOT = Path(__file__).parents[3]


def test_the_plain_baseline_takes_no_notice_of_patches() -> None:
    model = build_model(plain_config(), seed=0)
    assert isinstance(model, BaseSpeechLM)
    document = make_document(np.random.default_rng(0), 40)
    assert torch.equal(model.logits(make_batch([document], "static")), model.logits(make_batch([document], "aligned")))


def test_the_plain_baseline_has_the_blocks_of_the_global_part() -> None:
    config = small_config()
    plain = plain_config(global_transformer=config.global_transformer.model_dump())
    ours, theirs = (build_model(c, seed=0).global_transformer.state_dict() for c in (config, plain))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_at_patch_size_one_every_element_is_a_latent() -> None:
    document = make_document(np.random.default_rng(0), 40)
    batch = make_batch([document], "static1")
    assert batch.num_latents == len(document.ids)
    assert batch.closed_N.all()


def test_loss_of_the_plain_baseline_falls() -> None:
    model = build_model(plain_config(), seed=0)
    batch = make_batch([make_document(np.random.default_rng(0), 40)])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        sums = model(batch)
        loss = (sums.nll_text + sums.nll_unit) / (sums.num_text + sums.num_unit)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def trained_bpe(size: int = 30) -> UnitBpe:
    rng = np.random.default_rng(0)
    phrases = [rng.integers(0, VOCABULARY.num_units, 4) for _ in range(6)]
    sequences = [np.concatenate([phrases[i] for i in rng.integers(0, 6, 20)]) for _ in range(50)]
    return UnitBpe.train(sequences, VOCABULARY.num_units, size)


def test_bpe_units_come_back_and_are_fewer() -> None:
    bpe = trained_bpe()
    assert bpe.size == 30
    rng = np.random.default_rng(1)
    for units in (rng.integers(0, 9, 200), np.zeros(0, dtype=np.int64), np.arange(9)):
        tokens = bpe.encode(units)
        assert bpe.decode(tokens).tolist() == units.tolist()
        assert bpe.lengths[tokens].sum() == len(units)
    repeated = np.tile(bpe.decode(np.asarray([bpe.size - 1])), 20)
    assert len(bpe.encode(repeated)) <= 20


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_document_over_bpe_units_says_the_same(seed: int) -> None:
    bpe, document = trained_bpe(), make_document(np.random.default_rng(seed), 60)
    encoded = to_bpe(document, VOCABULARY, bpe)
    spelt: list[int] = []
    for element, unit in zip(encoded.ids.tolist(), encoded.is_unit.tolist(), strict=True):
        offset = VOCABULARY.unit_offset
        spelt += (bpe.decode(np.asarray([element - offset])) + offset).tolist() if unit else [element]
    assert spelt == document.ids.tolist()
    assert encoded.is_unit.tolist() == (encoded.ids >= VOCABULARY.unit_offset).tolist()
    assert encoded.patch_start.sum() <= document.patch_start.sum()
    assert not encoded.patch_start[~encoded.is_unit].any()
    assert not encoded.target[0]
    config = plain_config().with_vocabulary(bpe_vocabulary(VOCABULARY, bpe))
    sums = build_model(config, seed=0)(make_batch([encoded], "static1"))
    assert int(sums.num_text + sums.num_unit) == len(encoded.ids) - 1


def test_the_job_learns_a_bpe_from_shards(tmp_path: Path) -> None:
    index = write_speech_shards(tmp_path / "shards", [3, 2], num_units=20)
    output = tmp_path / "bpe.json"
    command = [
        sys.executable,
        "-m",
        "jobs.train_unit_bpe",
        "--shards",
        str(index),
        "--out",
        str(output),
        "--size",
        "64",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    bpe = UnitBpe.load(output)
    assert bpe.size == 64
    assert "units per token" in done.stdout
    again = subprocess.run([*command[:-3], str(tmp_path / "again.json"), "--size", "64"], check=True, cwd=ROOT)
    assert again.returncode == 0
    assert (tmp_path / "again.json").read_bytes() == output.read_bytes()


def test_what_is_no_unit_bpe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_unit_bpe"):
        UnitBpe.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="at least as many tokens"):
        UnitBpe.train([np.arange(5)], num_units=5, size=4)
    (tmp_path / "cut.json").write_text("{")
    with pytest.raises(ConfigError, match="not a unit BPE that can be read"):
        UnitBpe.load(tmp_path / "cut.json")
    Tokenizer(BPE({"a": 0}, [])).save(str(tmp_path / "text.json"))
    with pytest.raises(ConfigError, match="not one of speech units"):
        UnitBpe.load(tmp_path / "text.json")


def test_a_run_over_bpe_units_reads_the_same_seconds_of_speech(tmp_path: Path) -> None:
    """`data.unit_bpe` changes what speech is written in, and neither what is said nor how long it lasts."""
    write_data(tmp_path)
    document = run_document(tmp_path, tmp_path / "run")
    corpora = [TrainingData(parsed(document, tmp_path / "run.yaml").data)]
    learn = unit_sequences(corpora[0].config.sources[0].data, read_index(corpora[0].config.sources[0].data))
    UnitBpe.train(learn, 40, 60).save(tmp_path / "bpe.json")
    document["data"]["unit_bpe"] = str(tmp_path / "bpe.json")
    corpora.append(TrainingData(parsed(document, tmp_path / "bpe.yaml").data))
    assert corpora[1].vocabulary.num_units == 60
    assert corpora[0].fingerprint() != corpora[1].fingerprint()
    spoken = []
    for corpus in corpora:
        composer = Composer(corpus.tokenizer, corpus.vocabulary, token_starts=False, unit_bpe=corpus.unit_bpe)
        [whole] = corpus.sources(1, "train")[0].documents(0, composer)
        spoken.append((corpus.speech_seconds(make_batch([whole], "static1")), int(whole.is_unit.sum())))
    assert spoken[0][0] == pytest.approx(spoken[1][0])
    assert spoken[1][1] < spoken[0][1]


def test_a_unit_bpe_of_another_codebook_is_refused(tmp_path: Path) -> None:
    """It has no token for units beyond its own, and left them out of the documents without a word."""
    write_data(tmp_path)
    UnitBpe.train([np.arange(20)], 20, 30).save(tmp_path / "bpe.json")
    document = run_document(tmp_path, tmp_path / "run")
    document["data"]["unit_bpe"] = str(tmp_path / "bpe.json")
    with pytest.raises(ConfigError, match="learned over 20 units, and the speech here has 40"):
        TrainingData(parsed(document, tmp_path / "run.yaml").data)
