"""The shipped tiny models load as what they say they are, and do what the pipeline needs of them."""

import csv
import json
import re
from itertools import groupby
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, HubertModel, Wav2Vec2ForCTC

from pipeline.codebook.assign import Quantiser
from pipeline.codebook.folder import load_centroids
from pipeline.encode.hubert import HubertEncoder
from pipeline.text.tokens import tokenise
from pipeline.words import make_aligner
from recipes.tiny_models import distil, letters, targets
from recipes.tiny_models.settings import FRAME, PAD, UNIT_HOP
from recipes.voices.store import Phone, VoicedSentence, load, resample, save
from schemas.spec import CtcSpec, HubertSpec, SoundSwallowerSpec

ROOT = Path(__file__).resolve().parents[2]
ASSETS, DEMO = ROOT / "assets", ROOT / "data" / "demo"
LIMIT = 24_000_000


@pytest.fixture(scope="module")
def hubert() -> HubertModel:
    torch.set_num_threads(1)
    return HubertModel.from_pretrained(ASSETS / "tiny-hubert", dtype=torch.float32, local_files_only=True).eval()


@pytest.fixture(scope="module")
def ctc() -> Wav2Vec2ForCTC:
    torch.set_num_threads(1)
    return Wav2Vec2ForCTC.from_pretrained(ASSETS / "tiny-ctc", dtype=torch.float32, local_files_only=True).eval()


def transcript(name: str) -> str:
    with open(DEMO / "manifest.tsv", encoding="utf-8") as file:
        rows = {row["file"]: row["transcript"] for row in csv.DictReader(file, delimiter="\t")}
    return " ".join(re.sub(r"[^a-z' ]", " ", rows[name].lower()).split())


def test_together_they_stay_small_enough_for_git() -> None:
    files = [path for path in ASSETS.glob("*/**/*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl")], "safetensors and npy only"


@pytest.mark.parametrize(
    "name", ["tiny-hubert", "tiny-ctc", "tiny-kmeans-100", "tiny-kmeans-500", "whisper-tiny-letters"]
)
def test_every_model_has_a_card_for_people(name: str) -> None:
    text = (ASSETS / name / "README.md").read_text(encoding="utf-8")
    for word in ("Data", "Licence", "Command", "Seed", "Measured"):
        assert word in text, f"{name}/README.md does not say: {word}"


def test_hop_is_that_of_the_convolutions(hubert: HubertModel, ctc: Wav2Vec2ForCTC) -> None:
    assert np.prod(hubert.config.conv_stride) == UNIT_HOP
    assert np.prod(ctc.config.conv_stride) == FRAME


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(samples=st.integers(2 * UNIT_HOP, 40_000))
def test_padded_by_40_samples_any_length_gives_its_whole_frames(
    hubert: HubertModel, ctc: Wav2Vec2ForCTC, samples: int
) -> None:
    for model, hop in ((hubert, UNIT_HOP), (ctc.wav2vec2, FRAME)):
        with torch.inference_mode():
            frames = model.feature_extractor(torch.zeros(1, samples + 2 * PAD)).shape[-1]
        assert frames == samples // hop


def test_features_do_not_depend_on_neighbours_in_the_batch(hubert: HubertModel) -> None:
    """Layer norms only: nothing in the convolutions looks along time or across the batch."""
    audio, _ = soundfile.read(DEMO / "sense_and_sensibility_0880.flac", dtype="float32")
    wave = torch.from_numpy(audio)[None]
    with torch.inference_mode():
        alone = hubert.feature_extractor(wave)
        beside = hubert.feature_extractor(torch.cat([wave, 0.3 * torch.randn(wave.shape)]))[:1]
        start = hubert.feature_extractor(wave[:, : 100 * UNIT_HOP + 80])
    torch.testing.assert_close(alone, beside, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone[:, :, : start.shape[-1]], start, atol=1e-4, rtol=1e-4)


