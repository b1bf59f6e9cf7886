"""The decoder of a Whisper as a second witness: its layers against transformers', and what comes of what it says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperConfig, WhisperModel

from pipeline.align.base import AlignError, Alignment, WordTiming
from pipeline.align.belief import judge, judge_beside_others, witnessed
from pipeline.align.ctc import CtcAligner
from pipeline.networks.whisper.decoder import WhisperDecoder
from pipeline.text.tokens import Token, tokenise
from schemas.spec import CtcSpec

ROOT = Path(__file__).parents[3]
DEMO_WHISPER = ROOT / "models" / "whisper-tiny.en"
WIDTH = 128
needs_whisper = pytest.mark.skipif(not (DEMO_WHISPER / "model.bin").is_file(), reason="needs `make models`")


@pytest.fixture(scope="module")
def reference() -> WhisperModel:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=WIDTH, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=96, vocab_size=50, pad_token_id=0,
        bos_token_id=0, eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    model = WhisperModel(config).eval()
    for (
        parameter
    ) in model.parameters():  # fresh norms are ones, fresh biases zeros: of no use to tell two of them apart
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def decoder_of(model: WhisperModel) -> WhisperDecoder:
    """The decoder of transformers in the tensors that CTranslate2 stores."""
    own = {name: value.numpy() for name, value in model.state_dict().items()}
    zeros = np.zeros(WIDTH, np.float32)

    def fused(prefix: str, names: str, part: str) -> np.ndarray:
        return np.concatenate([own.get(f"{prefix}.{name}_proj.{part}", zeros) for name in names])

    def norm(ours: str, theirs: str) -> dict[str, np.ndarray]:
        return {f"{ours}/gamma": own[f"{theirs}.weight"], f"{ours}/beta": own[f"{theirs}.bias"]}

    tensors = {
        "embeddings/weight": own["decoder.embed_tokens.weight"],
        "position_encodings/encodings": own["decoder.embed_positions.weight"],
        **norm("layer_norm", "decoder.layer_norm"),
    }
    for layer in range(2):
        theirs, ours = f"decoder.layers.{layer}", f"layer_{layer}"
        for part in ("weight", "bias"):
            tensors[f"{ours}/self_attention/linear_0/{part}"] = fused(f"{theirs}.self_attn", "qkv", part)
            tensors[f"{ours}/attention/linear_0/{part}"] = own[f"{theirs}.encoder_attn.q_proj.{part}"]
            tensors[f"{ours}/attention/linear_1/{part}"] = fused(f"{theirs}.encoder_attn", "kv", part)
            for mine, other in {
                "self_attention/linear_1": "self_attn.out_proj", "attention/linear_2": "encoder_attn.out_proj",
                "ffn/linear_0": "fc1", "ffn/linear_1": "fc2",
            }.items():  # fmt: skip
                tensors[f"{ours}/{mine}/{part}"] = own[f"{theirs}.{other}.{part}"]
        for mine, other in {"self_attention": "self_attn", "attention": "encoder_attn", "ffn": "final"}.items():
            tensors |= norm(f"{ours}/{mine}/layer_norm", f"{theirs}.{other}_layer_norm")
    return WhisperDecoder.load(norm("layer_norm", "encoder.layer_norm"), tensors).eval()


@torch.inference_mode()
def test_several_texts_in_one_step_are_each_what_transformers_makes_of_it(reference: WhisperModel) -> None:
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(0, 50, (length,), generator=generator) for length in (7, 1, 12)]
    sounds = [torch.randn(length, WIDTH, generator=generator) for length in (30, 4, 9)]
    ours = decoder_of(reference)(texts, sounds).split([len(text) for text in texts])
    for text, sound, mine in zip(texts, sounds, ours, strict=True):
        theirs = reference.decoder(input_ids=text[None], encoder_hidden_states=sound[None]).last_hidden_state[0]
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_sound_is_the_last_norm_in_means_of_two_frames(reference: WhisperModel) -> None:
    states = torch.randn(5, WIDTH)
    normed = reference.encoder.layer_norm(states)
    wanted = torch.stack([normed[:2].mean(0), normed[2:4].mean(0), normed[4]])
    torch.testing.assert_close(decoder_of(reference).heard(states), wanted, atol=1e-5, rtol=1e-5)


def timing(score: float, told: float | None, seconds: float = 0.4, start: int = 0) -> WordTiming:
    return WordTiming(start=start, end=start + round(seconds * 16_000), score=score, timing="aligned", told=told)


def cat(letters: int = 3) -> Token:
    word = ("cat" * letters)[:letters]
    return Token(text=word, char_start=0, char_end=letters, spoken=(word,))


def test_a_second_witness_lowers_and_lifts_a_word_and_nothing_else_changes() -> None:
    alone = witnessed(timing(0.1, None), cat(), 0.15)
    assert (alone.score, alone.timing) == (0.1, "doubtful")
    lifted, lowered = witnessed(timing(0.1, 0.0), cat(), 0.15), witnessed(timing(0.6, -9.0), cat(), 0.15)
    assert (lifted.timing, lowered.timing) == ("aligned", "doubtful")
    scores = [witnessed(timing(0.5, told), cat(), 0.15).score for told in (-9.0, -3.0, 0.0, 3.0)]
    assert scores == sorted(scores)
    assert scores[0] >= 0
    assert scores[-1] == 1
    star = replace(timing(0.1, -9.0), timing="star")
    assert witnessed(star, cat(), 0.15) == star


def test_few_letters_are_believed_less_than_many() -> None:
    heard = timing(0.3, -5.0)
    short, long = (witnessed(heard, cat(letters), 0.15) for letters in (2, 9))
    assert (short.timing, long.timing) == ("doubtful", "aligned")
    alone = [witnessed(replace(heard, told=None), cat(letters), 0.15).score for letters in (2, 9)]
    assert alone == [0.3, 0.3], "letters alone are as they were"


def test_no_witness_lifts_a_word_that_is_too_long_for_its_letters() -> None:
    """It hears which words are said, not how long each of them is."""
    audio = np.random.default_rng(0).normal(0, 0.1, 16_000 * 5).astype(np.float32)
    token = Token(text="on", char_start=0, char_end=2, spoken=("on",))
    (judged,) = judge([timing(0.9, 3.0, seconds=4.0)], [token], audio, 0.15)
    (final,) = judge_beside_others([judged], [token], 0.15)
    assert final.timing == "doubtful"
    assert final.score < 0.15


def aligner_of(**fields: object) -> CtcAligner:
    letters = str(ROOT / "assets" / "whisper-tiny-letters")
    return CtcAligner(
        CtcSpec.model_validate(
            {
                "format": "whisper",
                "model": letters,
                "encoder": str(DEMO_WHISPER),
                "min_score": 0,
                "device": "cpu",
                **fields,
            }
        )
    )


KENNEDY = "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country."


@pytest.fixture(scope="module")
def kennedy() -> np.ndarray:
    return np.asarray(soundfile.read(ROOT / "data" / "demo" / "jfk_inaugural_1961.flac", dtype="float32")[0])


def told_of(aligner: CtcAligner, clips: list[tuple[np.ndarray, str]]) -> list[dict[tuple[int, str], float]]:
    asked: list[tuple[list[Token], Alignment]] = []
    for audio, text in clips:
        tokens = tokenise(text)
        asked.append((tokens, aligner.align(audio, tokens, "en")))
    result = []
    for (tokens, before), after in zip(asked, aligner.ask(asked), strict=True):
        assert isinstance(after, Alignment)
        result.append({})
        for place, (token, was, now) in enumerate(zip(tokens, before.timings, after.timings, strict=True)):
            assert was is not None
            assert now is not None
            assert now.told is not None
            assert replace(now, told=None) == was, "its times and score stay"
            result[-1][place, token.text] = now.told
    return result


@needs_whisper
def test_words_that_were_exchanged_are_told_from_those_that_were_said(kennedy: np.ndarray) -> None:
    wrong = (
        KENNEDY.replace("country can", "century can").replace("ask not", "ask now").replace("my fellow", "by fellow")
    )
    aligner = aligner_of()
    aligner.open()
    right, changed, loud = told_of(aligner, [(kennedy, KENNEDY), (kennedy, wrong), (kennedy, KENNEDY.upper())])
    exchanged = {key: changed[key] for key in changed if key not in right}
    assert len(exchanged) == 3
    assert max(exchanged.values()) < min(right.values()), "each of them is less likely than any word that was said"
    assert min(loud.values()) > max(exchanged.values()), "in capitals a text is the same text"
    windowed = aligner_of(window_seconds=4, context_seconds=2)
    windowed.open()
    for key, value in told_of(windowed, [(kennedy, KENNEDY)])[0].items():
        assert value > max(exchanged.values()), key


@needs_whisper
def test_it_is_not_asked_in_other_languages_nor_where_the_spec_says_so(kennedy: np.ndarray) -> None:
    tokens = tokenise(KENNEDY)
    silent = aligner_of(ask_decoder=False)
    assert "decoder" not in silent.card().facts["files"]
    assert "decoder" in aligner_of().card().facts["files"]
    silent.open()
    asked = aligner_of()
    asked.open()
    for aligner, language in ((silent, "en"), (asked, "de")):
        (alignment,) = aligner.ask([(tokens, aligner.align(kennedy, tokens, language))])
        assert isinstance(alignment, Alignment)
        assert all(item is not None and item.told is None for item in alignment.timings)


@needs_whisper
def test_a_text_is_refused_by_letters_and_decoder_together(kennedy: np.ndarray) -> None:
    right, wrong = tokenise(KENNEDY), tokenise(KENNEDY.replace("you", "the"))

    def answer(tokens: list[Token], min_score: float) -> Alignment | AlignError:
        aligner = aligner_of(min_score=min_score)
        aligner.open()
        with pytest.raises(AlignError, match="do not belong together"):
            aligner.align(kennedy, tokens, "de")  # by its letters alone
        return aligner.ask([(tokens, aligner.align(kennedy, tokens, "en"))])[0]

    assert isinstance(answer(right, 0.65), Alignment)
    refused = answer(wrong, 0.35)
    assert isinstance(refused, AlignError)
    assert re.search(r"are 0\.25\d .* decoder makes 0\.32\d of it, and words\.min_score is 0\.35", str(refused))
