"""What README and docs tell a reader to type exists: targets, modules, scripts, files and flags; links lead somewhere."""

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from jobs.lst import MODULES
from model.training.config import load_train_config
from schemas.commands.cli import parser_of
from schemas.config import load_config
from schemas.spec import PipelineSpec

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
LINKING = [*PAGES, *sorted((ROOT / "docs" / "results").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def commands(page: Path) -> Iterator[list[str]]:
    """The commands of a page: its indented or fenced lines, and `code` that begins like one; without comments."""
    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    lines += [
        line.strip() for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()
    ]
    lines += [
        " ".join(code.split())
        for code in re.findall(r"`([^`]+)`", text)
        if code.startswith(("make ", "python ", "lst "))
    ]
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if "&&" in words:
            words = words[words.index("&&") + 1 :]
        if "--" in words and words[:3] == ["ray", "job", "submit"]:
            words = words[words.index("--") + 1 :]
        if words and words[0] in ("make", "python", "torchrun", "lst"):
            yield words


def source_of(words: list[str]) -> Path | None:
    """The file that a python command runs; None for other people's modules."""
    if "-m" in words:
        module = words[words.index("-m") + 1]
        if module.split(".")[0] not in ("model", "jobs", "recipes", "benchmarks"):
            return None
        return ROOT / (module.replace(".", "/") + ".py")
    script = next((word for word in words[1:] if word.endswith(".py")), None)
    return ROOT / script if script else None


def with_imports(path: Path) -> str:
    """A file and those of ours that it imports: parsers are shared."""
    text = path.read_text(encoding="utf-8")
    for module in re.findall(r"^from ((?:model|jobs|schemas|recipes|benchmarks)[\w.]*) import", text, re.M):
        other = ROOT / (module.replace(".", "/") + ".py")
        text += other.read_text(encoding="utf-8") if other.is_file() else ""
    return text


@cache
def options_of(name: str) -> set[str]:
    """What a command and its sub-commands take, by their own parsers."""
    parsers: list[argparse.ArgumentParser] = [parser_of(import_module(MODULES[name]).main)]
    known: set[str] = set()
    while parsers:
        for action in parsers.pop()._actions:
            known.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    return known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_exist(page: Path) -> None:
    for words in commands(page):
        if words[0] == "make":
            named = [word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word) and "-C" not in words]
            assert set(named) <= TARGETS, f"{page.name}: {' '.join(words)}"
            continue
        if words[0] == "lst":
            if words[1:] != ["--help"] and words[1] not in ("COMMAND", "x"):  # a placeholder
                assert words[1] in MODULES, f"{page.name}: {' '.join(words)}"
                unknown = {word.split("=")[0] for word in words if word.startswith("--")} - options_of(words[1])
                assert not unknown, f"{page.name}: {' '.join(words)}: lst {words[1]} does not know {unknown}"
            continue
        path = source_of(words)
        if path is None or path.stem in ("x", "X"):  # a placeholder
            continue
        assert path.is_file(), f"{page.name}: {' '.join(words)} runs {path.relative_to(ROOT)}, which is not there"
        text = with_imports(path)
        for flag in (word.split("=")[0] for word in words[words.index("-m") + 2 if "-m" in words else 2 :]):
            if flag.startswith("--") and flag not in ("--", "--help", "--debug"):
                assert f'"{flag}"' in text, (
                    f"{page.name}: {' '.join(words)}: {flag} is unknown to {path.relative_to(ROOT)}"
                )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_the_commands_of_a_page_can_be_set(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`KEY=VALUE` behind a configuration of ours, in examples of --help too: docs/cli.md has them."""
    monkeypatch.chdir(ROOT)
    for words in commands(page):
        settings = [word for word in words if re.match(r"[a-z_]\w*(\.\w+)*=", word)]
        for config in (word for word in words if re.fullmatch(r"configs/[\w/-]+\.yaml", word) and settings):
            if config.startswith("configs/train/"):
                load_train_config(config, settings)
            elif "/" not in config.removeprefix("configs/"):
                load_config(PipelineSpec, config, settings)


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / target).resolve()
        for page in LINKING
        for target in LINK.findall(page.read_text(encoding="utf-8"))
    }
    pages = {*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "results").glob("*.md")}
    assert {page.relative_to(ROOT).as_posix() for page in pages - linked} == {"docs/index.md"}, (
        "the site begins with it"
    )


NAMED = re.compile(r"(?<![\w/.:-])((?:\.?[A-Za-z_][\w-]*)(?:/[\w.*-]+)+/?|[a-z_]\w*\.py)(?![\w/])")
OF_A_FILE = re.compile(r"`([A-Za-z_]\w+)` (?:in|of) `([\w/]+\.py)`")
EXAMPLES = {"x.py", "X.py", "mine.py"}
READERS_OWN = re.compile(r"data/(?!demo|text)|(assets/(example\.html|demo\.html|overview))")
"""Data of the reader's, and links from within docs/."""


@pytest.mark.parametrize("page", [*LINKING, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """A path from the root exists; a bare module.py, or one from within a folder, is the name of some file."""
    text = page.read_text(encoding="utf-8")
    for name in sorted({match.rstrip("./") for match in NAMED.findall(text)}):
        first, *rest = name.split("/")
        if name.split("/")[-1] in EXAMPLES or READERS_OWN.match(name):
            continue
        if not rest:
            assert name in file_names(), f"{page.name} names {name}: no file is called so"
        elif (ROOT / first).is_dir() and first not in ("runs", "models"):
            assert any(ROOT.glob(name)), f"{page.name} names {name}, which is not there"


@cache
def file_names() -> frozenset[str]:
    """Of all modules."""
    folders = ("schemas", "pipeline", "model", "jobs", "recipes", "benchmarks", "tests")
    return frozenset(path.name for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_what_a_page_says_is_in_a_file_is_in_it(page: Path) -> None:
    """`NAME` in `path.py`."""
    for name, file in OF_A_FILE.findall(" ".join(page.read_text(encoding="utf-8").split())):
        if Path(file).name in EXAMPLES or "/" not in file:
            continue
        held = re.search(rf"^(?:def |class |    def )?{name}\b", (ROOT / file).read_text(encoding="utf-8"), re.M)
        assert held, f"{page.name}: {file} defines no {name}"


def test_ci_builds_the_site_with_the_page_of_what_it_trained() -> None:
    """`make site` trains, lets the models speak, and puts the page where the first page of the site links to."""
    said = subprocess.run(["make", "-n", "site"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    steps = [
        "model.train configs/train/tiny.yaml",
        "output_dir=runs/train-plain",
        "recipes.pictures.example",
        "zensical build",
    ]
    places = [said.index(step) for step in [*steps, "cp runs/example.html runs/site/assets/demo.html"]]
    assert places == sorted(places)
    assert 'href="assets/demo.html"' in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert "make site" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


def test_every_page_is_on_the_site() -> None:
    named = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert named == {page for page in pages if not page.endswith("/notes.md")}, "notes.md are parts of results"
