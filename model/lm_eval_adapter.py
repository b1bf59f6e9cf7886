"""Text tasks of EleutherAI's lm-evaluation-harness, on a checkpoint of ours. Needs the extra `lm-eval`.

    python -m model.lm_eval_adapter --checkpoint runs/train-tiny --tasks hellaswag,storycloze_2016
    python -m model.lm_eval_adapter --checkpoint runs/train-tiny --tasks my_task --include-path my_tasks --json results.json

Tasks that compare likelihoods (multiple_choice, loglikelihood, loglikelihood_rolling) can be run; those that generate cannot.
From Python: `import model.scoring.harness` registers the model "lst" with lm_eval.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from model.inference.placement import DEVICE_HELP, checked_device
from schemas.commands.cli import Parser, command, count, natural, out_file


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run lm_eval's tasks over the model's text."""
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run's output_dir, or a checkpoint")
    parser.add_argument("--tasks", required=True, metavar="A,B", help="names of lm_eval tasks")
    parser.add_argument("--include-path", metavar="DIR", help="a folder with tasks of your own (YAML)")
    parser.add_argument(
        "--num-fewshot", type=natural, help="examples before each question; the task's own number otherwise"
    )
    parser.add_argument("--limit", type=count, help="only the first N questions of each task")
    parser.add_argument(
        "--dtype", choices=["fp64", "fp32", "bf16"], default="fp64", help="fp32 or bf16 on a GPU (default: fp64)"
    )
    parser.add_argument("--device", default="cpu", help=DEVICE_HELP)
    parser.add_argument("--json", type=out_file, metavar="OUT", help="write lm_eval's results")
    given = parser.parse_args(arguments)
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table

    from model.scoring.harness import LatentSpeechText

    model = LatentSpeechText(given.checkpoint, given.dtype, str(checked_device(given.device)))
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
        given.json.write_text(json.dumps(kept, indent=1, default=str) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
