"""Generation step by step: sequences, their caches and their patches, as one object.

Shape suffixes: B rows of the batch, V joint vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from model.interface import SpeechTextModel
from model.patching import OnlinePatcher, PatchPolicyConfig
from model.vocabulary import PAD


class Session:
    """Several sequences that grow side by side, each with its own patches.

    `policy` must need no alignment (static or dynamic; of mixed and curriculum the part that needs none). The model's
    conditioning must be causal: under the published rule a row would have to know the next element.
    """

    def __init__(
        self,
        model: SpeechTextModel,
        policy: PatchPolicyConfig,
        num_rows: int,
        capacity: int = 256,
        packed: bool = False,
    ) -> None:
        """
        Raises:
            ValueError: the policy needs alignment, or the model's conditioning is the published one.
        """
        if model.config.conditioning == "paper":
            raise ValueError(
                "conditioning 'paper' needs to know where the next patch begins; generate with a model trained with "
                "conditioning: causal"
            )
        self.model = model
        self.patchers = [OnlinePatcher(policy) for _ in range(num_rows)]
        self.state = model.make_state(num_rows, capacity, packed)

    @torch.inference_mode()
    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """One more element per row (PAD: the row stands still); logits [B, V] of the element after it.

        Raises:
            ValueError: not one id per row, or an id outside the vocabulary.
        """
        if len(ids) != len(self.patchers):
            raise ValueError(f"feed one id per row: {len(self.patchers)} rows, {len(ids)} ids")
        vocabulary = self.model.vocabulary
        begins, closed = [False] * len(ids), [False] * len(ids)
        for row, element in enumerate(ids):
            if not 0 <= element < vocabulary.size:
                raise ValueError(f"row {row}: id {element} is outside the vocabulary of {vocabulary.size}")
            if element != PAD:
                begins[row], closed[row] = self.patchers[row].observe(element, element >= vocabulary.unit_offset)
        return self.model.step(self.state, np.asarray(ids, dtype=np.int64), np.asarray(begins), np.asarray(closed))

    def prefill(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Feed a prompt to each row; logits [B, V] after the last element of each.

        Raises:
            ValueError: not one prompt per row, or an empty one.
        """
        if len(prompts) != len(self.patchers) or not all(prompts):
            raise ValueError(f"prefill needs a prompt of at least one element for each of {len(self.patchers)} rows")
        last: dict[int, torch.Tensor] = {}
        for index in range(max(map(len, prompts))):
            logits_BV = self.feed([prompt[index] if index < len(prompt) else PAD for prompt in prompts])
            last |= {row: logits_BV[row] for row, prompt in enumerate(prompts) if index == len(prompt) - 1}
        return torch.stack([last[row] for row in range(len(prompts))])
