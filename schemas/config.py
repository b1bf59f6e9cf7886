"""Strict documents: YAML checked by pydantic, where an unknown key is an error that names the nearest; lines of JSON."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from schemas.errors import ConfigError as ConfigError

Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True)
class Effect:
    """What a field does to results, where that is not "changes them". Stands beside the field: `Annotated[str, NO_EFFECT]`."""

    on_results: str


NO_EFFECT = Effect("none")
"""Devices, batch sizes, places to write to: results are the same for every value."""
BY_CONTENT = Effect("by content")
"""Paths of models and data: what lies there counts (through its card or hash), not where."""


class StrictModel(BaseModel):
    """Base of every record and configuration: frozen, no unknown keys, no silent type coercion of strings."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = set(cls.model_fields) | {field.alias for field in cls.model_fields.values() if field.alias}
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
                raise ValueError(f"unknown key {key!r} in {cls.__name__}; {hint}")
            field = cls.model_fields.get(key)
            if isinstance(data[key], bool) and field is not None and _is_number(field.annotation):
                raise ValueError(
                    f"{key} is a number, and {data[key]} is none: YAML reads on, off, yes and no as true and false"
                )
        return data

    def with_updates(self, **updates: Any) -> Self:
        """A validated copy with some top-level fields replaced."""
        return type(self).model_validate({**self.model_dump(by_alias=True), **updates})


def _is_number(annotation: Any) -> bool:
    """Whether a field takes numbers (or None) and nothing else, for pydantic takes true for 1."""
    return set(get_args(annotation) or (annotation,)) <= {int, float, type(None)}


def essential(config: BaseModel) -> dict[str, Any]:
    """The part of a configuration that decides results, as JSON values: without fields that are marked with an `Effect`."""
    return {
        name: _essential_value(getattr(config, name), value)
        for name, value in config.model_dump(mode="json").items()
        if effect_of(type(config), name) is None
    }


def _essential_value(value: Any, dumped: Any) -> Any:
    if isinstance(value, BaseModel):
        return essential(value)
    if isinstance(value, list | tuple):
        return [_essential_value(item, part) for item, part in zip(value, dumped, strict=True)]
    return dumped


def effect_of(cls: type[BaseModel], field: str) -> Effect | None:
    """The mark of a field, or None: it changes results."""
    return next((mark for mark in cls.model_fields[field].metadata if isinstance(mark, Effect)), None)


class _Loader(yaml.SafeLoader):
    """YAML without what nobody means: a key that stands twice loses a value; `010` was 8, and `12:30` was 750."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value == "<<" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


COMMENT = re.compile(r"(?:^|\s)#")
"""Where YAML stops reading a line."""
INTEGER = "tag:yaml.org,2002:int"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != INTEGER]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(INTEGER, re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"), list("-+0123456789"))


def load_config(cls: type[Config], path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read `path` as YAML, apply overrides such as `optimiser.lr=1e-3`, and validate it as `cls`.

    Raises:
        ConfigError: the file is missing, no UTF-8, no YAML or not a mapping, an override has no `=`, or validation fails.
    """
    try:
        document = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration {path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply to be read") from error
    if not isinstance(document, dict):
        found = "nothing" if document is None else type(document).__name__
        raise ConfigError(f"{path} must hold a mapping of keys to values, found {found}")
    for override in overrides:
        apply_override(document, override)
    return parse_config(cls, document, origin=str(path))


def parse_config(cls: type[Config], document: dict[str, Any], origin: str) -> Config:
    """Validate a mapping as `cls`; errors name `origin` and the key.

    Raises:
        ConfigError: one line per problem.
    """
    try:
        return cls.model_validate(document)
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(origin, problem) for problem in _of_values(error))) from error


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set `a.b.c=value` in a nested mapping, the value read as YAML.

    Raises:
        ConfigError: no `=`, or the path runs through something that is not a mapping.
    """
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"override {override!r} must have the form key.subkey=value")
    *parents, leaf = path.split(".")
    node = document
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is not a mapping")
    node[leaf] = _parse_scalar(value)


def json_object(line: str) -> dict[str, Any]:
    """The object that a line of JSONL holds. NaN, half of a surrogate pair, a name that comes twice: Python reads them, this not.

    Raises:
        ValueError: it is none; the sentence says why and follows "it" (is, holds).
    """
    try:
        row = json.loads(line, parse_constant=_no_constant, object_pairs_hook=_object)
        if "\\ud" in line.lower():
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a surrogate pair, which is no character") from error
    except _TwiceError:
        raise
    except ValueError as error:
        reason = str(error).partition("; use sys.")[0]  # of a number of thousands of digits: no advice for who wrote it
        raise ValueError(f"it is not JSON: {reason}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply to be read") from error
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object is wanted, found {type(row).__name__}")
    return row


class _TwiceError(ValueError):
    """Which of two values is meant nobody can say."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return made


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _parse_scalar(text: str) -> Any:
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:  # such as `**/*.flac`, which begins as an alias: meant as it is written
        value = text
    if COMMENT.search(text) and text[0] not in "\"'[{":  # one line has no comments: "disc #1" is a folder, not "disc"
        value = text
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string because it lacks a dot
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _of_values(error: ValidationError) -> list[Any]:
    """Its problems. Where a field may be one of several types pydantic tries each: what is said of a type that the value does not
    even look like goes, where another was read further."""
    problems = error.errors()
    places = [_place(problem) for problem in problems]
    return [
        problem
        for problem, place in zip(problems, places, strict=True)
        if not any(len(other) > len(place) and other[: len(place)] == place for other in places)
    ]


def _place(problem: Any) -> tuple[str, ...]:
    """The keys that lead to a value, without pydantic's names of the types that it tried (`dict[str,...]`)."""
    return tuple(str(part) for part in problem["loc"] if "[" not in str(part))


def _describe(origin: str, problem: Any) -> str:
    where = ".".join(_place(problem))
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{origin}: {where + ': ' if where else ''}{message}"


def in_short(error: Exception) -> str:
    """The reason in one line: of the many lines of a pydantic error, the first problem."""
    if isinstance(error, ValidationError):
        return _describe("its content", error.errors()[0])
    return str(error).splitlines()[0] if str(error) else type(error).__name__
