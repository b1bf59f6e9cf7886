"""--help, and a mistake in the command line or the configuration, are answered before anything heavy is loaded."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ANSWERS = """
import contextlib, importlib, io, sys
from jobs.reference.commands import MODULES

HEAVY = ("torch", "ray", "numba", "faiss", "transformers", "whisperx", "matplotlib", "duckdb", "tensorboard")

def asked(module, *words):
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        try:
            code = importlib.import_module(module).main(list(words))
        except SystemExit as end:
            code = end.code
    heavy = [name for name in HEAVY if name in sys.modules]
    assert not heavy, f"{module} {words} loads {heavy}"
    return code, said.getvalue()

for module in MODULES.values():
    code, said = asked(module, "--help")
    assert code == 0 and "--debug" in said, (module, said)
    code, said = asked(module, "--no-such-option")
    assert code == 2 and len(said.splitlines()) == 1, (module, said)
code, said = asked("model.train", "configs/train/tiny.yaml", "optimizer.lr=1")
assert code == 2 and "optimiser" in said, said
code, said = asked("jobs.tokenize_audio", "--config", "configs/demo.yaml", "stages.unit.encoder=1")
assert code == 2 and "units" in said, said
"""


def test_answers_come_before_heavy_imports() -> None:
    """One process for all commands: what one of them loads stays in `sys.modules`, and the message names the first."""
    done = subprocess.run([sys.executable, "-c", ANSWERS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
