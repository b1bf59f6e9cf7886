"""What each stage reads of a file beyond its content: what a stage does not read does not enter the identity of its work."""

from __future__ import annotations

from schemas.commit import KINDS
from schemas.spec import PipelineSpec
from schemas.tables import InventoryItem, Transcript

EVERYTHING = tuple(name for name in InventoryItem.model_fields if name not in ("probe", "bytes", "seconds"))


def labels_read(spec: PipelineSpec) -> dict[str, tuple[str, ...]]:
    """Stage -> columns of the inventory that its rows, or rows below them, depend on.

    `recordings` restates them all for those who read tables, but what it computes depends on none: other labels cost no decoding.
    """
    stages = spec.stages
    cut = ("given",) if stages.segments.backend == "given" else ()
    text = {"language_hint", *cut, *(("given",) if stages.words.backend == "given" else ())}
    if stages.transcripts.backend == "transcript":
        text |= {"transcript", "given"}
    heard = tuple(sorted(text))
    told = tuple(sorted({*heard, "uri", "license", "given", "extra"}))  # the last two name speakers
    return {
        name: EVERYTHING if kind.restates else told if kind.gathers else heard if _hears_text(name) else cut
        for name, kind in KINDS.items()
    }


def _hears_text(stage: str) -> bool:
    """Whether a stage writes transcripts, or stands on a stage that does."""
    return stage == Transcript.TABLE or any(_hears_text(above) for above in KINDS[stage].upstream)


def members_read(spec: PipelineSpec) -> dict[str, tuple[str, ...]]:
    """Stage -> columns by which a file's rows are known when they are taken over. Labels of recordings are written anew, but
    rows of a corpus that cannot be used (`given`) are among their rejects."""
    return {name: ("given",) if KINDS[name].restates else read for name, read in labels_read(spec).items()}
