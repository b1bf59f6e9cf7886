"""The fields of a configuration that name files."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from schemas.config import StrictModel
from schemas.storage.urls import from_home

Config = TypeVar("Config", bound=StrictModel)
"""A `TrainConfig`, whose file stands on this one."""


def with_home(config: Config) -> Config:
    """The configuration with the home folder for the `~/` of its paths."""
    return with_paths(config, from_home, from_home)


def with_paths(config: Config, path: Callable[[str], str], name: Callable[[str], str]) -> Config:
    """The configuration with each of its paths as `path` gives it, and what may also be the name of something on a hub as `name`
    does."""
    document = config.model_dump()
    data, patches = document["data"], document["patches"]
    tokenizer, evaluation = data["tokenizer"], document["evaluation"] or {}
    voice = evaluation.get("voice", {})
    paths = [(document, "output_dir"), *((source, "data") for source in data["sources"])]
    paths += [(data, "cache_dir"), (data, "unit_bpe"), (voice, "voice_shards"), (voice, "audio_root")]
    paths += [(policy, "boundaries") for policy in (patches, patches.get("otherwise", {}))]
    names = [(document, "init_from"), (voice, "vocoder")]
    (names if tokenizer["train_size"] is None else paths).append((tokenizer, "path"))
    if isinstance(document["model"], str):
        paths.append((document, "model"))
    for changed, holders in ((path, paths), (name, names)):
        for holder, key in holders:
            if holder.get(key):
                holder[key] = changed(holder[key])
    if evaluation:
        evaluation["tasks"] = [path(task) for task in evaluation["tasks"]]
    return type(config).model_validate(document)
