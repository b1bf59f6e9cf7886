"""A unit HiFi-GAN in the layout of the published checkpoints (random weights: no published ones are at hand)."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.voice.vocoder import UnitHiFiGAN, Vocoder, load_vocoder, read_vocoder_config
from schemas.config import ConfigError

CONFIG: dict[str, Any] = {
    "resblock": "1",
    "upsample_rates": [5, 4, 4, 2, 2, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4, 4, 4],
    "upsample_initial_channel": 64,
    "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3], [1, 3]],
    "num_embeddings": 20,
    "embedding_dim": 8,
    "model_in_dim": 8,
    "sampling_rate": 16000,
    "learning_rate": 0.0002,
    "dur_predictor_params": {"encoder_embed_dim": 8},
    "code_hop_size": 640,
}


def write_vocoder(folder: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """config.json and a torch checkpoint {"generator": ...} with weight norm; returns the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(1)
    state: dict[str, torch.Tensor] = {}
    for name, tensor in UnitHiFiGAN(read_vocoder_config(folder / "config.json")).state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator) * 0.3
        if name.endswith("weight") and name.split(".")[0] not in ("dict", "spkr"):
            state[name + "_v"] = drawn
            state[name + "_g"] = torch.rand(len(drawn), *[1] * (drawn.ndim - 1), generator=generator) + 0.5
        else:
            state[name] = drawn
    state["dur_predictor.conv1.0.weight"] = torch.zeros(3)
    torch.save({"generator": state}, folder / "g_00500000.pt")
    return state


def spoken_by_hand(
    state: dict[str, torch.Tensor], config: dict[str, Any], units: list[int], speaker: int | None
) -> torch.Tensor:
    """The generator from its raw tensors, in loops: HiFi-GAN's equations."""

    def weight(name: str) -> torch.Tensor:
        v = state[name + ".weight_v"].double()
        norms = torch.stack([row.flatten().norm() for row in v])
        return v / norms.view(-1, *[1] * (v.ndim - 1)) * state[name + ".weight_g"].double()

    def conv(x: torch.Tensor, name: str, dilation: int = 1) -> torch.Tensor:
        w = weight(name)
        return F.conv1d(
            x, w, state[name + ".bias"].double(), padding=(w.shape[2] - 1) // 2 * dilation, dilation=dilation
        )

    vectors = [state["dict.weight"][unit] for unit in units]
    if speaker is not None:
        vectors = [torch.cat([vector, state["spkr.weight"][speaker]]) for vector in vectors]
    x = conv(torch.stack(vectors, 1)[None].double(), "conv_pre")
    kernels = len(config["resblock_kernel_sizes"])
    for stage, (rate, kernel) in enumerate(zip(config["upsample_rates"], config["upsample_kernel_sizes"], strict=True)):
        bias = state[f"ups.{stage}.bias"].double()
        x = F.conv_transpose1d(F.leaky_relu(x, 0.1), weight(f"ups.{stage}"), bias, rate, (kernel - rate) // 2)
        total = torch.zeros_like(x)
        for number in range(kernels):
            y = x
            for layer, dilation in enumerate(config["resblock_dilation_sizes"][number]):
                block = f"resblocks.{stage * kernels + number}"
                if config["resblock"] == "1":
                    inner = conv(F.leaky_relu(y, 0.1), f"{block}.convs1.{layer}", dilation)
                    y = y + conv(F.leaky_relu(inner, 0.1), f"{block}.convs2.{layer}")
                else:
                    y = y + conv(F.leaky_relu(y, 0.1), f"{block}.convs.{layer}", dilation)
            total = total + y
        x = total / kernels
    return torch.tanh(conv(F.leaky_relu(x), "conv_post"))[0, 0]


@pytest.mark.parametrize(
    "changes, speaker", [({}, None), ({"resblock": "2", "multispkr": "vctk", "num_speakers": 3}, 2)]
)
def test_a_published_layout_speaks_as_the_equations_say(
    changes: dict[str, Any], speaker: int | None, tmp_path: Path
) -> None:
    config = {**CONFIG, **changes}
    state = write_vocoder(tmp_path, config)
    voice = Vocoder(load_vocoder(tmp_path / "config.json", tmp_path / "g_00500000.pt"), speaker or 0)
    units = [3, 3, 19, 0, 7]
    wave = voice(np.asarray(units, dtype=np.uint16))
    assert voice.hop == 640
    assert wave.shape == (len(units) * 640,)
    expected = spoken_by_hand(state, config, units, speaker)
    np.testing.assert_allclose(wave, expected.numpy(), atol=2e-5)
    assert wave.std() > 1e-3
    assert len(voice(np.zeros(0))) == 0


def test_what_is_not_such_a_vocoder_is_refused(tmp_path: Path) -> None:
    write_vocoder(tmp_path, CONFIG)
    config, weights = tmp_path / "config.json", tmp_path / "g_00500000.pt"
    voice = Vocoder(load_vocoder(config, weights))
    with pytest.raises(ConfigError, match="knows 20 units"):
        voice(np.asarray([20]))
    with pytest.raises(ConfigError, match="there is no number 1"):
        Vocoder(voice.model, 1)
    for change, message in (
        ({"f0": True}, "needs pitch"), ({"resblock": "3"}, "unknown"), ({"num_embeddings": 21}, "does not fit"),
    ):  # fmt: skip
        (tmp_path / "other.json").write_text(json.dumps({**CONFIG, **change}))
        with pytest.raises(ConfigError, match=message):
            load_vocoder(tmp_path / "other.json", weights)
    (tmp_path / "other.json").write_text(json.dumps({"sampling_rate": 16000}))
    with pytest.raises(ConfigError, match="lacks resblock"):
        read_vocoder_config(tmp_path / "other.json")
    marker = tmp_path / "executed"
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(_Evil(str(marker)), protocol=2))
    with pytest.raises(ConfigError, match="as plain tensors"):
        load_vocoder(config, tmp_path / "evil.pt")
    assert not marker.exists()


class _Evil:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"upsample_rates": "5,4"}, "upsample_rates"),
        ({"num_speakers": "many"}, "num_speakers"),
        ({"upsample_rates": [5, 4]}, "equally many"),
        (None, "cannot read the vocoder configuration"),
    ],
)
def test_a_configuration_of_odd_values_is_a_sentence(odd: dict[str, Any] | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("7" if odd is None else json.dumps({**CONFIG, **odd}))
    with pytest.raises(ConfigError, match=f"config.json.*{message}|{message}.*config.json"):
        read_vocoder_config(tmp_path / "config.json")
