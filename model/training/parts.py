"""What a run keeps of its own: copies of the text tokenizer, the unit BPE and the boundaries, so that its folder can be moved.

    RUN/tokenizer.json or RUN/tokenizer.model        RUN/unit_bpe.json        RUN/boundaries.npz

The configuration's own paths come first; where they lead nowhere (another machine, a moved folder), the copies are used. Unit
cards, configuration and patch policy are in every checkpoint.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from model.data.patching import (
    BOUNDARIES,
    CurriculumConfig,
    LearnedConfig,
    MixedConfig,
    PatchPolicyConfig,
    load_boundaries,
)
from model.data.sources import DataConfig
from model.data.text_tokenizer import tokenizer_file
from model.network.vocabulary import Vocabulary
from schemas.cards import hash_file
from schemas.errors import ConfigError
from schemas.files import whole_file

UNIT_BPE = "unit_bpe.json"


def keep_parts(folder: Path, data: DataConfig) -> None:
    """Copy the run's tokenizer and unit BPE into its folder. Main rank only."""
    source = tokenizer_file(data.tokenizer.path)
    _copy(source, folder / f"tokenizer{source.suffix}")
    if data.unit_bpe:
        _copy(Path(data.unit_bpe), folder / UNIT_BPE)


def _copy(source: Path, target: Path) -> None:
    if target.exists() and target.read_bytes() == source.read_bytes():
        return
    with whole_file(target) as partial:
        shutil.copyfile(source, partial)


def with_own_parts(data: DataConfig, folder: Path) -> DataConfig:
    """The configuration with the folder's copies in place of files that are not where it says."""
    updates: dict[str, object] = {}
    kept = [
        folder / f"tokenizer{suffix}" for suffix in (".json", ".model") if (folder / f"tokenizer{suffix}").is_file()
    ]
    if kept and not tokenizer_file(data.tokenizer.path).is_file():
        updates["tokenizer"] = {**data.tokenizer.model_dump(), "path": str(kept[0])}
    if data.unit_bpe and not Path(data.unit_bpe).is_file() and (folder / UNIT_BPE).is_file():
        updates["unit_bpe"] = str(folder / UNIT_BPE)
    return data.with_updates(**updates) if updates else data


def with_known_boundaries(policy: PatchPolicyConfig, folder: Path, vocabulary: Vocabulary) -> PatchPolicyConfig:
    """The policy with what is known of its boundaries once the data is: their hash, and which id is unit 0. Where they are not at
    their path, the folder's copy of them.

    Raises:
        ConfigError: they are missing, of another number of units, or others than the run was trained with.
    """
    if isinstance(policy, MixedConfig | CurriculumConfig):
        inner = with_known_boundaries(policy.otherwise, folder, vocabulary)
        return policy if inner == policy.otherwise else policy.with_updates(otherwise=inner.model_dump())
    if not isinstance(policy, LearnedConfig):
        return policy
    path, kept = Path(policy.boundaries), folder / BOUNDARIES
    path = kept if not path.is_file() and kept.is_file() else path
    table = load_boundaries(str(path), policy.sha256)
    if table.num_units != vocabulary.num_units:
        raise ConfigError(
            f"the boundaries {path} were fitted over {table.num_units} units, and the speech here has {vocabulary.num_units}",
            "fit them on these shards with `lst fit-boundaries`",
        )
    return policy.with_updates(boundaries=str(path), sha256=hash_file(path), unit_offset=vocabulary.unit_offset)


def keep_boundaries(policy: PatchPolicyConfig, folder: Path) -> None:
    """Copy the table of a learned policy into the run's folder. Main rank only."""
    learned = policy.otherwise if isinstance(policy, MixedConfig | CurriculumConfig) else policy
    if isinstance(learned, LearnedConfig):
        _copy(Path(learned.boundaries), folder / BOUNDARIES)
