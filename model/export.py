"""Write a run's weights as safetensors: config.json and model.safetensors (docs/model.md).

python -m model.export runs/train-tiny --out models/tiny
"""

from __future__ import annotations

import argparse
import sys

from model.exchange.hf import export
from model.inference.trained import load_trained
from model.training.checkpoint import CheckpointError
from schemas.config import ConfigError


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's output_dir, or one of its checkpoints")
    parser.add_argument("--out", required=True, help="the directory to write")
    given = parser.parse_args()
    try:
        trained = load_trained(given.run)
    except (CheckpointError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    export(trained.module, given.out)
    print(f"wrote {given.out}: step {trained.step} of {given.run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
