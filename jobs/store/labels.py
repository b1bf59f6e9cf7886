"""What each stage reads of a file beyond its content: what a stage does not read does not enter the identity of its work."""

from __future__ import annotations

from schemas.spec import PipelineSpec
from schemas.tables import InventoryItem

AUDIO_STAGES = ("segments", "audio_quality", "units")
TEXT_STAGES = ("transcripts", "text_quality", "words", "patches")
EVERYTHING = tuple(name for name in InventoryItem.model_fields if name not in ("probe", "bytes", "seconds"))


def labels_read(spec: PipelineSpec) -> dict[str, tuple[str, ...]]:
    """Stage -> columns of the inventory that its rows, or rows below them, depend on.

    `recordings` restates them all for those who read tables, but what it computes depends on none: other labels cost no decoding.
    """
    backends = {stage: str(getattr(spec.stages, stage).backend) for stage in ("segments", "transcripts", "words")}
    cut = ("given",) if backends["segments"] == "given" else ()
    text = {"language_hint", *cut, *(("given",) if backends["words"] == "given" else ())}
    if backends["transcripts"] == "transcript":
        text |= {"transcript", "given"}
    heard = tuple(sorted(text))
    return {
        "recordings": EVERYTHING,
        **dict.fromkeys(AUDIO_STAGES, cut),
        **dict.fromkeys(TEXT_STAGES, heard),
        "shards": tuple(sorted({*heard, "uri", "license", "given", "extra"})),  # the last two name speakers
    }


def members_read(spec: PipelineSpec) -> dict[str, tuple[str, ...]]:
    """Stage -> columns by which a file's rows are known when they are taken over. Labels of recordings are written anew, but
    rows of a corpus that cannot be used (`given`) are among their rejects."""
    return {**labels_read(spec), "recordings": ("given",)}
