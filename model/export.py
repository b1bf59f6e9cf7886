"""A trained model as a folder that others load: weights, tokenizer, unit cards, patch policy, model card, and the code.

    python -m model.export runs/train-tiny --out models/tiny
    python -m model.export runs/1b --out models/lst-1b --dtype bf16 --license apache-2.0 --push-to-hub me/lst-1b

`lst generate`, `score`, `transfer` and `init_from` take the folder as they take a run; transformers loads it without this
project: `AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)` (docs/exports.md).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.commands.cli import Parser, begin, command, count, here
from schemas.errors import ConfigError
from schemas.files import whole_file

if TYPE_CHECKING:
    from model.inference.trained import Trained


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Write a run as a folder that others load, and send it to a hub where asked."""
    parser = Parser(__doc__)
    parser.add_argument("run", help="a run's output_dir, one of its checkpoints, or a URL of either")
    parser.add_argument("--out", required=True, type=here, help="the folder to write")
    parser.add_argument(
        "--dtype", choices=["bf16", "fp32"], default="fp32", help="of the weights (default: %(default)s)"
    )
    parser.add_argument("--shard-gb", type=count, default=5, help="at most so many GB a file (default: %(default)s)")
    parser.add_argument("--license", default="", help="of these weights, for the model card, such as apache-2.0")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="also send it to the Hugging Face hub")
    parser.add_argument("--private", action="store_true", help="with --push-to-hub: a private repository")
    given = parser.parse_args(arguments)
    check_out(given.out)
    begin(f"loading {given.run}")
    from model.exchange.remote import push
    from model.inference.trained import load_trained

    trained = load_trained(given.run)
    export_run(trained, given.out, dtype=given.dtype, shard_bytes=given.shard_gb * 10**9, license=given.license)
    print(f"wrote {given.out}: step {trained.step} of {given.run}, {given.dtype}")
    if given.push_to_hub:
        print(f"sent it to {push(given.out, given.push_to_hub, given.private)}")
    return 0


def check_out(out: Path) -> None:
    """Refuse the folder of a run or of a checkpoint: whoever names it would get the export, however far the run goes on.

    Raises:
        ConfigError: it is one.
    """
    if (out / "checkpoints").is_dir() or (out / "checkpoint.json").is_file():
        name = out.resolve().name
        raise ConfigError(
            f"{out} holds checkpoints, and an export there would hide all that come later",
            f"name a folder of its own, such as --out models/{name}",
        )


def export_run(trained: Trained, out: Path, *, dtype: str, shard_bytes: int, license: str) -> None:
    """Write the folder of a trained model.

    Raises:
        ConfigError: the tokenizer or the unit BPE is missing.
    """
    from model.exchange.card import model_card
    from model.exchange.folder import write_folder
    from model.inference.patching import make_patching
    from model.training.parts import keep_boundaries, keep_parts, with_own_parts

    trained.composer()  # says what is missing, or is not what the model was trained with
    patches = make_patching("auto", trained.config.patches).ending.model_dump(mode="json")
    data = trained.config.data
    run = {
        "step": trained.step,
        "config": trained.config.model_dump(mode="json"),
        "data": trained.data,
        "units": None if trained.units is None else trained.units.model_dump(mode="json"),
        "license": license,
    }
    keep_parts(out, with_own_parts(data, trained.root))
    keep_boundaries(trained.config.patches, out)
    with whole_file(out / "README.md") as partial:
        partial.write_text(model_card(trained.module, run, patches, out.name), encoding="utf-8")
    write_folder(trained.module, out, run=run, patches=patches, dtype=dtype, shard_bytes=shard_bytes)


if __name__ == "__main__":
    sys.exit(main())
