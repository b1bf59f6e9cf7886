"""Sizes and operations: golden against the paper, and counted twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.cost.flops import count_batch, forward_flops
from model.cost.presets import count_parameters, empty_model, match_plain, plain_like
from model.describe import Mix, cache_bytes, count_mix, main, saving, saving_per_position
from model.network.config import ModelConfig
from model.network.lst import build_model
from model.network.vocabulary import Vocabulary
from schemas.config import load_config
from tests.model.network.cases import VOCABULARY, document_of, make_batch, make_document, plain_config, small_config

PRESETS = Path(__file__).parents[2] / "configs" / "model"


def preset(name: str) -> ModelConfig:
    config = load_config(ModelConfig, PRESETS / f"{name}.yaml")
    return config if config.vocabulary else config.with_vocabulary(Vocabulary(num_text=32000, num_units=502))


GOLDEN = {
    # name: (millions in all, global part, encoder, decoder, embedding)
    "tiny": (12.815, 3.410, 0.361, 0.722, 4.161),
    "20m": (41.953, 20.453, 1.246, 3.608, 8.322),
    "420m": (
        552.944,
        365.737,
        67.261,
        68.048,
        24.965,
    ),  # paper.md 1.3: 552.9 in all (367.7 with the projection into it)
    "1b": (1527.909, 1284.608, 19.141, 157.585, 33.287),  # paper.md 1.2: 1.528 B; 1284.5, 19.1, 157.5, 33.3
    "7b": (6796.108, 6476.268, 33.428, 182.221, 41.609),  # paper.md 6: 6.80 B
}
PLAIN = {"plain-tiny": 20.1, "plain-1b": 1417.8, "plain-420m": 449.0, "plain-7b": 6742.6}
"""Plain transformers of the same name -> millions of parameters."""


@pytest.mark.parametrize("name", GOLDEN)
def test_parameter_counts_are_the_papers(name: str) -> None:
    model = empty_model(preset(name))
    parts = (model.global_transformer, model.encoder, model.decoder, model.embedding)
    counted = [count_parameters(preset(name)), *(sum(p.numel() for p in part.parameters()) for part in parts)]
    assert [round(count / 1e6, 3) for count in counted] == list(GOLDEN[name])


def test_every_preset_is_golden() -> None:
    assert {path.stem for path in PRESETS.glob("*.yaml")} == set(GOLDEN) | set(PLAIN)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_presets_have_the_global_part_of_their_lst(name: str) -> None:
    """The compute-controlled baseline: the same stack over elements, without local modules (1.418 B for 25 x 2048)."""
    plain, lst = preset(name), preset(name.removeprefix("plain-"))
    assert plain.global_transformer == lst.global_transformer
    assert round(count_parameters(plain) / 1e6, 1) == PLAIN[name]


def test_the_papers_savings_are_reproduced() -> None:
    """Sequence 3.00 -> 2.42 (19.3 %) is 16.6 % of the operations against patch size 1 and 7.8 % against 25 plain layers."""
    mix = Mix()
    assert round(3 * mix.latents_per_element, 6) == 2.42
    unpatched, plain = saving_per_position(preset("1b"), mix)
    assert (f"{unpatched:.1%}", f"{plain:.1%}") == ("16.6%", "7.8%")
    assert count_parameters(plain_like(preset("1b"))) == pytest.approx(1.418e9, abs=0.5e6)


@pytest.mark.parametrize(
    "config",
    [
        small_config(attention="dense"),
        small_config(attention="dense", encoder__cross_layers="all", head="per_modality", global__dim=16),
        small_config(attention="dense", text_path="direct", head="per_modality"),
        plain_config(attention="dense"),
    ],
)
def test_operations_of_the_linear_maps_equal_what_torch_counts(config: ModelConfig) -> None:
    """Torch's counter sees dense attention and padding, so both are taken out: no padding, and `mm` alone."""
    rng = np.random.default_rng(0)
    batch = make_batch([make_document(rng, 30), make_document(rng, 21)])
    model = build_model(config, seed=0)
    with FlopCounterMode(display=False) as counter:
        model(batch)
    counted = sum(
        flops for op, flops in counter.get_flop_counts()["Global"].items() if "mm" in str(op) and "bmm" not in str(op)
    )
    counts = count_batch(batch, config)
    without_attention = {name: 0 for name in vars(counts) if name.endswith("_pairs")}
    assert forward_flops(model, type(counts)(**(vars(counts) | without_attention))) == counted


def test_operations_of_attention_are_four_per_pair_and_feature() -> None:
    config = small_config()
    model, batch = build_model(config, seed=0), make_batch([make_document(np.random.default_rng(0), 30)])
    counts = count_batch(batch, config)
    more = type(counts)(**(vars(counts) | {"decoder_pairs": counts.decoder_pairs + 10}))
    layers, dim = 2, 8
    assert forward_flops(model, more) - forward_flops(model, counts) == 4 * 10 * dim * layers


