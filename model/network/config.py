"""The configuration of a model: read from configs/model/*.yaml, complete before the first tensor is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from model.network.layers.backend import Backend
from model.network.vocabulary import Vocabulary
from schemas.config import StrictModel


class StackConfig(StrictModel):
    """A stack of transformer layers."""

    num_layers: int = Field(ge=1)
    """Transformer blocks."""
    dim: int = Field(ge=2)
    """Width of the residual stream."""
    num_heads: int = Field(ge=1)
    """Attention heads; they divide `dim`."""
    num_kv_heads: int | None = None
    """Fewer than `num_heads` shares keys and values between heads, as Llama 3 does; None: one each."""
    hidden_dim: int | None = None
    """Of the feed-forward; None: 8/3 of `dim`, rounded up to 256 (the released models)."""
    rope_theta: float = Field(gt=0)
    """Base of the rotary frequencies."""

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def ffn_dim(self) -> int:
        """Width of the feed-forward."""
        return self.hidden_dim or -(-8 * self.dim // (3 * 256)) * 256

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.num_heads

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.num_heads or self.head_dim % 2:
            raise ValueError(f"dim {self.dim} must be num_heads {self.num_heads} times an even head width")
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_kv_heads {self.kv_heads} must divide num_heads {self.num_heads}")
        return self


class LocalStackConfig(StackConfig):
    """The patch encoder or the patch decoder."""

    window: int = Field(ge=1)
    """Self-attention reaches this many elements, the current one included."""
    cross_heads: int = Field(ge=1)
    """Heads of the cross-attention."""
    cross_window: int = Field(ge=1)
    """Cross-attention reaches this many latents. 1: the patch's own elements (encoder), the newest latent (decoder)."""

    @model_validator(mode="after")
    def _cross_heads_divide(self) -> Self:
        if self.dim % self.cross_heads:
            raise ValueError(f"dim {self.dim} must be a multiple of cross_heads {self.cross_heads}")
        return self


class EncoderConfig(LocalStackConfig):
    """The patch encoder: local layers over elements, whose patches are pooled by cross-attention."""

    cross_layers: Literal["last", "all"]
    """Cross-attention after the last layer alone (the released BLT-1B) or after each (the released LST template)."""


class NgramConfig(StrictModel):
    """Embeddings of the last units, hashed (`model.network.layers.ngrams`)."""

    sizes: tuple[int, ...] = (3, 4, 5)
    """Units of each kind of n-gram."""
    buckets: int = Field(ge=1)
    """Vectors of each kind."""

    @model_validator(mode="after")
    def _sizes_are_n_grams(self) -> Self:
        if not self.sizes or min(self.sizes) < 1 or len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"sizes {list(self.sizes)} must be different numbers of units, such as [3, 4, 5]")
        return self


@dataclass(frozen=True, kw_only=True)
class PatchParts:
    """What an LST has and a plain model has not."""

    encoder: EncoderConfig
    decoder: LocalStackConfig
    vectors_per_patch: int


class ModelConfig(StrictModel):
    """A model: LST (three parts) or the plain transformer over the same elements.

    `kind: plain` has `global_transformer` alone. `vocabulary` comes from whoever knows the data (`with_vocabulary`).
    """

    kind: Literal["lst", "plain"]
    """The Latent Speech-Text Transformer, or the plain transformer over the same elements."""
    global_transformer: StackConfig
    """Over latents; of a plain model, over elements."""
    patch_encoder: EncoderConfig | None = None
    """From elements to latents."""
    patch_decoder: LocalStackConfig | None = None
    """From latents back to elements."""
    vectors_per_patch: int | None = None
    """LST: vectors of local width that make up a latent (the paper's k)."""
    conditioning: Literal["causal", "paper"] | None = None
    """LST: `causal` never looks at the element it predicts; `paper` is the published rule, which does
    (docs/patching.md)."""
    text_path: Literal["local", "direct"] | None = None
    """LST: `local` sends text through encoder and decoder (the released code), `direct` straight to the global part."""
    head: Literal["joint", "per_modality"]
    """One softmax over the joint vocabulary, or one per modality (specials are in both)."""
    norm_eps: float = 1e-5
    """Of every RMSNorm."""
    qk_norm: bool = False
    """Norm each head's queries and keys before they are rotated (self-attention alone), which bounds the scores."""
    ngrams: NgramConfig | None = None
    """Adds embeddings of the last units to that of each unit; null: none."""
    attention: Backend = "auto"
    """How attention is computed; auto: the fastest that the device has."""
    vocabulary: Vocabulary | None = None
    """Set by the data, not by hand."""

    def with_vocabulary(self, vocabulary: Vocabulary) -> ModelConfig:
        """A copy for this vocabulary."""
        return self.with_updates(vocabulary=vocabulary.model_dump())

    @property
    def patch_parts(self) -> PatchParts:
        """The parts around the global transformer.

        Raises:
            ValueError: a plain model has none.
        """
        if self.patch_encoder is None or self.patch_decoder is None or self.vectors_per_patch is None:
            raise ValueError(f"a model of kind {self.kind!r} has no patches")
        return PatchParts(
            encoder=self.patch_encoder, decoder=self.patch_decoder, vectors_per_patch=self.vectors_per_patch
        )

    @property
    def data_vocabulary(self) -> Vocabulary:
        """The vocabulary, once the data has set it.

        Raises:
            ValueError: it has not: the sizes of embedding and head are not known yet.
        """
        if self.vocabulary is None:
            raise ValueError("this model's configuration has no vocabulary: see `with_vocabulary`")
        return self.vocabulary

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        lst_only = ("patch_encoder", "patch_decoder", "vectors_per_patch", "conditioning", "text_path")
        given = [name for name in lst_only if getattr(self, name) is not None]
        if self.kind == "plain" and given:
            raise ValueError(f"kind 'plain' has no {', '.join(given)}; remove it or set kind: lst")
        if self.kind == "lst" and len(given) < len(lst_only):
            raise ValueError(f"kind 'lst' also needs {', '.join(name for name in lst_only if name not in given)}")
        if self.patch_encoder and self.patch_decoder and self.patch_encoder.dim != self.patch_decoder.dim:
            raise ValueError("patch_encoder.dim must equal patch_decoder.dim: the decoder takes the encoder's states")
        if self.text_path == "direct" and self.head == "joint":
            raise ValueError("text_path 'direct' predicts text outside the decoder and so needs head: per_modality")
        return self
