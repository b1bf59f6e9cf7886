"""What patches of words look like: the same word's patches lie close together (paper, Fig. 5).

    lst embeddings --checkpoint runs/lst --shards data/librilight/shards/index.json --out runs/embeddings
    lst embeddings --checkpoint runs/train-tiny --shards runs/demo/shards/index.json --out runs/embeddings \\
        --occurrences 4 --letters 3                                             what the demo's two minutes allow

Speech documents are patched by their words (aligned, silences apart), the patch encoder makes one latent of each, and words that
occur often enough are compared: cosine within a word and between words, silhouette, and a t-SNE picture. The same figures of the
untrained model (its own initialisation) stand beside, since pooling alone puts equal sounds together. docs/embeddings.md.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.data.patching import AlignedConfig
from model.inference.placement import add_placement, open_trained
from schemas.audio import PATCH_WORD
from schemas.commands.cli import Parser, begin, command, count, here, natural
from schemas.config import ConfigError

if TYPE_CHECKING:
    import torch

    from model.data.compose import Composer
    from model.data.document import Document
    from model.data.packing import Piece
    from model.data.shards import ShardSet
    from model.inference.trained import Trained
    from model.network.lst import LST

ALIGNED = AlignedConfig(policy="aligned", silence="separate", max_size=1000)
PAPER = {"within": 0.87, "between": 0.43, "silhouette": "0.65-0.68"}
"""Of the aligned model, as the paper gives them; which words and how many it does not say."""
BATCH = 8192
"""Elements of a batch of whole documents."""
FIRST_UNIT = 2
"""In a speech document, after BOS and the mark."""


@dataclass(frozen=True, kw_only=True)
class WordVectors:
    """Patches of words."""

    texts: list[str]
    """Of each patch."""
    vectors: np.ndarray
    """float32 [patches, k * D]: what the patch encoder hands to the global transformer."""


def spoken_words(shards: ShardSet, composer: Composer, voice: str = "") -> Iterator[tuple[Document, dict[int, str]]]:
    """Each segment of the samples whose key or path contains `voice` as a speech document, and the word that begins at an element
    wherever its patch is that word alone."""
    from model.data.compose import segments_of

    for shard, members in enumerate(shards.counts):
        for number in range(members):
            sample = shards.read(shard, number)
            if voice not in sample.meta.uri and voice not in sample.meta.key:
                continue
            for utterance in segments_of(sample):
                if not len(utterance.units):
                    continue
                starts = {}
                for (a, b), (first, last) in zip(utterance.char_spans, utterance.words.tolist(), strict=True):
                    whole_patch = (
                        last > first and utterance.patch_start[first] and utterance.patch_kind[first] == PATCH_WORD
                    )
                    if whole_patch and not utterance.patch_start[first + 1 : last].any():
                        starts[FIRST_UNIT + first] = normalise(utterance.text[a:b])
                yield composer.speech(utterance), starts


def normalise(word: str) -> str:
    """Lower case, without punctuation at its edges."""
    return re.sub(r"^\W+|\W+$", "", word.lower())


def embed_words(module: LST, documents: list[tuple[Document, dict[int, str]]]) -> WordVectors:
    """The patch encoder's latents of all word patches, documents in order."""
    from model.data.packing import whole
    from model.data.patching import assign_patches

    texts: list[str] = []
    vectors: list[np.ndarray] = []
    pieces, labels, size = [], [], 0
    rng = np.random.default_rng(0)  # an aligned policy draws nothing
    for number, (document, starts) in enumerate(documents):
        pieces.append(whole(document, *assign_patches(ALIGNED, document, 1.0, rng)))
        labels.append(starts)
        size += len(document.ids)
        if size >= BATCH or number == len(documents) - 1:
            for found, latents in zip(labels, _encode(module, pieces), strict=True):
                for element, text in found.items():
                    texts.append(text)
                    vectors.append(latents[element])
            pieces, labels, size = [], [], 0
    return WordVectors(texts=texts, vectors=np.asarray(vectors, dtype=np.float32))


