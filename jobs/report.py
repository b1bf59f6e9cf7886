"""One self-contained HTML page on a finished run: the funnel of audio, rejects, units, patches, speed, models, and six strips.

OUTPUT is the folder that a run writes to; its last run's settings are taken. For the folder of a training run it is the page of
that run (`lst listen`).

Written to <output>/report.html. Does nothing when the page there is of the same shards, commits and spec.
"""

from __future__ import annotations

import hashlib
import re
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jobs.cluster.places import local_or_url
from jobs.runtime.cli import is_override, spec_of_run, spec_parser
from jobs.store.records import index_name
from jobs.store.store import Store
from schemas.cards import fingerprint, hash_file
from schemas.commands.cli import command
from schemas.commit import SHARD_FOLDER
from schemas.config import ConfigError, in_short
from schemas.errors import DataError
from schemas.shards import ShardIndex
from schemas.spec import PipelineSpec

EXAMPLES = """  lst report runs/demo
  lst report runs/train-tiny
  python jobs/report.py --config configs/demo.yaml
  python jobs/report.py --config configs/demo.yaml --force --open
"""
CODE = (
    "report.py",
    *(f"reporting/{name}" for name in ("facts.py", "models.py", "page.py", "strips.py", "timeline.py", "report.css")),
)
"""What decides how a page looks: a page of older code is written again."""
PAGE = "report.html"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report page unless it is up to date."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and (Path(words[0]) / "checkpoints").is_dir():
        from jobs.hearing.report import main as report_training

        return report_training(words)
    parser = spec_parser(__doc__, EXAMPLES, takes_output=True)
    if any(not is_override(word) for word in words if not word.startswith("-")) and "--config" not in words:
        parser.set_defaults(config=None)  # OUTPUT says which spec
    parser.add_argument("--force", action="store_true", help="write the page even if it is up to date")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    given = parser.parse_args(arguments)
    spec = spec_of_run(given, "lst report")
    store = Store(spec.output)
    data = read_index(
        store, index_name(spec.source), f"python jobs/tokenize_audio.py --config {given.config or 'SPEC'}"
    )
    meta = identity(spec, store, data)
    where = local_or_url(f"{spec.output}/{PAGE}")
    if not given.force and read_identity(store, meta) == meta:
        print(f"{where}: up to date (--force writes it again)")
    else:
        page = build(spec, data, meta)
        store.check_writable()
        store.write_bytes(PAGE, page)
        print(f"{where}: {len(page) / 1e6:.2f} MB")
    if given.open and not webbrowser.open(where if "://" in where else Path(where).resolve().as_uri()):
        print("no browser could be started here", file=sys.stderr)
    return 0


def read_index(store: Store, name: str, command: str) -> bytes | None:
    """The bytes of the shard index; None where the run has none yet, or was ended by its rejects.

    Raises:
        ConfigError: nothing was done yet; the sentence holds `command`, which does it.
    """
    try:
        return store.read_bytes(f"{SHARD_FOLDER}/{name}.json")
    except (FileNotFoundError, NotADirectoryError) as error:
        if not store.find("commits/recordings"):
            raise ConfigError(
                f"nothing is done in {local_or_url(store.root)} yet: run {command}, or see with `lst status` how far it is"
            ) from error
        return None


def identity(spec: PipelineSpec, store: Store, index: bytes | None) -> dict[str, str]:
    """What a page belongs to, cheap to find out: the index, the commits by name and size, the spec, and this code.

    Commits count because rejects and times can change while the shards stay as they are.
    """
    commits = [(name.split("/"), entry["size"]) for name, entry in store.tree("commits").items()]
    code = [hash_file(Path(__file__).parent / name) for name in CODE]
    return {
        "lst-index-fingerprint": _fingerprint(spec, index) if index is not None else "none",
        "lst-index-sha256": hashlib.sha256(index or b"").hexdigest(),
        "lst-report": fingerprint({"code": code, "spec": spec.model_dump(mode="json"), "commits": commits}),
    }


def _fingerprint(spec: PipelineSpec, index: bytes) -> str:
    try:
        return ShardIndex.model_validate_json(index).fingerprint
    except ValueError as error:
        raise DataError(
            f"the shard index in {local_or_url(spec.output)} is damaged ({in_short(error)})",
            "run jobs/tokenize_audio.py again, which writes it anew",
        ) from error


def read_identity(store: Store, wanted: dict[str, str]) -> dict[str, str]:
    """The same entries as the page that is there states them, as far as it does."""
    try:
        head = store.read_bytes(PAGE)[:4096].decode("utf-8", "replace")
    except FileNotFoundError:
        return {}
    stated = dict(re.findall(r'<meta name="([^"]+)" content="([^"]*)">', head))
    return {name: stated[name] for name in wanted if name in stated}


def build(spec: PipelineSpec, index: bytes | None, meta: dict[str, str]) -> bytes:
    """The page.

    Raises:
        ConfigError: the index belongs to other settings, or what it lists is gone.
    """
    from jobs.reporting.facts import gather, load_index, no_index
    from jobs.reporting.page import render
    from jobs.reporting.strips import unit_colours
    from jobs.runtime.plan import make_plan
    from pipeline.codebook.folder import load_centroids

    plan = make_plan(spec, recorded=True)
    facts = gather(plan, load_index(plan, index) if index is not None else no_index(plan))
    try:
        centroids = load_centroids(spec.stages.units.centroids)[0]
    except ConfigError:  # the plan needs only their card, and colours only look better with them
        centroids = None
    colours = unit_colours(facts.index.num_units, centroids)
    return render(facts, f"{spec.source.name}: speech to patches", meta, colours).encode("utf-8")


if __name__ == "__main__":
    sys.exit(main())
