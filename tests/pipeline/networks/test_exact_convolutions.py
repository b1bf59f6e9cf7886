"""Grouped convolutions in bfloat16 on a CPU: right for every width, with oneDNN where that has them right."""

import pytest
import torch
from torch import nn

from pipeline.networks.exact_convolutions import exact_convolutions


@pytest.mark.parametrize(("channels", "around"), [(32, True), (64, False), (192, False)])
def test_every_width_is_right(channels: int, around: bool) -> None:
    """On a processor with AMX the narrow one is off by all that it computes, else."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(channels, channels, 16, padding=8, groups=4)).requires_grad_(False)
    waves = torch.randn(1, channels, 100)
    expected = model(waves)
    model.to(torch.bfloat16)
    with exact_convolutions(model, "cpu", torch.bfloat16):
        assert torch.backends.mkldnn.enabled is not around
        found = model(waves.bfloat16()).float()
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()
    with exact_convolutions(model, "cpu", torch.float32):
        assert torch.backends.mkldnn.enabled
