"""Text beyond English letters: no mark is lost, no word split at one, and every language goes by one name."""

from __future__ import annotations

import unicodedata

import pytest

from pipeline.align.ctc_model import Alphabet
from pipeline.text.languages import CODES, language_code
from pipeline.text.tokens import tokenise

WRITTEN = {
    "hi": "नमस्ते दुनिया",
    "ta": "வணக்கம்",
    "bn": "বাংলা ভাষা",
    "te": "తెలుగు",
    "kn": "ಕನ್ನಡ",
    "ml": "മലയാളം",
    "gu": "ગુજરાતી",
    "si": "සිංහල",
    "ar": "مَرْحَبًا",
    "he": "שָׁלוֹם",
    "yo": "ẹ\u0300kọ\u0301",
    "vi": "tiếng việt",
    "am": "አማርኛ",
}


@pytest.mark.parametrize("language", WRITTEN)
def test_no_mark_is_lost_and_no_word_is_split_at_one(language: str) -> None:
    for form in ("NFC", "NFD"):
        text = unicodedata.normalize(form, WRITTEN[language])
        tokens = tokenise(text, language)
        assert [token.text for token in tokens] == text.split()
        assert [token.spoken for token in tokens] == [
            (word,) for word in unicodedata.normalize("NFC", WRITTEN[language]).split()
        ]


def test_what_is_written_inside_a_word_and_never_said_is_not_spoken() -> None:
    assert tokenise("می\u200cخواهم", "fa")[0].spoken == ("میخواهم",)
    assert tokenise("ســلام", "ar")[0].spoken == ("سلام",)
    assert tokenise("\ufeffhy\u00adphen \u200eword\u200f", "en")[0].spoken == ("hyphen",)


@pytest.mark.parametrize(
    "language, text, least",
    [
        ("th", "สวัสดีครับผมชื่อสมชาย", 4),
        ("my", "မြန်မာစကားပြောတယ်", 3),
        ("km", "ខ្ញុំស្រាញ់អ្នក", 3),
        ("lo", "ສະບາຍດີຂ້ອຍ", 2),
        ("zh", "你好世界", 4),
    ],
)  # fmt: skip
def test_scripts_without_spaces_are_cut_into_words_that_are_the_text(language: str, text: str, least: int) -> None:
    tokens = tokenise(text, language)
    assert len(tokens) >= least
    assert "".join(token.text for token in tokens) == text
    mixed = tokenise(f"wow! {text}, iPhone", "en")
    assert [mixed[0].text, mixed[-1].text] == ["wow", "iPhone"]
    assert len(mixed) == len(tokens) + 2, "the script decides, not the language"


def test_tibetan_is_cut_after_each_syllable() -> None:
    """A phrase has no spaces; the tsheg (U+0F0B) is no letter of either side, and no letter is lost."""
    text = "བཀྲ་ཤིས་བདེ་ལེགས།"
    tokens = tokenise(f"so {text} 12", "bo")
    assert [token.text for token in tokens[1:-1]] == ["བཀྲ", "ཤིས", "བདེ", "ལེགས"]
    assert all(token.spoken == (token.text,) for token in tokens[1:-1])
    assert [token.text for token in (tokens[0], tokens[-1])] == ["so", "12"]


def test_a_decomposed_kana_is_one_token() -> None:
    assert [token.spoken for token in tokenise(unicodedata.normalize("NFD", "がぎ"), "ja")] == [
        ("が",),
        ("ぎ",),
    ]


def test_letters_are_not_folded_before_a_model_has_been_asked() -> None:
    assert tokenise("Stra\u00dfe", "de")[0].spoken == ("stra\u00dfe",)
    assert tokenise("\u039f\u0394\u039f\u03a3", "el")[0].spoken == ("\u03bf\u03b4\u03bf\u03c2",)
    assert tokenise("ISPARTA \u0130zmir", "tr")[0].spoken == ("\u0131sparta",)
    assert tokenise("ISPARTA \u0130zmir", "tr")[1].spoken == ("izmir",)


def alphabet(letters: str) -> Alphabet:
    return Alphabet(labels=("<pad>", "|", *letters), blank=0, delimiter=1)


@pytest.mark.parametrize(
    "letters, word, heard_as",
    [
        ("abcdefghijklmnopqrstuvwxyz\u00df", "stra\u00dfe", "stra\u00dfe"),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "stra\u00dfe", "STRASSE"),
        ("abcdefghijklmnopqrstuvwxyz", "caf\u00e9", "cafe"),
        ("abcdefghijklmnopqrstuvwxyz\u00e9", "caf\u00e9", "caf\u00e9"),
        ("abcdefgh\u0301", "caf\u00e9", "cafe\u0301"),
        ("\u03b1\u03b2\u03b3\u03b4\u03bf\u03c3", "\u03bf\u03b4\u03bf\u03c2", "\u03bf\u03b4\u03bf\u03c3"),
        ("مرحبا", "مَرْحَبًا", "مرحبا"),
        ("नमसते्", "नमस्ते", "नमस्ते"),
        ("abcdefghijklmnopqrstuvwxyz'", "l\u2019eau", "l'eau"),
    ],
)  # fmt: skip
def test_the_label_list_decides_what_is_folded(letters: str, word: str, heard_as: str) -> None:
    known = alphabet(letters)
    assert "".join(known.labels[column] for column in known.columns(word)) == heard_as


