"""Look at a folder of audio, say which corpus it seems to be, and write a commented spec for it.

Only names and the corpus's own tables are read, no audio. The spec is written beside you as NAME.yaml; nothing is overwritten.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.cluster.places import resolve
from pipeline.corpora.base import Corpus
from pipeline.corpora.guess import Guess, guess_layout
from pipeline.source.folder import SourceFolder
from pipeline.source.listing import find_files
from schemas.commands.cli import Parser, command, here
from schemas.config import ConfigError, load_config
from schemas.errors import ExitCode
from schemas.source import Source
from schemas.spec import PipelineSpec
from schemas.storage.tree import is_folder

EXAMPLES = """  lst init /data/LibriSpeech/dev-clean
  lst init s3://bucket/emilia --out emilia.yaml
"""
SHOWN = 5


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Guess a folder's layout and write a spec for it."""
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument("folder", help="a folder of audio, or of tars or Parquet with audio: a path or an fsspec URL")
    parser.add_argument("--out", type=here, help="the spec to write (default: NAME.yaml here)")
    parser.add_argument("--name", help="what to call the corpus (default: the folder's name)")
    given = parser.parse_args(arguments)
    uri = resolve(given.folder, Path.cwd())
    name = given.name or re.sub(r"[^\w.-]+", "-", uri.rstrip("/").rpartition("/")[2]).strip("-.") or "corpus"
    out: Path = given.out or Path(f"{name}.yaml")
    if out.exists():
        raise ConfigError(f"{out} is there already", "name another with --out")
    guess = look(uri)
    print(describe(guess))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(spec_text(uri, name, guess), encoding="utf-8")
    load_config(PipelineSpec, out)
    print(f"wrote {out}; look at it, then: lst tokenize --config {out} --dry-run")
    return ExitCode.DONE


def look(uri: str) -> Guess:
    """What a folder seems to be.

    Raises:
        ConfigError: it is no folder, or holds no audio.
    """
    folder = SourceFolder(uri)
    if not is_folder(folder.filesystem, folder.root):
        raise ConfigError(f"{uri} is not a folder")
    found = find_files(folder.filesystem, folder.root, local=folder.is_local)
    return guess_layout(Corpus(files=folder, names=found.names, source=Source(uri=uri)))


def describe(guess: Guess) -> str:
    """What was found, in a few lines."""
    what = f"layout {guess.layout}, by {guess.sign}" if guess.sign else "a folder of recordings"
    parts = [f"{guess.recordings} recordings"]
    parts += [f"{guess.utterances} utterances with times"] if guess.utterances else []
    parts += [f"{guess.texts} texts"] if guess.texts else ["no texts"]
    parts += [f"{guess.words} recordings with word times"] if guess.words else []
    parts += [f"languages {', '.join(guess.languages[:5])}"] if guess.languages else []
    lines = [f"It looks like {what}: {', '.join(parts)}"]
    if guess.transcripts == "sidecar":
        lines.append(f"{guess.texts} of {guess.recordings} recordings have a text beside them")
    if guess.patterns:
        lines.append(f"alignments: {', '.join(guess.patterns)}")
    if guess.unnamed:
        lines.append(
            f"{guess.unnamed} audio files are not named in {guess.manifest} and would be left out; for all of them, without "
            "its texts, set source.layout to folder, take source.manifest out, and see configs/demo.yaml for the stages"
        )
    if guess.refused:
        lines.append(f"{len(guess.refused)} rows cannot be used and will be rejects:")
        lines += [f"  {sentence}" for sentence in guess.refused[:SHOWN]]
    return "\n".join(lines)


