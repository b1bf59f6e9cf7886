"""Draw docs/assets/overview.png and overview-dark.png from the demo's shards: a few seconds of speech as waveform, words, units
and patches, and how LST reads them.

    make shards && python -m recipes.pictures.overview
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from jobs.reporting.strips import unit_colours
from pipeline.codebook.folder import load_centroids
from schemas.audio import PATCH_SILENCE, SAMPLE_RATE
from schemas.commands.cli import Parser, command
from schemas.reading.shard_reader import read_index, samples_of
from schemas.shards import SampleMeta, on_the_grid

ROOT = Path(__file__).resolve().parents[2]
WHITE = "#ffffff"


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of a picture; the dark one's paper is GitHub's."""

    ink: str
    muted: str
    paper: str
    word: str
    silence: str
    whole: str
    """Of the global transformer."""
    local: str


THEMES = {
    "overview.png": Theme(
        ink="#1d2733",
        muted="#5c6773",
        paper=WHITE,
        word="#2f6f9f",
        silence="#c3cbd3",
        whole="#1f4e79",
        local="#4d87b0",
    ),
    "overview-dark.png": Theme(
        ink="#e6edf3",
        muted="#9aa5b1",
        paper="#0d1117",
        word="#4b93c4",
        silence="#4a535e",
        whole="#2a6399",
        local="#3b6f96",
    ),
}


@dataclass(frozen=True, kw_only=True)
class DrawnWindow:
    """The frames of a sample that are drawn, everything in frames from its beginning."""

    hop: int
    audio: np.ndarray
    """float32 [frames * hop]"""
    units: np.ndarray
    words: list[tuple[str, int, int]]
    patches: list[tuple[int, int, int]]
    """(start, end, kind)"""


def read_window(index_path: Path, uri: str, seconds: float) -> DrawnWindow:
    """The first `seconds` of the recording `uri`, cut at the end of a patch.

    Raises:
        LookupError: no sample of the shards is of that recording, or it carries no audio.
    """
    index = read_index(str(index_path))
    for shard in index.shards:
        with open(index_path.parent / shard.path, "rb") as file:
            for sample in samples_of(file):
                meta = SampleMeta.model_validate(json.loads(sample.read("json")))
                if meta.uri == uri and "flac" in sample.members:
                    bounds = sample.array("patch.npy")
                    last = int(bounds[bounds <= seconds * SAMPLE_RATE / meta.hop][-1])
                    audio, _ = soundfile.read(io.BytesIO(sample.read("flac")), dtype="float32")
                    spans = zip(meta.words, sample.array("words.npy"), strict=True)
                    kinds = zip(bounds[:-1], bounds[1:], meta.patch_kind, strict=True)
                    return DrawnWindow(
                        hop=meta.hop,
                        audio=on_the_grid(meta, audio)[: last * meta.hop],
                        units=sample.array("units.npy")[:last],
                        words=[(meta.text[a:b], int(w[0]), int(w[1])) for (a, b), w in spans if w[1] <= last],
                        patches=[(int(a), int(b), kind) for a, b, kind in kinds if b <= last],
                    )
    raise LookupError(f"no sample of {uri} with audio under {index_path}: run `make shards` first")


