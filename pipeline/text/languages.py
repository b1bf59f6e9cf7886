"""One code per language, whatever a corpus calls it: `en`, `en-US`, `EN`, `eng`, `English` are `en`."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# ISO 639-1 (639-3 where there is none), the three-letter codes (639-2/B too), names in English and of their own.
TABLE = """
af afr afrikaans
am amh amharic
ar ara arb arabic العربية
as asm assamese
az aze azerbaijani
ba bak bashkir
be bel belarusian
bg bul bulgarian български
bn ben bengali bangla
bo bod tib tibetan
br bre breton
bs bos bosnian
ca cat catalan valencian
cs ces cze czech čeština
cy cym wel welsh cymraeg
da dan danish dansk
de deu ger german deutsch
dv div dhivehi maldivian
el ell gre greek ελληνικά
en eng english
eo epo esperanto
es spa spanish castilian español
et est estonian
eu eus baq basque
fa fas per persian farsi فارسی
fi fin finnish suomi
tl tgl tagalog fil filipino
fo fao faroese
fr fra fre french français
ga gle irish
gl glg galician
gu guj gujarati
ha hau hausa
haw hawaiian
he heb hebrew iw עברית
hi hin hindi हिन्दी
hr hrv croatian hrvatski
ht hat haitian creole
hu hun hungarian magyar
hy hye arm armenian
id ind indonesian in
ig ibo igbo
is isl ice icelandic
it ita italian italiano
ja jpn japanese 日本語
jw jav javanese jv
ka kat geo georgian
kk kaz kazakh
km khm khmer cambodian
kn kan kannada
ko kor korean 한국어
ku kur kurdish
ky kir kyrgyz
la lat latin
lb ltz luxembourgish letzeburgesch
lg lug ganda luganda
ln lin lingala
lo lao laotian
lt lit lithuanian lietuvių
lv lav latvian
mg mlg malagasy
mi mri mao maori
mk mkd mac macedonian
ml mal malayalam
mn mon mongolian
mr mar marathi
ms msa may malay
mt mlt maltese
my mya bur burmese myanmar
ne nep nepali
nl nld dut dutch flemish nederlands
nn nno nynorsk
no nor norwegian nob nb bokmal
oc oci occitan
or ori odia oriya
pa pan punjabi panjabi
pl pol polish polski
ps pus pashto pushto
pt por portuguese português
ro ron rum romanian moldavian mo română
ru rus russian русский
rw kin kinyarwanda
sa san sanskrit
sd snd sindhi
si sin sinhala sinhalese
sk slk slo slovak slovenčina
sl slv slovenian slovene
sn sna shona
so som somali
sq sqi alb albanian
sr srp serbian
su sun sundanese
sv swe swedish svenska
sw swa swahili swh
ta tam tamil
te tel telugu
tg tgk tajik
th tha thai ไทย
ti tir tigrinya
tk tuk turkmen
tr tur turkish türkçe
tt tat tatar
ug uig uyghur uighur
uk ukr ukrainian українська
ur urd urdu
uz uzb uzbek
vi vie vietnamese
wo wol wolof
xh xho xhosa
yi yid yiddish
yo yor yoruba
yue cantonese 粵語 粤语
zh zho chi cmn chinese mandarin 中文 汉语 漢語 普通话
zu zul zulu
"""
CODES = {name: line.split()[0] for line in TABLE.strip().splitlines() for name in line.split()}


@lru_cache(maxsize=1024)
def language_code(tag: str) -> str:
    """The code by which this project knows a language, Whisper's and ISO 639-1's where they have one.

    Regions, scripts and encodings are left off (`zh-Hant-TW`, `de_AT.UTF-8`, `English (US)`). A language that is not in the
    table keeps the first part of its tag, in small letters.
    """
    whole = unicodedata.normalize("NFC", tag).strip().lower()
    first = re.split(r"[-_.@\s(,;]+", whole, maxsplit=1)[0]
    return CODES.get(whole) or CODES.get(first) or first or whole
