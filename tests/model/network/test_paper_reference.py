"""The model against an independent derivation of the published one, in plain loops over lists of floats.

Written from the description (paper section 3 and Table 7, the released code's behaviour as facts), not from our modules: it
shares with them the weights alone. Switched on for the comparison: `conditioning: paper`, windowed cross-attention, the doubled
cross-attention residual of the released code (h <- 2h + attention), which our model does not have.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from model.network.layers.blocks import CrossAttention
from model.network.lst import build_model
from tests.model.network.cases import make_batch, make_document, small_config

Vector = list[float]
Weights = dict[str, np.ndarray]


def matvec(matrix: np.ndarray, vector: Vector) -> Vector:
    return [sum(float(w) * x for w, x in zip(row, vector, strict=True)) for row in matrix]


def add(*vectors: Vector) -> Vector:
    return [sum(values) for values in zip(*vectors, strict=True)]


def norm(vector: Vector, gain: np.ndarray, eps: float = 1e-5) -> Vector:
    scale = 1 / math.sqrt(sum(x * x for x in vector) / len(vector) + eps)
    return [x * scale * float(g) for x, g in zip(vector, gain, strict=True)]


def rotated(head: Vector, position: int, theta: float) -> Vector:
    half = len(head) // 2
    out = list(head)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(head))
        out[i] = head[i] * math.cos(angle) - head[i + half] * math.sin(angle)
        out[i + half] = head[i + half] * math.cos(angle) + head[i] * math.sin(angle)
    return out


def heads_of(vector: Vector, num_heads: int) -> list[Vector]:
    width = len(vector) // num_heads
    return [vector[h * width : (h + 1) * width] for h in range(num_heads)]


def softmax_attention(query: Vector, keys: list[Vector], values: list[Vector]) -> Vector:
    scores = [sum(q * k for q, k in zip(query, key, strict=True)) / math.sqrt(len(query)) for key in keys]
    weights = [math.exp(score - max(scores)) for score in scores]
    total = sum(weights)
    return [sum(w * value[i] for w, value in zip(weights, values, strict=True)) / total for i in range(len(query))]


def block(states: list[Vector], w: Weights, prefix: str, num_heads: int, window: int, theta: float) -> list[Vector]:
    """Pre-norm causal self-attention over the last `window` rows, then SwiGLU; positions are row numbers."""
    dim = len(states[0])
    queries, keys, values = [], [], []
    for position, state in enumerate(states):
        projected = matvec(w[prefix + "attention.qkv.weight"], norm(state, w[prefix + "attention_norm.weight"]))
        queries.append([rotated(head, position, theta) for head in heads_of(projected[:dim], num_heads)])
        keys.append([rotated(head, position, theta) for head in heads_of(projected[dim : 2 * dim], num_heads)])
        values.append(heads_of(projected[2 * dim :], num_heads))
    out = []
    for i, state in enumerate(states):
        span = range(max(0, i - window + 1), i + 1)
        mixed: Vector = []
        for h in range(num_heads):
            mixed += softmax_attention(queries[i][h], [keys[j][h] for j in span], [values[j][h] for j in span])
        state = add(state, matvec(w[prefix + "attention.out.weight"], mixed))
        hidden = matvec(w[prefix + "feed_forward.gate_up.weight"], norm(state, w[prefix + "feed_forward_norm.weight"]))
        gate, up = hidden[: len(hidden) // 2], hidden[len(hidden) // 2 :]
        gated = [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up, strict=True)]
        out.append(add(state, matvec(w[prefix + "feed_forward.down.weight"], gated)))
    return out


def cross(query: Vector, sources: list[Vector], w: Weights, prefix: str, num_heads: int) -> Vector:
    """The released residual: the query is added by the module and by its caller."""
    if not sources:
        return add(query, query)
    dim = len(query)
    q = heads_of(matvec(w[prefix + "query.weight"], norm(query, w[prefix + "query_norm.weight"])), num_heads)
    projected = [matvec(w[prefix + "key_value.weight"], norm(s, w[prefix + "key_norm.weight"])) for s in sources]
    mixed: Vector = []
    for h in range(num_heads):
        keys = [heads_of(p[:dim], num_heads)[h] for p in projected]
        values = [heads_of(p[dim:], num_heads)[h] for p in projected]
        mixed += softmax_attention(q[h], keys, values)
    return add(query, query, matvec(w[prefix + "out.weight"], mixed))


def published_model(ids: list[int], patch_lengths: list[int], w: Weights, config: dict) -> list[Vector]:
    """Logits of each row but the last (whose next element does not exist), from ids and patch lengths alone."""
    enc, glob, dec, k = (
        config[n] for n in ("patch_encoder", "global_transformer", "patch_decoder", "vectors_per_patch")
    )
    patch_of = [p for p, length in enumerate(patch_lengths) for _ in range(length)]
    states = [[float(x) for x in w["embedding.weight"][i]] for i in ids]
    latents: list[list[Vector]] = []
    for layer in range(enc["num_layers"]):
        states = block(states, w, f"encoder.layers.{layer}.", enc["num_heads"], enc["window"], enc["rope_theta"])
        if layer == 0:  # cross_layers: all
            for patch in range(len(patch_lengths)):
                own = [states[i] for i in range(len(ids)) if patch_of[i] == patch]
                pooled = [max(column) for column in zip(*own, strict=True)]
                stacked = matvec(w["encoder.pool_projection.weight"], pooled)
                latents.append([stacked[j * enc["dim"] : (j + 1) * enc["dim"]] for j in range(k)])
        for patch, vectors in enumerate(latents):
            near = [states[i] for i in range(len(ids)) if patch - enc["cross_window"] < patch_of[i] <= patch]
            latents[patch] = [cross(v, near, w, f"encoder.cross_layers.{layer}.", enc["cross_heads"]) for v in vectors]
    latent_states = [
        matvec(w["latent_projection.weight"], [x for vector in vectors for x in vector]) for vectors in latents
    ]
    for layer in range(glob["num_layers"]):
        prefix = f"global_transformer.layers.{layer}."
        latent_states = block(latent_states, w, prefix, glob["num_heads"], len(latents), glob["rope_theta"])
    known = []
    for state in latent_states:
        stacked = matvec(w["decoder.latent_projection.weight"], state)
        known.append([stacked[j * dec["dim"] : (j + 1) * dec["dim"]] for j in range(k)])
    rows = states[:-1]  # row i predicts i + 1
    for layer in range(dec["num_layers"]):
        mixed = []
        for i, row in enumerate(rows):
            newest = patch_of[i + 1] - 1  # every patch strictly before the one that holds the next element
            near = [v for p in range(max(0, newest - dec["cross_window"] + 1), newest + 1) for v in known[p]]
            mixed.append(cross(row, near, w, f"decoder.cross_layers.{layer}.", dec["cross_heads"]))
        rows = block(mixed, w, f"decoder.layers.{layer}.", dec["num_heads"], dec["window"], dec["rope_theta"])
    head = "heads.joint."
    return [matvec(w[head + "output.weight"], norm(row, w[head + "norm.weight"])) for row in rows]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("policy_name", ["static", "aligned", "dynamic"])
def test_logits_equal_the_derivation_in_plain_loops(
    policy_name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(
        conditioning="paper", encoder__cross_window=3, decoder__cross_window=3, encoder__cross_layers="all"
    )
    model = build_model(config, seed=seed).double()
    with torch.no_grad():  # gains other than one, or the test could not see where they act
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(
                    0.5 + torch.rand(len(parameter), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
                )
    once = CrossAttention.forward
    monkeypatch.setattr(CrossAttention, "forward", lambda self, x, y, pattern: x + once(self, x, y, pattern))
    document = make_document(np.random.default_rng(seed), 22)
    batch = make_batch([document], policy_name)
    lengths = torch.bincount(batch.latent_id_N).tolist()
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    expected = published_model(document.ids.tolist(), lengths, weights, config.model_dump())
    with torch.no_grad():
        actual = model.logits(batch)[:-1]
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)