def _encode(module: LST, pieces: list[Piece]) -> list[np.ndarray]:
    """For each piece, the latent of the patch that each of its elements lies in: [elements, k * D]."""
    import torch

    from model.data.packing import PackingConfig, pack

    config = PackingConfig(elements=sum(map(len, pieces)), latents=sum(p.num_latents for p in pieces), min_piece=2)
    batch = pack(pieces, config).to(next(module.parameters()).device)
    kept: list[torch.Tensor] = []
    places: list[torch.Tensor] = []

    def keep(_: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        kept.append(output[1].float().cpu())
        pooled = inputs[1].pooled_S
        places.append(torch.arange(len(output[1])) if pooled is None else pooled.cpu())

    handle = module.encoder.register_forward_hook(keep)
    try:
        with torch.no_grad():
            module(batch)
    finally:
        handle.remove()
    latents = torch.zeros(batch.num_latents, kept[0].shape[1]).index_copy(0, places[0], kept[0]).numpy()
    firsts = np.cumsum([0] + [piece.num_latents for piece in pieces])
    return [latents[piece.latent_id + first] for piece, first in zip(pieces, firsts[:-1].tolist(), strict=True)]


def choose(words: WordVectors, num_words: int, occurrences: int, min_letters: int) -> WordVectors:
    """The `num_words` most frequent words with enough letters, `occurrences` patches of each, drawn without replacement.

    Raises:
        ConfigError: fewer than two words occur so often, or one patch of a word is to be compared with itself.
    """
    from model.data.draws import generator

    if occurrences < 2:
        raise ConfigError("--occurrences 1 leaves nothing to compare within a word", "give 2 or more")
    counts = Counter(text for text in words.texts if len(text) >= min_letters)
    frequent = [
        text for text, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= occurrences
    ]
    if len(frequent) < 2:
        most = counts.most_common(2)
        raise ConfigError(
            f"{len(frequent)} words of at least {min_letters} letters occur {occurrences} times or more, and two are needed: "
            + (f"lower --occurrences to {most[1][1]} or less" if len(most) > 1 else "lower --letters")
            + ", or give more speech"
        )
    places: list[int] = []
    for text in frequent[:num_words]:
        found = [i for i, other in enumerate(words.texts) if other == text]
        drawn = generator(0, "embeddings", text).permutation(len(found))[:occurrences]
        places += [found[i] for i in sorted(drawn.tolist())]
    return WordVectors(texts=[words.texts[i] for i in places], vectors=words.vectors[places])


def cosines(words: WordVectors) -> tuple[float, float]:
    """Mean cosine over all pairs of patches of one word (averaged over words), and over all pairs of different words."""
    unit = words.vectors / np.linalg.norm(words.vectors, axis=1, keepdims=True)
    labels = np.unique(words.texts, return_inverse=True)[1]
    products = (unit @ unit.T).astype(np.float64)
    same = labels[:, None] == labels[None, :]
    off = ~np.eye(len(labels), dtype=bool)
    within = [products[np.ix_(labels == n, labels == n)] for n in range(labels.max() + 1)]
    means = [(found.sum() - np.trace(found)) / (len(found) * (len(found) - 1)) for found in within if len(found) > 1]
    return float(np.mean(means)), float(products[~same & off].mean())


def figures(words: WordVectors) -> dict[str, float]:
    """Cosine within and between words, and the silhouette (cosine distance)."""
    from sklearn.metrics import silhouette_score

    within, between = cosines(words)
    silhouette = float(silhouette_score(words.vectors, words.texts, metric="cosine"))
    return {"within": within, "between": between, "silhouette": silhouette}


def draw(words: WordVectors, out: Path) -> None:
    """A t-SNE picture, one colour a word, its name at its middle."""
    import matplotlib
    from sklearn.manifold import TSNE

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    perplexity = min(30.0, (len(words.texts) - 1) / 3)
    unit = words.vectors / np.linalg.norm(words.vectors, axis=1, keepdims=True)
    xy = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=0).fit_transform(unit)
    figure, axis = plt.subplots(figsize=(7, 6), layout="constrained")
    names = list(dict.fromkeys(words.texts))
    labels = np.asarray(words.texts)
    colours = plt.get_cmap("hsv")(np.linspace(0, 0.95, len(names)))
    for name, colour in zip(names, colours, strict=True):
        points = xy[labels == name]
        axis.scatter(points[:, 0], points[:, 1], s=6, color=colour, alpha=0.6, linewidths=0)
        axis.annotate(name, np.median(points, axis=0), ha="center", fontsize=8)
    axis.set(xticks=[], yticks=[], title="t-SNE of word patches (patch encoder)")
    figure.savefig(out, dpi=90)
    plt.close(figure)


