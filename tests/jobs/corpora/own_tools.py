"""Corpora of five demo utterances as their own tools write or read them: what is in each is said by lhotse's recipes, by
Hugging Face's `datasets`, by webdataset or praatio, never by our readers."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from tests.jobs.corpora.sounds import RATE, Expected, Row, as_lhotse_says, long_wave, put, wave, words_of, write


def librispeech(folder: Path) -> Expected:
    """Two speakers' folders; the texts in capitals, as the corpus has them."""
    from lhotse.recipes import prepare_librispeech

    for speaker, chapter, numbers in (("84", "121123", (0, 1)), ("1272", "128104", (2, 3, 4))):
        place = folder / "dev-clean" / speaker / chapter
        names = [f"{speaker}-{chapter}-{number:04d}" for number in range(len(numbers))]
        for name, number in zip(names, numbers, strict=True):
            write(place / f"{name}.flac", wave(number))
        said = "".join(f"{name} {words_of(number).upper()}\n" for name, number in zip(names, numbers, strict=True))
        put(place / f"{speaker}-{chapter}.trans.txt", said)
    return as_lhotse_says(folder, prepare_librispeech(folder, dataset_parts=["dev-clean"]).values())


def mls(folder: Path) -> Expected:
    """Opus, as the corpus's smaller edition has it, in two splits of one language."""
    from lhotse.recipes import prepare_mls

    put(folder / "mls_english_opus/metainfo.txt", " SPEAKER | GENDER \n 1 | M \n 22 | F \n")
    for split, speaker, numbers in (("train", "1", (0, 1, 2)), ("dev", "22", (3,)), ("test", "22", (4,))):
        names = [f"{speaker}_77_{number:06d}" for number in numbers]
        for name, number in zip(names, numbers, strict=True):
            place = folder / "mls_english_opus" / split / "audio" / speaker / "77" / f"{name}.opus"
            write(place, wave(number), 48_000, format="OGG", subtype="OPUS")
        said = "".join(f"{name}\t{words_of(number)}\n" for name, number in zip(names, numbers, strict=True))
        put(folder / f"mls_english_opus/{split}/transcripts.txt", said)
    (splits,) = prepare_mls(folder).values()
    return as_lhotse_says(folder, splits.values())