def test_the_level_of_a_recording_hardly_changes_its_units() -> None:
    encoder = HubertEncoder(HubertSpec(model=str(ASSETS / "tiny-hubert"), layer=4, hop=UNIT_HOP))
    encoder.open()
    audio, _ = soundfile.read(DEMO / "sense_and_sensibility_0870.flac", dtype="float32")
    centroids, _ = load_centroids(ASSETS / "tiny-kmeans-100")

    def units(gain: float) -> np.ndarray:
        features = encoder.encode(audio * gain)
        return ((features[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)

    assert (units(1.0) == units(0.25)).mean() > 0.9


def test_windows_with_five_seconds_of_context_give_the_units_of_the_whole() -> None:
    """Attention ends after a second in each of the 4 layers, and 0.6 s of positions come before them."""
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(DEMO.glob("*.flac"))]
    audio = np.concatenate(clips)[: 60 * 16_000]
    quantiser = Quantiser(load_centroids(ASSETS / "tiny-kmeans-500")[0])

    def units(window: float, context: float) -> np.ndarray:
        spec = HubertSpec(
            model=str(ASSETS / "tiny-hubert"), layer=4, hop=UNIT_HOP, window_seconds=window, context_seconds=context
        )
        encoder = HubertEncoder(spec)
        encoder.open()
        return quantiser.assign(encoder.encode(audio))

    whole = units(60, 0)
    assert (units(6, 5) != whole).mean() < 0.005
    assert (units(6, 0.2) != whole).mean() > 0.01, "with less context they differ: the test can tell"


def test_the_centroids_name_the_encoder_they_were_fitted_on() -> None:
    """The id of the encoder's card holds the hash of its weights: centroids of other weights are another tokenizer."""
    for size in (100, 500):
        centroids, card = load_centroids(ASSETS / f"tiny-kmeans-{size}")
        assert centroids.shape == (size, 256)
        encoder = HubertEncoder(HubertSpec(model=str(ASSETS / "tiny-hubert"), layer=4, hop=UNIT_HOP))
        assert card.notes["encoder"] == encoder.card().card_id


def test_greedy_decoding_is_made_of_words_of_the_clip(ctc: Wav2Vec2ForCTC) -> None:
    """The model aligns and hardly recognises (its card says how badly): the bound only tells it from noise, which is at 1."""
    processor = AutoProcessor.from_pretrained(ASSETS / "tiny-ctc", local_files_only=True)
    audio, rate = soundfile.read(DEMO / "tale_of_two_cities.flac", dtype="float32")
    inputs = processor(audio, sampling_rate=rate, return_tensors="pt")
    with torch.inference_mode():
        ids = ctc(inputs.input_values).logits.argmax(dim=-1)
    heard = processor.batch_decode(ids)[0]
    assert jiwer.cer(transcript("tale_of_two_cities.flac"), heard) < 0.9, heard


def test_words_of_a_reader_it_never_heard_start_where_another_aligner_hears_them() -> None:
    audio, _ = soundfile.read(DEMO / "sense_and_sensibility_0870.flac", dtype="float32")
    tokens = tokenise(transcript("sense_and_sensibility_0870.flac"))
    starts = []
    for spec in (CtcSpec(model=str(ASSETS / "tiny-ctc"), min_score=0.0), SoundSwallowerSpec()):
        aligner = make_aligner(spec)
        aligner.open()
        starts.append(
            np.array([timing.start for timing in aligner.align(audio, tokens, "en").timings if timing is not None])
        )
    assert np.median(np.abs(starts[0] - starts[1])) < 16 * 60


def test_the_vocabulary_is_letters_apostrophe_delimiter_and_blank() -> None:
    vocabulary = json.loads((ASSETS / "tiny-ctc" / "vocab.json").read_text(encoding="utf-8"))
    assert vocabulary == letters.INDEX
    assert set(vocabulary) == {*"abcdefghijklmnopqrstuvwxyz'|", "<pad>", "<unk>"}


def test_what_a_place_in_the_clip_adds_is_taken_from_the_targets() -> None:
    """200 clips of 40 frames, each frame one of 100 sounds, plus a vector per place: what is left is the sounds alone."""
    rng = np.random.default_rng(0)
    sounds, places = 3 * rng.standard_normal((100, targets.DIM)), 0.3 * rng.standard_normal((40, targets.DIM))
    spoken = rng.integers(0, 100, (200, 40))
    made = (sounds[spoken] + places[None]).reshape(8000, -1)

    def spread(frames: np.ndarray) -> float:
        """How far the frames of a sound lie apart."""
        return float(np.mean([frames[spoken.ravel() == sound].std(axis=0).mean() for sound in range(100)]))

    settled = targets.settle(made.astype(np.float16), np.arange(0, 8001, 40))
    assert spread(settled) < 0.5 * spread(made / np.sqrt(made.std(axis=0)))
    np.testing.assert_allclose(settled.mean(axis=0), 0, atol=1e-3)


def test_every_trained_weight_has_one_optimiser_and_matrices_of_the_layers_have_muon() -> None:
    student = distil.Student(UNIT_HOP)
    muon, adam = distil.optimisers(student, 1e-3, 1e-3)
    held = [{id(weight) for group in part.param_groups for weight in group["params"]} for part in (muon, adam)]
    assert not held[0] & held[1]
    assert held[0] | held[1] == {id(weight) for weight in student.parameters()}
    matrices = {id(weight) for weight in student.hubert.encoder.layers.parameters() if weight.ndim == 2}
    assert held[0] == matrices


WORDS = {"knight": "n ay t", "box": "b aa k s", "tall": "t ao l", "made": "m ey d", "ship": "sh ih p", "the": "dh ax"}
LEARNT = {"bat": "b ae t", "tax": "t ae k s", "late": "l ey t", "nab": "n ae b", "shot": "sh aa t", "bone": "b ow n"}


def say(*words: str, phone_samples: int = 1600) -> VoicedSentence:
    """Each phone as long as the other, with a second of silence before and after and none between."""
    phones, at = [Phone(name="sil", start=0, end=16_000, word=-1)], 16_000
    for index, word in enumerate(words):
        for name in {**WORDS, **LEARNT}[word].split():
            phones.append(Phone(name=name, start=at, end=at + phone_samples, word=index))
            at += phone_samples
    phones.append(Phone(name="sil", start=at, end=at + 16_000, word=-1))
    return VoicedSentence(voice="test", words=words, audio=np.zeros(at + 16_000, np.int16), phones=tuple(phones))


def table() -> letters.Table:
    return letters.fit((word, tuple(phones.split())) for word, phones in {**WORDS, **LEARNT}.items())


def test_letters_find_their_phones() -> None:
    """An x takes both of its phones, a silent letter none, and every phone belongs to one letter."""
    learnt = table()
    assert letters.align("box", ("b", "aa", "k", "s"), learnt) == [(0, 1), (1, 2), (2, 4)]
    for word, phones in WORDS.items():
        spans = letters.align(word, tuple(phones.split()), learnt)
        assert [last for _, last in spans[:-1]] == [first for first, _ in spans[1:]]
        assert (spans[0][0], spans[-1][1]) == (0, len(phones.split()))


@given(words=st.lists(st.sampled_from(sorted(WORDS)), min_size=1, max_size=6))
@settings(deadline=None, max_examples=30)
def test_frame_targets_are_a_distribution_that_spells_the_text(words: list[str]) -> None:
    item = say(*words)
    targets = letters.frame_targets(item, table())
    assert targets.shape == (len(item.audio) // FRAME, len(letters.VOCABULARY))
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    best = [key for key, _ in groupby(targets.argmax(axis=1)) if key != letters.BLANK]
    assert "".join(letters.VOCABULARY[index] for index in best) == "|".join(words)


def test_words_start_where_their_first_phone_does() -> None:
    item = say("box", "made", "tall")
    spans = letters.letter_spans(item, table())
    assert [word[0][0] for word in spans] == [start for start, _ in item.word_spans()]


def test_saving_and_resampling_keep_the_times(tmp_path: Path) -> None:
    item = say("box", "made")
    save(tmp_path / "part.npz", [item, say("the")])
    first, second = load(tmp_path / "part.npz")
    assert (first.words, first.phones, second.words) == (item.words, item.phones, ("the",))
    np.testing.assert_array_equal(first.audio, item.audio)
    slower = resample(item, 1.25)
    assert len(slower.audio) == pytest.approx(1.25 * len(item.audio), abs=2)
    for (start, end), (before, after) in zip(slower.word_spans(), item.word_spans(), strict=True):
        assert (start, end) == pytest.approx((1.25 * before, 1.25 * after), abs=2)
