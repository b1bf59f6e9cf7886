"""The decoder of a Whisper model on its own, told the text: what it makes of each token, all tokens of several clips in one step.

Radford et al. 2022, section 2.2. Whisper transcribes token by token; where the text is there, the tokens before each are known
and a causal mask does the same. The tokens of all clips lie one after another (nothing is padded), so that the weights, which
are more than a clip's states, are read once for all of them.

Shapes: N tokens of all clips, T frames of a clip, H heads, K width of a head, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.networks.whisper.encoder import HEAD_WIDTH


class DecoderBlock(nn.Module):
    """A transformer layer that looks at the tokens before and at the sound; its norms come first."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.text_norm, self.sound_norm, self.network_norm = (nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.text_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q, self.kv, self.sound_out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x_ND: Tensor, lengths: Sequence[int], sounds: Sequence[Tensor]) -> Tensor:
        """[N, D], the tokens of each clip, and its sound [T, D] -> [N, D]."""
        x_ND = x_ND + self.text_out(self._text(self.qkv(self.text_norm(x_ND)), lengths))
        x_ND = x_ND + self.sound_out(self._sound(self.q(self.sound_norm(x_ND)), lengths, sounds))
        return x_ND + self.down(F.gelu(self.up(self.network_norm(x_ND))))

    def _text(self, qkv: Tensor, lengths: Sequence[int]) -> Tensor:
        """Attention to the tokens before: [N, 3 D] -> [N, D]."""
        parts = []
        for clip in qkv.view(len(qkv), 3, self.heads, HEAD_WIDTH).split(list(lengths)):
            q, k, v = clip.permute(1, 2, 0, 3)[:, None]
            parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1).flatten(1))
        return torch.cat(parts)

    def _sound(self, q_ND: Tensor, lengths: Sequence[int], sounds: Sequence[Tensor]) -> Tensor:
        """Attention to the sound: [N, D] -> [N, D].

        A clip has many frames and few tokens: the weights of keys and values are applied to what the tokens ask and to what
        they get instead of to every frame. Whisper's keys have no bias (and one would be the same for all frames).
        """
        keys, values = self.kv.weight.view(2, self.heads, HEAD_WIDTH, -1)
        asked_HND = q_ND.view(len(q_ND), self.heads, HEAD_WIDTH).transpose(0, 1) @ keys * HEAD_WIDTH**-0.5
        got = [
            (part.flatten(0, 1) @ sound.T).softmax(dim=-1) @ sound
            for part, sound in zip(asked_HND.split(list(lengths), dim=1), sounds, strict=True)
        ]
        got_HND = torch.cat([part.unflatten(0, (self.heads, -1)) for part in got], dim=1)
        return (got_HND @ values.transpose(1, 2)).transpose(0, 1).flatten(1) + self.kv.bias[-q_ND.shape[1] :]


class WhisperDecoder(nn.Module):
    """Embeddings, transformer layers and the last norm; the vocabulary's weights are the embeddings."""

    positions: Tensor

    def __init__(self, *, num_layers: int, width: int, inner: int, vocabulary: int, longest: int) -> None:
        super().__init__()
        self.sound_norm = nn.LayerNorm(width)  # the encoder's last: only the decoder sees what it gives
        self.embeddings = nn.Embedding(vocabulary, width)
        self.register_buffer("positions", torch.zeros(longest, width))
        self.blocks = nn.ModuleList(DecoderBlock(width, inner) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    @classmethod
    def load(cls, encoder: Mapping[str, np.ndarray], decoder: Mapping[str, np.ndarray]) -> WhisperDecoder:
        """The decoder in float32 with the weights of `read_ctranslate2`, of both parts. Embeddings, half of all, stay in the
        file's precision: float16 is widened exactly when a token is looked up.

        Raises:
            KeyError: a tensor is missing.
        """
        vocabulary, width = decoder["embeddings/weight"].shape
        made = cls(
            num_layers=sum(name.endswith("self_attention/layer_norm/gamma") for name in decoder),
            width=width,
            inner=len(decoder["layer_0/ffn/linear_0/weight"]),
            vocabulary=vocabulary,
            longest=len(decoder["position_encodings/encodings"]),
        )
        state = {
            "embeddings.weight": decoder["embeddings/weight"],
            "positions": decoder["position_encodings/encodings"],
            **_norm(encoder, "layer_norm", "sound_norm"),
            **_norm(decoder, "layer_norm", "norm"),
        }
        for index in range(len(made.blocks)):
            state |= _layer(decoder, f"layer_{index}/", f"blocks.{index}.")
        if decoder["embeddings/weight"].dtype == np.float16:
            made.embeddings.half()
        made.load_state_dict({name: torch.from_numpy(value.astype(np.float32)) for name, value in state.items()})
        return made

    def embedded(self, tokens_N: Tensor) -> Tensor:
        """Embeddings float32 [N, D] of tokens int64."""
        found: Tensor = self.embeddings(tokens_N)
        return found.float()

    def heard(self, states_TD: Tensor) -> Tensor:
        """The encoder's last states [T, D] as the layers look at them: [ceil(T / 2), D], means of two frames.

        Of right and exchanged words 40 ms tell as much as 20 (docs/decisions.md), for half the cost.
        """
        normed = self.sound_norm(states_TD)
        return F.avg_pool1d(normed.T, 2, ceil_mode=True).T.contiguous()

    def forward(self, texts: Sequence[Tensor], sounds: Sequence[Tensor]) -> Tensor:
        """The tokens int64 of each clip and what is `heard` of it -> [N, D]: by each, the next token is told."""
        lengths = [len(text) for text in texts]
        places = torch.cat([self.positions[:length] for length in lengths])
        x_ND = self.embedded(torch.cat(list(texts))) + places
        for block in self.blocks:
            x_ND = block(x_ND, lengths, sounds)
        last: Tensor = self.norm(x_ND)
        return last


def _layer(tensors: Mapping[str, np.ndarray], theirs: str, ours: str) -> dict[str, np.ndarray]:
    """A layer's tensors by the names of `DecoderBlock`."""
    linear = {
        "qkv": "self_attention/linear_0",
        "text_out": "self_attention/linear_1",
        "q": "attention/linear_0",
        "kv": "attention/linear_1",
        "sound_out": "attention/linear_2",
        "up": "ffn/linear_0",
        "down": "ffn/linear_1",
    }
    state = {
        f"{ours}{name}.{part}": tensors[f"{theirs}{place}/{part}"]
        for name, place in linear.items()
        for part in ("weight", "bias")
    }
    for name, place in {"text_norm": "self_attention", "sound_norm": "attention", "network_norm": "ffn"}.items():
        state |= _norm(tensors, f"{theirs}{place}/layer_norm", f"{ours}{name}")
    return state


def _norm(tensors: Mapping[str, np.ndarray], theirs: str, ours: str) -> dict[str, np.ndarray]:
    return {f"{ours}.weight": tensors[f"{theirs}/gamma"], f"{ours}.bias": tensors[f"{theirs}/beta"]}