def common_voice(folder: Path) -> Expected:
    """MP3 of 48 kHz; a sentence with one quote; the columns of release 17."""
    from lhotse.recipes.commonvoice import _parse_utterance

    columns = "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"
    head = "\t".join(columns.split()) + "\n"
    rows = ""
    for number in range(5):
        name = f"common_voice_en_{number}.mp3"
        write(folder / "clips" / name, wave(number), 48_000, format="MP3", subtype="MPEG_LAYER_III")
        said = f'"{words_of(number)}' if number == 1 else words_of(number)
        rows += f"speaker{number % 2}\t{name}\tabc\t{said}\t\t2\t0\ttwenties\tmale_masculine\t\t\ten\t\n"
    put(folder / "validated.tsv", head + rows)
    with (folder / "validated.tsv").open() as file:
        read = [
            _parse_utterance(folder, "en", row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]
    return as_lhotse_says(folder, [{"recordings": [one], "supervisions": [said]} for one, said in filter(None, read)])


def voxpopuli_raw(folder: Path) -> Expected:
    """Sessions of the parliament with the times of their utterances, before the corpus's own get_asr_data cuts them."""
    from lhotse.recipes import prepare_voxpopuli

    session = "20130207-0900-PLENARY-7-en"
    sound, times = long_wave(range(4))
    write(folder / f"raw_audios/en/2013/{session}_en.ogg", sound, format="OGG", subtype="VORBIS")
    head = "session_id|id_|original_text|normed_text|speaker_id|gender|start_time|end_time|vad|split\n"
    rows = "".join(
        f"{session}|{session}_{number}|{words_of(number).title()}|{words_of(number)}|12{number}|male|{start}|{end}|[]|"
        f"{('train', 'dev', 'test', 'train')[number]}\n"
        for number, (start, end) in enumerate(times)
    )
    put(folder / "asr_en.tsv.gz", head + rows)
    work = folder.parent / "recipe"
    work.mkdir()
    shutil.copy(folder / "asr_en.tsv.gz", work)
    return as_lhotse_says(folder, prepare_voxpopuli(folder, work, lang="en").values())


def gigaspeech(folder: Path) -> Expected:
    """Utterances in one long Opus; tags for signs, music that is not speech."""
    from lhotse.recipes.gigaspeech import parse_utterance

    sound, times = long_wave(range(5))
    path = "audio/audiobook/P0000/AUD0000000001.opus"
    write(folder / path, sound, 48_000, format="OGG", subtype="OPUS")
    segments = [
        {
            "sid": f"AUD0000000001_S{number:07d}", "speaker": "N/A", "begin_time": start, "end_time": end,
            "text_tn": f"{words_of(number).upper()} <PERIOD>", "subsets": ["{XL}"], "url": "",
        }
        for number, (start, end) in enumerate(times)
    ]  # fmt: skip
    music = {**segments[0], "sid": "M", "begin_time": 0.0, "end_time": 0.4, "text_tn": "<MUSIC>"}
    audio = {
        "aid": "AUD0000000001", "path": path, "title": "x", "url": "", "source": "audiobook", "format": "opus",
        "sample_rate": 16000, "channels": 1, "duration": len(sound) / RATE, "md5": "", "speaker": "N/A",
        "subsets": ["{XL}"], "segments": [music, *segments],
    }  # fmt: skip
    put(folder / "GigaSpeech.json", json.dumps({"dataset": "GigaSpeech", "language": "EN", "audios": [audio]}))
    recording, supervisions = parse_utterance(audio, folder) or (None, [])
    said = [item for item in supervisions if item.text != "<MUSIC>"]
    for item in said:
        item.text = item.text.replace(" <PERIOD>", ".")
    return as_lhotse_says(folder, [{"recordings": [recording], "supervisions": said}])


def peoples_speech(folder: Path) -> Expected:
    from lhotse.recipes.peoples_speech import _prepare_subset

    names = [f"talk/talk_SLASH_a_DOT_mp3_{number:05d}.flac" for number in range(5)]
    for number, name in enumerate(names):
        write(folder / "train/clean" / name, wave(number))
    data = {
        "duration_ms": [len(wave(number)) // 16 for number in range(5)],
        "label": [*map(words_of, range(5))],
        "name": names,
    }
    put(folder / "train/clean.json", json.dumps({"identifier": "talk", "training_data": data}) + "\n")
    recordings, supervisions = _prepare_subset("train/clean", folder)
    return as_lhotse_says(folder, [{"recordings": recordings, "supervisions": supervisions}])


def ljspeech(folder: Path) -> Expected:
    """22.05 kHz; the reader takes the normalised text, the recipe keeps it beside the other."""
    from lhotse.recipes import prepare_ljspeech

    for number in range(5):
        write(folder / f"wavs/LJ001-{number:04d}.wav", wave(number), 22_050)
    put(folder / "metadata.csv", "".join(f"LJ001-{n:04d}|Mr. {words_of(n)}|{words_of(n)}\n" for n in range(5)))
    manifest = prepare_ljspeech(folder)
    for item in manifest["supervisions"]:
        item.text = item.custom["normalized_text"]
    return as_lhotse_says(folder, [manifest])


def kaldi(folder: Path) -> Expected:
    """Written by lhotse's export: two recordings with absolute paths, five utterances, two of them on the second channel."""
    from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.kaldi import export_to_kaldi

    one, first = long_wave(range(3))
    two, second = long_wave((3, 4))
    write(folder / "audio/um laut/eins-ä.wav", one, 8_000)
    write(folder / "audio/zwei.flac", two, 44_100)
    recordings = [Recording.from_file(path) for path in sorted(folder.glob("audio/**/*.*"))]
    spans = [("eins-ä", number, *times) for number, times in enumerate(first)]
    spans += [("zwei", number + 3, *times) for number, times in enumerate(second)]
    said = [
        SupervisionSegment(
            id=f"{name}-{number}", recording_id=name, start=start, duration=end - start, text=words_of(number),
            language="en", speaker=f"s{number % 2}",
        )
        for name, number, start, end in spans
    ]  # fmt: skip
    export_to_kaldi(RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(said), folder / "data")
    # lhotse writes what is no .wav as a command: that recording is a reject, the other one is there.
    kept = [item for item in said if item.recording_id == "eins-ä"]
    return as_lhotse_says(folder, [{"recordings": recordings, "supervisions": kept}], rejects=1)


def nemo(folder: Path) -> Expected:
    """As NeMo's tutorials write it, gzipped; one absolute path, one recording by offset and duration."""
    sound, times = long_wave((0, 1, 2), pause=0.25)
    write(folder / "wavs/long.wav", sound, 44_100)
    rows: list[dict[str, object]] = [
        {
            "audio_filepath": "wavs/long.wav",
            "offset": start,
            "duration": end - start,
            "text": words_of(number),
            "lang": "en",
        }
        for number, (start, end) in enumerate(times)
    ]
    rows += [
        {"audio_filepath": str(write(folder / "wavs/a.flac", wave(3))), "duration": 6.05, "text": words_of(3)},
        {"audio_filepath": "wavs/gone.flac", "duration": 6.05, "text": "gone"},
    ]
    put(folder / "train_manifest.json.gz", "".join(json.dumps(row) + "\n" for row in rows))
    expected = {("wavs/long.wav", round(a * RATE), round(b * RATE), words_of(n)) for n, (a, b) in enumerate(times)}
    return Expected(rows={*expected, ("wavs/a.flac", 0, len(wave(3)), words_of(3))}, rejects=1)


def audiofolder(folder: Path) -> Expected:
    """Read by `datasets` itself, from a folder per split, one with metadata.csv and one with metadata.jsonl."""
    import datasets

    for number in range(5):
        write(folder / ("train" if number < 3 else "test") / f"clips/{number}.wav", wave(number))
    with (folder / "train/metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "transcription"])
        table.writerows([f"clips/{number}.wav", words_of(number)] for number in range(3))
    lines = (json.dumps({"file_name": f"clips/{n}.wav", "transcription": words_of(n)}) + "\n" for n in (3, 4))
    put(folder / "test/metadata.jsonl", "".join(lines))
    rows: set[Row] = set()
    for split in ("train", "test"):
        read = datasets.load_dataset(
            "audiofolder", data_dir=str(folder / split), split="train", cache_dir=str(folder.parent / f"cache-{split}")
        )
        for row in read.cast_column("audio", datasets.Audio(decode=False)):
            path = Path(row["audio"]["path"])
            rows.add((str(path.relative_to(folder)), 0, len(soundfile.read(path)[0]), row["transcription"]))
    return Expected(rows=rows)


def parquet(folder: Path) -> Expected:
    """Written by `datasets`: two files of two splits with the bytes embedded, as its push to the hub does."""
    import datasets
    from datasets.table import embed_table_storage

    folder.mkdir(parents=True, exist_ok=True)
    rows: set[Row] = set()
    for name, numbers in (("train-00000-of-00001", (0, 1, 2)), ("test-00000-of-00001", (3, 4))):
        paths = [str(write(folder.parent / f"before/{number}.flac", wave(number), 44_100)) for number in numbers]
        made = datasets.Dataset.from_dict(
            {"audio": paths, "sentence": [*map(words_of, numbers)], "speaker": ["ann"] * len(numbers)}
        ).cast_column("audio", datasets.Audio())
        made.with_format("arrow").map(embed_table_storage, batched=True).with_format(None).to_parquet(
            folder / f"{name}.parquet"
        )
        rows |= {(f"{name}.parquet#{row:08d}", 0, len(wave(n)), words_of(n)) for row, n in enumerate(numbers)}
    shutil.rmtree(folder.parent / "before")
    return Expected(rows=rows)


def webdataset(folder: Path) -> Expected:
    """Emilia's fields, written by webdataset's own ShardWriter, two a tar; keys with folders and letters of any kind."""
    import webdataset as wds

    folder.mkdir(parents=True, exist_ok=True)
    rows: set[Row] = set()
    with wds.ShardWriter(f"file:{folder}/EN-B%06d.tar", maxcount=2, verbose=0) as writer:
        for number in range(5):
            key = f"EN_B00000/Ärger_S{number:05d}"
            audio = write(
                folder.parent / "x.mp3", wave(number), 24_000, format="MP3", subtype="MPEG_LAYER_III"
            ).read_bytes()
            facts = {
                "id": key,
                "text": words_of(number),
                "duration": 1.0,
                "speaker": "EN_B0",
                "language": "en",
                "dnsmos": 3.4,
            }
            writer.write({"__key__": key, "mp3": audio, "json": facts})
            rows.add((f"EN-B{number // 2:06d}.tar#{key}.mp3", 0, len(wave(number)), words_of(number)))
    return Expected(rows=rows)


def lhotse(folder: Path) -> Expected:
    """A call of two channels at 44.1 kHz, its supervisions cut out of it with their alignments, in a manifest of cuts."""
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
    from lhotse.supervision import AlignmentItem

    sides = {0: (1, 4), 1: (2,)}
    waves = {channel: long_wave(numbers)[0] for channel, numbers in sides.items()}
    sound = np.zeros((max(map(len, waves.values())), 2), np.float32)
    for channel, side in waves.items():
        sound[: len(side), channel] = side
    recording = Recording.from_file(write(folder / "calls/1.wav", sound, 44_100), recording_id="call")
    cuts: list[MonoCut] = []
    rows: set[Row] = set()
    for channel, numbers in sides.items():
        said = []
        for number, (start, end) in zip(numbers, long_wave(numbers)[1], strict=True):
            words = words_of(number).split()
            edges = np.linspace(start, end, len(words) + 1).round(3).tolist()
            spans = zip(words, edges[:-1], edges[1:], strict=True)
            aligned = {"word": [AlignmentItem(word, a, round(b - a, 3)) for word, a, b in spans]}
            said.append(
                SupervisionSegment(
                    id=f"u{number}", recording_id="call", start=start, duration=round(end - start, 6), channel=channel,
                    text=words_of(number), language="en", speaker=f"s{channel}", alignment=aligned,
                )
            )  # fmt: skip
            rows.add(("calls/1.wav", round(start * RATE), round(end * RATE), words_of(number)))
        cuts.append(MonoCut(f"c{channel}", 0, recording.duration, channel, supervisions=said, recording=recording))
    CutSet.from_cuts(cuts).trim_to_supervisions(keep_overlapping=False).to_file(folder / "call_cuts.jsonl.gz")
    return Expected(rows=rows)


def shar(folder: Path) -> Expected:
    """By lhotse's own writer: utterances in FLAC, two a shard, with speakers' folders in their ids."""
    from lhotse import CutSet, Recording, SupervisionSegment

    cuts = []
    rows: set[Row] = set()
    for number in range(3):
        recording = Recording.from_file(write(folder.parent / f"before/{number}.wav", wave(number), 24_000))
        name = f"ann/utt.{number}"
        said = SupervisionSegment(name, recording.id, 0, recording.duration, text=words_of(number), language="en")
        cut = recording.to_cut().with_id(name)
        cut.supervisions = [said]
        cuts.append(cut)
        rows.add((f"recording.{number // 2:06d}.tar#{name}.flac", 0, len(wave(number)), words_of(number)))
    folder.mkdir()
    CutSet.from_cuts(cuts).to_shar(str(folder), fields={"recording": "flac"}, shard_size=2)
    return Expected(rows=rows)


def librilight(folder: Path) -> Expected:
    """A chapter of a book without a text, and the words that an aligner left in a TextGrid, written by praatio."""
    from praatio import textgrid
    from praatio.utilities.constants import Interval

    sound, times = long_wave((0, 1))
    book = folder / "small/100/sea_fairies_0812_librivox_64kb_mp3"
    write(book / "01_baum_sea_fairies_64kb.flac", sound)
    meta = {
        "speaker": "100",
        "book_meta": {"title": "The Sea Fairies"},
        "snr": 11.2,
        "voice_activity": [*map(list, times)],
    }
    put(book / "01_baum_sea_fairies_64kb.json", json.dumps(meta))
    intervals = []
    for number, (start, end) in enumerate(times):
        said = words_of(number).split()
        edges = np.linspace(start, end, len(said) + 1).round(2).tolist()
        intervals += [Interval(a, b, word) for a, b, word in zip(edges[:-1], edges[1:], said, strict=True)]
    grid = textgrid.Textgrid()
    grid.addTier(textgrid.IntervalTier("words", intervals, 0, len(sound) / RATE))
    grid.save(str(book / "01_baum_sea_fairies_64kb.TextGrid"), format="long_textgrid", includeBlankSpaces=True)
    uri = str((book / "01_baum_sea_fairies_64kb.flac").relative_to(folder))
    return Expected(rows={(uri, 0, len(sound), f"{words_of(0)} {words_of(1)}")}, source={"words": ["**/*.TextGrid"]})


MAKERS: dict[str, Callable[[Path], Expected]] = {
    "librispeech": librispeech, "librilight": librilight, "mls": mls, "common_voice": common_voice,
    "voxpopuli": voxpopuli_raw, "gigaspeech": gigaspeech, "peoples_speech": peoples_speech, "ljspeech": ljspeech,
    "kaldi": kaldi, "nemo": nemo, "audiofolder": audiofolder, "parquet": parquet, "webdataset": webdataset,
    "lhotse": lhotse, "lhotse-shar": shar,
}  # fmt: skip