@pytest.mark.parametrize("text_path", ["local", "direct"])
def test_expected_counts_of_a_mix_are_those_of_a_batch_of_it(text_path: str) -> None:
    """Text alone and speech alone, at the batch's own length: the estimate is off by the specials and no more."""
    config = small_config(
        text_path=text_path, head="per_modality", encoder__cross_window=2, encoder__window=16, decoder__window=16
    )
    rng, length = np.random.default_rng(0), 400
    for speech in (True, False):
        first, stop = (VOCABULARY.unit_offset, VOCABULARY.size) if speech else (5, VOCABULARY.unit_offset)
        ids = [1, 4 if speech else 3, *rng.integers(first, stop, length - 2).tolist()]
        counted = count_batch(make_batch([document_of(ids, rng)], "static"), config)
        mix = Mix(interleaved=float(speech), speech=1, patch_size=4, context=length)
        expected = count_mix(config, mix)
        for name, value in vars(expected).items():
            assert getattr(counted, name) == pytest.approx(value * length, rel=0.06, abs=8), (speech, name)


def test_matched_baselines_come_within_half_a_layer() -> None:
    config = preset("20m")
    mix = Mix()
    counts = (count_mix(config, mix), count_mix(plain_like(config), mix))
    layer = count_parameters(plain_like(config, 2)) - count_parameters(plain_like(config, 1))
    matched = match_plain(config, "parameters")
    assert abs(count_parameters(matched) - count_parameters(config)) <= layer / 2
    by_flops = match_plain(config, "flops", counts)
    target = forward_flops(empty_model(config), counts[0])
    distance = {
        n: abs(forward_flops(empty_model(plain_like(config, n)), counts[1]) - target) for n in range(1, 10)
    }  # fmt: skip
    assert by_flops.global_transformer.num_layers == min(distance, key=lambda n: distance[n])
    with pytest.raises(ValueError, match="needs the counts"):
        match_plain(config, "flops")


def test_structural_savings_grow_with_the_patch() -> None:
    config = preset("1b")
    savings = [saving(config, Mix(patch_size=size))[0] for size in (1, 2, 4, 8)]
    assert savings[0] == 0
    assert savings == sorted(savings)


def test_cache_bytes_are_those_of_the_caches() -> None:
    config = small_config(encoder__window=8, decoder__window=8)
    model = build_model(config, seed=0)
    item = make_document(np.random.default_rng(0), 60)
    batch = make_batch([item], "static1")
    state = model.make_state(1, capacity=batch.num_latents)
    for element in item.ids.tolist():
        with torch.inference_mode():
            model.step(state, np.array([element]), np.array([True]), np.array([True]))
    held = {
        "patch encoder": state.encoder.layers.cache,
        "patch decoder": state.decoder.layers.cache,
        "patch decoder, latents": state.decoder.cross_cache,
        "global transformer": state.global_transformer.layers.cache,
    }
    stated = cache_bytes(config, 60, Mix(patch_size=1), bytes_per_value=4)
    for part, cache in held.items():
        assert stated[part] == cache.nbytes, part


def test_the_command_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(PRESETS / "1b.yaml")])
    page = capsys.readouterr().out
    for fact in ("1.528 B", "per s of speech", "per text token", "Key-value cache", "16.6%", "7.8%", "19.3%"):
        assert fact in page


@pytest.mark.parametrize("match, layers", [("parameters", 27), ("flops", 23)])
def test_the_command_writes_the_baseline_that_matches(
    match: str, layers: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main([str(PRESETS / "1b.yaml"), "--match", match])
    (tmp_path / "plain.yaml").write_text(capsys.readouterr().out)
    plain = load_config(ModelConfig, tmp_path / "plain.yaml")
    assert (plain.kind, plain.global_transformer.num_layers) == ("plain", layers)
    main([str(tmp_path / "plain.yaml")])
    assert "plain: " in capsys.readouterr().out


def test_the_command_names_a_wrong_key() -> None:
    command = [sys.executable, "-m", "model.describe", str(PRESETS / "1b.yaml"), "patch_decodr.num_layers=3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PRESETS.parents[1])
    assert done.returncode == 2
    assert "did you mean 'patch_decoder'" in done.stderr


def test_a_width_that_nothing_matches_is_described_and_not_built(capsys: pytest.CaptureFixture[str]) -> None:
    """Both ended in a traceback: 1,379 layers of width 8 have the parameters of the local parts beside them."""
    narrow = [str(PRESETS / "tiny.yaml"), "global_transformer.dim=8", "global_transformer.num_heads=2"]
    assert main(narrow) == 0
    assert "plain layers that match its parameters: 1379, its operations: 181" in capsys.readouterr().out
    assert main([*narrow, "--match", "parameters"]) == 2
    assert "1379 layers to match the parameters of this model, and 512 is the limit: widen" in capsys.readouterr().err
