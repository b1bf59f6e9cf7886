"""A study of seconds on random shards."""

from pathlib import Path

import yaml

from schemas.tasks import TaskHeader, TaskItem, TaskSegment, write_task
from tests.synthetic_shards import WORDS, write_speech_shards

STACK = {"num_heads": 2, "rope_theta": 5.0e5, "hidden_dim": 32}
LOCAL = {**STACK, "num_layers": 1, "dim": 16, "window": 16, "cross_heads": 2}
MODEL = {
    "kind": "lst",
    "patch_encoder": {**LOCAL, "cross_window": 1, "cross_layers": "last"},
    "global_transformer": {**STACK, "num_layers": 1, "dim": 32},
    "patch_decoder": {**LOCAL, "cross_window": 4},
    "vectors_per_patch": 2,
    "conditioning": "causal",
    "text_path": "direct",
    "head": "per_modality",
}
STATIC = {"policy": "static", "size": 4}


def write_study(folder: Path) -> Path:
    """A study of seconds: three arms over the same few passages, one rate, all controls."""
    write_speech_shards(folder / "speech", [12, 12], words=(6, 20), num_units=30)
    items = [
        TaskItem(
            id=f"{group}-{number}",
            group=group,
            prompt=TaskSegment(text=" ".join(WORDS[number : number + 4])),
            endings=[TaskSegment(text=WORDS[number]), TaskSegment(text=WORDS[-number - 1])],
            answer=number % 2,
        )
        for group in ("easy", "hard")
        for number in range(6)
    ]
    write_task(folder / "task.jsonl", TaskHeader(task="choice"), items)
    speech = str(folder / "speech" / "index.json")
    document = {
        "name": "A study of seconds",
        "runs_dir": str(folder / "runs"),
        "results_dir": str(folder / "results"),
        "page": str(folder / "study.md"),
        "data": {
            "speech": speech,
            "text": speech,
            "held_out": 0.2,
            "weights": {"interleaved": 1, "speech": 1, "text": 1},
            "spans": {"rule": "paper"},
            "text_tokens": 280,
            "unit_tokens": 60,
            "lanes": 2,
        },
        "model": MODEL,
        "training": {
            "elements": 256,
            "global_microbatches": 1,
            "budget_elements": 2500,
            "optimiser": {"kind": "adamw", "lr": 0.003},
            "rates": [0.003],
            "rate_share": 0.2,
            "warmup_steps": 2,
            "decay_share": 0.4,
            "clip_norm": 1.0,
            "precision": "fp32",
        },
        "arms": {
            "plain": {"kind": "plain", "patches": STATIC, "seeds": [1]},
            "static": {"kind": "lst", "patches": STATIC, "seeds": [1]},
            "bpe": {"kind": "plain", "unit_bpe": True, "patches": {"policy": "static", "size": 1}, "seeds": [1]},
        },
        "controls": ["compute", "data", "clock"],
        "measures": {
            "held_out_documents": 3,
            "curve_documents": 2,
            "curve_points": 4,
            "tasks": [{"path": str(folder / "task.jsonl"), "items_per_group": 5}],
        },
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path
