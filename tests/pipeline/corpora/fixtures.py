"""Small corpora in their true layouts, made of the demo's speech: each function writes one and says what is in it."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from tests.pipeline.source.bad_audio import RATE, encode, speech


@dataclass(frozen=True, kw_only=True)
class Said:
    """What is said in a recording of a fixture: as a whole, or [start, end) in 16 kHz samples."""

    text: str | None
    language: str | None = None
    speaker: str | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, kw_only=True)
class Made:
    """A corpus on disk: uri -> what is said, and the ids of the rejects that its listing must give with their codes."""

    said: dict[str, list[Said]]
    rejects: dict[str, str] = field(default_factory=dict)
    spec: dict[str, object] = field(default_factory=dict)
    """Fields of `source` beside uri and layout."""


def voice(path: Path, number: int = 0, seconds: float = 0.5, format: str = "FLAC", subtype: str = "PCM_16") -> None:
    """A stretch of demo speech; no two numbers give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(spoken(number, seconds, format, subtype))


def spoken(number: int = 0, seconds: float = 0.5, format: str = "FLAC", subtype: str = "PCM_16") -> bytes:
    begin = 800 * number
    return encode(speech()[begin : begin + int(seconds * RATE)], format=format, subtype=subtype)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content.encode("utf-8")))
    else:
        path.write_text(content, encoding="utf-8", newline="")


def lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def librispeech(folder: Path) -> Made:
    for number in (0, 1):
        voice(folder / f"dev-clean/84/121123/84-121123-000{number}.flac", number)
    text(
        folder / "dev-clean/84/121123/84-121123.trans.txt",
        "84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT IN LESS\n84-121123-0002 NOWHERE\n",
    )
    text(folder / "SPEAKERS.TXT", ";ID |SEX\n84 | F\n")
    base = "dev-clean/84/121123/84-121123-000"
    return Made(
        said={
            f"{base}0.flac": [Said(text="GO DO YOU HEAR", language="en", speaker="84")],
            f"{base}1.flac": [Said(text="BUT IN LESS", language="en", speaker="84")],
        },
        rejects={"dev-clean/84/121123/84-121123.trans.txt:3": "missing"},
    )


def librilight(folder: Path) -> Made:
    voice(folder / "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_sea_fairies_64kb.flac")
    meta = {"speaker": "100", "snr": 11.25, "voice_activity": [[0.4, 12.2]], "book_meta": {"title": "The Sea Fairies"}}
    text(folder / "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_sea_fairies_64kb.json", json.dumps(meta))
    uri = "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum_sea_fairies_64kb.flac"
    return Made(said={uri: [Said(text=None, language="en", speaker="100")]})


def mls(folder: Path) -> Made:
    voice(folder / "mls_german/train/audio/10148/10119/10148_10119_000000.flac")
    text(
        folder / "mls_german/train/transcripts.txt", "10148_10119_000000\tso wird es älter\n10148_10119_000009\tfehlt\n"
    )
    text(folder / "mls_german/train/segments.txt", "10148_10119_000000\thttp://x/y.mp3\t401.76\t417.57\n")
    text(folder / "mls_german/metainfo.txt", "SPEAKER | GENDER\n")
    uri = "mls_german/train/audio/10148/10119/10148_10119_000000.flac"
    return Made(
        said={uri: [Said(text="so wird es älter", language="de", speaker="10148")]},
        rejects={"mls_german/train/transcripts.txt:2": "missing"},
    )


def common_voice(folder: Path) -> Made:
    for number in (1, 2):
        voice(folder / f"en/clips/common_voice_en_{number}.mp3", number, format="MP3", subtype="MPEG_LAYER_III")
    head = "client_id\tpath\tsentence\tup_votes\tage\tlocale\n"
    text(
        folder / "en/validated.tsv",
        head + 'ab\tcommon_voice_en_1.mp3\tShe said "no.\t2\t\ten\n'
        "cd\tcommon_voice_en_2.mp3\tPlain.\t2\t\ten\ncd\tcommon_voice_en_3.mp3\tGone.\t2\t\ten\n",
    )
    return Made(
        said={
            "en/clips/common_voice_en_1.mp3": [Said(text='She said "no.', language="en", speaker="ab")],
            "en/clips/common_voice_en_2.mp3": [Said(text="Plain.", language="en", speaker="cd")],
        },
        rejects={"en/clips/common_voice_en_3.mp3": "missing"},
    )


