"""Rows survive Arrow and Parquet unchanged, and the tables' schemas only change by decision."""

import ast
import io
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.arrow import Row, arrow_schema, to_rows, to_table
from schemas.commit import KINDS, SHARDS
from schemas.spec import GATES, STAGES, StagesSpec
from schemas.tables import TABLES, Units, segment_id

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "schemas.json"


def values(row: type[Row], name: str, arrow: pa.DataType) -> st.SearchStrategy[Any]:
    """Values that the field's Arrow type can hold."""
    annotation = row.model_fields[name].annotation
    for option in (annotation, *get_args(annotation)):
        literal = get_args(option)[0] if get_origin(option) is Annotated else option
        if get_origin(literal) is Literal:
            return st.sampled_from(get_args(literal))
    if pa.types.is_list(arrow):
        return st.lists(values(row, name, arrow.value_type), max_size=5)
    if pa.types.is_boolean(arrow):
        return st.booleans()
    if pa.types.is_integer(arrow):
        signed = pa.types.is_signed_integer(arrow)
        low, high = (
            (-(2 ** (arrow.bit_width - 1)), 2 ** (arrow.bit_width - 1) - 1) if signed else (0, 2**arrow.bit_width - 1)
        )
        return st.integers(low, high)
    if pa.types.is_floating(arrow):
        return st.floats(width=arrow.bit_width, allow_nan=False)
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def rows_of(row: type[Row]) -> st.SearchStrategy[list[Row]]:
    fields = {
        field.name: st.none() | values(row, field.name, field.type)
        if field.nullable
        else values(row, field.name, field.type)
        for field in arrow_schema(row)
    }
    unique = lambda item: tuple(getattr(item, name) for name in row.KEY)  # noqa: E731
    return st.lists(st.builds(row, **fields), max_size=6, unique_by=unique)


@pytest.mark.parametrize("name", sorted(TABLES))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_rows_survive_parquet(name: str, data: st.DataObject) -> None:
    row: type[Row] = TABLES[name]
    rows = data.draw(rows_of(row))
    buffer = io.BytesIO()
    pq.write_table(to_table(row, rows), buffer, compression="zstd")
    back = to_rows(row, pq.read_table(io.BytesIO(buffer.getvalue())))
    assert back == sorted(rows, key=lambda item: tuple(getattr(item, field) for field in row.KEY))


@pytest.mark.parametrize("name", sorted(TABLES))
def test_schema_is_the_golden_one(name: str) -> None:
    """A change here is a decision: raise the row's VERSION, then copy the new schema into tests/golden/schemas.json."""
    row = TABLES[name]
    now = {
        "version": row.VERSION,
        "key": list(row.KEY),
        "fields": [f"{field.name}: {field.type}{'?' if field.nullable else ''}" for field in arrow_schema(row)],
    }
    assert now == json.loads(GOLDEN.read_text(encoding="utf-8"))[name]


def test_a_table_of_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="table units has schema"):
        to_rows(Units, pa.table({"segment_id": ["a"]}))


def test_units_outside_uint16_are_refused() -> None:
    with pytest.raises(pa.ArrowInvalid):
        to_table(Units, [Units(segment_id="a", num_frames=1, units=[65_536], tokenizer="t")])


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=2, max_size=5))
def test_segment_ids_sort_by_time(spans: list[tuple[int, int]]) -> None:
    ids = [segment_id("r", start, end) for start, end in spans]
    assert [spans[i] for i in sorted(range(len(ids)), key=ids.__getitem__)] == sorted(spans)


def test_every_stage_of_the_spec_has_its_kind() -> None:
    assert tuple(name for name in KINDS if name not in GATES) == STAGES
    assert set(KINDS) == {*STAGES, *GATES} == set(StagesSpec.model_fields)
    assert [name for name, kind in KINDS.items() if kind.gathers] == [STAGES[-1]]
    for position, kind in enumerate(KINDS.values()):
        assert set(kind.upstream) <= set(list(KINDS)[:position]), "a stage stands on those before it"


def test_no_job_spells_the_name_of_the_stage_of_shards() -> None:
    """The table of stages owns it. A flag of that name, and a key of a fingerprint, are other words that look alike."""
    spelled = []
    for path in (ROOT / "jobs").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        alike = {id(key) for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
                alike |= {id(argument) for argument in node.args}
        spelled += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value == SHARDS and id(node) not in alike
        ]
    assert not spelled
