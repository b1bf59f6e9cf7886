"""Attention that ends some frames away, for models that say so: a window with enough context then equals the whole file."""

from __future__ import annotations

from typing import Any

FIELD = "attention_reach"
"""The field of config.json: how many frames away each layer attends, on either side. Published models have none: they see all."""


def limit_attention(model: Any, reach: int) -> None:
    """Let every layer of a HubertModel attend to the frames at most `reach` away (and to itself), and to no padding."""
    bands: dict[int, Any] = {}

    def band(length: int, device: Any) -> Any:
        """bool [1, 1, length, length]; the last one is kept, for windows are equally long."""
        import torch

        if length not in bands:
            position = torch.arange(length, device=device)
            bands.clear()
            bands[length] = ((position[:, None] - position[None]).abs() <= reach)[None, None]
        return bands[length]

    def add_mask(
        _layer: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (hidden,) = inputs
        mask, padding = band(hidden.shape[1], hidden.device), kwargs.get("attention_mask")
        if padding is not None:
            mask = _both(mask, padding)
        return inputs, {**kwargs, "attention_mask": mask}

    for layer in model.encoder.layers:
        layer.register_forward_pre_hook(add_mask, with_kwargs=True)


def _both(band: Any, padding: Any) -> Any:
    """What both masks allow; `padding` is bool [B, 1, 1 or T, T], as scaled dot product attention takes it.

    Padded frames far from the audio may attend to themselves: without any key they would be NaN, and NaN times 0 reaches all.
    """
    import torch

    assert padding.dtype == torch.bool, "the mask of another implementation of attention"
    return (band & padding) | torch.eye(band.shape[-1], dtype=torch.bool, device=band.device)
