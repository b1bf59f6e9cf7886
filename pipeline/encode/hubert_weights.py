"""HuBERT weights from the formats people have, all into transformers' HubertModel. No file's code is ever run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.encode.fairseq_checkpoint import FairseqHubert, read_fairseq_hubert
from pipeline.networks.attention_reach import FIELD, limit_attention
from pipeline.networks.model_files import model_directory, read_json, weight_hashes, whole_model
from pipeline.networks.resolver import Wanted, bundle_file, bundle_of, place_of
from pipeline.networks.windows import ConvGrid
from schemas.cards import hash_file
from schemas.config import ConfigError
from schemas.spec import HubertSpec

FIELD_OF_SPEC = "units.encoder.model"


@dataclass(frozen=True, kw_only=True)
class HubertFacts:
    """What is known of a model before its weights are loaded."""

    grid: ConvGrid
    num_layers: int
    dim: int
    normalise: bool
    """The waveform goes in with zero mean and unit variance: models with layer-normed convolutions (large) want that."""
    files: dict[str, str]
    """Name -> sha256."""


def hubert_facts(spec: HubertSpec) -> HubertFacts:
    """Facts from the model's own configuration.

    Raises:
        ConfigError: missing, unreadable, or not a HuBERT.
    """
    if spec.format == "hf":
        directory = model_directory(spec.model, FIELD_OF_SPEC)
        config = read_json(directory / "config.json")
        if config.get("model_type") != "hubert":
            raise ConfigError(
                f"{directory} holds a model of type {config.get('model_type')!r}; the encoder needs 'hubert'"
            )
        # Only models with layer-normed convolutions are asked: the published base models' preprocessor says that the waveform
        # is normalised, but neither fairseq nor any codebook does so (and group norm makes it nearly irrelevant).
        preprocessor = directory / "preprocessor_config.json"
        wanted = bool(read_json(preprocessor).get("do_normalize", True)) if preprocessor.is_file() else True
        return _facts(config, weight_hashes(directory), normalise=wanted)
    if spec.format == "torchaudio":
        bundle = _bundle(spec.model)
        bundle_file(bundle, FIELD_OF_SPEC)
        return _facts(_torchaudio_config(bundle._params), {bundle._path: "torchaudio"})
    checkpoint = _fairseq(spec)
    return _facts(_fairseq_config(checkpoint), {"checkpoint": hash_file(spec.model)})


def load_hubert(spec: HubertSpec, num_layers: int) -> Any:
    """transformers' HubertModel in float32 and evaluation mode, its last_hidden_state the output of layer `num_layers`.

    Raises:
        ConfigError: missing, unreadable, or weights that do not fit the configuration.
    """
    if spec.format == "hf":
        model = _from_directory(model_directory(spec.model, FIELD_OF_SPEC))
    elif spec.format == "torchaudio":
        bundle = _bundle(spec.model)
        bundle_file(bundle, FIELD_OF_SPEC)  # torchaudio would fetch it
        model = _build(_torchaudio_config(bundle._params), _rename(bundle.get_model().state_dict(), _TORCHAUDIO_NAMES))
    else:
        checkpoint = _fairseq(spec)
        model = _build(_fairseq_config(checkpoint), _rename(checkpoint.weights, _FAIRSEQ_NAMES))
    return _cut(model, num_layers)


def _cut(model: Any, num_layers: int) -> Any:
    """Keep the first layers. The norm after the last one belongs to pre-training's head, not to any layer's output."""
    import torch

    model.encoder.layers = model.encoder.layers[:num_layers]
    if model.config.do_stable_layer_norm:
        model.encoder.layer_norm = torch.nn.Identity()
    return model.eval().requires_grad_(False)


def _from_directory(directory: Path) -> Any:
    from transformers import HubertModel

    model = whole_model(HubertModel, directory, "they do not fit its config.json")
    reach = getattr(model.config, FIELD, None)
    if reach is not None:
        if not isinstance(reach, int) or reach < 0:
            raise ConfigError(f"{directory}/config.json: {FIELD} must be a number of frames, found {reach!r}")
        limit_attention(model, reach)
    return model


def _build(config: dict[str, Any], weights: dict[str, Any]) -> Any:
    from transformers import HubertConfig, HubertModel

    model = HubertModel(HubertConfig(**config))
    own = dict(model.state_dict())
    own.pop("masked_spec_embed", None)
    missing, unexpected = own.keys() - weights.keys(), weights.keys() - own.keys()
    if missing or unexpected:
        raise ConfigError(f"the checkpoint is not a HuBERT that is known here: {_some(sorted(missing or unexpected))}")
    wrong = [name for name in own if own[name].shape != weights[name].shape]
    if wrong:
        raise ConfigError(f"the checkpoint's weights do not fit its own configuration: {_some(wrong)}")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    return model


def _facts(config: dict[str, Any], files: dict[str, str], *, normalise: bool = True) -> HubertFacts:
    try:
        return HubertFacts(
            grid=ConvGrid.of(list(config["conv_kernel"]), list(config["conv_stride"])),
            num_layers=int(config["num_hidden_layers"]),
            dim=int(config["hidden_size"]),
            normalise=normalise and config["feat_extract_norm"] == "layer",
            files=files,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the model's configuration lacks or mangles {error}") from error


def _config(layers: list[tuple[int, int, int]], **other: Any) -> dict[str, Any]:
    """A HubertConfig's arguments; no dropout anywhere, for this model is only ever run."""
    silent = dict.fromkeys(
        ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop"), 0.0
    )
    return {
        "conv_dim": [width for width, _, _ in layers],
        "conv_kernel": [kernel for _, kernel, _ in layers],
        "conv_stride": [stride for _, _, stride in layers],
        "num_feat_extract_layers": len(layers),
        **silent,
        **other,
    }


