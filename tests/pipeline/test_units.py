"""The units stage: exact frames, neighbours that do not matter, rejects with a reason."""

import numpy as np
import pytest

from pipeline.codebook.folder import kmeans_card, write_centroids
from pipeline.units import UnitsStage, tokenizer_card
from schemas.cards import Card
from schemas.config import ConfigError
from schemas.spec import MfccSpec, UnitsSpec
from schemas.tables import Recording, Segment, segment_id

GENERATOR = np.random.default_rng(0)


class Reader:
    def __init__(self, audio):
        self.audio = audio

    def read(self, recording, channel=-1):
        return self.audio[recording.recording_id]


def recording(name, samples):
    return Recording(
        recording_id=name, uri=f"{name}.wav", source="test", bytes=1, sha256=name, codec="PCM_16", sample_rate=16_000,
        channels=1, num_samples=samples, num_samples_16k=samples,
    )  # fmt: skip


def segment(name, start, end):
    return Segment(
        segment_id=segment_id(name, start, end), recording_id=name, channel=-1, start=start, end=end, speech_prob=1.0,
        cut_reason="end",
    )  # fmt: skip


@pytest.fixture
def stage(tmp_path):
    centroids = GENERATOR.standard_normal((30, 39)).astype(np.float32) * 10
    write_centroids(tmp_path / "km", centroids, kmeans_card("test", centroids, {}))
    unit_stage = UnitsStage(UnitsSpec(encoder=MfccSpec(hop=640), centroids=str(tmp_path / "km")))
    unit_stage.open()
    yield unit_stage
    unit_stage.close()


AUDIO = {name: GENERATOR.standard_normal(48_000).astype(np.float32) * 0.1 for name in "ab"}
RECORDINGS = [recording(name, 48_000) for name in "ab"]


def test_units_have_one_frame_per_hop_and_do_not_depend_on_neighbours(stage):
    segments = [segment("a", 0, 16_000), segment("a", 16_000, 33_333), segment("b", 7, 47_999)]
    together = stage.run({"segments": segments, "recordings": RECORDINGS}, Reader(AUDIO))
    assert not together.rejects
    for row, item in zip(together.rows, segments, strict=True):
        assert row.num_frames == len(row.units) == (item.end - item.start) // 640
        alone = stage.run({"segments": [item], "recordings": RECORDINGS}, Reader(AUDIO))
        assert alone.rows == [row]
    assert {row.tokenizer for row in together.rows} == {stage.cards()[-1].card_id}


def test_each_segment_ends_in_rows_or_rejects(stage):
    segments = [segment("a", 0, 639), segment("a", 640, 1280), segment("b", 40_000, 60_000)]
    result = stage.run({"segments": segments, "recordings": RECORDINGS}, Reader(AUDIO))
    assert [row.segment_id for row in result.rows] == [segments[1].segment_id]
    assert {reject.id: reject.code for reject in result.rejects} == {
        segments[0].segment_id: "frame_mismatch",
        segments[2].segment_id: "frame_mismatch",
    }
    assert result.rejects[1].seconds == 1.25


def test_a_recording_cut_short_is_a_reject_even_where_the_frames_would_still_do(stage):
    short = segment("b", 40_000, 48_100)  # 100 samples beyond the end, within the same number of frames
    result = stage.run({"segments": [short], "recordings": RECORDINGS}, Reader(AUDIO))
    assert [reject.code for reject in result.rejects] == ["frame_mismatch"]
    assert "8000 samples where 8100 were promised" in result.rejects[0].detail


def test_nan_audio_is_a_reject(stage):
    broken = {"a": np.where(np.arange(48_000) == 100, np.nan, AUDIO["a"]).astype(np.float32), "b": AUDIO["b"]}
    result = stage.run({"segments": [segment("a", 0, 3_200)], "recordings": RECORDINGS}, Reader(broken))
    assert [reject.code for reject in result.rejects] == ["non_finite"]


def test_cards_name_encoder_codebook_and_tokenizer_without_opening(tmp_path):
    centroids = np.zeros((4, 39), np.float32)
    write_centroids(tmp_path, centroids, kmeans_card("test", centroids, {}))
    cards = UnitsStage(UnitsSpec(encoder=MfccSpec(hop=320), centroids=str(tmp_path))).cards()
    assert [card.kind for card in cards] == ["encoder", "kmeans", "unit_tokenizer"]
    assert (cards[2].facts["num_units"], cards[2].facts["hop"]) == (4, 320)


def test_centroids_of_another_encoder_are_refused(tmp_path):
    centroids = np.zeros((4, 39), np.float32)
    fitted_at_20_ms = UnitsStage(UnitsSpec(encoder=MfccSpec(hop=320), centroids=str(tmp_path))).encoder.card().card_id
    write_centroids(tmp_path, centroids, kmeans_card("test", centroids, {"encoder": fitted_at_20_ms}))
    with pytest.raises(ConfigError, match="were fitted on features of encoder-mfcc"):
        UnitsStage(UnitsSpec(encoder=MfccSpec(hop=640), centroids=str(tmp_path))).cards()


def test_a_gpu_gets_full_batches_of_like_lengths_and_the_table_does_not_show_it(stage, monkeypatch):
    """As with 16 clips per step: the same rows in the same order, more than 14 clips a step, little of it padding."""
    generator = np.random.default_rng(1)
    ends = [int(end) for end in generator.integers(1_000, 48_000, 400)]
    segments = [segment("ab"[number % 2], 0, end) for number, end in enumerate(ends)]
    tables = {"segments": segments, "recordings": RECORDINGS}
    alone = stage.run(tables, Reader(AUDIO))
    steps: list[list[int]] = []

    def encode_batch(clips):
        steps.append([len(clip) for clip in clips])
        return [stage.encoder.encode(clip) for clip in clips]

    monkeypatch.setattr(stage.encoder, "batch_size", 16, raising=False)
    monkeypatch.setattr(stage.encoder, "encode_batch", encode_batch)
    together = stage.run(tables, Reader(AUDIO))
    assert together == alone
    assert len(together.rows) == len(segments)
    assert np.mean([len(step) for step in steps]) >= 14
    assert sum(map(sum, steps)) / sum(max(step) * len(step) for step in steps) > 0.85


def test_another_arithmetic_is_another_tokenizer_and_float32_is_the_one_of_before(tmp_path):
    encoder = Card(kind="encoder", name="e", facts={"hop": 640})
    kmeans = Card(kind="kmeans", name="k", facts={"num_units": 4})
    assert tokenizer_card(encoder, kmeans) == tokenizer_card(encoder, kmeans, "float32")
    assert "dtype" not in tokenizer_card(encoder, kmeans).facts
    assert tokenizer_card(encoder, kmeans, "bfloat16").card_id != tokenizer_card(encoder, kmeans).card_id