def voxpopuli(folder: Path) -> Made:
    identity = "20130207-0900-PLENARY-7-en_20130207-12:38:26_2"
    voice(folder / f"transcribed_data/en/2013/{identity}.ogg", format="OGG", subtype="VORBIS")
    head = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\n"
    text(
        folder / "transcribed_data/en/asr_train.tsv",
        head + f"{identity}\tI thank you.\ti thank you\t1234\ttrain\tmale\n",
    )
    uri = f"transcribed_data/en/2013/{identity}.ogg"
    return Made(said={uri: [Said(text="i thank you", language="en", speaker="1234")]})


def gigaspeech(folder: Path) -> Made:
    voice(folder / "audio/podcast/P0000/POD0000000001.opus", seconds=2.0, format="OGG", subtype="OPUS")
    segments = [
        {"sid": "S1", "speaker": "N/A", "begin_time": 0.1, "end_time": 0.9, "text_tn": "AS IT'S <COMMA> SO <PERIOD>"},
        {"sid": "S2", "speaker": "N/A", "begin_time": 0.9, "end_time": 1.0, "text_tn": "<MUSIC>"},
        {"sid": "S3", "speaker": "A", "begin_time": 1.001, "end_time": 1.737, "text_tn": "DOUGLAS MCGRAY"},
    ]
    audio = {"aid": "POD0000000001", "path": "audio/podcast/P0000/POD0000000001.opus", "segments": segments}
    text(folder / "GigaSpeech.json", json.dumps({"dataset": "GigaSpeech", "language": "EN", "audios": [audio]}))
    uri = "audio/podcast/P0000/POD0000000001.opus"
    return Made(
        said={
            uri: [
                Said(text="AS IT'S, SO.", language="en", start=1600, end=14_400),
                Said(text="DOUGLAS MCGRAY", language="en", speaker="A", start=16_016, end=27_792),
            ]
        }
    )


def peoples_speech(folder: Path) -> Made:
    voice(folder / "train/clean/07282016HFUUforum/07282016HFUUforum_SLASH_07282016_DOT_mp3_00002.flac")
    data = {
        "duration_ms": [500, 500],
        "label": ["i wanted this to share", "gone"],
        "name": [
            "07282016HFUUforum/07282016HFUUforum_SLASH_07282016_DOT_mp3_00002.flac",
            "07282016HFUUforum/gone.flac",
        ],
    }
    text(folder / "train/clean.json", lines([{"identifier": "07282016HFUUforum", "training_data": data}]))
    base = "train/clean/07282016HFUUforum"
    return Made(
        said={
            f"{base}/07282016HFUUforum_SLASH_07282016_DOT_mp3_00002.flac": [
                Said(text="i wanted this to share", language="en")
            ]
        },
        rejects={f"{base}/gone.flac": "missing"},
    )


def ljspeech(folder: Path) -> Made:
    voice(folder / "wavs/LJ001-0001.wav", format="WAV")
    text(folder / "metadata.csv", 'LJ001-0001|Printing, in the "only sense 1|Printing, in the "only sense one\n')
    return Made(said={"wavs/LJ001-0001.wav": [Said(text='Printing, in the "only sense one', language="en")]})


def audiofolder(folder: Path) -> Made:
    voice(folder / "train/a.wav", 0, format="WAV")
    voice(folder / "test/b.wav", 1, format="WAV")
    text(folder / "train/metadata.csv", 'file_name,transcription,speaker_id\na.wav,"well, ""so""",7\n')
    text(folder / "test/metadata.jsonl", lines([{"file_name": "b.wav", "transcription": "yes"}]))
    return Made(
        said={"train/a.wav": [Said(text='well, "so"', speaker="7")], "test/b.wav": [Said(text="yes")]},
    )


