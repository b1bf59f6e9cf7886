"""One source of truth for a table: a pydantic row model whose annotations carry the Arrow types."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

import pyarrow as pa

from schemas.config import StrictModel

Int8 = Annotated[int, pa.int8()]
Int32 = Annotated[int, pa.int32()]
Int64 = Annotated[int, pa.int64()]
Float32 = Annotated[float, pa.float32()]
Float64 = Annotated[float, pa.float64()]
Bool = Annotated[bool, pa.bool_()]
Text = Annotated[str, pa.string()]
UnitList = Annotated[list[int], pa.list_(pa.uint16())]
ByteList = Annotated[list[int], pa.list_(pa.uint8())]
IntList = Annotated[list[int], pa.list_(pa.int32())]


class Row(StrictModel):
    """One row of a table. Subclasses name the table, its schema version and its sort key."""

    TABLE: ClassVar[str]
    VERSION: ClassVar[int]
    KEY: ClassVar[tuple[str, ...]]


RowType = TypeVar("RowType", bound=Row)


def arrow_schema(row: type[Row]) -> pa.Schema:
    """The Arrow schema of a row model; a field that may be None is nullable.

    Raises:
        TypeError: a field's annotation carries no Arrow type.
    """
    fields = []
    for name, field in row.model_fields.items():
        annotation: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        arrow_type, nullable = _arrow_type(annotation)
        if arrow_type is None:
            raise TypeError(f"{row.__name__}.{name} has no Arrow type in its annotation")
        fields.append(pa.field(name, arrow_type, nullable=nullable))
    return pa.schema(fields)


def _arrow_type(annotation: Any) -> tuple[pa.DataType | None, bool]:
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *metadata = get_args(annotation)
        found = next((item for item in metadata if isinstance(item, pa.DataType)), None)
        inner, nullable = _arrow_type(base)
        return found or inner, nullable
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return _arrow_type(members[0])[0], len(members) < len(get_args(annotation))
    return None, False


def to_table(row: type[RowType], rows: Iterable[RowType]) -> pa.Table:
    """Rows as an Arrow table with the model's schema, sorted by the model's key."""
    ordered = sorted(rows, key=lambda item: tuple(getattr(item, name) for name in row.KEY))
    schema = arrow_schema(row)
    columns = {name: [getattr(item, name) for item in ordered] for name in schema.names}
    return pa.Table.from_pydict(columns, schema=schema)


def to_rows(row: type[RowType], table: pa.Table) -> list[RowType]:
    """The rows of an Arrow table, validated.

    Raises:
        ValueError: the table's schema is not the model's.
    """
    schema = arrow_schema(row)
    if not table.schema.equals(schema):
        raise ValueError(f"table {row.TABLE} has schema\n{table.schema}\nbut version {row.VERSION} is\n{schema}")
    return [row.model_validate(item) for item in table.to_pylist()]