def test_a_vowel_that_a_model_has_no_letter_for_is_a_star_and_no_gap() -> None:
    known = alphabet("नमसत")
    columns = known.columns("नमस्ते")
    assert [known.star if column == known.star else known.labels[column] for column in columns] == [
        "न", "म", "स", "त", known.star,
    ]  # fmt: skip


# numbers and names of languages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "language, text, said",
    [
        ("de", "im Jahr 1984", "im jahr neunzehnhundertvierundachtzig"),
        ("de", "1.234,5", "eintausendzweihundertvierunddrei\u00dfig komma f\u00fcnf"),
        ("fr", "21 chats", "vingt et un chats"),
        ("fr", "12\u202f345 chats", "douze mille trois cent quarante cinq chats"),
        ("sv", "1\u00a0000\u00a0000,5", "en miljon komma fem"),
        ("de", "1\u2019000\u2019000", "eine million"),
        (
            "fr",
            "le 1er, la 1re, le 2e et le 21\u00e8me",
            "le premier la premi\u00e8re le deuxi\u00e8me et le vingt et uni\u00e8me",
        ),
        ("fr", "3 euros", "trois euros"),
        ("fr", "5eux", "cinq eux"),
        ("es", "1\u00aa y 2.\u00ba", "primera y segundo"),
        ("pt", "22\u00aa", "vig\u00e9sima segunda"),
        ("it", "3\u00ba", "terzo"),
        ("fr", "12 345", "douze trois cent quarante cinq"),
        ("fr", "3\u00a05000", "trois cinq mille"),
        ("es", "3,5", "tres punto cinco"),
        ("ru", "12", "\u0434\u0432\u0435\u043d\u0430\u0434\u0446\u0430\u0442\u044c"),
        ("nl", "007", "nul nul zeven"),
        ("hi", "१२", "12"),
        ("xx", "1984", "1984"),
    ],
)
def test_numbers_are_said_in_their_language_where_it_is_known(language: str, text: str, said: str) -> None:
    assert " ".join(word for token in tokenise(text, language) for word in token.spoken) == said


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_flood_of_digits_is_read_digit_by_digit(language: str) -> None:
    (token,) = tokenise("7" * 5000, language)
    assert len(token.spoken) == 5000


@pytest.mark.parametrize("tag", ["en", "EN", "en-US", "en_GB.UTF-8", "eng", "English", "english (US)", " En "])
def test_english_is_english_by_every_name(tag: str) -> None:
    assert language_code(tag) == "en"
    assert tokenise("1811", tag)[0].spoken == ("eighteen", "eleven")


def test_other_names_of_languages() -> None:
    assert [language_code(tag) for tag in ("zh-Hant-TW", "cmn", "ger", "Farsi", "pt-BR", "iw", "gsw", "de_AT")] == [
        "zh", "zh", "de", "fa", "pt", "he", "gsw", "de",
    ]  # fmt: skip
    assert all(language_code(code) == code for code in CODES.values()), "a code is its own name"
    own = ("Français", unicodedata.normalize("NFD", "Español"), "Русский", "日本語", "हिन्दी", "Deutsch")
    assert [language_code(tag) for tag in own] == ["fr", "es", "ru", "ja", "hi", "de"]


def test_every_code_of_whisper_is_its_own_name() -> None:
    """What a recogniser detects and what it is told must be the same word: Tagalog is `tl` there, whatever others call it."""
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    assert [code for code in _LANGUAGE_CODES if language_code(code) != code] == []
    assert {language_code(tag) for tag in ("fil", "Filipino", "tgl")} == {"tl"}


def test_every_language_of_num2words_says_numbers_or_leaves_their_digits() -> None:
    """Vietnamese has no years there and raises AttributeError, which cost the segment; it has the number."""
    from num2words import CONVERTER_CLASSES

    for language in CONVERTER_CLASSES:
        for text in ("1900s", "1984", "7", "3,5", "0.25", "100000000000000", "9" * 30):
            assert tokenise(text, language)[0].spoken
    assert tokenise("1984", "vi")[0].spoken[:3] == ("một", "nghìn", "chín")


@pytest.mark.parametrize(
    "language, text, words",
    [
        ("am", "\u1230\u120b\u1361\u120d\u12d1\u1362\u1290\u12cd", "\u1230\u120b \u120d\u12d1 \u1290\u12cd"),
        ("hi", "\u0935\u0939 \u0939\u0948\u0964\u092f\u0939", "\u0935\u0939 \u0939\u0948 \u092f\u0939"),
        ("ja", "\uff76\uff9e\uff77", "\uff76\uff9e \uff77"),
    ],
)  # fmt: skip
def test_a_dividing_point_ends_a_word_without_a_space_and_narrow_kana_are_cut_as_wide_ones(
    language: str, text: str, words: str
) -> None:
    assert [token.text for token in tokenise(text, language)] == words.split()


@pytest.mark.parametrize(
    "text, spoken", [("x\u00b2", ("x", "\u00b2")), ("2\u00bd", ("two", "\u00bd")), ("H\u2082O", ("h", "\u2082", "o"))]
)
def test_what_is_said_of_raised_numbers_and_fractions_is_kept_for_the_star(text: str, spoken: tuple[str, ...]) -> None:
    assert tokenise(text)[0].spoken == spoken
