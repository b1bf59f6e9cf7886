"""Fingerprints change with whatever may change a result, and with nothing else."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.cards import Card, fingerprint, hash_directory
from schemas.commit import Commit, stage_fingerprint

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), json_values, max_size=4))
def test_fingerprint_ignores_key_order_and_survives_json(value: dict[str, object]) -> None:
    reordered = dict(reversed(list(value.items())))
    assert fingerprint(value) == fingerprint(reordered) == fingerprint(json.loads(json.dumps(value)))


def test_fingerprint_is_the_same_on_every_machine() -> None:
    assert fingerprint({"b": 1, "a": [1.5, "ü"]}) == "10eeeaf6f03305a8c6e39ab5ef832bb3ae80512a20eadff9c15274e509cefce3"


def test_notes_and_name_do_not_change_what_a_card_is() -> None:
    facts = {"sha256": "ab"}
    one = Card(kind="asr", name="a", facts=facts)
    assert one.card_id == Card(kind="asr", name="a", facts=facts, notes={"licence": "MIT"}).card_id
    assert one.card_id != Card(kind="asr", name="a", facts={"sha256": "ac"}).card_id


BASE = {
    "stage": "units",
    "version": 1,
    "parameters": {"a": 1},
    "cards": ["x", "y"],
    "schema_version": 1,
    "upstream": {"segments": "s"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "words"},
        {"version": 2},
        {"parameters": {"a": 2}},
        {"cards": ["x"]},
        {"schema_version": 2},
        {"upstream": {"segments": "t"}},
    ],
)
def test_stage_fingerprint_depends_on_every_part(change: dict[str, object]) -> None:
    assert stage_fingerprint(**{**BASE, **change}) != stage_fingerprint(**BASE)  # type: ignore[arg-type]


def test_stage_fingerprint_does_not_depend_on_the_order_of_cards() -> None:
    assert stage_fingerprint(**{**BASE, "cards": ["y", "x"]}) == stage_fingerprint(**BASE)  # type: ignore[arg-type]


def test_a_commit_that_loses_rows_cannot_be_made() -> None:
    fields = {
        "stage": "words",
        "fingerprint": "f",
        "partition": "p",
        "inputs": {},
        "outputs": {},
        "rejects_by_code": {},
    }
    sums = {"samples_in": 0, "samples_out": 0, "samples_rejected": 0, "seconds_busy": 0.0}
    assert Commit(**fields, **sums, rows_in=3, rows_out=2, rows_rejected=1)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="3 rows came in but 2 went out and 0 were rejected"):
        Commit(**fields, **sums, rows_in=3, rows_out=2, rows_rejected=0)  # type: ignore[arg-type]


def test_a_model_directory_with_nothing_in_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is it the right model directory"):
        hash_directory(tmp_path, ("model.bin",))
