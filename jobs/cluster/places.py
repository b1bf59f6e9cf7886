"""Where relative paths lead: to the folder the job was started in, also when Ray runs it from a copy elsewhere."""

from __future__ import annotations

import json
import os
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import unquote, urlparse

from schemas.config import ConfigError
from schemas.spec import PipelineSpec
from schemas.storage.urls import check_bucket, from_home

COPY = "_ray_pkg_"
"""In the name of the folder that `ray job submit --working-dir` copies a checkout to."""


def base_folder() -> Path:
    """The folder that relative paths in a spec start from.

    `LST_ROOT` when set, else the current folder. `ray job submit --working-dir .` runs the job in a temporary copy that
    is thrown away, so there it is the project that the running environment was installed from.

    Raises:
        ConfigError: running in Ray's copy, and the project it was made from is not on this machine.
    """
    if root := os.environ.get("LST_ROOT"):
        return Path(root).resolve()
    here = Path.cwd()
    if not any(COPY in part for part in here.parts):
        return here
    notes = [found.read_text("direct_url.json") for found in distributions(name="latent-speech-text")]
    url = next((json.loads(note).get("url", "") for note in notes if note), "")
    folder = Path(unquote(urlparse(url).path))
    if not url.startswith("file:") or not folder.is_dir():
        raise ConfigError(
            "this job runs in a temporary copy made by Ray, so relative paths would be lost: set LST_ROOT, "
            "or write absolute paths or s3:// URLs in the spec"
        )
    return folder


def resolve(path: str, base: Path) -> str:
    """`path` made absolute from `base`, or from the home folder where it begins with `~/`; URLs such as s3://bucket/x stay as
    they are.

    Raises:
        ConfigError: a URL names no bucket.
    """
    check_bucket(path)
    return path if "://" in path else str((base / from_home(path)).resolve())


def resolve_model(name: str, base: Path) -> str:
    """A model directory made absolute where it exists; otherwise the name is left alone (it may be a hub name)."""
    candidate = base / from_home(name)
    return str(candidate.resolve()) if candidate.exists() or name.startswith((".", "/", "~/")) else name


def resolve_spec(spec: PipelineSpec, base: Path) -> PipelineSpec:
    """The spec with every path absolute, so that workers in other folders read the same files."""
    document = spec.model_dump(mode="json")
    document["source"]["uri"] = resolve(spec.source.uri, base)
    document["source"]["roots"] = [resolve(root, base) for root in spec.source.roots]
    document["output"] = resolve(spec.output, base)
    units = document["stages"]["units"]
    units["centroids"] = resolve(units["centroids"], base)
    words = document["stages"]["words"]
    named = [(holder, "model") for holder in (document["stages"]["transcripts"], words, units["encoder"])]
    for holder, key in (*named, (words, "encoder")):
        if holder.get(key) is not None:
            holder[key] = resolve_model(holder[key], base)
    return PipelineSpec.model_validate(document)


def local_or_url(path: str) -> str:
    """A path as a person would write it: relative to the current folder where that is shorter."""
    if "://" in path:
        return path
    relative = os.path.relpath(path, Path.cwd())
    return relative if not relative.startswith("..") else path
