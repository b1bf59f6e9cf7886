"""What a run keeps of its own: copies of the text tokenizer and the unit BPE, so that its folder can be moved.

    RUN/tokenizer.json or RUN/tokenizer.model        RUN/unit_bpe.json

The configuration's own paths come first; where they lead nowhere (another machine, a moved folder), the copies are used. Unit
cards, configuration and patch policy are in every checkpoint.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from model.data.sources import DataConfig
from model.data.text_tokenizer import tokenizer_file
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
