"""Five short real recordings and a spec that needs no fetched model: given transcripts, soundswallower, MFCC units."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.codebook.folder import kmeans_card, write_centroids
from pipeline.encode.base import build_encoder
from schemas.config import parse_config
from schemas.spec import MfccSpec, PipelineSpec

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "data" / "demo"
FILES = tuple(f"sense_and_sensibility_0{number}.flac" for number in ("870", "880", "890", "920", "930"))


def make_corpus(folder: Path, files: tuple[str, ...] = FILES) -> Path:
    """Copy recordings and the lines of their manifest."""
    folder.mkdir(parents=True)
    lines = (DEMO / "manifest.tsv").read_text(encoding="utf-8").splitlines()
    kept = [lines[0]] + [line for line in lines[1:] if line.split("\t")[0] in files]
    (folder / "manifest.tsv").write_text("\n".join(kept) + "\n", encoding="utf-8")
    for name in files:
        shutil.copy(DEMO / name, folder / name)
    return folder


def make_centroids(folder: Path) -> Path:
    """A codebook of 16 arbitrary centroids for MFCC features: whose units they are does not matter to plumbing."""
    centroids = np.random.default_rng(0).normal(scale=20.0, size=(16, 39)).astype(np.float32)
    card = kmeans_card("test", centroids, {"encoder": build_encoder(MfccSpec()).card().card_id})
    write_centroids(folder, centroids, card)
    return folder


def document(source: Path, output: Path, centroids: Path, **changes: Any) -> dict[str, Any]:
    """The spec as a mapping; `changes` replace top-level fields."""
    return {
        "source": {"uri": str(source), "transcripts": "manifest", "manifest": "manifest.tsv", "name": "test"},
        "output": str(output),
        "partitions": {"minutes": 0.15},
        "stages": {
            "transcripts": {"backend": "transcript"},
            "words": {"backend": "soundswallower"},
            "units": {"encoder": {"backend": "mfcc"}, "centroids": str(centroids)},
            "shards": {"minutes": 0.25, "passage_seconds": 60},
        },
        "kmeans": {"num_units": 16, "seed": 0},
        "max_reject_rate": 0.2,
        **changes,
    }


def make_spec(tmp_path: Path, **changes: Any) -> PipelineSpec:
    """Corpus, centroids and spec under one folder."""
    source = tmp_path / "audio"
    if not source.exists():
        make_corpus(source)
        make_centroids(tmp_path / "centroids")
    return parse_config(
        PipelineSpec, document(source, tmp_path / "out", tmp_path / "centroids", **changes), origin="test"
    )


def write_spec(path: Path, content: dict[str, Any]) -> Path:
    """The mapping as a YAML file."""
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content))), encoding="utf-8")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def second_clone(folder: Path) -> Path:
    """Another checkout of this project, with a line of its own in `pipeline`: every process that imports it says so in `ran`,
    a line with what was started."""
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("schemas", "pipeline", "model", "jobs", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    with open(folder / "pipeline" / "__init__.py", "a", encoding="utf-8") as file:
        file.write(f"import sys\nwith open({str(folder / 'ran')!r}, 'a') as file:\n    print(sys.argv[0], file=file)\n")
    return folder


def who_ran(clone: Path) -> set[str]:
    """What was started that ran the clone's code: `tokenize_audio.py`, Ray's `default_worker.py`; asked once."""
    lines = (clone / "ran").read_text(encoding="utf-8").split("\n")[:-1] if (clone / "ran").exists() else []
    (clone / "ran").unlink(missing_ok=True)
    return {Path(line).name for line in lines}
