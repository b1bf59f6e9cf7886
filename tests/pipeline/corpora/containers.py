"""Corpora whose audio lies in tars and Parquet files, or is cut out of recordings by lhotse."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipeline.corpora.fixtures import Made, Said, spoken, text, voice, write_tar


def webdataset(folder: Path) -> Made:
    """Emilia's layout; a long recording with utterances; names and members that nobody should trust; a tar cut in half."""
    first: list[tuple[str, bytes]] = [
        (
            "EN_B00000_S00000_W000000.json",
            json.dumps(
                {"id": "EN_B00000", "text": " so it is", "language": "en", "speaker": "S0", "dnsmos": 3.3}
            ).encode(),
        ),
        ("EN_B00000_S00000_W000000.mp3", spoken(0, format="MP3", subtype="MPEG_LAYER_III")),
        ("../../etc/a#b.tar#c.flac", spoken(1)),
        ("../../etc/a#b.txt", b"\xef\xbb\xbfescaped\n"),
        (
            "long.json",
            json.dumps(
                {"language": "de", "segments": [{"start": 0.25, "end": 0.5, "text": "eins"}, {"start": 0.5}]}
            ).encode(),
        ),
        ("long.wav", spoken(2, seconds=1.0, format="WAV")),
        ("bad.json", b"{oops"),
        ("bad.flac", b"this is no audio"),
    ]
    write_tar(folder / "en/shard-000.tar", first, link=("evil.flac", "/etc/passwd"))
    write_tar(folder / "shard-001.tar", [("one.flac", spoken(3)), ("one.txt", b"one"), ("two.flac", spoken(4))])
    content = (folder / "shard-001.tar").read_bytes()
    (folder / "shard-001.tar").write_bytes(content[: content.rindex(b"two.flac") + 2048])
    for compressed in ("shard-002.tar.gz", "shard-003.tar.zst", "shard-004.tgz"):
        text(folder / compressed, "not a tar")
    return Made(
        said={
            "en/shard-000.tar#EN_B00000_S00000_W000000.mp3": [Said(text="so it is", language="en", speaker="S0")],
            "en/shard-000.tar#../../etc/a#b.tar#c.flac": [Said(text="escaped")],
            "en/shard-000.tar#long.wav": [Said(text="eins", language="de", start=4000, end=8000)],
            "shard-001.tar#one.flac": [Said(text="one")],
        },
        rejects={
            "en/shard-000.tar#long.wav.segments[2]": "bad_row",
            "en/shard-000.tar#bad.flac": "decode_error",
            "en/shard-000.tar#evil.flac": "decode_error",
            "shard-001.tar": "decode_error",
            "shard-001.tar#two.flac": "decode_error",
            **dict.fromkeys(("shard-002.tar.gz", "shard-003.tar.zst", "shard-004.tgz"), "decode_error"),
        },
    )


def parquet(folder: Path) -> Made:
    """Hugging Face's layout in row groups of two; a row without bytes, one that is no audio, a file cut in half."""
    audio: list[dict[str, object]] = [{"bytes": spoken(number), "path": f"{number}.flac"} for number in range(3)]
    audio += [{"bytes": None, "path": "gone.flac"}, {"bytes": b"no audio at all", "path": "x.flac"}]
    table = pa.table(
        {
            "id": [f"u{number}" for number in range(5)],
            "audio": pa.array(audio, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "text": ["zero", "one", "two", "three", "four"],
            "speaker_id": [7, 7, 8, 8, 8],
        }
    )
    (folder / "clean").mkdir(parents=True)
    name = "clean/train-00000-of-00001.parquet"
    pq.write_table(table, folder / name, row_group_size=2)
    (folder / "clean/test.parquet").write_bytes((folder / name).read_bytes()[:5000])
    speakers = ("7", "7", "8")
    return Made(
        said={
            f"{name}#{number:08d}": [Said(text=word, speaker=speakers[number])]
            for number, word in enumerate(("zero", "one", "two"))
        },
        rejects={
            f"{name}#00000003": "missing",
            f"{name}#00000004": "decode_error",
            "clean/test.parquet": "decode_error",
        },
    )


def lhotse(folder: Path) -> Made:
    """By lhotse itself: supervisions in a long recording, cuts of another, Shar; a command, a cut of features, a missing file."""
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
    from lhotse.audio import AudioSource
    from lhotse.supervision import AlignmentItem

    voice(folder / "wav/long.wav", seconds=2.5, format="WAV")
    recording = Recording.from_file(folder / "wav/long.wav", recording_id="long")
    rows = (("u1", 0.25, 0.5, "one", "en", "ann"), ("u2", 1.0, 0.7501, "two", "de", None))
    supervisions = [
        SupervisionSegment(
            id=name, recording_id="long", start=start, duration=length, text=said, language=language, speaker=speaker,
            alignment={"word": [AlignmentItem(said, start + 0.1, 0.125)]},
        )
        for name, start, length, said, language, speaker in rows
    ]  # fmt: skip
    whole = MonoCut(id="c", start=0, duration=2.5, channel=0, recording=recording, supervisions=supervisions)
    trimmed = [*CutSet.from_cuts([whole]).trim_to_supervisions(keep_overlapping=False)]
    shell = recording.with_path_prefix("")
    shell.id, shell.sources = "shell", [AudioSource(type="command", channels=[0], source=f"touch {folder}/pwned")]
    gone = Recording(
        id="gone",
        sources=[AudioSource(type="file", channels=[0], source="wav/gone.wav")],
        sampling_rate=16_000,
        num_samples=8000,
        duration=0.5,
    )
    bad = [
        MonoCut(id=name, start=0, duration=0.5, channel=0, recording=source, supervisions=[])
        for name, source in (("x", shell), ("y", None), ("z", gone))
    ]
    (folder / "data").mkdir()
    CutSet.from_cuts([*trimmed, *bad]).to_file(folder / "data/all_cuts.jsonl.gz")
    (folder / "shar").mkdir()
    CutSet.from_cuts([trimmed[1]]).to_shar(str(folder / "shar"), fields={"recording": "flac"})
    return Made(
        said={
            "wav/long.wav": [
                Said(text="one", language="en", speaker="ann", start=4000, end=12_000),
                Said(text="two", language="de", start=16_000, end=28_002),
            ],
            "shar/recording.000000.tar#u2.flac": [Said(text="two", language="de", start=0, end=12_002)],
        },
        rejects={
            "data/all_cuts.jsonl.gz:3": "bad_row",
            "data/all_cuts.jsonl.gz:4": "missing",
            "wav/gone.wav": "missing",
            "shar/cuts.000000.jsonl.gz:1": "bad_row",
        },
    )