def nemo(folder: Path) -> Made:
    voice(folder / "audio/long.wav", seconds=2.0, format="WAV")
    voice(folder / "audio/short.wav", 3, format="WAV")
    rows: list[dict[str, object]] = [
        {"audio_filepath": "audio/long.wav", "offset": 1.3, "duration": 0.6, "text": "second", "lang": "de"},
        {"audio_filepath": "audio/long.wav", "offset": 0.1, "duration": 0.2, "text": "first", "lang": "en"},
        {"audio_filepath": "audio/short.wav", "duration": 0.5, "text": "whole"},
    ]
    text(folder / "train_manifest.json", lines(rows))
    return Made(
        said={
            "audio/long.wav": [
                Said(text="first", language="en", start=1600, end=4800),
                Said(text="second", language="de", start=20_800, end=30_400),
            ],
            "audio/short.wav": [Said(text="whole")],
        }
    )


def kaldi(folder: Path) -> Made:
    outside = folder.parent / f"{folder.name}-elsewhere"
    voice(folder / "wav/call.wav", seconds=2.5, format="WAV")
    voice(outside / "b.flac", 5)
    text(
        folder / "data/train/wav.scp",
        f"call wav/call.wav\nb {outside}/b.flac\nevil touch {folder}/pwned |\nlost wav/lost.wav\nroot /etc/passwd\n",
    )
    segments = (
        "call-0001 call 0.00 0.75\ncall-0002 call 0.75 1.5000625\ncall-0003 call 1.6 -1\n"
        "b-1 b 0 0.5\nbad-1 call 0.5 0.2\nbad-2 call 0.1 0.3\nlost-1 lost 0 1\nevil-1 evil 0 1\nbad-3 call x 1\n"
    )
    text(folder / "data/train/segments", segments)
    text(folder / "data/train/text", "call-0001 one two\ncall-0002 three\ncall-0003 four\nb-1 fünf\n")
    text(folder / "data/train/utt2lang", "b-1 de\n")
    text(folder / "data/train/utt2spk", "call-0001 ann\nb-1 ben\n")
    return Made(
        said={
            "wav/call.wav": [
                Said(text="one two", speaker="ann", start=0, end=12_000),
                Said(text="three", start=12_000, end=24_001),
                Said(text="four", start=25_600, end=40_000),
            ],
            f"{outside}/b.flac": [Said(text="fünf", language="de", speaker="ben", start=0, end=8_000)],
        },
        rejects={
            "data/train/wav.scp:3": "bad_row",
            "data/train/wav.scp:5": "bad_row",
            "wav/lost.wav": "missing",
            "data/train/segments:5": "bad_row",
            "data/train/segments:6": "bad_row",
            "data/train/segments:9": "bad_row",
        },
        spec={"roots": [str(outside)]},
    )


def manifest(folder: Path) -> Made:
    voice(folder / "a/x.flac", seconds=1.0)
    voice(folder / "unnamed.flac", 2)
    head = "file,start,end,transcript,language,speaker\n"
    rows = head + 'a/x.flac,0.25,0.5,"one, two",en,s\na/x.flac,0.5,9,too far,en,s\n../y.flac,0,1,,,\n'
    text(folder / "meta/m.csv.gz", rows)
    return Made(
        said={"a/x.flac": [Said(text="one, two", language="en", speaker="s", start=4000, end=8000)]},
        rejects={"meta/m.csv.gz:3": "bad_row", "meta/m.csv.gz:4": "bad_row"},
        spec={"manifest": "meta/m.csv.gz"},
    )


def write_tar(path: Path, content: list[tuple[str, bytes]], link: tuple[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if link is not None:
            info = tarfile.TarInfo(link[0])
            info.type, info.linkname = tarfile.SYMTYPE, link[1]
            tar.addfile(info)
