"""Train a text tokenizer (byte-level BPE, a Hugging Face tokenizer.json) on the text of shards or of plain .txt files.

    python jobs/train_tokenizer.py --size 32000 --out models/tokenizer.json runs/demo/shards/index.json data/text/hamlet.txt

`make train` does this by itself where the configuration says `train_size` and the tokenizer is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from schemas.commands.cli import Parser, command, count, out_file

if TYPE_CHECKING:
    from model.data.sources import Samples


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Train a BPE over the text of shards or files."""
    parser = Parser(__doc__)
    parser.add_argument("data", nargs="+", help="index.json of shards (path or URL), or .txt files")
    parser.add_argument("--size", type=count, required=True, help="tokens; at least 256")
    parser.add_argument("--out", type=out_file, required=True, help="the tokenizer.json to write")
    parser.add_argument("--cache-dir", help="local copies of remote shards")
    given = parser.parse_args(arguments)
    from model.data.shards import ShardCache, ShardSet
    from model.data.sources import all_texts
    from model.data.text_file import TextFile
    from model.data.text_tokenizer import load_tokenizer, train_bpe

    cache = ShardCache(given.cache_dir, 50_000_000_000) if given.cache_dir else None
    samples: list[Samples] = [TextFile(d, 2000) if d.endswith(".txt") else ShardSet(d, cache) for d in given.data]
    tokenizer = load_tokenizer(train_bpe(all_texts(samples), given.size, given.out))
    words = tokens = 0
    for text in all_texts(samples):
        words, tokens = words + len(text.split()), tokens + len(tokenizer.encode(text)[0])
    print(f"wrote {given.out}: {tokenizer.size} tokens, {tokens / max(1, words):.2f} a word on this text")
    return 0


if __name__ == "__main__":
    sys.exit(main())