def spec_text(uri: str, name: str, guess: Guess) -> str:
    """A pipeline spec for what was found, with a comment where the user has to decide: the text of a YAML file."""
    language = guess.languages[0] if guess.languages else "en"
    has_words, has_text = bool(guess.words or guess.patterns), bool(guess.texts or guess.patterns)
    lines = [
        f"# Written by `lst init` for {'a corpus of layout ' + guess.layout if guess.sign else 'a folder of recordings'}:",
        f"# {guess.recordings} recordings, {guess.utterances} utterances with times, {guess.texts} texts.",
        "# Every field: docs/configuration.md. Layouts and alignments: docs/corpora.md.",
        "source:",
        f"  uri: {_quoted(uri)}",
        f"  name: {_quoted(name)}",
        f"  layout: {guess.layout}"
        + (f" # by {' '.join(guess.sign.split())}" if guess.sign else " # every audio file of the folder"),
    ]
    if guess.manifest is not None:
        lines.append(
            f"  manifest: {_quoted(guess.manifest)} # a row for each recording, or for each utterance with its times"
        )
    if any("source.roots" in sentence for sentence in guess.refused):
        lines.append("  roots: [] # the corpus names audio outside of uri: list its folders here")
    if guess.transcripts == "sidecar":
        lines.append("  transcripts: sidecar # X.txt or X.lab beside X.wav")
    if guess.patterns:
        lines.append(f"  words: [{', '.join(map(_quoted, guess.patterns))}] # alignments made elsewhere")
    lines += [f"output: {_quoted(f'runs/{name}')}", "partitions:", "  minutes: 30 # what a kill can cost"]
    lines += ["stages:", *_segments(guess, has_text), *_transcripts(has_text, language), *_words(has_words)]
    lines += [
        "  units: # the demo's small ones; configs/mhubert-25hz-km500.yaml has published ones for real use",
        "    encoder: { backend: hubert, model: assets/tiny-hubert, layer: 4, hop: 640 }",
        "    centroids: assets/tiny-kmeans-100",
        "  shards:",
        "    audio: false # true (some 60 MB an hour): words to be heard in `lst report`, a voice for what models say",
        "kmeans: # used by `lst fit-kmeans` alone",
        "  num_units: 100",
        "  seed: 0",
        "max_reject_rate: 0.05 # the run ends in an error where more is rejected",
    ]
    return "\n".join(lines) + "\n"


def _segments(guess: Guess, has_text: bool) -> list[str]:
    if not has_text and not guess.utterances:
        return ["  segments:", "    backend: silero # speech is found and packed into at most 30 s"]
    why = "the corpus's own utterances" if guess.utterances else "a recording is one segment"
    longest = "60 # longer ones are rejects" if has_text else "30 # what Whisper hears at once; longer ones are rejects"
    return ["  segments:", f"    backend: given # {why}", f"    max_seconds: {longest}"]


def _transcripts(has_text: bool, language: str) -> list[str]:
    if has_text:
        note = "# where the corpus does not say"
        return [
            "  transcripts:",
            "    backend: transcript # the corpus's own",
            f"    language: {_quoted(language)} {note}",
        ]
    small = language == "en"
    model = (
        "models/whisper-tiny.en # `make models` puts it there; large-v3-turbo on a GPU" if small else "large-v3-turbo"
    )
    return [
        "  transcripts:",
        "    backend: whisperx",
        f"    model: {model}",
        f"    language: {_quoted(language)} # null: detected for each segment, by a multilingual model",
        "    compute_type: int8 # float16 on a GPU",
    ]


def _words(has_words: bool) -> list[str]:
    if has_words:
        return ["  words:", "    backend: given # the times that came with the corpus"]
    return [
        "  words: # English letters; MMS_FA with format: torchaudio for other languages",
        "    backend: ctc",
        "    format: whisper",
        "    model: assets/whisper-tiny-letters",
        "    encoder: models/whisper-tiny.en",
    ]


def _quoted(text: str) -> str:
    """As YAML reads it back, whatever it is: a folder may be called 2024 or no, or hold a line break."""
    if not text.isprintable():
        return json.dumps(text)
    return "'" + text.replace("'", "''") + "'"


if __name__ == "__main__":
    sys.exit(main())
