"""Transcription after equal fine-tuning steps (paper, Table 5): every arm by the same recipe, at the same rate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from model.data.examples import examples_of_task
from model.inference.trained import load_trained
from model.training.loop import train
from model.transfer import evaluate_asr, finetune_config
from recipes.study.design.settings import Study


def word_errors(study: Study, run: Path, folder: Path) -> dict[str, Any]:
    """Fine-tune the run's model on the study's speech for `asr_steps` steps, and transcribe the first task's spoken items."""
    measures = study.measures
    assert measures.asr_task is not None
    began = time.process_time()
    config = finetune_config(
        str(run),
        kind="asr",
        data=study.data.speech,
        steps=measures.asr_steps,
        output_dir=str(folder),
        lr=measures.asr_lr,
        seed=1,
    )
    train(config)
    trained = load_trained(folder)
    examples = examples_of_task(measures.asr_task, limit=measures.asr_utterances)
    found = evaluate_asr(trained, examples, batch=16)
    return {
        "config": config.model_dump(mode="json"),
        "steps": measures.asr_steps,
        "wer": found.wer,
        "cer": found.cer,
        "utterances": found.examples,
        "ended": found.ended,
        "context_share": found.context_latents / max(1, found.context_units),
        "heard": [list(row) for row in found.heard[:5]],
        "core_seconds": time.process_time() - began,
    }
