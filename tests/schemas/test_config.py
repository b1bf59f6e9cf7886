"""A mistake in a configuration is answered with the key and what to write instead."""

from pathlib import Path

import pytest

from schemas.config import ConfigError, StrictModel, apply_override, load_config
from schemas.spec import PipelineSpec

ROOT = Path(__file__).resolve().parents[2]


class Inner(StrictModel):
    learning_rate: float = 1e-3


class Outer(StrictModel):
    steps: int
    inner: Inner = Inner()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 1\ninner: {learning_rat: 2}\n")
    with pytest.raises(
        ConfigError, match=r"inner: unknown key 'learning_rat' in Inner; did you mean 'learning_rate'\?"
    ):
        load_config(Outer, path)


def test_unknown_key_of_the_demo_spec_deep_in_a_union() -> None:
    with pytest.raises(ConfigError, match=r"'beam_sise'.*did you mean 'beam_size'"):
        load_config(PipelineSpec, ROOT / "configs/demo.yaml", ["stages.transcripts.beam_sise=1"])


def test_missing_and_malformed_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml.*No such file"):
        load_config(Outer, tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(Outer, write(tmp_path, "steps: [1"))
    with pytest.raises(ConfigError, match="must hold a mapping"):
        load_config(Outer, write(tmp_path, "- 1\n"))


def test_wrong_type_names_the_field(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml: steps:"):
        load_config(Outer, write(tmp_path, "steps: many\n"))


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 1e-3),
        ("3", 3),
        ("true", True),
        ("a", "a"),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("**/*.flac", "**/*.flac"),
        ("010", 10),
        ("12:30", "12:30"),
        ("/music/disc #1", "/music/disc #1"),
        ("#1/**", "#1/**"),
        ("'a # b'", "a # b"),
        ("[a, b] # two", ["a", "b"]),
    ],
)
def test_overrides_are_read_as_yaml(text: str, value: object) -> None:
    document: dict[str, object] = {}
    apply_override(document, f"a.b={text}")
    assert document == {"a": {"b": value}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: 1\nsteps: 2\n", "the key 'steps' stands twice"),
        ("steps: yes\n", "steps is a number, and True is none"),
        ("steps: 12:30\n", "steps"),
        ("steps: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    ],
)
def test_what_yaml_would_read_otherwise_than_it_is_meant_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(Outer, write(tmp_path, text))


def test_a_leading_zero_makes_no_octal_number(tmp_path: Path) -> None:
    assert load_config(Outer, write(tmp_path, "steps: 010\n")).steps == 10


def test_malformed_override_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"key\.subkey=value"):
        apply_override({}, "steps")
    with pytest.raises(ConfigError, match="not a mapping"):
        apply_override({"steps": 1}, "steps.x=2")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_pipeline_config_in_the_repository_loads(path: Path) -> None:
    assert load_config(PipelineSpec, path)
