"""What a step on CUDA does to the host, seen without a card: tensors that have a device, a type and a shape, and no numbers.

Whatever would make the host wait for a number (`item`, `nonzero`, a mask as an index, a number as a size) raises on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from model.network import head
from model.network.batch import Batch
from model.network.config import ModelConfig
from model.network.layers import flex
from model.network.layout import derive
from model.network.lst import build_model
from tests.model.gpu.test_gpu import MODELS, batch_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def without_kernels(_kind: Any) -> Callable[..., torch.Tensor]:
    """Shapes of FlexAttention alone."""

    def attend(q_QHK: torch.Tensor, k_MHK: torch.Tensor, v_MHK: torch.Tensor, _mask: Any) -> torch.Tensor:
        return q_QHK + 0 * (k_MHK.sum() + v_MHK.sum())

    return attend


def on_card(config: ModelConfig) -> nn.Module:
    with torch.device("meta"):
        model = build_model(config, 0)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device="cuda")))
    return model


def placed(batch: Batch) -> Batch:
    return batch._each(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda"))


@pytest.mark.parametrize("kept", [head.KEPT, 0], ids=["logits kept", "head in chunks"])
@pytest.mark.parametrize("name", MODELS)
def test_no_number_is_asked_of_the_device(name: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layout, masks, forward pass and loss, z-loss and losses by source included, on every path."""
    monkeypatch.setattr(flex, "_compiled_flex", without_kernels)
    monkeypatch.setattr(head, "KEPT", kept)
    batch = batch_of()
    batch = replace(batch, source_N=torch.zeros_like(batch.ids_N), num_sources=2)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, on_device = on_card(MODELS[name]), placed(batch)
        sums = model(on_device, True)
    assert all(part is not None and part.device.type == "cuda" for part in sums)
    assert sums.nll_text.requires_grad


def test_such_a_question_would_be_seen() -> None:
    """Without the selections that the loader makes on the host, `text_path: direct` counts elements on the device."""
    batch = replace(batch_of(), selections=None)
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        pytest.raises((DataDependentOutputException, DynamicOutputShapeException)),
    ):
        derive(placed(batch), MODELS["direct"])
