"""List the source into the output's inventory: what every other command then reads instead of the source.

Only files that are new or changed (size, and etag or time of change) are looked into, by at most 64 KiB of each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: the code beside it runs, wherever the environment was installed from
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from jobs.cluster.places import local_or_url
from jobs.cluster.probing import probing
from jobs.runtime.cli import load_spec, spec_parser
from jobs.store.records import refresh_inventory
from jobs.store.store import Store
from pipeline.source.partitions import Inventory
from schemas.commands.cli import command

EXAMPLES = """  lst inventory --config configs/demo.yaml
"""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """List the source anew and keep the list under the output."""
    spec = load_spec(spec_parser(__doc__, EXAMPLES).parse_args(arguments))
    store = Store(spec.output)
    store.check_layout()
    with probing() as look_many:
        table, _ = refresh_inventory(store, spec.source, look_many)
    inventory = Inventory(table, spec.partitions.minutes, spec.partitions.files)
    print(
        f"{local_or_url(spec.output)}/inventory: {inventory.num_files} files, {inventory.seconds.sum() / 3600:.2f} h of audio, "
        f"{int(inventory.is_aside.sum())} of them copies or refused, {len(inventory)} partitions"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
