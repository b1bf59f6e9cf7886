"""Fairseq checkpoints: built and saved by fairseq itself, read without it, equal features. And what must be refused."""

import os
import pickle
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.encode.base import build_encoder
from pipeline.encode.fairseq_checkpoint import parse_conv_layers, read_fairseq_hubert
from schemas.config import ConfigError
from schemas.errors import ModelError
from schemas.spec import HubertSpec

CONVOLUTIONS = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
AUDIO = (np.random.default_rng(0).standard_normal(20_077) * 0.1).astype(np.float32)


def fairseq_hubert(large, convolutions):
    """A small random HuBERT of fairseq's own making, with its task."""
    from fairseq.data.dictionary import Dictionary
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel
    from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

    torch.manual_seed(3)
    model_config = HubertConfig(
        label_rate=50, extractor_mode="layer_norm" if large else "default", encoder_layers=3, encoder_embed_dim=32,
        encoder_ffn_embed_dim=64, encoder_attention_heads=4, conv_feature_layers=convolutions, conv_bias=large,
        layer_norm_first=large, final_dim=8, conv_pos=16, conv_pos_groups=4,
    )  # fmt: skip
    task_config = HubertPretrainingConfig(data="/nowhere", normalize=large, label_rate=50, labels=["km"])
    dictionary = Dictionary()
    for unit in range(10):
        dictionary.add_symbol(str(unit))
    return HubertModel(model_config, task_config, [dictionary]).eval(), model_config, task_config, dictionary


def save_with_fairseq(path, model, model_config, task_config, dictionary, style):
    """As fairseq's trainer writes it: `cfg` as plain containers or as OmegaConf, or only `args`, as before hydra."""
    from dataclasses import asdict

    from fairseq import checkpoint_utils
    from omegaconf import OmegaConf

    state = {"model": model.state_dict(), "task_state": {"dictionaries": [dictionary]}, "cfg": None, "args": None}
    config = {
        "model": {**asdict(model_config), "_name": "hubert"},
        "task": {**asdict(task_config), "_name": "hubert_pretraining"},
    }
    for section in config.values():
        for key, value in section.items():
            section[key] = getattr(value, "value", value) if not isinstance(value, str) else str(value)
    if style == "args":
        flat = {**config["task"], **config["model"], "arch": "hubert", "task": "hubert_pretraining"}
        flat.pop("_name")
        state["args"] = Namespace(**flat)
        del state["cfg"]
    else:
        state["cfg"] = OmegaConf.create(config) if style == "omegaconf" else config
    checkpoint_utils.torch_persistent_save(state, str(path))


@pytest.mark.parametrize(
    "large, style, extra",
    [(False, "cfg", ""), (True, "cfg", ""), (False, "args", ""), (True, "args", ""), (False, "omegaconf", ""),
     (False, "cfg", " + [(16,2,2)]")],
)  # fmt: skip
def test_features_equal_fairseqs(tmp_path, large, style, extra):
    """Base, large, before-hydra, OmegaConf and 25 Hz checkpoints, every layer, on padded and normalised audio."""
    pytest.importorskip("fairseq")
    model, *configs = fairseq_hubert(large, CONVOLUTIONS + extra)
    path = tmp_path / "hubert.pt"
    save_with_fairseq(path, model, *configs, style)
    wave = torch.from_numpy(AUDIO)
    if large:
        wave = torch.nn.functional.layer_norm(wave, wave.shape)
    source = torch.nn.functional.pad(wave, (40, 40))[None]
    for layer in (1, 2, 3):
        encoder = build_encoder(
            HubertSpec(format="fairseq", model=str(path), layer=layer, hop=640 if extra else 320, device="cpu")
        )
        encoder.open()
        with torch.inference_mode():
            expected, _ = model.extract_features(source, padding_mask=None, mask=False, output_layer=layer)
        features = encoder.encode(AUDIO)
        assert features.shape == (len(AUDIO) // encoder.hop, 32)
        np.testing.assert_allclose(features, expected[0].numpy(), atol=5e-6)


def test_reading_needs_no_fairseq(tmp_path):
    """A fresh interpreter in which importing fairseq or omegaconf fails reads the checkpoint."""
    pytest.importorskip("fairseq")
    model, *configs = fairseq_hubert(False, CONVOLUTIONS)
    save_with_fairseq(tmp_path / "hubert.pt", model, *configs, "omegaconf")
    code = (
        "import sys; sys.modules['fairseq'] = sys.modules['omegaconf'] = None\n"
        "from pathlib import Path\nfrom pipeline.encode.fairseq_checkpoint import read_fairseq_hubert\n"
        f"print(read_fairseq_hubert(Path({str(tmp_path / 'hubert.pt')!r})).conv_layers[0])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=120)
    assert done.stdout.strip() == "(16, 10, 5)", done.stderr


class Malicious:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_is_refused_and_nothing_runs(tmp_path, zipped):
    """In both of torch's file formats: the object that would make a folder on reading makes none."""
    witness = tmp_path / "witness"
    state = {"model": {"x": torch.zeros(1)}, "cfg": {"model": Malicious(witness)}}
    torch.save(state, tmp_path / "bad.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match="holds more than data"):
        read_fairseq_hubert(tmp_path / "bad.pt")
    assert not witness.exists()
    torch.load(tmp_path / "bad.pt", weights_only=False)  # ours: this shows that the file would have done it
    assert witness.exists()


def test_what_is_no_checkpoint_is_a_sentence(tmp_path):
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(ConfigError, match="was refused"):
        read_fairseq_hubert(tmp_path / "text.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="no fairseq model state"):
        read_fairseq_hubert(tmp_path / "other.pt")
    torch.save({"model": {}, "cfg": {"model": {"_name": "wav2vec2"}, "task": {}}}, tmp_path / "w2v.pt")
    with pytest.raises(ConfigError, match="'wav2vec2'; the encoder needs a HuBERT"):
        read_fairseq_hubert(tmp_path / "w2v.pt")
    with pytest.raises(ModelError, match="no fairseq checkpoint"):
        build_encoder(HubertSpec(format="fairseq", model=str(tmp_path / "none.pt"), layer=1)).card()
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"model": Malicious(tmp_path / "witness")}))
    with pytest.raises(ConfigError, match="was refused"):
        read_fairseq_hubert(tmp_path / "raw.pt")
    assert not (tmp_path / "witness").exists()


def test_convolutions_are_parsed_and_not_evaluated():
    assert parse_conv_layers("[(512,10,5)] + [(512,3,2)] * 2") == [(512, 10, 5), (512, 3, 2), (512, 3, 2)]
    for expression in ("__import__('os').mkdir('x')", "[(1,2)]", "[(1,2,3)] * 10000000", "", "[]", "3 * 4"):
        with pytest.raises(ConfigError, match="conv_feature_layers"):
            parse_conv_layers(expression)
