"""Measures of text: hallucinations however they are written, loops of any length, and nothing of either in what people say."""

import pytest

from pipeline.measures.text import PHRASES, agrees, fold, hallucinated, looped


@pytest.mark.parametrize(
    "text",
    [
        "Thank you for watching!",
        " thanks for watching. ",
        "Don't forget to subscribe!",
        "Subtitles by the Amara.org community",
        "Sous-titres réalisés par la communauté d'Amara.org",
        "Untertitel der Amara.org-Community",
        "ご視聴ありがとうございました",
        "Субтитры сделал",
    ],
)
def test_what_whisper_says_where_nobody_speaks(text: str) -> None:
    assert hallucinated(text) == 1.0


def test_phrases_are_written_as_they_are_looked_for() -> None:
    assert [fold(phrase) for phrase in PHRASES] == list(PHRASES)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("She sat watching the sea", 0.0),
        ("I resubscribe and like subscribers", 0.0),
        ("We spoke at length of the house. Thanks for watching.", 19 / 51),
        ("", 0.0),
        ("...", 0.0),
    ],
)
def test_only_the_phrase_counts(text: str, share: float) -> None:
    assert hallucinated(text) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("size", range(1, 9))
def test_a_stretch_said_three_times_on_end_is_a_loop(size: int) -> None:
    words = [f"w{number}" for number in range(size)]
    before, after = ["so", "it", "was"], ["and", "ended"]
    text = " ".join(before + words * 4 + after)
    assert looped(text) == pytest.approx(4 * size / (4 * size + 5))
    assert looped(" ".join(before + words * 2 + after)) == 0.0


def test_loops_without_spaces_and_across_punctuation() -> None:
    assert looped("はいはいはいはい") == 1.0
    assert looped("No, no. No! NO?") == 1.0
    assert looped("that that is is") == 0.0
    assert looped("") == 0.0


def test_languages_by_any_of_their_names() -> None:
    assert agrees("en", "English")
    assert agrees("de", "de_AT.UTF-8")
    assert agrees("en", "fr") is False
    assert agrees("en", None) is None
