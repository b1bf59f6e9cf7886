"""The loss without logits equals the loss with them, with its gradients, however it is cut and padded."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from model.network import head
from model.network.head import OutputHead
from model.network.layers import linear_nll
from model.network.vocabulary import Vocabulary


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("padded_to", [1, 64])
@pytest.mark.parametrize("chunk", [1, 3 * 64, 10**6])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_chunks_and_padding_change_nothing(
    padded_to: int, chunk: int, dtype: torch.dtype, tolerance: float, z_loss: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(11, 8, generator=generator), torch.randn(37, 8, generator=generator)
    target, scale = torch.randint(0, 37, (11,), generator=generator), torch.rand(11, generator=generator)
    monkeypatch.setattr(linear_nll, "CHUNK", chunk)
    monkeypatch.setattr(linear_nll, "_padded", lambda w: F.pad(w, (0, 0, 0, -len(w) % padded_to)))

    def by_logits(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = x @ weight.T
        return F.cross_entropy(logits, target, reduction="none"), torch.logsumexp(logits, dim=-1)

    def ours(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return linear_nll.linear_nll(x, weight, target, dtype)

    results = []
    for function in (by_logits, ours):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        nll, total = function(*leaves)
        loss = (nll * scale).sum() + (z_loss * total.square().sum() if z_loss else 0)
        results.append([nll.detach(), total.detach(), *torch.autograd.grad(loss, leaves)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=3 * tolerance)


def test_nothing_as_large_as_the_logits_is_kept() -> None:
    """What autograd saves of a large call: the rows, the weight and two numbers per row."""
    module = OutputHead(4, 1e-5, Vocabulary(num_text=900, num_units=9), "joint")
    torch.nn.init.normal_(module.output.weight)
    torch.nn.init.ones_(module.norm.weight)
    x, target = torch.randn(300, 4, requires_grad=True), torch.randint(0, 900, (300,))
    kept: list[int] = []
    with patch.object(head, "KEPT", 0):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
            nll = module.nll(x, target)
        assert max(kept) < 300 * 900 / 10
    torch.testing.assert_close(nll, module.nll(x, target))
    module.nll(x[:0], target[:0]).sum().backward()
