"""Every file of configs/ that a user may run: its models fetched from a hub on this machine, then `--dry-run` in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.data.text_tokenizer import train_bpe
from pipeline.networks.registry import MODELS
from tests.fake_hub import fake_hub
from tests.jobs.small_corpus import ROOT, make_corpus
from tests.pipeline.networks.test_resolver import CONFIGS
from tests.synthetic_shards import write_speech_shards, write_text_shards

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from jobs.fetch_models import main as fetch
from jobs.tokenize_audio import main as tokenize
from model.data.sources import TrainingData
from model.exchange.folder import write_folder
from model.network.lst import build_model
from model.train import main as train
from model.training.config import load_train_config
from pipeline.codebook.folder import kmeans_card, write_centroids
from pipeline.encode.base import build_encoder
from schemas.config import load_config
from schemas.spec import PipelineSpec

failed = []
for config in sys.argv[1:]:
    print("#", config, flush=True)
    text = Path(config).read_text()
    if "stages:" in text:
        local = ["source.uri=audio", "source.layout=folder", "source.pattern=**/*.flac", "output=out/" + Path(config).stem]
        local += ["stages.units.centroids=centroids/" + Path(config).stem]
        codes = [fetch(["--config", config])]  # all but the user's own centroids
        spec = load_config(PipelineSpec, config, local)
        card = build_encoder(spec.stages.units.encoder).card()
        centroids = np.ones((spec.kmeans.num_units if spec.kmeans else 16, 8), np.float32)
        write_centroids(spec.stages.units.centroids, centroids, kmeans_card("test", centroids, {"encoder": card.card_id}))
        codes = [tokenize(["--config", config, "--dry-run", *local])]
    else:
        settings = load_train_config(config, [])
        ranks = min(32, settings.global_microbatches)
        if settings.init_from:  # what it begins with, as an export
            corpus = TrainingData(settings.data)
            run = {"data": corpus.fingerprint(), "units": None}
            model = build_model(settings.network.with_vocabulary(corpus.vocabulary), settings.seed)
            write_folder(model, Path(settings.init_from), run=run, patches={}, dtype="fp32", shard_bytes=10**9)
        codes = [fetch(["--config", config]), train([config, "--dry-run", "--ranks", str(ranks)])]
    failed += [config] if any(codes) else []
print("failed:", failed)
sys.exit(len(failed))
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """What a user has of their own, where the files say it lies: audio, shards, a tokenizer, weights of torchaudio."""
    import sentencepiece
    from torchaudio import pipelines

    make_corpus(tmp_path / "audio")
    for name in ("assets", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for folder in ("runs/demo/shards", "data/speech"):
        write_speech_shards(tmp_path / folder, [3])
    write_text_shards(tmp_path / "data" / "web-text", [4])
    (tmp_path / "data" / "text").symlink_to(ROOT / "data" / "text")
    (tmp_path / "models").mkdir()
    train_bpe(["words of a run that was trained before"] * 9, 300, tmp_path / "runs" / "train-tiny" / "tokenizer.json")
    sentencepiece.SentencePieceTrainer.train(
        input=str(next((ROOT / "data" / "text").glob("*.txt"))),
        model_prefix=str(tmp_path / "models" / "tokenizer"),
        vocab_size=300,
        minloglevel=2,
    )
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for bundle in ("WAV2VEC2_ASR_BASE_960H", "MMS_FA", "HUBERT_BASE"):
        (checkpoints / Path(getattr(pipelines, bundle)._path).name).write_bytes(b"weights")
    return tmp_path


@pytest.mark.models
def test_every_configuration_is_planned_after_a_fetch(machine: Path, whisper_tiny: str) -> None:
    served = machine / "served"
    for repository, hop in {"slprl/mhubert-base-25hz": 640, "facebook/hubert-base-ls960": 320}.items():
        (served / repository).mkdir(parents=True)
        for file in (ROOT / "assets" / "tiny-hubert").iterdir():
            (served / repository / file.name).write_bytes(file.read_bytes())
        settings = json.loads((served / repository / "config.json").read_text())
        convolutions = 7 + (hop == 640)  # of the published ones' depth and stride
        settings |= {name: settings[name][:convolutions] for name in ("conv_dim", "conv_kernel", "conv_stride")}
        (served / repository / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 12}))
    for repository in (MODELS["whisper-tiny.en"].hub, "mobiuslabsgmbh/faster-whisper-large-v3-turbo"):
        (served / repository).mkdir(parents=True)
        for file in MODELS["whisper-tiny.en"].files:
            (served / repository / file).symlink_to(Path(whisper_tiny).resolve() / file)
    order = sorted(CONFIGS, key=lambda path: ("finetune" in path.name, path))  # it begins where train/tiny.yaml ends
    configs = [str(path) for path in order if "experiments" not in path.parts]
    with fake_hub(served) as hub:
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT, *configs],
            cwd=machine,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TORCH_HOME": str(machine / "torch")}
            | {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "LST_ROOT": str(machine)}
            | hub.environment(machine / "home"),
            capture_output=True,
            text=True,
            timeout=580,
            check=False,
        )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert result.stdout.count("from the hub") >= 3
