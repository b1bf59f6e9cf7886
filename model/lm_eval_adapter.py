"""Text tasks of EleutherAI's lm-evaluation-harness, on a checkpoint of ours. Needs the extra `lm-eval`.

    python -m model.lm_eval_adapter --checkpoint runs/train-tiny --tasks hellaswag,storycloze_2016
    python -m model.lm_eval_adapter --checkpoint runs/train-tiny --tasks my_task --include-path my_tasks --json results.json

Tasks that compare likelihoods (multiple_choice, loglikelihood, loglikelihood_rolling) can be run; those that generate cannot.
From Python: `import model.lm_eval_adapter` registers the model "lst" with lm_eval.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.inference.trained import load_trained
from model.scoring.scorer import Precision, Scorer, make_scorer
from schemas.cli import Parser, command

try:
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table
except ImportError as error:
    raise ImportError("lm_eval is not installed: run `pip install 'latent-speech-text[lm-eval]'`") from error


@register_model("lst")
class LatentSpeechText(LM):
    """A checkpoint as lm_eval sees it: text in, log-likelihoods out."""

    def __init__(
        self,
        checkpoint: str = "",
        precision: Precision = "fp64",
        device: str = "cpu",
        max_elements: int = 8192,
        scorer: Scorer | None = None,
        **_: Any,
    ) -> None:
        """`checkpoint`: a run or one of its checkpoints; or a scorer that is ready. lm_eval passes its own settings too (batch
        size and the like), which mean nothing here.

        Raises:
            CheckpointError, ConfigError: see `load_trained`.
        """
        super().__init__()
        if scorer is None:
            scorer = make_scorer(load_trained(checkpoint, device), "auto", precision, int(max_elements))
        self.scorer = scorer

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each continuation given its context, and whether it is the greedy one."""
        del disable_tqdm
        return self.scorer.score_text([request.args for request in requests])

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, each as one document."""
        del disable_tqdm
        return [value for value, _ in self.scorer.score_text([("", request.args[0]) for request in requests])]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError("tasks that generate text are not supported here; choose tasks that compare likelihoods")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run's output_dir, or a checkpoint")
    parser.add_argument("--tasks", required=True, metavar="A,B", help="names of lm_eval tasks")
    parser.add_argument("--include-path", metavar="DIR", help="a folder with tasks of your own (YAML)")
    parser.add_argument(
        "--num-fewshot", type=int, help="examples before each question; the task's own number otherwise"
    )
    parser.add_argument("--limit", type=int, help="only the first N questions of each task")
    parser.add_argument("--precision", choices=["fp64", "fp32"], default="fp64", help="fp32 on a GPU (default: fp64)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", metavar="OUT", help="write lm_eval's results")
    given = parser.parse_args(arguments)
    model = LatentSpeechText(given.checkpoint, given.precision, given.device)
    found = simple_evaluate(
        model=model,
        tasks=given.tasks.split(","),
        num_fewshot=given.num_fewshot,
        limit=given.limit,
        task_manager=TaskManager(include_path=given.include_path),
        log_samples=False,
    )
    print(make_table(found))
    if given.json:
        kept = {key: found[key] for key in ("results", "n-samples", "versions", "higher_is_better")}
        Path(given.json).write_text(json.dumps(kept, indent=1, default=str) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
