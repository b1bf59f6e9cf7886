"""Long audio: windows with context against the whole file, one hour in one piece, and the memory both take.

The hour is the demo speech, laid end to end at levels that drift by 20 dB. Units are those of the tiny HuBERT and its 500
centroids. `whole file` is the same model without windows: on the first minutes, because its attention grows with the
square of the length.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.harness import Measurement, main
from pipeline.codebook.assign import Quantiser
from pipeline.codebook.folder import load_centroids
from pipeline.encode.hubert import HubertEncoder
from pipeline.encode.mfcc import MfccEncoder
from pipeline.networks.attention_reach import FIELD
from pipeline.networks.windows import plan_windows
from schemas.spec import HubertSpec, MfccSpec

ROOT = Path(__file__).resolve().parents[1]
MODEL, CENTROIDS, LAYER, HOP = ROOT / "assets" / "tiny-hubert", ROOT / "assets" / "tiny-kmeans-500", 4, 640
RATE, HOUR, WHOLE_SECONDS = 16_000, 3_600, 300
WINDOW, CONTEXT = 20.0, 5.0


def run() -> list[Measurement]:
    if not MODEL.is_dir():
        raise SystemExit(f"{MODEL} is missing: see recipes/tiny_models/README.md")
    return [*agreement_rows(MODEL), *hour_rows(MODEL)]


def speech(seconds: int) -> np.ndarray:
    """The demo's recordings end to end, again and again, with a level that swings by 20 dB every 97 s."""
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted((ROOT / "data" / "demo").glob("*.flac"))]
    line = np.resize(np.concatenate(clips), seconds * RATE)
    swing = 10 ** (0.5 * np.sin(np.arange(len(line), dtype=np.float32) * (2 * np.pi / (97 * RATE))) - 0.5)
    varying: np.ndarray = (line * swing).astype(np.float32)
    return varying


def opened(model: Path, window: float, context: float) -> HubertEncoder:
    encoder = HubertEncoder(
        HubertSpec(model=str(model), layer=LAYER, hop=HOP, window_seconds=window, context_seconds=context, device="cpu")
    )
    encoder.open()
    return encoder


def agreement_rows(model: Path) -> list[Measurement]:
    """The share of frames whose unit the windows change, and whether the seams are to blame.

    Attention over the whole file weighs all of it, so a window changes every frame a little; a seam that its context does not
    hide changes its neighbours more. Where attention ends after some frames (`attention_reach`), context can hold all that a
    frame depends on. `attention over everything` is the same weights without that limit: how published models run.
    """
    audio = speech(WHOLE_SECONDS)
    quantiser = Quantiser(load_centroids(CENTROIDS)[0])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for limited in (True, False):
            path = model if limited else without_reach(model, Path(folder) / "model")
            truth = quantiser.assign(opened(path, WHOLE_SECONDS, 0).encode(audio))
            for window, context in ((WINDOW, 0.0), (WINDOW, CONTEXT), (60.0, 20.0)):
                changed = quantiser.assign(opened(path, window, context).encode(audio)) != truth
                near = near_seams(len(truth), window)
                excess = 100 * (changed[near].mean() - changed[~near].mean())
                default = limited and context == CONTEXT
                name = f"windows of {window:g} s + {context:g} s each side"
                name += "" if limited else ", attention over everything"
                rows += [
                    Measurement(name=f"units that {name} change", value=100 * changed.mean(), unit="%",
                        rival=f"whole file of {WHOLE_SECONDS} s", rival_value=0.0, goal="< 0.5 %" if default else "",
                        holds=bool(changed.mean() < 0.005) if default else None),
                    Measurement(name=f"... more of them within 1 s of a seam than elsewhere, {name}", value=excess, unit="points",
                        goal="< 0.5" if default else "", holds=bool(excess < 0.5) if default else None),
                ]  # fmt: skip
    return rows


def without_reach(model: Path, folder: Path) -> Path:
    """A copy of the model whose layers attend to everything."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop(FIELD, None)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def near_seams(num_frames: int, window: float) -> np.ndarray:
    """bool [num_frames]: less than a second from where one window's frames give way to the next one's."""
    per_second = RATE // HOP
    near = np.zeros(num_frames, bool)
    for piece in plan_windows(num_frames, round(window * per_second), 0)[1:]:
        near[max(piece.keep_start - per_second, 0) : piece.keep_start + per_second] = True
    return near


def hour_rows(model: Path) -> list[Measurement]:
    """An hour in a process of its own, so that its peak of memory is its own."""
    rows = []
    for name in ("tiny HuBERT", "MFCC"):
        frames, seconds, peak, added = _in_a_process(name, HOUR, model)
        _, _, minute_peak, minute_added = _in_a_process(name, 60, model)
        expected = HOUR * RATE // HOP
        rows += [
            Measurement(name=f"{name}: frames of one hour", value=frames, unit="", rival="samples // hop", rival_value=expected,
                goal="equal", holds=frames == expected),
            Measurement(name=f"{name}: real-time factor, one thread", value=seconds / HOUR, unit="x"),
            Measurement(name=f"{name}: peak memory of the process, an hour in one file", value=peak, unit="MiB",
                rival="one minute", rival_value=minute_peak),
            Measurement(name=f"{name}: of which added by encoding (the features too)", value=added, unit="MiB",
                rival="one minute", rival_value=minute_added),
        ]  # fmt: skip
    return rows


def _in_a_process(name: str, seconds: int, model: Path) -> tuple[int, float, float, float]:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (name, seconds, model))


def _measure(name: str, seconds: int, model: Path) -> tuple[int, float, float, float]:
    """Frames, seconds taken, peak MiB while encoding, and how much of it was not there before."""
    import torch

    torch.set_num_threads(1)
    encoder = opened(model, WINDOW, CONTEXT) if name != "MFCC" else MfccEncoder(MfccSpec(hop=HOP))
    audio = speech(seconds)
    encoder.encode(audio[: 2 * RATE])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (Linux)
    before = _memory("VmRSS")
    start = time.perf_counter()
    frames = len(encoder.encode(audio))
    seconds_taken, peak = time.perf_counter() - start, _memory("VmHWM")
    return frames, seconds_taken, peak, peak - before


def _memory(field: str) -> float:
    """Resident MiB of this process now (VmRSS) or at its peak (VmHWM; getrusage's would start from the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


if __name__ == "__main__":
    main(run, __doc__)
