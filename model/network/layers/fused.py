"""A whole layer for one row in one call: what a step of generation spends on small matrices is mostly calls into torch.

The same arithmetic as `model.network.stepping`, compiled by numba, in fp32 on CPU. Weights and caches are torch's own memory.

Shape suffixes: D width, F hidden width of the feed-forward, H query heads, G key-value heads, A = H + 2 G, K head width, T places
of the cache, J vectors that read the same keys.
"""

from __future__ import annotations

import numpy as np

from schemas.storage.compiled import compiled

FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}
"""Sums in any order; infinities stay what they are."""


_compiled = compiled(fastmath=FAST)


@_compiled
def _norm(x_D: np.ndarray, gain_D: np.ndarray, eps: float) -> np.ndarray:
    total = np.float32(0)
    for i in range(len(x_D)):
        total += x_D[i] * x_D[i]
    scale = np.float32(1 / np.sqrt(total / len(x_D) + eps))
    normed_D: np.ndarray = x_D * scale * gain_D
    return normed_D


@_compiled
def _add_product(weight_ED: np.ndarray, x_D: np.ndarray, out_E: np.ndarray) -> None:
    """out += W x, four rows at a time, so that x is read once for them."""
    rows, width = weight_ED.shape
    first = 0
    while first + 4 <= rows:
        w0, w1, w2, w3 = weight_ED[first], weight_ED[first + 1], weight_ED[first + 2], weight_ED[first + 3]
        s0 = s1 = s2 = s3 = np.float32(0)
        for i in range(width):
            s0 += w0[i] * x_D[i]
            s1 += w1[i] * x_D[i]
            s2 += w2[i] * x_D[i]
            s3 += w3[i] * x_D[i]
        out_E[first] += s0
        out_E[first + 1] += s1
        out_E[first + 2] += s2
        out_E[first + 3] += s3
        first += 4
    for row in range(first, rows):
        total = np.float32(0)
        for i in range(width):
            total += weight_ED[row, i] * x_D[i]
        out_E[row] += total


@_compiled
def _attend(
    q_K: np.ndarray, keys_KT: np.ndarray, values_TK: np.ndarray, used: int, scale: float, out_K: np.ndarray
) -> None:
    """Softmax attention of one query over the first `used` places."""
    scores_T = np.zeros(used, dtype=np.float32)
    for k in range(len(q_K)):
        q = q_K[k] * np.float32(scale)
        row_T = keys_KT[k]
        for t in range(used):
            scores_T[t] += q * row_T[t]
    largest = scores_T.max()
    total = np.float32(0)
    for t in range(used):
        scores_T[t] = np.exp(scores_T[t] - largest)
        total += scores_T[t]
    out_K[:] = 0
    for t in range(used):
        p = scores_T[t] / total
        value_K = values_TK[t]
        for k in range(len(out_K)):
            out_K[k] += p * value_K[k]


@_compiled
def block_step(
    x_D: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    eps: float,
    cos_K: np.ndarray,
    sin_K: np.ndarray,
    keys_GKT: np.ndarray,
    values_GTK: np.ndarray,
    place: int,
    used: int,
) -> np.ndarray:
    """A transformer layer, one element further: x [D] out; its key and value go to `place` of the cache.

    `weights`: attention_norm, qkv [A * K, D], out, feed_forward_norm, gate_up [2 F, D], down. `sin_K` has the sign of its half.
    """
    attention_norm_D, qkv_ED, out_DD, feed_forward_norm_D, gate_up_ED, down_DF = weights
    groups, width = keys_GKT.shape[0], keys_GKT.shape[1]
    heads = len(x_D) // width
    qkv_E = np.zeros(len(qkv_ED), dtype=np.float32)
    _add_product(qkv_ED, _norm(x_D, attention_norm_D, eps), qkv_E)
    qkv_AK = qkv_E.reshape(heads + 2 * groups, width)
    half = width // 2
    for a in range(heads + groups):
        for k in range(half):
            left, right = qkv_AK[a, k], qkv_AK[a, k + half]
            qkv_AK[a, k] = left * cos_K[k] + right * sin_K[k]
            qkv_AK[a, k + half] = right * cos_K[k + half] + left * sin_K[k + half]
    for g in range(groups):
        keys_GKT[g, :, place] = qkv_AK[heads + g]
        values_GTK[g, place] = qkv_AK[heads + groups + g]
    read_HK = np.empty((heads, width), dtype=np.float32)
    for h in range(heads):
        g = h // (heads // groups)
        _attend(qkv_AK[h], keys_GKT[g], values_GTK[g], used, 1 / np.sqrt(width), read_HK[h])
    y_D = x_D.copy()
    _add_product(out_DD, read_HK.reshape(-1), y_D)
    gate_up_E = np.zeros(len(gate_up_ED), dtype=np.float32)
    _add_product(gate_up_ED, _norm(y_D, feed_forward_norm_D, eps), gate_up_E)
    hidden = len(gate_up_E) // 2
    gated_F = np.empty(hidden, dtype=np.float32)
    for i in range(hidden):
        gate = gate_up_E[i]
        gated_F[i] = gate / (1 + np.exp(-gate)) * gate_up_E[hidden + i]
    _add_product(down_DF, gated_F, y_D)
    return y_D


@_compiled
def cross_step(
    x_JD: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray, np.ndarray],
    eps: float,
    keys_HKT: np.ndarray,
    values_HTK: np.ndarray,
    used: int,
) -> np.ndarray:
    """Cross-attention of J vectors over the first `used` places, with its residual: [J, D]. `weights`: query_norm, query, out."""
    query_norm_D, query_DD, out_DD = weights
    heads, width = keys_HKT.shape[0], keys_HKT.shape[1]
    y_JD = x_JD.copy()
    for j in range(len(x_JD)):
        q_D = np.zeros(heads * width, dtype=np.float32)
        _add_product(query_DD, _norm(x_JD[j], query_norm_D, eps), q_D)
        q_HK = q_D.reshape(heads, width)
        read_HK = np.empty((heads, width), dtype=np.float32)
        for h in range(heads):
            _attend(q_HK[h], keys_HKT[h], values_HTK[h], used, 1 / np.sqrt(width), read_HK[h])
        _add_product(out_DD, read_HK.reshape(-1), y_JD[j])
    return y_JD