def measure(
    trained: Trained, shards: ShardSet, num_words: int, occurrences: int, min_letters: int, voice: str = ""
) -> tuple[dict[str, Any], WordVectors]:
    """Figures of the trained and of the untrained model over the same patches, and the trained model's patches.

    Raises:
        ConfigError: the model has no patches, reads other units, or no words occur often enough.
    """
    from model.network.lst import LST, build_model

    module = trained.module
    if not isinstance(module, LST):
        raise ConfigError("the plain baseline has no patches, so it has no embeddings of words")
    if module.vocabulary.num_units != shards.index.num_units:
        raise ConfigError(
            f"the model reads {module.vocabulary.num_units} units and the shards have {shards.index.num_units}: give the "
            "shards of its training data"
        )
    untrained = build_model(module.config, trained.config.seed).to(next(module.parameters())).eval()
    assert isinstance(untrained, LST)
    documents = list(spoken_words(shards, trained.composer(), voice))
    chosen = choose(embed_words(module, documents), num_words, occurrences, min_letters)
    result = {
        "words": list(dict.fromkeys(chosen.texts)),
        "patches": len(chosen.texts),
        "trained": figures(chosen),
        "untrained": figures(choose(embed_words(untrained, documents), num_words, occurrences, min_letters)),
        "paper": PAPER,
        "step": trained.step,
        "policy": trained.config.patches.policy,
        "voice": voice or "all",
    }
    return result, chosen


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Embed the patches of words and print how they cluster."""
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="a run's output_dir, or one of its checkpoints")
    parser.add_argument("--shards", required=True, help="index.json of speech shards made with the model's units")
    parser.add_argument("--out", type=here, required=True, help="folder for embeddings.json and embeddings.png")
    parser.add_argument("--words", type=count, default=25, help="at most so many words (default: %(default)s)")
    parser.add_argument("--occurrences", type=count, default=30, help="patches of each (default: %(default)s)")
    parser.add_argument("--letters", type=natural, default=4, help="shorter words are left out (default: %(default)s)")
    parser.add_argument("--voice", default="", metavar="NAME", help="only recordings with this in their path")
    add_placement(parser)
    given = parser.parse_args(arguments)
    begin(f"loading {given.checkpoint}")
    from model.data.shards import ShardSet
    from model.data.sources import command_cache

    trained = open_trained(given.checkpoint, given.device, given.dtype)
    shards = ShardSet(given.shards, command_cache(trained.config.data, given.shards))
    result, words = measure(trained, shards, given.words, given.occurrences, given.letters, given.voice)
    given.out.mkdir(parents=True, exist_ok=True)
    draw(words, given.out / "embeddings.png")
    (given.out / "embeddings.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name in ("trained", "untrained", "paper"):
        found = result[name]
        silhouette = found["silhouette"]  # the paper gives a range
        shown = silhouette if isinstance(silhouette, str) else f"{silhouette:.4g}"
        print(f"{name:<10} within {found['within']:<8.4g} between {found['between']:<8.4g} silhouette {shown}")
    print(
        f"wrote {given.out}/embeddings.json and embeddings.png: {result['patches']} patches of {len(result['words'])} words"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
