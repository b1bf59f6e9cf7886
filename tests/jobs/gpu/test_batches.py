"""The pipeline's part of a GPU's check, in small and on the processor."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from mmap import mmap
from pathlib import Path

import pytest

from jobs.gpu import batches, check
from jobs.gpu.batches import Watch, cut_up, demo_recordings, measure, peak_memory
from jobs.gpu.pieces import SPECS, Piece, pieces_of
from jobs.gpu.work import attempt
from model.gpu.apart import Result
from pipeline.source.audio import SourceAudio
from pipeline.units import UnitsStage
from schemas.arrow import Row
from schemas.audio import SAMPLE_RATE
from schemas.hearing import WhisperXSpec
from schemas.spec import HubertSpec, UnitsSpec
from schemas.tables import Units

WHISPER = Path("models/whisper-tiny.en")
TINY = HubertSpec(model="assets/tiny-hubert", layer=4, hop=640, device="cpu")
CENTROIDS = "assets/tiny-kmeans-100"


def hubert(**changes: object) -> Piece:
    return Piece(spec=TINY.model_copy(update=changes), centroids=CENTROIDS)


def test_each_network_is_measured_in_each_arithmetic_and_once_in_a_wide_batch() -> None:
    pieces = pieces_of(SPECS, "cuda")
    networks = {piece.network for piece in pieces.values()}
    assert {"HuBERT assets/tiny-hubert layer 4", "HuBERT facebook/hubert-base-ls960 layer 9"} < networks
    for network in networks:
        mine = [piece for piece in pieces.values() if piece.network == network]
        assert [piece.arithmetic for piece in mine[:3]] == ["float32", "float16", "bfloat16"]
        assert mine[-1].spec.batch_size == 32
    assert {piece.spec.device for piece in pieces.values()} == {"cuda"}
    assert not any("://" in (piece.centroids or "") for piece in pieces.values()), "nobody's bucket is asked"


def test_batches_of_hubert_are_the_stages_and_told_in_figures(tmp_path: Path) -> None:
    """In float32 they give the units of clips that go one by one, but for what rounding decides; bfloat16 is told from it."""
    whole = measure(hubert(), tmp_path, seconds=20, warm_up=2)
    assert whole["rows_per_forward"] * whole["forwards"] == whole["segments"]
    assert 1 < whole["rows_per_forward"] <= 4
    assert whole["disagreement"] == 0
    assert 0 < whole["waiting"] < 1
    assert whole["audio_seconds"] >= 20
    assert whole["codebook"] == CENTROIDS
    units = json.loads(next(tmp_path.glob("*/float32.json")).read_text())
    recordings = demo_recordings()
    stage = UnitsStage(UnitsSpec(encoder=TINY, centroids=CENTROIDS))
    stage.open()
    tables: dict[str, Sequence[Row]] = {"segments": cut_up(recordings, 20), "recordings": recordings}
    alone = {
        row.segment_id: row.units for row in stage.run(tables, SourceAudio("data/demo")).rows if isinstance(row, Units)
    }
    assert batches.OpenHubert.disagreement(units, alone) < 0.01
    half = measure(hubert(dtype="bfloat16", batch_size=32), tmp_path, seconds=20, warm_up=2)
    assert half["forwards"] == 1
    assert 0 < half["disagreement"] < 0.05


def test_a_network_without_its_codebook_is_compared_by_one_fitted_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = [row for row in demo_recordings() if row.num_samples_16k > 30 * SAMPLE_RATE][:1]
    monkeypatch.setattr(batches, "demo_recordings", lambda: recordings)
    piece = Piece(spec=TINY, centroids=str(tmp_path / "not-here"))
    figures = measure(piece, tmp_path, seconds=6, warm_up=2)
    assert figures["codebook"] == "100 units, fitted on data/demo"
    assert (tmp_path / "HuBERT-assets-tiny-hubert-layer-4" / "codebook" / "card.json").exists()


def test_missing_units_differ_and_words_are_counted() -> None:
    wanted = {"a": [1, 2, 3, 4], "b": [5, 6, 7, 8]}
    assert batches.OpenHubert.disagreement({"a": [1, 2, 3, 9]}, wanted) == pytest.approx(5 / 8)
    texts = {"a": "one two three four", "b": ""}
    assert batches.OpenWhisper.disagreement({"a": "one two tree four", "b": "x"}, texts) == pytest.approx(1 / 4)


@pytest.mark.skipif(not (WHISPER / "model.bin").exists(), reason="models/whisper-tiny.en is missing: run `make models`")
def test_batches_of_whisper(tmp_path: Path) -> None:
    spec = WhisperXSpec(
        model=str(WHISPER), language="en", beam_size=1, batch_size=2, compute_type="float32", device="cpu"
    )
    figures = measure(Piece(spec=spec), tmp_path, seconds=16, warm_up=1)
    assert figures["rows_per_forward"] * figures["forwards"] == figures["segments"]
    assert 1 < figures["rows_per_forward"] <= 2
    assert figures["disagreement"] == 0
    heard = " ".join(json.loads(next(tmp_path.glob("*/float32.json")).read_text()).values())
    assert len(heard.split()) > 10
    half = attempt(Piece(spec=spec.model_copy(update={"compute_type": "float16"})), tmp_path)
    assert half["status"] == "not run"
    assert "does not compute in float16" in half["why"]


def test_what_is_not_here_is_said_and_nothing_fails(tmp_path: Path) -> None:
    piece = Piece(spec=HubertSpec(model="nobody/has-this", layer=1, device="cpu"))
    result = attempt(piece, tmp_path)
    assert (result["name"], result["status"]) == (piece.name, "not run")
    assert "nobody/has-this" in result["why"]


def test_memory_and_waiting_are_those_of_the_work() -> None:
    mebibyte = bytes(1 << 20)
    with peak_memory("cpu") as peak, mmap(-1, 64 << 20) as block:  # malloc may have some left over from tests before
        for _ in range(64):
            block.write(mebibyte)
        deadline = time.monotonic() + 20
        while peak[0] <= 60 << 20 and time.monotonic() < deadline:  # until it was looked at once more
            time.sleep(0.01)
    assert 60 << 20 < peak[0] < 100 << 20
    watch = Watch()
    with watch.forward(3):
        time.sleep(0.02)
    assert watch.rows == [3]
    assert 0.02 <= watch.seconds < 1


WORK = """
import sys
from pathlib import Path
from model.gpu.apart import work_through
names, record = sys.argv[3:-1], Path(sys.argv[-1])
figures = {"rows_per_forward": 2.0, "forwards": 3, "audio_per_second": 9.5, "disagreement": None, "peak_mib": 1.0, "waiting": 0.5}
def result(name):
    if "HuBERT" in name:
        return {"name": name, "status": "passed", **figures}
    return {"name": name, "status": "not run", "why": "no weights"}
sys.exit(work_through(record, {name: (lambda name=name: result(name)) for name in names}))
"""


def test_a_rehearsal_measures_the_chosen_ones_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "python", lambda *given: [sys.executable, "-c", WORK, *given[2:]])
    only = ["--only", "tiny-hubert", "whisper-tiny.en, float32"]
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    assert check.main(["--rehearse", "--out", str(tmp_path), "--config", "configs/demo.yaml", *only]) == 0
    report: Result = json.loads((tmp_path / "gpu.json").read_text())
    assert [result["status"] for result in report["pipeline"]] == ["passed"] * 4 + ["not run"]
    assert not report["tests"]
    assert not report["measurements"]
    page = (tmp_path / "gpu.md").read_text()
    assert "rehearsal" in page
    assert "| HuBERT assets/tiny-hubert layer 4, float32, 4 rows | 2 | 3 | 9.5 | - | 1 | 0.5 |" in page
    assert "**not run**: no weights" in page