def draw(window: DrawnWindow, colours: list[str], theme: Theme, path: Path) -> None:
    """Write the picture, in 128 colours: half the bytes, and no eye sees it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import FancyBboxPatch, Rectangle
    from PIL import Image

    frames = len(window.units)
    figure, axes = plt.subplots(figsize=(10.4, 6.6), dpi=160, facecolor=theme.paper)
    axes.set_xlim(-0.215 * frames, frames + 1.2)
    axes.set_ylim(0.2, 11.2)
    axes.axis("off")

    def label(y: float, name: str, detail: str) -> None:
        axes.text(-1, y + 0.19, name, ha="right", va="center", fontsize=14, color=theme.ink, weight="bold")
        axes.text(-1, y - 0.33, detail, ha="right", va="center", fontsize=9.5, color=theme.muted)

    columns = np.array_split(np.abs(window.audio), frames * 8)
    level = np.array([part.max() for part in columns]) / max(float(np.abs(window.audio).max()), 1e-6)
    x = np.linspace(0, frames, len(level))
    axes.fill_between(x, 10.1 - level, 10.1 + level, color=theme.muted, linewidth=0)
    label(10.1, "audio", "any file, 16 kHz inside")

    for text, start, end in window.words:
        axes.add_patch(Rectangle((start + 0.1, 8.25), end - start - 0.2, 0.22, color=theme.word, linewidth=0))
        axes.text((start + end) / 2, 8.66, text, ha="center", va="center", fontsize=12.5, color=theme.ink)
    label(8.45, "words", "WhisperX + alignment")

    for frame, unit in enumerate(window.units):
        axes.add_patch(Rectangle((frame + 0.04, 7.0), 0.92, 0.62, facecolor=colours[int(unit)], linewidth=0))
    label(7.3, "units", f"HuBERT + k-means, {SAMPLE_RATE // window.hop} a second")

    for start, end, kind in window.patches:
        colour = theme.silence if kind == PATCH_SILENCE else theme.word
        axes.add_patch(
            FancyBboxPatch(
                (start + 0.2, 5.75),
                end - start - 0.4,
                0.5,
                boxstyle="round,pad=0,rounding_size=0.2",
                facecolor=colour,
                linewidth=0,
            )
        )
        middle = (start + end) / 2
        for frame in range(start, end):
            axes.plot([frame + 0.5, middle], [6.95, 6.3], color=theme.muted, linewidth=0.35)
        for tip, tail in ((5.18, 5.7), (4.33, 4.7), (2.02, 2.95), (1.1, 1.5)):
            axes.annotate(
                "", (middle, tip), (middle, tail), arrowprops={"arrowstyle": "-|>", "color": theme.muted, "lw": 0.8}
            )
        axes.plot(middle, 3.65, "o", color=WHITE, markersize=6)
    label(6.0, "patches", "a word, a silence, or 4 units")

    def block(y: float, height: float, colour: str, text: str) -> None:
        axes.add_patch(
            FancyBboxPatch(
                (0, y), frames, height, boxstyle="round,pad=0,rounding_size=0.4", facecolor=colour, linewidth=0
            )
        )
        axes.text(frames / 2, y + height / 2, text, ha="center", va="center", fontsize=12, color=WHITE)

    block(4.72, 0.42, theme.local, "patch encoder: local attention, one latent per patch")
    axes.add_patch(
        FancyBboxPatch(
            (0, 3.0),
            frames,
            1.3,
            boxstyle="round,pad=0,rounding_size=0.5",
            facecolor=theme.whole,
            linewidth=0,
            zorder=0,
        )
    )
    share = len(window.patches) / frames
    axes.text(
        frames / 2,
        4.05,
        f"global transformer: {len(window.patches)} latents here instead of {frames} units",
        ha="center",
        va="center",
        fontsize=12,
        color=WHITE,
    )
    block(1.55, 0.42, theme.local, "patch decoder: each unit, from the latents closed before it")
    for frame, unit in enumerate(window.units[1:]):
        axes.add_patch(Rectangle((frame + 0.04, 0.45), 0.92, 0.62, facecolor=colours[int(unit)], linewidth=0))
    axes.text(frames - 0.5, 0.75, "?", ha="center", va="center", fontsize=14, weight="bold", color=theme.ink)
    label(3.65, "LST", f"attention at {share:.0%} of the length")
    label(0.76, "next units", "speech and text, one model")
    drawn = io.BytesIO()
    figure.savefig(drawn, bbox_inches="tight", pad_inches=0.12, facecolor=theme.paper)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the README's figure from a run's shards."""
    parser = Parser(__doc__)
    parser.add_argument("--shards", type=Path, default=ROOT / "runs/demo/shards/index.json", help="the demo's index")
    parser.add_argument(
        "--recording", default="sense_and_sensibility_0890.flac", help="which recording (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=2.9, help="how much of it (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/assets", help="the folder of both (default: docs/assets)"
    )
    given = parser.parse_args(arguments)
    centroids, _ = load_centroids(ROOT / "assets/tiny-kmeans-100")
    window = read_window(given.shards, given.recording, given.seconds)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, theme in THEMES.items():
        draw(window, unit_colours(len(centroids), centroids), theme, given.out / name)
        print(f"wrote {given.out / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
