"""Weights go out and come back, and a Llama is a Llama on both sides."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from model.exchange.hf import export, export_llama, init_from, load, write_weights
from model.network.lst import build_model
from model.network.vocabulary import NUM_SPECIAL, Vocabulary
from schemas.errors import DataError
from tests.model.network.cases import VOCABULARY, document_of, make_batch, make_document, plain_config, small_config


def save_llama(folder: Path, tie: bool = False, **changes: object) -> LlamaForCausalLM:
    """A small random text model whose shape is the global part of `small_config`."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": VOCABULARY.num_text,
        "hidden_size": 12,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
        "tie_word_embeddings": tie,
        "bos_token_id": None,
        "eos_token_id": None,
        **changes,
    }
    model = LlamaForCausalLM(LlamaConfig(**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3 + ("norm" in name))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "config",
    [
        small_config(),
        small_config(text_path="direct", head="per_modality", encoder__cross_layers="all", global__dim=16),
        plain_config(head="per_modality"),
    ],
)
def test_export_and_load_give_the_same_model(config: object, tmp_path: Path) -> None:
    model = build_model(config, seed=4).to(torch.bfloat16)  # type: ignore[arg-type]
    export(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
        assert again.state_dict()[name].dtype == torch.bfloat16
    batch = make_batch([make_document(np.random.default_rng(0), 20)])
    assert torch.equal(model.logits(batch), again.logits(batch))


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_our_plain_baseline_is_transformers_llama(kv_heads: int, tmp_path: Path) -> None:
    """An outside reference for norms, RoPE, attention, feed-forward and head at once."""
    config = plain_config()
    stack = config.global_transformer.with_updates(num_kv_heads=kv_heads)
    model = build_model(config.with_updates(global_transformer=stack.model_dump()), seed=4)
    export_llama(model, tmp_path)
    llama = LlamaForCausalLM.from_pretrained(tmp_path).double()
    document = make_document(np.random.default_rng(0), 30)
    expected = llama(torch.from_numpy(document.ids).long()[None]).logits[0]
    actual = model.double().logits(make_batch([document]))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)  # their RoPE tables are fp32


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("kind", ["plain", "direct"])
def test_a_llama_checkpoint_reads_text_as_before(kind: str, tie: bool, tmp_path: Path) -> None:
    """After `init_from`, the predictions of text from text are the text model's own, units and specials left out.

    The documents have no BOS and marks here: the text model does not know them.
    """
    llama = save_llama(tmp_path, tie).double()
    if kind == "plain":
        stack = {"num_layers": 2, "dim": 12, "num_heads": 2, "num_kv_heads": 1, "hidden_dim": 16, "rope_theta": 1e4}
        config = plain_config(global_transformer=stack)
    else:
        config = small_config(text_path="direct", head="per_modality", global__num_kv_heads=1)
    model = build_model(config, seed=1).double()
    touched = init_from(model, tmp_path)
    assert len(touched) == 2 * 6 + 3
    text = np.random.default_rng(0).integers(0, VOCABULARY.num_text, 12)
    batch = make_batch([document_of((text + NUM_SPECIAL).tolist(), np.random.default_rng(0))])
    ours = model.logits(batch)[:, NUM_SPECIAL : VOCABULARY.unit_offset]
    theirs = llama(torch.from_numpy(text)[None]).logits[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_specials_and_units_keep_their_own_start(tmp_path: Path) -> None:
    save_llama(tmp_path)
    config = small_config(text_path="direct", head="per_modality", global__num_kv_heads=1)
    before, after = build_model(config, seed=1), build_model(config, seed=1)
    touched = set(init_from(after, tmp_path))
    for name, parameter in after.named_parameters():
        same = parameter == before.get_parameter(name)
        if name in ("text_embedding.weight", "heads.text.output.weight"):
            assert same[:NUM_SPECIAL].all()
            assert not same[NUM_SPECIAL:].any()
        else:
            assert bool(same.all()) == (name not in touched), name


def test_with_local_text_the_global_part_alone_is_set(tmp_path: Path) -> None:
    save_llama(tmp_path)
    touched = init_from(build_model(small_config(global__num_kv_heads=1), seed=1), tmp_path)
    assert all(name.startswith("global_transformer.") for name in touched)
    assert len(touched) == 2 * 6


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, the model has 2"),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, "rope_theta"),
        ({"attention_bias": True}, "attention_bias"),
        ({"vocab_size": 11}, "11 text tokens, the vocabulary 7"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    save_llama(tmp_path, **changes)
    for device in ("cpu", "meta"):  # a dry run compares without weights of its own
        with torch.device(device):
            model = build_model(small_config(text_path="direct", head="per_modality", global__num_kv_heads=1), seed=1)
        with pytest.raises(ValueError, match=message):
            init_from(model, tmp_path)


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="'bert'"):
        load(tmp_path)
    with pytest.raises(ValueError, match="use export"):
        export_llama(build_model(small_config(), seed=0), tmp_path)
    with pytest.raises(ValueError, match="does not norm its queries"):
        export_llama(build_model(plain_config(qk_norm=True), seed=0), tmp_path)


def test_shards_of_a_checkpoint_are_found(tmp_path: Path) -> None:
    llama = save_llama(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    llama.save_pretrained(tmp_path, max_shard_size="2KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    vocabulary = Vocabulary(num_text=VOCABULARY.num_text, num_units=3)
    model = build_model(small_config(global__num_kv_heads=1).with_vocabulary(vocabulary), seed=1)
    init_from(model, tmp_path)
    expected = llama.get_parameter("model.layers.1.self_attn.o_proj.weight")
    assert torch.equal(model.get_parameter("global_transformer.layers.1.attention.out.weight"), expected)


def test_a_full_disk_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """safetensors says it in an exception of its own, which would end a command in a traceback. Nothing is left behind."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python sets it; a native library may have changed that
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            write_weights(tmp_path, {"weight": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert raised.value.filename == str(tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", ["missing", "a tensor less", "another shape", "no index"])
def test_weights_that_are_not_those_of_the_model_are_a_sentence(fault: str, tmp_path: Path) -> None:
    """As a copy that broke off leaves them."""
    model = build_model(plain_config(), seed=4)
    export(model, tmp_path)
    weights = dict(model.state_dict())
    name = next(iter(weights))
    if fault == "missing":
        (tmp_path / "model.safetensors").unlink()
    elif fault == "no index":
        (tmp_path / "model.safetensors.index.json").write_text("{")
    else:
        weights[name] = weights[name][1:]
        write_weights(tmp_path, {k: v for k, v in weights.items() if fault == "another shape" or k != name})
    with pytest.raises(DataError, match=str(tmp_path)):
        load(tmp_path)
