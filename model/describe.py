"""What a model costs: `python -m model.describe configs/model/1b.yaml` prints parameters, operations, caches and savings.

Two ways of counting stand side by side. *Structural*: every product of every module, attention included, at a context
length. *Per position*: parameters of the matrices times positions, attention left out, encoder and decoder wholly per
element: by this accounting the paper's "20 % less compute", which counts positions, is 16.6 % and 7.8 % (docs/model.md).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import yaml
from pydantic import Field

from schemas.commands.cli import Parser, command, count, positive, share
from schemas.config import StrictModel, load_config, parse_config

if TYPE_CHECKING:
    from model.cost.flops import ForwardWork
    from model.network.base import SpeechTextModel
    from model.network.config import ModelConfig

UNITS_PER_SECOND = 25


class Mix(StrictModel):
    """A stream of elements. The defaults are the paper's (Table 13): one third interleaved, p = 4, and so much speech that
    3.00 elements become its 2.42 latents (it prints the share as 0.77)."""

    interleaved: float = Field(default=1 / 3, ge=0, le=1)
    """Share of elements in interleaved documents; the rest is text."""
    speech: float = Field(default=0.58 / 0.75, ge=0, le=1)
    """Share of speech units among interleaved elements."""
    patch_size: float = Field(default=4.0, ge=1)
    """Mean units per patch."""
    context: int = Field(default=2048, ge=1)
    """Elements of a document, for the cost of attention."""

    @property
    def unit_share(self) -> float:
        """Units among all elements."""
        return self.interleaved * self.speech

    @property
    def latents_per_element(self) -> float:
        """2.42 / 3 for the paper's mix."""
        return 1 - self.unit_share + self.unit_share / self.patch_size


SPEECH_ONLY = Mix(interleaved=1, speech=1)
TEXT_ONLY = Mix(interleaved=0)


def count_mix(config: ModelConfig, mix: Mix) -> ForwardWork:
    """Expected counts per element of the mix, each element a target, in the middle of documents of `mix.context` elements."""
    from model.cost.flops import ForwardWork

    units, length = mix.unit_share, mix.context
    if config.kind == "plain":
        return ForwardWork(latents=1, text_rows=1 - units, unit_rows=units, global_pairs=_mean_reach(length, None))
    parts = config.patch_parts
    encoder, decoder, k = parts.encoder, parts.decoder, parts.vectors_per_patch
    latents, local, pooled, own = mix.latents_per_element, 1.0, mix.latents_per_element, 1 / mix.latents_per_element
    if config.text_path == "direct":
        local, pooled, own = units, units / mix.patch_size, mix.patch_size
    num_latents = max(1, round(length * latents))
    return ForwardWork(
        latents=latents,
        text_rows=1 - units,
        unit_rows=units,
        global_pairs=latents * _mean_reach(num_latents, None),
        local_elements=local,
        pooled_latents=pooled,
        encoder_pairs=local * _mean_reach(length, encoder.window),
        encoder_cross_pairs=pooled * k * own * _mean_reach(num_latents, encoder.cross_window),
        decoder_pairs=local * _mean_reach(length, decoder.window),
        decoder_cross_pairs=local * k * _mean_reach(num_latents, decoder.cross_window),
    )


def _mean_reach(length: int, window: int | None) -> float:
    """Keys per query of causal attention over `length` places, averaged over the queries."""
    reach = min(length, window or length)
    return (reach * (reach + 1) / 2 + (length - reach) * reach) / length


def saving_per_position(config: ModelConfig, mix: Mix) -> tuple[float, float]:
    """Share of the operations saved against (the same LST at patch size 1, the plain baseline), counted per position."""
    from model.cost.presets import empty_model, plain_like

    model, plain = empty_model(config), empty_model(plain_like(config))
    latent = _matrices(model, ("global_transformer", "latent_projection"))
    element = _matrices(model, ("encoder", "decoder")) + _head_matrices(model, mix)
    cost = mix.latents_per_element * latent + element
    return 1 - cost / (latent + element), 1 - cost / (
        _matrices(plain, ("global_transformer",)) + _head_matrices(plain, mix)
    )


def saving(config: ModelConfig, mix: Mix) -> tuple[float, float]:
    """As `saving_per_position`, structural."""
    from model.cost.flops import forward_flops
    from model.cost.presets import empty_model, plain_like

    model, plain = empty_model(config), plain_like(config)
    cost = forward_flops(model, count_mix(config, mix))
    unpatched = forward_flops(model, count_mix(config, mix.with_updates(patch_size=1)))
    return 1 - cost / unpatched, 1 - cost / forward_flops(empty_model(plain), count_mix(plain, mix))


def _matrices(model: SpeechTextModel, parts: Sequence[str]) -> int:
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if name.split(".")[0] in parts and parameter.ndim > 1
    )


def _head_matrices(model: SpeechTextModel, mix: Mix) -> float:
    used = {"joint": 1.0, "text": 1 - mix.unit_share, "units": mix.unit_share}
    return sum(used[share] * int(model.get_parameter(f"heads.{share}.output.weight").numel()) for share in model.heads)


