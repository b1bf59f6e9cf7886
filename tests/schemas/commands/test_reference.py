"""docs/configuration.md is what the classes say, and every field says what it is for."""

from typing import Annotated

from pydantic import Field

from jobs.reference.configuration import PAGE, page
from model.training.config import TrainConfig
from schemas.commands.reference import as_help, sections
from schemas.config import BY_CONTENT, NO_EFFECT, StrictModel, essential
from schemas.spec import PipelineSpec


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `lst configuration --write`"


def test_every_field_of_both_configurations_has_a_meaning() -> None:
    for cls in (PipelineSpec, TrainConfig):
        without = [
            f"{section.path}.{entry.name}" for section in sections(cls) for entry in section.fields if not entry.meaning
        ]
        assert without == []


class Inner(StrictModel):
    size: int = Field(default=1, ge=1)
    """How large."""
    device: Annotated[str, NO_EFFECT] = "cpu"
    """Where."""


class Outer(StrictModel):
    inner: Inner = Inner()
    """One."""
    more: list[Inner] = []
    """Several."""
    model: Annotated[str, BY_CONTENT] = "a"
    """A path."""


def test_what_is_essential_is_found_at_every_depth() -> None:
    config = Outer(inner=Inner(size=2, device="cuda"), more=[Inner(device="cuda")], model="b")
    assert essential(config) == {"inner": {"size": 2}, "more": [{"size": 1}]}


def test_an_entry_has_type_bounds_default_and_effect() -> None:
    top, inner = sections(Outer)
    size, device = inner.fields
    assert (size.type, size.default, size.meaning, size.effect) == ("integer (≥ 1)", "1", "How large.", "yes")
    assert device.effect == "none"
    assert [entry.effect for entry in top.fields] == ["yes", "yes", "by content"]


def test_help_lists_every_field() -> None:
    text = as_help(PipelineSpec)
    assert all(entry.name in text for section in sections(PipelineSpec) for entry in section.fields)
