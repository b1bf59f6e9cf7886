"""Generation step by step: sequences, their caches and their patches, as one object.

Shape suffixes: B rows of the batch, V joint vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from model.data.patching import OnlinePatcher, PatchPolicyConfig
from model.inference.prefill import PatchedPrompt, prefill
from model.network.base import SpeechTextModel
from model.network.vocabulary import PAD


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
        packed: bool = True,
    ) -> None:
        """`packed` keeps a copy of the weights in oneDNN's layout (on CPU in fp32 and bf16; see `model.network.stepping`).

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
        self.num_latents_B = np.zeros(num_rows, dtype=np.int64)
        """Latents begun so far; an element each for the plain transformer."""
        self._used = False

    @property
    def num_global_steps_B(self) -> np.ndarray:
        """Steps of the global transformer: one for each latent that is complete."""
        steps_B: np.ndarray = self.state.global_transformer.num_latents_B
        return steps_B

    @torch.inference_mode()
    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """One more element per row (PAD: the row stands still); logits [B, V] of the element after it.

        Raises:
            ValueError: not one id per row, or an id outside the vocabulary.
        """
        if len(ids) != len(self.patchers):
            raise ValueError(f"feed one id per row: {len(self.patchers)} rows, {len(ids)} ids")
        vocabulary = self.model.vocabulary
        begins_B, closed_B = np.zeros(len(ids), dtype=bool), np.zeros(len(ids), dtype=bool)
        for row, element in enumerate(ids):
            if not 0 <= element < vocabulary.size:
                raise ValueError(f"row {row}: id {element} is outside the vocabulary of {vocabulary.size}")
            if element != PAD:
                begins_B[row], closed_B[row] = self.patchers[row].observe(element, element >= vocabulary.unit_offset)
        self._used = True
        ids_B = np.asarray(ids, dtype=np.int64)
        self.num_latents_B += ids_B != PAD if self.model.config.kind == "plain" else begins_B
        return self.model.step(self.state, ids_B, begins_B, closed_B)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Feed a prompt to each row; logits [B, V] after the last element of each. A session's first prompts are read in one
        packed pass, later ones element by element.

        Raises:
            ValueError: not one prompt per row, or an empty one.
        """
        if len(prompts) != len(self.patchers) or not all(prompts):
            raise ValueError(f"prefill needs a prompt of at least one element for each of {len(self.patchers)} rows")
        if self._used:
            return self.one_by_one(prompts)
        self._used = True
        read = [self._patched(row, prompt) for row, prompt in enumerate(prompts)]
        return prefill(self.model, self.state, read)

    def _patched(self, row: int, ids: Sequence[int]) -> PatchedPrompt:
        vocabulary, plain = self.model.vocabulary, self.model.config.kind == "plain"
        for element in ids:
            if element == PAD or not 0 <= element < vocabulary.size:
                raise ValueError(f"row {row}: id {element} is no element of the vocabulary of {vocabulary.size}")
        observed = [self.patchers[row].observe(element, element >= vocabulary.unit_offset) for element in ids]
        begins, closed = (np.array(flags, dtype=bool) for flags in zip(*observed, strict=True))
        latent_id = np.arange(len(ids)) if plain else np.cumsum(begins) - 1
        self.num_latents_B[row] = int(latent_id[-1]) + 1
        return PatchedPrompt(ids=np.asarray(ids, dtype=np.int64), latent_id=latent_id, closed=closed)

    def one_by_one(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """What `prefill` computes, element by element: the reference, and the way of a session that has begun."""
        last: dict[int, torch.Tensor] = {}
        for index in range(max(map(len, prompts))):
            logits_BV = self.feed([prompt[index] if index < len(prompt) else PAD for prompt in prompts])
            last |= {row: logits_BV[row] for row, prompt in enumerate(prompts) if index == len(prompt) - 1}
        return torch.stack([last[row] for row in range(len(prompts))])
