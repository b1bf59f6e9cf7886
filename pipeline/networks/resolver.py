"""One way to a model: what a spec calls a model, and where its files are on this machine. Nothing is fetched here.

| form | what a name may be |
|---|---|
| ctranslate2 | a directory, a hub name, or faster-whisper's own short names (`large-v3-turbo`) |
| hf | a directory, or a hub name `owner/name[@revision]` |
| torchaudio | the name of a bundle, whose weights lie in torch's cache |
| fairseq | the path of a checkpoint |
| centroids | a folder or fsspec URL with centroids.npy and card.json |
| tokenizer | a file, a directory, or a hub name |
| vocoder | a directory, or a hub name |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from schemas.config import ConfigError
from schemas.errors import ModelError
from schemas.models.hub import folder_of, licence_of
from schemas.spec import (
    CtcSpec,
    HubertSpec,
    ParakeetSpec,
    PipelineSpec,
    QwenAlignSpec,
    WhisperXAlignSpec,
    WhisperXSpec,
)
from schemas.storage.files import Files

Form = Literal["ctranslate2", "hf", "torchaudio", "fairseq", "centroids", "tokenizer", "vocoder"]
NEEDED: dict[Form, tuple[str, ...]] = {
    "ctranslate2": ("model.bin", "config.json", "tokenizer.json"),
    "hf": ("config.json",),
    "vocoder": ("config.json",),
    "centroids": ("centroids.npy", "card.json"),
}
WHISPER = {
    "distil-large-v2": "Systran/faster-distil-whisper-large-v2",
    "distil-large-v3": "Systran/faster-distil-whisper-large-v3",
    "distil-large-v3.5": "distil-whisper/distil-large-v3.5-ct2",
    "distil-medium.en": "Systran/faster-distil-whisper-medium.en",
    "distil-small.en": "Systran/faster-distil-whisper-small.en",
    "large": "Systran/faster-whisper-large-v3",
    "large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    "turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
} | {
    name: f"Systran/faster-whisper-{name}"
    for size in ("tiny", "base", "small", "medium", "large-v1", "large-v2", "large-v3")
    for name in ([size] if "large" in size else [size, f"{size}.en"])
}
"""faster-whisper's names and what they mean; a test compares the table with faster-whisper's."""
PUBLISHED = {
    "facebook/hubert-base-ls960": "Apache-2.0",
    "hubert_base_ls960.pt": "MIT",
    **dict.fromkeys(WHISPER.values(), "MIT (OpenAI Whisper)"),
}
"""Licences as their publishers state them, for folders and files that came without a README (a copy by hand, a mirror)."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A model of a spec."""

    field: str
    """Where the spec names it, such as `words.model`."""
    form: Form
    name: str


def models_of(spec: PipelineSpec) -> list[Wanted]:
    """Every model that a spec names."""
    stages, found = spec.stages, list[Wanted]()
    if isinstance(stages.transcripts, WhisperXSpec):
        found.append(Wanted(field="transcripts.model", form="ctranslate2", name=stages.transcripts.model))
    elif isinstance(stages.transcripts, ParakeetSpec):
        found.append(Wanted(field="transcripts.model", form="hf", name=stages.transcripts.model))
    if isinstance(stages.words, CtcSpec):
        found.append(ctc_model(stages.words))
        if stages.words.encoder is not None:
            found.append(Wanted(field="words.encoder", form="ctranslate2", name=stages.words.encoder))
    elif isinstance(stages.words, WhisperXAlignSpec | QwenAlignSpec):
        found.append(Wanted(field="words.model", form="hf", name=stages.words.model))
    if isinstance(stages.units.encoder, HubertSpec):
        encoder = stages.units.encoder
        found.append(Wanted(field="units.encoder.model", form=encoder.format, name=encoder.model))
    return [*found, Wanted(field="units.centroids", form="centroids", name=stages.units.centroids)]


