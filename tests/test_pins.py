"""The two lists of pins say the same, and neither names whoever served them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_pins_with_hashes_are_the_pins() -> None:
    plain = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    hashed = (ROOT / "constraints.hashes.txt").read_text(encoding="utf-8")
    found = re.findall(r"^(\S+==\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", hashed, re.M)
    assert sorted(name.lower() for name, _ in found) == sorted(line.lower() for line in plain), "run `make pins`"
    assert sum(line.count("--hash") for _, line in found) == hashed.count("--hash=")
    assert "://" not in hashed
