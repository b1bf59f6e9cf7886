"""How a word that no dictionary holds is probably pronounced: spelling rules, so that a name does not cost a segment.

What comes out is a guess and is flagged as one (timing "star"). Weighed instead: espeak and phonetisaurus (a system
library, a trained model) and the NRL rules (329 of them, for a synthesiser's ear; word boundaries need far less).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

LETTER_NAMES = {
    "a": "EY", "b": "B IY", "c": "S IY", "d": "D IY", "e": "IY", "f": "EH F", "g": "JH IY", "h": "EY CH", "i": "AY",
    "j": "JH EY", "k": "K EY", "l": "EH L", "m": "EH M", "n": "EH N", "o": "OW", "p": "P IY", "q": "K Y UW",
    "r": "AA R", "s": "EH S", "t": "T IY", "u": "Y UW", "v": "V IY", "w": "D AH B AH L Y UW", "x": "EH K S",
    "y": "W AY", "z": "Z IY",
}  # fmt: skip
VOWELS = "aeiouy"

# Spelling -> ARPAbet, longest first at each place. "^": only at the start of a word; "$": only at its end;
# "_" stands for one consonant before a final silent e (the spelling itself is taken up to it).
RULES = {
    "^kn": "N", "^gn": "N", "^wr": "R", "^ps": "S", "^pn": "N", "^x": "Z", "^wh": "W", "^who": "HH UW", "^y": "Y",
    "^u": "AH", "^uni": "Y UW N IH", "^rh": "R", "^sch": "S K", "^mc": "M AH K", "tion": "SH AH N",
    "sion": "ZH AH N", "ssion": "SH AH N", "cian": "SH AH N", "tious": "SH AH S", "cious": "SH AH S",
    "ture": "CH ER", "sure": "ZH ER", "ough": "AO", "augh": "AO", "eigh": "EY", "igh": "AY", "tch": "CH",
    "dge": "JH", "sch": "S K", "ch": "CH", "sh": "SH", "th": "TH", "ph": "F", "gh": "G", "ck": "K", "ng$": "NG",
    "ng": "NG G", "nk": "NG K", "qu": "K W", "wh": "W", "sc": "S K", "sce": "S EH", "sci": "S IH", "cc": "K",
    "ce$": "S", "ge$": "JH", "mb$": "M", "mn$": "M", "gn$": "N", "bt$": "T", "rr": "R", "ll": "L", "ss": "S",
    "tt": "T", "pp": "P", "bb": "B", "dd": "D", "ff": "F", "gg": "G", "mm": "M", "nn": "N", "zz": "Z", "kk": "K",
    "vv": "V", "zh": "ZH", "kh": "K", "dh": "D", "ts$": "T S", "air": "EH R", "are$": "EH R", "ear": "IH R",
    "eer": "IH R", "ere$": "IH R", "oor": "AO R", "our": "AO R", "ire$": "AY ER", "ure$": "Y UH R", "ore$": "AO R",
    "ar": "AA R", "er": "ER", "ir": "ER", "or": "AO R", "ur": "ER", "yr": "ER", "a_e$": "EY", "e_e$": "IY",
    "i_e$": "AY", "o_e$": "OW", "u_e$": "UW", "y_e$": "AY", "a_es$": "EY", "i_es$": "AY", "o_es$": "OW",
    "a_ed$": "EY", "i_ed$": "AY", "o_ed$": "OW", "all": "AO L", "alk": "AO K", "ai": "EY", "ay": "EY", "au": "AO",
    "aw": "AO", "ae": "IY", "ea": "IY", "ee": "IY", "ei": "EY", "eu": "Y UW", "ew": "UW", "ey$": "IY", "ey": "EY",
    "ia": "IY AH", "ie$": "IY", "ie": "IY", "io": "IY OW", "oa": "OW", "oe": "OW", "oi": "OY", "oy": "OY",
    "oo": "UW", "ou": "AW", "ow$": "OW", "ow": "AW", "ue$": "UW", "ui": "UW", "uy": "AY", "ous$": "AH S",
    "le$": "AH L", "les$": "AH L Z", "ed$": "D", "ted$": "T AH D", "ded$": "D AH D", "es$": "Z", "ses$": "S AH Z",
    "xes$": "K S AH Z", "e$": "", "y$": "IY", "a$": "AH", "o$": "OW", "i$": "IY", "u$": "UW", "a": "AE", "e": "EH",
    "i": "IH", "o": "AA", "u": "AH", "y": "IH", "b": "B", "c": "K", "ce": "S EH", "ci": "S IH", "cy": "S IH",
    "cia": "SH AH", "d": "D", "f": "F", "g": "G", "gi": "JH IH", "ge": "JH EH", "gy": "JH IH", "h": "HH", "j": "JH",
    "k": "K", "l": "L", "m": "M", "n": "N", "p": "P", "q": "K", "r": "R", "s": "S", "s$": "Z", "t": "T", "v": "V",
    "w": "W", "x": "K S", "z": "Z",
}  # fmt: skip
LONGEST = max(len(spelling) for spelling in RULES)


def pronounce(word: str, known: Callable[[str], bool], lookup: Callable[[str], str]) -> str | None:
    """ARPAbet phones for a word outside the dictionary, separated by spaces; None where it has no Latin letter.

    Args:
        word: lower case, may hold apostrophes and accents.
        known: whether the dictionary holds a word.
        lookup: the dictionary's phones of a known word.
    """
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", word) if "a" <= letter <= "z" or letter == "'")
    letters = plain.replace("'", "")
    if not letters:
        return None
    if not any(letter in VOWELS for letter in letters):
        return " ".join(LETTER_NAMES[letter] for letter in letters)
    return _by_parts(plain, known, lookup) or " ".join(spell(letters))


def _by_parts(word: str, known: Callable[[str], bool], lookup: Callable[[str], str]) -> str | None:
    """A known stem with an ending ("mak'st"), or two known words written as one ("selfsame")."""
    stem, apostrophe, ending = word.rpartition("'")
    if apostrophe and ending and known(stem):
        return f"{lookup(stem)} {' '.join(spell(ending))}".strip()
    for length in range(len(word) - 3, 2, -1):
        if known(word[:length]) and known(word[length:]):
            return f"{lookup(word[:length])} {lookup(word[length:])}"
    for ending in ("s", "ed", "ing", "est", "eth", "ness", "ly", "er"):
        stem = word.removesuffix(ending)
        if len(stem) > 2 and stem != word and known(stem):
            return f"{lookup(stem)} {ENDINGS[ending]}"
    return None


ENDINGS = {
    "s": "Z",
    "ed": "D",
    "ing": "IH NG",
    "est": "AH S T",
    "eth": "AH TH",
    "ness": "N AH S",
    "ly": "L IY",
    "er": "ER",
}


def spell(letters: str) -> list[str]:
    """Phones of a word by spelling rules alone; `letters` are a-z. Never empty: a lone silent letter is named."""
    phones: list[str] = []
    position = 0
    while position < len(letters):
        spelling, sound = _longest_rule(letters, position)
        phones += sound.split()
        position += len(spelling)
    return phones or LETTER_NAMES[letters[0]].split()


def _longest_rule(letters: str, position: int) -> tuple[str, str]:
    """The longest spelling that applies at a place, and its sound."""
    for length in range(min(LONGEST, len(letters) - position), 0, -1):
        part = letters[position : position + length]
        at_start, at_end = position == 0, position + length == len(letters)
        if at_end and length > 2 and part[1] not in VOWELS:
            silent_e = RULES.get(f"{part[0]}_{part[2:]}$")
            if silent_e is not None and part[0] in VOWELS:
                return part, f"{silent_e} {' '.join(spell_consonant(part))}"
        for form, applies in ((f"^{part}", at_start), (f"{part}$", at_end and position > 0), (part, True)):
            if applies and form in RULES:
                return part, RULES[form]
    raise AssertionError(f"every letter has a rule, {letters[position]!r} has none")


def spell_consonant(part: str) -> list[str]:
    """The consonant inside a silent-e spelling ("ake", "ice", "aged"), soft before e, and the ending's sound."""
    soft = {"c": "S", "g": "JH", "s": "Z"}
    ending = {"e": [], "es": ["Z"], "ed": ["D"]}[part[2:]]
    return [soft.get(part[1], RULES[part[1]]), *ending]