def ctc_model(spec: CtcSpec) -> Wanted:
    """The model of the CTC aligner; a letter head for a Whisper encoder is a directory like any other."""
    return Wanted(field="words.model", form="torchaudio" if spec.format == "torchaudio" else "hf", name=spec.model)


def whisper_name(name: str) -> str:
    """A hub name for faster-whisper's short one; anything else as it is."""
    return WHISPER.get(name, name)


def place_of(wanted: Wanted) -> str:
    """Where the model is: a folder, a file, or the URL of centroids.

    Raises:
        ModelError: it is not on this machine, or incomplete; the message says how to get it.
        ConfigError: torchaudio has no such bundle.
        CredentialsError, StorageError: the storage of centroids cannot be asked.
    """
    if wanted.form == "centroids":
        return _centroids(wanted)
    if wanted.form == "torchaudio":
        return str(bundle_file(bundle_of(wanted.name), wanted.field))
    if wanted.form == "fairseq":
        if not Path(wanted.name).is_file():
            raise ModelError(f"{wanted.field}: no fairseq checkpoint {wanted.name!r}", "give the path of a .pt file")
        return wanted.name
    name = whisper_name(wanted.name) if wanted.form == "ctranslate2" else wanted.name
    folder = folder_of(name)
    if folder is None:
        raise ModelError(f"{wanted.field}: {_missing(wanted.name, name)}", how_to_get())
    if missing := [file for file in NEEDED.get(wanted.form, ()) if not (folder / file).is_file()]:
        raise ModelError(f"{wanted.field}: {folder} is not complete, it lacks {', '.join(missing)}", how_to_get())
    return str(folder)


def _missing(given: str, name: str) -> str:
    meant = "" if given == name else f" (on the hub: {name})"
    return f"there is no directory {given!r}, and no model of this name in this machine's cache{meant}"


def how_to_get() -> str:
    """The remedy of every missing model."""
    return "fetch what the spec names with `python -m jobs.fetch_models --config SPEC`; workers download nothing"


def _centroids(wanted: Wanted) -> str:
    files = Files(wanted.name)
    if missing := [file for file in NEEDED["centroids"] if not files.exists(file)]:
        raise ModelError(
            f"{wanted.field}: no centroids in {wanted.name} ({', '.join(missing)} missing)",
            "fit them with jobs/fit_kmeans.py, or bring published ones with jobs/import_centroids.py",
        )
    return wanted.name


def bundle_of(name: str) -> Any:
    """A torchaudio bundle.

    Raises:
        ConfigError: there is none of this name.
    """
    import torchaudio

    bundle = getattr(torchaudio.pipelines, name, None)
    if not hasattr(bundle, "_path"):
        raise ConfigError(
            f"torchaudio has no bundle {name!r}: HUBERT_BASE, WAV2VEC2_ASR_BASE_960H and MMS_FA are three"
        )
    return bundle


def bundle_file(bundle: Any, field: str) -> Path:
    """Where torch's cache holds a bundle's weights.

    Raises:
        ModelError: it does not.
    """
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(bundle._path).path).name
    if not path.is_file():
        raise ModelError(
            f"{field}: the weights of the torchaudio bundle are not in torch's cache ({path})", how_to_get()
        )
    return path


def bundle_licence(bundle: Any) -> str | None:
    """The licence that torchaudio's own documentation of a bundle names."""
    match = re.search(r"under \[?`?([\w.\s-]+?) License", bundle.__doc__ or "")
    return " ".join(match.group(1).split()) if match else None


def licence_notes(wanted: Wanted) -> dict[str, str]:
    """The licence of a model for its card's notes: by its folder or torchaudio, else as published, else nothing."""
    if wanted.form == "torchaudio":
        licence = bundle_licence(bundle_of(wanted.name))
    else:
        place = Path(place_of(wanted))
        name = whisper_name(wanted.name) if wanted.form == "ctranslate2" else wanted.name
        published = PUBLISHED.get(name.partition("@")[0]) or PUBLISHED.get(place.name)
        licence = licence_of(place if place.is_dir() else place.parent) or published
    return {} if licence is None else {"license": licence}