def cache_bytes(config: ModelConfig, context: int, mix: Mix, bytes_per_value: int = 2) -> dict[str, int]:
    """Bytes of keys and values that one sequence of `context` elements holds in generation, part by part."""
    stack = config.global_transformer
    latents = context if config.kind == "plain" else round(context * mix.latents_per_element)
    entry = 2 * stack.kv_heads * stack.head_dim * bytes_per_value
    sizes = {"global transformer": stack.num_layers * latents * entry}
    for name, part in (("patch encoder", config.patch_encoder), ("patch decoder", config.patch_decoder)):
        if part is not None:
            entry = 2 * part.kv_heads * part.head_dim * bytes_per_value
            sizes[name] = part.num_layers * min(part.window, context) * entry
    if config.patch_decoder and config.vectors_per_patch:
        decoder = config.patch_decoder
        vectors = min(decoder.cross_window, latents) * config.vectors_per_patch
        sizes["patch decoder, latents"] = decoder.num_layers * vectors * 2 * decoder.dim * bytes_per_value
    return sizes


def describe(config: ModelConfig, mix: Mix) -> str:
    """Parameters, operations and memory of a model as the command prints them."""
    from model.cost.flops import flops_by_part
    from model.cost.presets import count_parameters, empty_model

    model = empty_model(config)
    total = count_parameters(config)
    lines = [f"{config.kind}: {total:,} parameters ({total / 1e9:.3f} B)", "", "Parameters"]
    for name, child in model.named_children():
        lines.append(f"  {name:<28}{sum(p.numel() for p in child.parameters()):>16,}")
    speech, text = (m.with_updates(context=mix.context, patch_size=mix.patch_size) for m in (SPEECH_ONLY, TEXT_ONLY))
    lines += ["", f"Forward operations, documents of {mix.context} elements (structural, attention included)"]
    per_unit, per_text = (flops_by_part(model, count_mix(config, m)) for m in (speech, text))
    lines.append(f"  {'':<28}{'per s of speech':>16}{'per text token':>16}")
    for part in per_unit:
        lines.append(f"  {part:<28}{per_unit[part] * UNITS_PER_SECOND:>16.4g}{per_text[part]:>16.4g}")
    lines.append(f"  {'in all':<28}{sum(per_unit.values()) * UNITS_PER_SECOND:>16.4g}{sum(per_text.values()):>16.4g}")
    lines += ["", f"Key-value cache of a sequence of {mix.context} elements of the mix, 2 bytes per value"]
    lines += [f"  {part:<28}{size:>16,}" for part, size in cache_bytes(config, mix.context, mix).items()]
    if config.kind == "lst":
        lines += ["", *_describe_savings(config, mix)]
    return "\n".join(lines)


def _describe_savings(config: ModelConfig, mix: Mix) -> list[str]:
    from model.cost.presets import matching_layers, plain_like

    positions, structural = saving_per_position(config, mix), saving(config, mix)
    counts = (count_mix(config, mix), count_mix(plain_like(config), mix))
    by_parameters, by_flops = (matching_layers(config, rule, counts) for rule in ("parameters", "flops"))
    layers = config.global_transformer.num_layers
    return [
        f"Operations saved on a mix of {mix.interleaved:.2f} interleaved ({mix.speech:.2f} speech), patch {mix.patch_size:g}",
        f"  {'sequence length':<44}{1 - mix.latents_per_element:>8.1%}",
        f"  {'against':<44}{'per position':>14}{'structural':>12}",
        f"  {'the same LST at patch size 1':<44}{positions[0]:>14.1%}{structural[0]:>12.1%}",
        f"  {f'the plain transformer of {layers} layers':<44}{positions[1]:>14.1%}{structural[1]:>12.1%}",
        f"  plain layers that match its parameters: {by_parameters}, its operations: {by_flops}",
    ]


def matched_yaml(config: ModelConfig, mix: Mix, match: Literal["parameters", "flops"]) -> str:
    """The configuration of the plain baseline whose number of layers comes nearest to LST's parameters or operations."""
    from model.cost.presets import match_plain, plain_like

    plain = match_plain(config, match, (count_mix(config, mix), count_mix(plain_like(config), mix)))
    text: str = yaml.safe_dump(plain.model_dump(exclude_none=True), sort_keys=False)
    return text


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Print a model's sizes and costs, or its matched plain baseline."""
    parser = Parser(__doc__)
    parser.add_argument("config", help="a YAML file of configs/model")
    parser.add_argument("overrides", nargs="*", help="such as patch_decoder.num_layers=6")
    parser.add_argument("--interleaved", type=share, default=1 / 3, help="share of elements in interleaved documents")
    parser.add_argument("--speech", type=share, default=0.58 / 0.75, help="share of units among interleaved elements")
    parser.add_argument("--patch-size", type=positive, default=4.0, help="mean units per patch")
    parser.add_argument("--context", type=count, default=2048, help="elements per document")
    parser.add_argument("--num-text", type=count, default=32000, help="text tokens, where the file gives no vocabulary")
    parser.add_argument("--num-units", type=count, default=502, help="units, where the file gives no vocabulary")
    parser.add_argument(
        "--match", choices=("parameters", "flops"), help="print instead the YAML of the plain baseline that matches"
    )
    given = parser.parse_args(arguments)
    from model.network.config import ModelConfig
    from model.network.vocabulary import Vocabulary

    config = load_config(ModelConfig, given.config, given.overrides)
    shares = {name: getattr(given, name) for name in ("interleaved", "speech", "patch_size", "context")}
    mix = parse_config(Mix, shares, "the mix")
    if config.vocabulary is None:
        config = config.with_vocabulary(Vocabulary(num_text=given.num_text, num_units=given.num_units))
    print(matched_yaml(config, mix, given.match) if given.match else describe(config, mix))
    return 0


if __name__ == "__main__":
    sys.exit(main())
