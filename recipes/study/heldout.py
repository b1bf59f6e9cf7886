"""Losses on documents that no run trains on: the same documents, whole, for every arm and seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from model.data.compose import Composer
from model.data.draws import generator
from model.data.packing import PackingConfig, Piece, pack, whole
from model.data.patching import assign_patches
from model.data.sources import TrainingData
from model.network.base import SpeechTextModel
from model.training.config import TrainConfig

SEED = 20251110
"""Of the held-out documents: which samples come first, and where interleaved ones change their modality."""
BATCH = 4096
"""Elements of a batch of whole documents."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The pieces of one arm, by kind of document, with the seconds of speech in them."""

    pieces: dict[str, list[Piece]]
    seconds: dict[str, float]


def open_held_out(config: TrainConfig, documents: int) -> HeldOut:
    """`documents` held-out documents of each kind, patched as at the end of the run."""
    corpus = TrainingData(config.data)
    composer = Composer(corpus.tokenizer, corpus.vocabulary, token_starts=False, unit_bpe=corpus.unit_bpe)
    pieces: dict[str, list[Piece]] = {}
    seconds: dict[str, float] = {}
    for source in corpus.sources(SEED, "validation"):
        total = source.order.total
        found = [d for i in range(min(documents, total)) for d in source.documents(i, composer)][:documents]
        rng = generator(SEED, "patches", source.name)
        pieces[source.name] = [whole(d, *assign_patches(config.patches, d, 1.0, rng)) for d in found]
        lengths = corpus.unit_bpe.lengths if corpus.unit_bpe is not None else None
        units = [d.ids[d.is_unit] - corpus.vocabulary.unit_offset for d in found]
        count = sum(len(u) if lengths is None else int(lengths[u].sum()) for u in units)
        seconds[source.name] = count * corpus.seconds_per_unit
    return HeldOut(pieces=pieces, seconds=seconds)


@torch.no_grad()
def losses(module: SpeechTextModel, held: HeldOut) -> dict[str, float]:
    """Nats per text token and bits per second of speech, in documents of one modality and in interleaved ones.

    Tokens include marks and EOS, which count as text. In `speech` documents only units count.
    """
    result: dict[str, float] = {}
    training = module.training
    module.eval()
    for kind, pieces in held.pieces.items():
        device = next(module.parameters()).device
        sums = torch.zeros(4, dtype=torch.float64, device=device)
        for group in _groups(pieces):
            config = PackingConfig(
                elements=max(4, sum(map(len, group))), latents=max(4, sum(p.num_latents for p in group)), min_piece=2
            )
            found = module(pack(group, config).to(device))
            sums += torch.stack([x.double() for x in (found.nll_text, found.nll_unit, found.num_text, found.num_unit)])
        nll_text, nll_unit, num_text, _ = sums.tolist()
        if kind != "speech":
            result[f"{kind}_nats_per_token"] = nll_text / num_text
        if kind != "text":
            result[f"{kind}_bits_per_second"] = nll_unit / math.log(2) / held.seconds[kind]
    module.train(training)
    return result


def choice_of_rate(found: dict[str, float]) -> float:
    """What a learning rate is chosen by, less is better: ln of text nats per token plus ln of speech bits per second."""
    return math.log(found["text_nats_per_token"]) + math.log(found["speech_bits_per_second"])


def _groups(pieces: list[Piece]) -> list[list[Piece]]:
    groups: list[list[Piece]] = []
    size = BATCH
    for piece in pieces:
        if size + len(piece) > BATCH:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += len(piece)
    return groups
