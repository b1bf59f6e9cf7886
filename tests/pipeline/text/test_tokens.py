from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.text.pronounce import LETTER_NAMES, RULES, pronounce, spell
from pipeline.text.spoken_numbers import LARGEST, cardinal, ordinal, year
from pipeline.text.tokens import tokenise
from tests.pipeline.conftest import DemoTables


@given(st.text(max_size=60), st.sampled_from(["en", "de", "ja", "hi", "th", "tr"]))
@example("don\u2019t", "en")
@example("e\u0301te\u0301 \u0301", "en")
@example("5'", "en")
@example("\u00b2\u2460\u0661", "en")
def test_tokens_are_ordered_spans_of_the_text_that_hold_all_its_letters_and_digits(text: str, language: str) -> None:
    tokens = tokenise(text, language)
    covered = [False] * len(text)
    previous_end = 0
    for token in tokens:
        assert previous_end <= token.char_start < token.char_end <= len(text)
        assert token.text == text[token.char_start : token.char_end]
        assert token.spoken
        assert all(token.spoken)
        assert not any(character.isspace() for word in token.spoken for character in word)
        covered[token.char_start : token.char_end] = [True] * len(token.text)
        previous_end = token.char_end
    assert all(inside for character, inside in zip(text, covered, strict=True) if character.isalnum())


@given(st.text(alphabet="abcXYZ019 .,$%'-:&", max_size=40))
def test_english_is_spoken_in_letters_and_apostrophes_alone(text: str) -> None:
    for token in tokenise(text):
        for word in token.spoken:
            assert re.fullmatch(r"[a-z']+", word), (text, word)


@pytest.mark.parametrize(
    "text,spoken",
    [
        ("Thy self-substantial fuel,", "thy self substantial fuel"),
        ("'Tis the dogs\u2019 bone \u2014 \u201chello\u201d!", "'tis the dogs' bone hello"),
        ("in 1984, 1905, 1900, 2000, 2007 and 2024", "in nineteen eighty four nineteen oh five nineteen hundred two thousand "
         "two thousand seven and twenty twenty four"),
        ("the 1990s and the 80s", "the nineteen nineties and the eighties"),
        ("3rd, 21st, 100th, 12TH", "third twenty first one hundredth twelfth"),
        ("$3.50 and \u00a31 and $1.5 million", "three dollars and fifty cents and one pound and one point five dollars million"),
        ("1,234,567", "one million two hundred thirty four thousand five hundred sixty seven"),
        ("12% or 0.05", "twelve percent or zero point zero five"),
        ("at 10:05, 7:30 and 9:00", "at ten oh five seven thirty and nine o'clock"),
        ("007", "zero zero seven"),
        ("U.S. and AT&T", "u s and at and t"),
        ("B2B", "b two b"),
        ("caf\u00e9 na\u00efve", "caf\u00e9 na\u00efve"),
        ("... - \u266a !", ""),
        ("Dr. Lee and Mr. Poe vs. the dr of Elm Dr. in", "doctor lee and mister poe versus the doctor of elm drive in"),
        ("St. John's on Main St. and St", "saint john's on main street and st"),
        ("St John, the prof. JR and Poe Jr. said no. 5", "saint john the prof jr and poe junior said no five"),
        ("Gen. Grant, Gen Z, the gen. idea, Black & Co. etc.", "general grant gen z the gen idea black and company et cetera"),
        ("No. 5, no. No 5. Fig. 2", "number five no no five figure two"),
        ("on Jan. 5th, 5 Dec. 1961. A jan. may", "on january fifth five december nineteen sixty one a jan may"),
        ("3 km and 60 mph, a km", "three kilometers and sixty miles per hour a km"),
        ("Louis XIV, Chapter XXIII, WAR II", "louis the fourteenth chapter twenty three war two"),
        ("an IV, Henry V, MIX IIII", "an iv henry v mix iiii"),
    ],
)  # fmt: skip
def test_english_is_said_as_people_say_it(text: str, spoken: str) -> None:
    assert " ".join(word for token in tokenise(text) for word in token.spoken) == spoken


def test_han_and_kana_are_tokens_of_one_character() -> None:
    assert [token.text for token in tokenise("\u4f60\u597d world \u3053\u3093", "zh")] == [
        "\u4f60",
        "\u597d",
        "world",
        "\u3053",
        "\u3093",
    ]


WORDS = {word: value for value, word in enumerate(cardinal(n)[0] for n in range(20))}
WORDS |= {cardinal(tens)[0]: tens for tens in range(20, 100, 10)}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def value_of(words: list[str]) -> int:
    """What a listener makes of a spoken cardinal."""
    total = part = 0
    for word in words:
        if word == "hundred":
            part *= 100
        elif word in SCALES:
            total, part = total + part * SCALES[word], 0
        else:
            part += WORDS[word]
    return total + part


@given(st.integers(0, LARGEST - 1))
def test_a_cardinal_can_be_heard_back(value: int) -> None:
    assert value_of(cardinal(value)) == value


@given(st.integers(1000, 9999))
def test_years_differ(value: int) -> None:
    words = year(value)
    assert words == cardinal(value) or value_of(words[:1]) >= 10
    assert (
        len({" ".join(year(other)) for other in range(max(1000, value - 50), value + 1)}) == min(50, value - 1000) + 1
    )


def test_ordinals() -> None:
    assert [" ".join(ordinal(value)) for value in (1, 2, 3, 5, 8, 9, 12, 20, 21, 40, 100, 1000)] == [
        "first", "second", "third", "fifth", "eighth", "ninth", "twelfth", "twentieth", "twenty first", "fortieth",
        "one hundredth", "one thousandth",
    ]  # fmt: skip


PHONES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
ARPABET = set(PHONES.split())


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=14))
def test_every_spelling_has_a_pronunciation_in_arpabet(letters: str) -> None:
    phones = spell(letters)
    assert phones
    assert set(phones) <= ARPABET


def test_rules_and_letter_names_are_arpabet() -> None:
    for sound in (*RULES.values(), *LETTER_NAMES.values()):
        assert set(sound.split()) <= ARPABET


DICTIONARY = {"self": "S EH L F", "same": "S EY M", "mak": "M AE K", "light": "L AY T"}


@pytest.mark.parametrize(
    "word,phones",
    [
        ("selfsame", "S EH L F S EY M"),
        ("mak'st", "M AE K S T"),
        ("lights", "L AY T Z"),
        ("fbi", None),
        ("bbc", "B IY B IY S IY"),
        ("snape", "S N EY P"),
        ("\u4f60", None),
    ],
)
def test_words_outside_the_dictionary(word: str, phones: str | None) -> None:
    found = pronounce(word, DICTIONARY.__contains__, DICTIONARY.__getitem__)
    if word != "fbi":
        assert found == phones
    else:
        assert found is not None


def test_demo_transcripts_are_fully_spoken(demo: DemoTables) -> None:
    for recording in demo.recordings:
        tokens = tokenise(recording.transcript or "")
        assert len(tokens) == len((recording.transcript or "").split())
        assert all(re.fullmatch(r"[a-z']+", word) for token in tokens for word in token.spoken)
