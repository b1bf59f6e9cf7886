"""A trained model for transformers: `AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)`.

An exported folder holds this file and what it imports (`model.exchange.bundle` copies them), so nothing else of the project is
needed: torch, transformers, numpy, pydantic and pyyaml are. Ids are those of the joint vocabulary: 0 padding, 1 BOS, 2 EOS,
3 `<t>`, 4 `<s>`, then the text tokenizer's ids + 5, then the speech units. Padding stands at either end of a row.

Shape suffixes: B rows, L their length, N elements of all rows, V joint vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from transformers import PreTrainedModel
from transformers.configuration_utils import PretrainedConfig
from transformers.generation import GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import cached_file

from model.data.patching import BOUNDARIES, OnlinePatcher, PatchPolicyConfig
from model.network.batch import Batch
from model.network.config import ModelConfig
from model.network.lst import build_model
from model.network.vocabulary import BOS, EOS, PAD, SPEECH_MARK, TEXT_MARK, Vocabulary


class LstConfig(PretrainedConfig):
    """`model` as in our configurations; `patches`: which units share a patch where no alignment is known."""

    model_type = "latent_speech_text"

    def __init__(
        self, model: dict[str, Any] | None = None, patches: dict[str, Any] | None = None, **other: Any
    ) -> None:
        self.model, self.patches = model, patches
        other.setdefault("pad_token_id", PAD)
        other.setdefault("bos_token_id", BOS)
        other.setdefault("eos_token_id", EOS)
        super().__init__(**{**other, "use_cache": False, "tie_word_embeddings": False})


class DocumentGrammar(LogitsProcessor):
    """What may come next in a document: units after `<s>`, text tokens after `<t>`, the other mark where neither mark came just
    before, EOS once there is a mark; padding and BOS never."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` [B, V] of what follows `input_ids` [B, L], -inf where it may not."""
        allowed = torch.zeros_like(scores, dtype=torch.bool)
        for row, ids in zip(allowed, input_ids.tolist(), strict=True):
            modality = next((element for element in reversed(ids) if element in (TEXT_MARK, SPEECH_MARK)), None)
            if modality == TEXT_MARK:
                row[self._vocabulary.text_offset : self._vocabulary.unit_offset] = True
            elif modality == SPEECH_MARK:
                row[self._vocabulary.unit_offset :] = True
            row[EOS] = modality is not None
            for mark in (TEXT_MARK, SPEECH_MARK):
                row[mark] = mark != modality and ids[-1] not in (TEXT_MARK, SPEECH_MARK)
        return scores.masked_fill(~allowed, float("-inf"))


class LstForCausalLM(PreTrainedModel, GenerationMixin):
    """Logits of the next element, and `generate`. Every call reads its rows whole, so that the work of a continuation grows with
    its length squared. The project's own commands generate with caches."""

    config_class = LstConfig
    _no_split_modules = ("GlobalTransformer",)

    def __init__(self, config: LstConfig) -> None:
        super().__init__(config)
        network = build_model(ModelConfig.model_validate(config.model), seed=0)
        for name, child in network.named_children():  # under their own names, which are those of the weights' files
            self.add_module(name, child)
        self.__dict__["network"] = network
        self.policy = _policy(config)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """None are drawn: they are loaded."""

    def generate(self, inputs: torch.Tensor | None = None, **options: Any) -> Any:
        """As transformers has it, without a cache, over documents as they were trained on: `DocumentGrammar` applies. Rows of a
        batch are filled up with padding on the left."""
        processors = LogitsProcessorList(
            [DocumentGrammar(self.network.vocabulary), *options.pop("logits_processor", [])]
        )
        return super().generate(inputs, logits_processor=processors, **{**options, "use_cache": False})

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **_: Any) -> dict[str, Any]:
        """The rows whole: there is no cache."""
        return {"input_ids": input_ids}

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **_: Any) -> CausalLMOutput:
        """Logits [B, L, V] of what follows each element; -inf where the element's mark forbids a modality, 0 in padding.

        `labels` [B, L] as transformers has them: the same ids, -100 where there is no loss.
        """
        batch, place_N = self.pack(input_ids)
        logits_NV = self.network.logits(batch)
        logits = logits_NV.new_zeros(input_ids.numel(), logits_NV.shape[1])
        logits[place_N] = logits_NV
        logits = logits.view(*input_ids.shape, -1)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutput(loss=loss, logits=logits)

    def pack(self, input_ids: torch.Tensor) -> tuple[Batch, torch.Tensor]:
        """The rows as documents of one packed batch, and the place of each element in `input_ids` read as one row."""
        rows = input_ids.cpu().numpy()
        unit_offset, latents = self.network.vocabulary.unit_offset, 0
        columns: dict[str, list[Any]] = {"ids": [], "latent": [], "closed": [], "doc": [], "place": []}
        for number, row in enumerate(rows):
            patcher = OnlinePatcher(self.policy)
            filled = np.flatnonzero(row != PAD)
            for position in range(filled.min(initial=row.size), filled.max(initial=-1) + 1):
                element = int(row[position])
                begins, closed = patcher.observe(element, element >= unit_offset)
                latents += begins or position == filled[0]
                values = (element, latents - 1, closed, number, number * row.size + position)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
        tensors = {name: torch.tensor(column, device=input_ids.device) for name, column in columns.items()}
        first = torch.diff(tensors["doc"], prepend=tensors["doc"].new_full((1,), -1)) != 0
        batch = Batch(
            ids_N=tensors["ids"],
            is_unit_N=tensors["ids"] >= unit_offset,
            latent_id_N=tensors["latent"],
            closed_N=tensors["closed"],
            doc_id_N=tensors["doc"],
            loss_mask_N=~first,
            num_latents=latents,
        )
        return batch, tensors["place"]


def _policy(config: LstConfig) -> PatchPolicyConfig:
    """The patch policy; its boundaries, if it has any, lie beside the weights."""
    patches = dict(config.patches or {})
    if patches.get("policy") == "learned":
        patches["boundaries"] = cached_file(config.name_or_path, BOUNDARIES)
    policy: PatchPolicyConfig = TypeAdapter(PatchPolicyConfig).validate_python(patches)
    return policy
