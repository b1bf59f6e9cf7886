"""Make a corpus of short everyday stories: text, speech with transcripts, and cloze tasks of rising difficulty.

Goes on where it was stopped, whatever stopped it. docs/stories.md says what is written and how to turn speech into shards.
Exit codes: 0 done, 4 a part could not be made, 2 a mistake in the configuration.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.stories.corpus import run_target, targets
from recipes.stories.estimate import format_plan
from recipes.stories.settings import StoriesConfig
from recipes.stories.voices import check_voices
from schemas.commands.cli import Parser, command, count
from schemas.config import load_config

EXAMPLES = """  python -m recipes.stories.make --config configs/stories/demo.yaml
  python -m recipes.stories.make --config configs/stories/demo.yaml --text-only
  python -m recipes.stories.make --config configs/stories/study.yaml --dry-run
  python -m recipes.stories.make --config configs/stories/study.yaml --processes 1 output=runs/mine speech.stories=100
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the stories' corpus and tasks."""
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument("--config", default="configs/stories/demo.yaml", help="default: %(default)s")
    parser.add_argument("--text-only", action="store_true", help="no speech: the text and the tasks without voices")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written, and how long it takes")
    parser.add_argument(
        "--processes", type=count, default=2, help="default: %(default)s; changes nothing in the result"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a field: speech.stories=100")
    given = parser.parse_args(arguments)
    config = load_config(StoriesConfig, given.config, given.overrides)
    root = Path(config.output)
    planned = targets(config, root, given.text_only)
    if given.dry_run:
        print(format_plan(config, planned, given.processes))
        return 0
    if not given.text_only and not all(target.result.exists() for target in planned):
        check_voices([*config.speech.voices, *(voice for task in config.tasks for voice in task.voices)])
    for target in planned:
        made = run_target(config, target, root, given.processes)
        print(f"{target.result}: {'written' if made else 'is there'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