def _torchaudio_config(params: dict[str, Any]) -> dict[str, Any]:
    usual = [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2
    layers = params["extractor_conv_layer_config"] or usual
    return _config(
        [tuple(layer) for layer in layers],
        feat_extract_norm="group" if params["extractor_mode"] == "group_norm" else "layer",
        conv_bias=params["extractor_conv_bias"],
        hidden_size=params["encoder_embed_dim"],
        num_hidden_layers=params["encoder_num_layers"],
        num_attention_heads=params["encoder_num_heads"],
        intermediate_size=params["encoder_ff_interm_features"],
        num_conv_pos_embeddings=params["encoder_pos_conv_kernel"],
        num_conv_pos_embedding_groups=params["encoder_pos_conv_groups"],
        do_stable_layer_norm=params["encoder_layer_norm_first"],
    )


def _fairseq_config(checkpoint: FairseqHubert) -> dict[str, Any]:
    model = checkpoint.model
    for key, wanted in (("layer_type", "transformer"), ("conv_pos_batch_norm", False), ("activation_fn", "gelu")):
        if model.get(key, wanted) != wanted:
            raise ConfigError(f"fairseq models with {key}={model[key]!r} are not supported (only {wanted!r})")
    normalise, norm = bool(checkpoint.task.get("normalize", False)), model.get("extractor_mode", "default")
    if normalise != (norm == "layer_norm"):
        raise ConfigError(f"a HuBERT with extractor_mode={norm} and normalize={normalise} is not known here")
    return _config(
        checkpoint.conv_layers,
        feat_extract_norm="group" if norm == "default" else "layer",
        conv_bias=model.get("conv_bias", False),
        hidden_size=model["encoder_embed_dim"],
        num_hidden_layers=model["encoder_layers"],
        num_attention_heads=model["encoder_attention_heads"],
        intermediate_size=model["encoder_ffn_embed_dim"],
        num_conv_pos_embeddings=model.get("conv_pos", 128),
        num_conv_pos_embedding_groups=model.get("conv_pos_groups", 16),
        do_stable_layer_norm=model.get("layer_norm_first", False),
    )


_POSITION = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
_TORCHAUDIO_NAMES = (
    (r"(?:model\.)?feature_extractor\.(.*)", r"feature_extractor.\1"),
    (r"(?:model\.)?encoder\.feature_projection\.(.*)", r"feature_projection.\1"),
    (r"(?:model\.)?encoder\.transformer\.pos_conv_embed\.conv\.weight_g", _POSITION + "0"),
    (r"(?:model\.)?encoder\.transformer\.pos_conv_embed\.conv\.weight_v", _POSITION + "1"),
    (r"(?:model\.)?encoder\.transformer\.(.*)", r"encoder.\1"),
)
_FAIRSEQ_NAMES = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.(.*)", r"feature_extractor.conv_layers.\1.conv.\2"),
    (r"feature_extractor\.conv_layers\.(\d+)\.2(?:\.1)?\.(.*)", r"feature_extractor.conv_layers.\1.layer_norm.\2"),
    (r"post_extract_proj\.(.*)", r"feature_projection.projection.\1"),
    (r"layer_norm\.(.*)", r"feature_projection.layer_norm.\1"),
    (r"encoder\.pos_conv\.0\.weight_g", _POSITION + "0"),
    (r"encoder\.pos_conv\.0\.weight_v", _POSITION + "1"),
    (r"encoder\.pos_conv\.0\.bias", "encoder.pos_conv_embed.conv.bias"),
    (r"encoder\.layer_norm\.(.*)", r"encoder.layer_norm.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.(.*)", r"encoder.layers.\1.attention.\2"),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(.*)", r"encoder.layers.\1.layer_norm.\2"),
    (r"encoder\.layers\.(\d+)\.fc1\.(.*)", r"encoder.layers.\1.feed_forward.intermediate_dense.\2"),
    (r"encoder\.layers\.(\d+)\.fc2\.(.*)", r"encoder.layers.\1.feed_forward.output_dense.\2"),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.(.*)", r"encoder.layers.\1.final_layer_norm.\2"),
)
_HEADS = re.compile(r"(mask_emb|final_proj\.|label_embs_concat|target_glu\.|aux\.|proj\.)")
"""Weights of pre-training and fine-tuning heads, which features do not need."""


def _rename(weights: dict[str, Any], rules: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    renamed = {}
    for name, tensor in weights.items():
        if _HEADS.match(name):
            continue
        for pattern, target in rules:
            if re.fullmatch(pattern, name):
                renamed[re.sub(pattern, target, name)] = tensor
                break
        else:
            raise ConfigError(f"the checkpoint holds a weight that no HuBERT has: {name}")
    return renamed


def _bundle(name: str) -> Any:
    bundle = bundle_of(name)
    if not hasattr(bundle, "_params"):
        raise ConfigError(
            f"torchaudio has no bundle {name!r}; HUBERT_BASE, HUBERT_LARGE and HUBERT_XLARGE are those meant here"
        )
    return bundle


def _fairseq(spec: HubertSpec) -> FairseqHubert:
    return read_fairseq_hubert(Path(place_of(Wanted(field=FIELD_OF_SPEC, form="fairseq", name=spec.model))))


def _some(names: list[Any]) -> str:
    return ", ".join(str(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
