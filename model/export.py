"""Write a run's weights as safetensors: config.json and model.safetensors (docs/model.md).

python -m model.export runs/train-tiny --out models/tiny
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from model.exchange.hf import export
from model.inference.trained import load_trained
from schemas.cli import Parser, command


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("run", help="a run's output_dir, or one of its checkpoints")
    parser.add_argument("--out", required=True, help="the directory to write")
    given = parser.parse_args(arguments)
    trained = load_trained(given.run)
    export(trained.module, given.out)
    print(f"wrote {given.out}: step {trained.step} of {given.run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
