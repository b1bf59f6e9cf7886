"""The reference of a configuration, read from its classes: every field with type, default, unit, meaning and effect."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schemas.config import effect_of

UNITS = (
    ("_seconds", "s"),
    ("_ms", "ms"),
    ("minutes", "min"),
    ("_hours", "h"),
    ("_bytes", "bytes"),
    ("seconds", "s"),
    ("_steps", "steps"),
    ("hop", "samples at 16 kHz"),
)
"""The unit of a field, by how its name ends."""
NO_DEFAULT = "required"
BELOW = "see below"
"""Stands for a default that is a mapping: it has a section of its own."""
LONGEST_CELL = 60
"""Characters of a default in a column of its own, on a page."""
CHOOSERS = ("backend", "kind", "policy", "rule")
"""Fields whose value says which of several classes is meant."""


@dataclass(frozen=True, kw_only=True)
class FieldEntry:
    """One field of a configuration."""

    name: str
    type: str
    default: str
    unit: str
    """Empty for what has none."""
    meaning: str
    effect: str
    """yes: it changes results; none; by content."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A class of the configuration, at the place where it stands."""

    path: str
    """Such as `stages.words (backend: ctc)`; empty for the top."""
    meaning: str
    fields: tuple[FieldEntry, ...]


def sections(cls: type[BaseModel]) -> list[Section]:
    """`cls` and, depth first, every configuration inside it, each class once; where there is a choice, each choice."""
    return list(_sections(cls, "", "", set()))


def _sections(cls: type[BaseModel], path: str, choice: str, seen: set[type]) -> Iterator[Section]:
    if cls in seen:
        return
    seen.add(cls)
    known = dict(cls.model_fields)
    entries = tuple(_entry(cls, name, field) for name, field in known.items())
    yield Section(path=path + choice, meaning=_first_sentence(cls), fields=entries)
    for name, field in known.items():
        inside = f"{path}.{name}" if path else name
        members = _models(field.annotation)
        suffix = (
            "[]" if get_origin(field.annotation) is list else ".NAME" if get_origin(field.annotation) is dict else ""
        )
        for member in members:
            yield from _sections(member, inside + suffix, _choice(member) if len(members) > 1 else "", seen)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The configurations that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) if not isinstance(part, str) for model in _models(part)]


def _choice(cls: type[BaseModel]) -> str:
    """By which key and value this one is chosen among others."""
    for name in CHOOSERS:
        if name in cls.model_fields:
            return f" ({name}: {' or '.join(get_args(cls.model_fields[name].annotation))})"
    return f" ({cls.__name__})"


def _entry(cls: type[BaseModel], name: str, field: FieldInfo) -> FieldEntry:
    mark = effect_of(cls, name)
    return FieldEntry(
        name=name,
        type=_type(field.annotation) + _bounds(field),
        default=_default(field),
        unit=next((unit for ending, unit in UNITS if name.endswith(ending)), ""),
        meaning=" ".join((field.description or "").split()),
        effect="yes" if mark is None else mark.on_results,
    )


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        named = list(dict.fromkeys(_type(part) for part in parts))
        return " or ".join(named)
    if origin is not None and hasattr(annotation, "__metadata__"):
        return _type(parts[0])
    if origin in (list, dict, tuple):
        inner = [_type(part) for part in parts if part is not Ellipsis]
        word = {list: "list of", tuple: "pair of", dict: "mapping to"}[origin]
        return f"{word} {inner[-1] if inner else 'values'}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true, false"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


def _bounds(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(mark, name):g}"
        for mark in field.metadata
        for name, sign in signs.items()
        if isinstance(getattr(mark, name, None), int | float)
    ]
    return f" ({', '.join(found)})" if found else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return NO_DEFAULT
    value = field.default
    if isinstance(value, BaseModel) or value == {}:
        return BELOW
    if isinstance(value, list | tuple):
        return "[" + ", ".join(str(item) for item in value) + "]"
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if isinstance(value, bool | None)
        else str(value)
    )


def _first_sentence(cls: type[BaseModel]) -> str:
    doc = " ".join((cls.__doc__ or "").split())
    return doc if "Base class" not in doc else ""


def as_markdown(cls: type[BaseModel]) -> str:
    """A section per class: a table of its fields."""
    lines: list[str] = []
    for section in sections(cls):
        lines += [f"### `{section.path or cls.__name__}`", ""]
        lines += [section.meaning, ""] if section.meaning else []
        lines += ["| field | type | default | unit | meaning | changes results |", "|---|---|---|---|---|---|"]
        for entry in section.fields:
            long = len(entry.default) > LONGEST_CELL
            default = "see right" if long else _as_code(entry.default)
            meaning = f"{entry.meaning} Default: `{entry.default}`." if long else entry.meaning
            cells = (f"`{entry.name}`", entry.type, default, entry.unit, meaning, entry.effect)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _as_code(default: str) -> str:
    """A value to the letter: `**/*` would be read as emphasis."""
    return default if default in (NO_DEFAULT, BELOW) else f"`{default}`"


def as_help(cls: type[BaseModel]) -> str:
    """The fields as lines for `--help`: dotted name, default, meaning."""
    lines = ["fields (docs/configuration.md has more on each):"]
    for section in sections(cls):
        lines.append(f"  {section.path or 'top level'}")
        lines += [f"    {entry.name:<24} {entry.default:<14} {entry.meaning}" for entry in section.fields]
    return "\n".join(lines)
